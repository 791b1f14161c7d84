/**
 * Adam on block-wise 8-bit moments, and GaLore over it, against an emulation of the published kernels, on any backend.
 *
 * `testdata/bits8/golden.json` says what made the numbers (rounding `stock`, decay after the step), and how far each may
 * lie off. The GaLore run has the stored projection handed in.
 */
import assert from "node:assert/strict";
import { type Backend, fromArray, own } from "../../core/mod.ts";
import { assertRms, readGolden, readJson, rms } from "../../core/testing/golden.ts";
import { registerTest } from "../../core/testing/register.ts";
import {
  type BasisStrategy,
  blockwise8bit,
  finish,
  galore,
  type GradientRule,
  type Rule,
  scaleByAdam,
  storeAs,
} from "../mod.ts";
import { GradientBench } from "./bench.ts";

const FOLDER = new URL("../testdata/bits8/", import.meta.url);

interface AdamSettings {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
}

interface BitsFile {
  readonly adam: AdamSettings & { readonly steps: number };
  readonly galore_adam8: AdamSettings & {
    readonly weight_decay: number;
    readonly rank: number;
    readonly update_proj_gap: number;
    readonly scale: number;
    readonly steps: number;
  };
}

const FILE = readJson<BitsFile>(new URL("golden.json", FOLDER));
/** What the file recommends, after each snapshot's step. */
const ADAM_TOLERANCE: Readonly<Record<number, number>> = { 1: 1e-3, 5: 1e-3, 20: 5e-3 };
const WITH_DECAY = 0.1;

type BlockSize = 256 | 2048;

/** What a backend's test can say of it. */
interface EightBitOptions {
  /** Why the tests cannot run here, if they cannot. */
  readonly ignore?: string;
  /** Block sizes to follow; all by default. */
  readonly blockSizes?: readonly BlockSize[];
  /** Also the f32 run, and those with decay. Default true. */
  readonly isWhole?: boolean;
}

/** Registers a test per run of the file. */
export function eightBitGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { ignore, blockSizes = [256, 2048], isWhole = true }: EightBitOptions = {},
): void {
  const runs = blockSizes.flatMap((blockSize) => [`b${blockSize}`, ...(isWhole ? [`wd.b${blockSize}`] : [])]);
  for (const run of isWhole ? ["fp32", "wd.fp32", ...runs] : runs) {
    registerTest(`adam follows ${run} for ${FILE.adam.steps} steps on ${name}`, async () => {
      using backend = await makeBackend();
      await judgeAdam(backend, run);
    }, ignore);
  }
  for (const blockSize of blockSizes) {
    registerTest(
      `galore() over 8-bit Adam follows the released code in blocks of ${blockSize} on ${name}`,
      async () => {
        using backend = await makeBackend();
        await judgeGalore(backend, blockSize);
      },
      ignore,
    );
  }
}

function adamOf({ betas: [beta1, beta2], eps }: AdamSettings, blockSize: number | undefined): GradientRule {
  const adam = scaleByAdam({ beta1, beta2, eps });
  return blockSize === undefined ? adam : storeAs(blockwise8bit({ blockSize, rounding: "stock" }), adam);
}

async function judgeAdam(backend: Backend, run: string): Promise<void> {
  const stored = readGolden(new URL("adam.safetensors", FOLDER));
  const { lr: learningRate, steps } = FILE.adam;
  const p0 = stored.get("p0")!.data;
  const size = p0.length;
  const weightDecay = run.startsWith("wd.") ? WITH_DECAY : 0;
  const blockSize = run.endsWith("fp32") ? undefined : Number(run.split("b").at(-1));
  const rule: Rule = finish(adamOf(FILE.adam, blockSize), { learningRate, weightDecay, decayPlacement: "after" });
  using bench = new GradientBench(backend, { p: [size] }, rule, { start: { p: p0 } });
  for (let step = 1; step <= steps; step++) {
    await bench.step({ p: stored.get("grads")!.data.subarray((step - 1) * size, step * size) });
    const reference = stored.get(`${run}.p${step}`);
    if (!reference) continue;
    const moved = rms(Float64Array.from(reference.data, (value, i) => value - p0[i]));
    const weights = (await bench.weights()).p;
    const error = rms(Float64Array.from(reference.data, (value, i) => value - weights[i])) / moved;
    const most = blockSize === undefined ? 1e-4 : ADAM_TOLERANCE[step];
    assert.ok(error <= most, `step ${step}: off by ${error.toExponential(2)} of the movement, expected ${most}`);
    if (blockSize === undefined || weightDecay > 0) continue;
    for (const [slot, letter] of [["mu", "m"], ["nu", "v"]]) {
      const [codes, absmax] = [await bench.read("p", `${slot}/codes`), await bench.read("p", `${slot}/absmax`)];
      const expected = stored.get(`${run}.${letter}_codes${step}`)!.data;
      assert.equal(codes.length, expected.length);
      const equal = Array.from(codes).filter((code, i) => code === expected[i]).length / expected.length;
      assert.ok(equal >= 0.99, `${slot} in step ${step}: ${(100 * equal).toFixed(2)} % of the codes`);
      const where = `absmax of ${slot} in step ${step}`;
      assertRms(where, absmax, stored.get(`${run}.${letter}_absmax${step}`)!.data, { tolerance: 1e-3 });
    }
  }
}

async function judgeGalore(backend: Backend, blockSize: BlockSize): Promise<void> {
  const stored = readGolden(new URL("galore_adam8.safetensors", FOLDER));
  const settings = FILE.galore_adam8;
  const { data: w0, shape } = stored.get("w0")!;
  const { data: proj, shape: [rows, rank] } = stored.get("proj")!;
  assert.deepEqual([rows, rank], [shape[0], settings.rank]);
  const transposed = Float32Array.from(proj, (_, i) => proj[(i % rows) * rank + Math.floor(i / rows)]);
  const basis: BasisStrategy = {
    name: "stored",
    options: {},
    // deno-lint-ignore require-yield -- nothing to wait for
    *compute(gradient) {
      return own(fromArray(gradient.backend, transposed, [rank, rows]));
    },
  };
  const { scale, update_proj_gap: updateProjGap, lr: learningRate, weight_decay: weightDecay } = settings;
  const inner = adamOf(settings, blockSize);
  const rule = finish(galore(inner, { rank, updateProjGap, scale, basis }), {
    learningRate,
    weightDecay,
    decayPlacement: "after",
  });
  using bench = new GradientBench(backend, { w: shape }, rule, { start: { w: w0 } });
  for (let step = 1; step <= settings.steps; step++) {
    await bench.step({ w: stored.get("grads")!.data.subarray((step - 1) * w0.length, step * w0.length) });
    const reference = stored.get(`b${blockSize}.w${step}`)?.data;
    if (!reference) continue;
    const moved = rms(Float64Array.from(reference, (value, i) => value - w0[i]));
    const weights = (await bench.weights()).w;
    const error = rms(Float64Array.from(reference, (value, i) => value - weights[i])) / moved;
    assert.ok(error <= 5e-3, `step ${step}: off by ${error.toExponential(2)} of the movement`);
  }
  assert.equal((await bench.read("w", "inner/nu/codes")).length, rank * shape[1], "moments were stored in 8 bits");
}
