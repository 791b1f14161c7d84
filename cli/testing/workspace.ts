/**
 * A folder of its own for tests of the command line, with a tiny model and a text in it, and commands run in it within
 * this process. Only tests import this.
 *
 * The process stands in the folder while it is open, because runs and caches lie where a command stands. Tests of one
 * process follow each other, so that only one workspace is open at a time.
 */
import type { Params } from "../../core/mod.ts";
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { byteTokenizer } from "../../data/mod.ts";
import { initLlama, type LlamaConfig, makeLlamaConfig } from "../../models/mod.ts";
import { saveModel } from "../checkpoint.ts";
import { hashFile, namesIn, writeFolderDurably } from "../durable.ts";
import { memoryOutput } from "../log.ts";
import { main } from "../main.ts";
import { isStepRow, readMetrics, type StepRow } from "../metrics.ts";

/** What a command came to. */
export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A folder that the process stands in until it is disposed, and then is gone. */
export class Workspace implements AsyncDisposable {
  readonly #before = Deno.cwd();

  private constructor(readonly path: string) {
    Deno.chdir(path);
  }

  /** A fresh folder with `corpus.txt` and the model folder `tiny`. */
  static async open(): Promise<Workspace> {
    const workspace = new Workspace(await Deno.realPath(await Deno.makeTempDir({ prefix: "lowrank-" })));
    await Deno.writeTextFile("corpus.txt", sentences(8_000));
    await writeTinyModel("tiny");
    return workspace;
  }

  /** Runs a verb. */
  async run(...argv: readonly string[]): Promise<Outcome> {
    const output = memoryOutput();
    const code = await main(argv, output);
    return { code, out: output.outText, err: output.errText };
  }

  /** Runs `train` with `TRAIN_FLAGS` and more; those given here win. */
  async train(...flags: readonly string[]): Promise<Outcome> {
    return await this.run("train", ...trainFlags(...flags));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    Deno.chdir(this.#before);
    await Deno.remove(this.path, { recursive: true });
  }
}

/** A run of a second: the tiny model on the corpus. */
const TRAIN_FLAGS: readonly string[] = [
  ..."--model tiny --seq 16 --batch 4 --steps 6 --rank 4 --update-proj-gap 4 --warmup 0".split(" "),
  ..."--eval-batches 2 --log-every 1 --device cpu --threads 1 --blas off".split(" "),
];

/** `TRAIN_FLAGS` and more; data given here replaces the corpus, other flags win because they come last. */
export function trainFlags(...flags: readonly string[]): string[] {
  const data = flags.includes("--data") ? [] : ["--data", "corpus.txt"];
  return [...TRAIN_FLAGS, ...data, ...flags];
}

/** A LLaMA of 22,000 weights over bytes. */
export function tinyConfig(overrides: Partial<LlamaConfig> = {}): LlamaConfig {
  return makeLlamaConfig({
    vocab_size: 257,
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  }, { max_position_embeddings: 48, eos_token_id: 256, ...overrides });
}

/** Writes a model folder with drawn weights; `change` may alter them first. */
export async function writeTinyModel(
  folder: string,
  { config = tinyConfig(), change }: { config?: LlamaConfig; change?: (params: Params) => void } = {},
): Promise<void> {
  using params = initLlama(loopsBackend(), config, 1);
  change?.(params);
  await writeFolderDurably(".", folder, (writer) => saveModel(writer, params, config, byteTokenizer().files));
}

const WORDS = "the cat sat on a mat and saw that low rank gradients go far while full rank ones take room".split(" ");

/** English enough to learn from, the same every time. */
export function sentences(characters: number, seed = 1): string {
  let text = "";
  let state = seed;
  while (text.length < characters) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const word = WORDS[(state >>> 8) % WORDS.length];
    text += word + ((state >>> 24) % 7 === 0 ? ".\n" : " ");
  }
  return text.slice(0, characters);
}

/** Rows of steps of a run. */
export async function stepRows(run: string): Promise<StepRow[]> {
  return (await readMetrics(`${run}/metrics.jsonl`)).filter(isStepRow);
}

/** Every file below a folder with its SHA-256: what must not change. */
export async function fingerprint(folder = "."): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of await namesIn(folder)) {
    const path = folder === "." ? name : `${folder}/${name}`;
    if ((await Deno.stat(path)).isDirectory) Object.assign(found, await fingerprint(path));
    else found[path] = await hashFile(path);
  }
  return found;
}
