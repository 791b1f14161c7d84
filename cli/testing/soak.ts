/**
 * Trains a tiny LLaMA with GaLore for many steps, reading from a store, evaluating and sampling in between, and measures
 * what is held at step boundaries: a leak of one tensor a step shows as drift. Only tests and `bench/soak.ts` import this.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { Batches } from "../../data/mod.ts";
import { type Backend, formatBytes } from "../../core/mod.ts";
import { initLlama, LLAMA_PROJECTED } from "../../models/mod.ts";
import { galoreAdamW, Optimizer } from "../../optimizers/mod.ts";
import { evaluate, rowsLoss, splitBatches } from "../evaluation.ts";
import { formatTable } from "../log.ts";
import { generateTokens } from "../sampling.ts";
import { trainLoop } from "../trainer.ts";
import { tinyConfig } from "./workspace.ts";

/** What is held at the end of a step. */
export interface SoakSample {
  readonly step: number;
  readonly loss: number;
  /** Bytes of tensors. */
  readonly inUse: number;
  /** Number of tensors' buffers. */
  readonly live: number;
  /** Bytes that the backend has from the system. */
  readonly reserved: number;
  /** Bytes of JavaScript objects, after a collection. */
  readonly heap: number;
  /** Bytes of the process. */
  readonly rss: number;
}

/** How long, and on what. */
export interface SoakOptions {
  readonly store: string;
  readonly steps: number;
  /** Steps between samples: a multiple of 10, so that each is as far from the last basis. */
  readonly every: number;
  readonly threads: number;
  /** The backend to train on; by default the CPU's, with so many threads. */
  readonly makeBackend?: () => Promise<Backend>;
}

/** Runs the soak; one sample every `every` steps. */
export async function soak({ store, steps, every, threads, makeBackend }: SoakOptions): Promise<SoakSample[]> {
  using backend = await (makeBackend ?? (() => cpuBackend({ threads, blas: "off" })))();
  const config = tinyConfig();
  using params = initLlama(backend, config, 1);
  const galore = { rank: 4, updateProjGap: 10, scale: 0.25 };
  using optimizer = new Optimizer(params, galoreAdamW({ learningRate: 0.01, projected: LLAMA_PROJECTED, galore }), {
    clip: 1,
    guard: !backend.readSync,
  });
  await using batches = new Batches(store, { batch: 4, seed: 1 });
  const collect = collector();
  const samples: SoakSample[] = [];
  await trainLoop({
    backend,
    params,
    optimizer,
    loss: rowsLoss(backend, params, config),
    nextBatch: () => batches.next(),
  }, {
    startStep: 0,
    startTokens: 0,
    steps,
    syncDue: (step) => step % 10 === 0,
    afterSteps: async (rows) => {
      const { step, loss } = rows[rows.length - 1];
      if (step % every !== 0) return false;
      const heldOut = { split: "validation" as const, batch: 4, batches: 1 };
      await evaluate(backend, params, config, splitBatches(store, 4, heldOut));
      const options = { tokens: 8, temperature: 1, topK: 0, seed: step };
      for await (const _ of generateTokens(backend, params, config, [1, 2, 3], options));
      collect();
      const { inUse, live, reserved } = backend.memory();
      const { heapUsed: heap, rss } = Deno.memoryUsage();
      samples.push({ step, loss, inUse, live, reserved, heap, rss });
      return false;
    },
  });
  return samples;
}

/** V8's garbage collector, which a flag brings to light. */
function collector(): () => void {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc");
}

/** Least-squares slope of a figure over the second half of the samples, in units a step. */
export function slope(samples: readonly SoakSample[], key: Exclude<keyof SoakSample, "step">): number {
  const settled = samples.slice(samples.length >> 1);
  const mean = (of: (sample: SoakSample) => number) => settled.reduce((sum, x) => sum + of(x), 0) / settled.length;
  const [step, value] = [mean((sample) => sample.step), mean((sample) => sample[key])];
  let [over, under] = [0, 0];
  for (const sample of settled) {
    over += (sample.step - step) * (sample[key] - value);
    under += (sample.step - step) ** 2;
  }
  return over / under;
}

/** The samples as lines of a table, and what drifts in words. */
export function soakLines(samples: readonly SoakSample[]): string[] {
  const cells = samples.map(({ step, loss, inUse, live, reserved, heap, rss }) => [
    `${step}`,
    loss.toFixed(3),
    `${inUse}`,
    `${live}`,
    ...[reserved, heap, rss].map(formatBytes),
  ]);
  const head = ["step", "loss", "bytes in use", "buffers", "reserved", "JS heap", "RSS"];
  const drift = (key: "heap" | "rss") => `${slope(samples, key).toFixed(0)} bytes a step`;
  return [
    ...formatTable([head, ...cells], "rrrrrrr"),
    `over the second half: JS heap ${drift("heap")}, RSS ${drift("rss")}`,
    "",
  ];
}

/** Figures that drift, in words; none when all is well. */
export function driftsOf(samples: readonly SoakSample[], bytesAStep: number): string[] {
  const drifts: string[] = [];
  for (const key of ["inUse", "live", "reserved"] as const) {
    const values = new Set(samples.slice(1).map((sample) => sample[key]));
    if (values.size > 1) drifts.push(`${key} takes ${values.size} values: ${[...values].slice(0, 4).join(", ")}`);
  }
  for (const key of ["heap", "rss"] as const) {
    const bytes = slope(samples, key);
    if (bytes > bytesAStep) drifts.push(`${key} grows by ${bytes.toFixed(0)} bytes a step, more than ${bytesAStep}`);
  }
  return drifts;
}
