/** Probes with groups and models that differ from a base by known amounts. Only tests import this. */
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { keyOf, normal, type Params } from "../../core/mod.ts";
import { byteTokenizer } from "../../data/mod.ts";
import { initLlama, type LlamaConfig } from "../../models/mod.ts";
import { saveModel } from "../checkpoint.ts";
import { writeFolderDurably } from "../durable.ts";
import { tinyChatConfig } from "./tiny_chat.ts";

/** A probe of completions. */
export interface TinyProbe {
  readonly prompt: string;
  readonly completion: string;
  readonly bad: string;
  readonly group: string;
}

/** Probes of two groups, `a` more often than `b`. */
export function tinyProbes(counts: Readonly<Record<string, number>> = { a: 40, b: 32 }): TinyProbe[] {
  return Object.entries(counts).flatMap(([group, count]) =>
    Array.from({ length: count }, (_, i) => ({
      prompt: `${group}${i}?`,
      completion: ["good", "kind", "fair"][i % 3],
      bad: ["dull", "rude", "mean", "vile"][i % 4],
      group,
    }))
  );
}

/** Writes probes, or other records, as JSONL. */
export async function writeProbes(file: string, records: readonly unknown[]): Promise<void> {
  await Deno.writeTextFile(file, records.map((record) => JSON.stringify(record) + "\n").join(""));
}

/** The configuration of the models below. */
export function tinyShiftConfig(overrides: Partial<LlamaConfig> = {}): LlamaConfig {
  return tinyChatConfig({ num_hidden_layers: 2, ...overrides });
}

/** Writes a LLaMA of the same first weights, with a change of them. */
export async function writeShifted(
  folder: string,
  change: (params: Params) => void = () => {},
  config: LlamaConfig = tinyShiftConfig(),
): Promise<void> {
  using params = initLlama(loopsBackend(), config, 1);
  change(params);
  await writeFolderDurably(".", folder, (writer) => saveModel(writer, params, config, byteTokenizer().files));
}

/** Adds noise of a standard deviation to every matrix, the same for every `share` of it. */
export function addNoise(params: Params, std: number, share = 1): void {
  for (const [i, [, tensor]] of [...params.entries()].entries()) {
    if (tensor.shape.length !== 2) continue;
    const noise = normal(keyOf(100 + i), tensor.size, 0, std);
    tensor.write(Float32Array.from(tensor.readSync() as Float32Array, (value, k) => value + share * noise[k]));
  }
}
