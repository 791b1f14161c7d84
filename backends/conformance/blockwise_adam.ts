/**
 * Steps of `adamBlockwise` against `blockwise_reference.ts`: the cases, and the checks that `blockwise.ts` registers.
 * Test support: no module imports this.
 */
import assert from "node:assert/strict";
import type { AdamUpdate, Backend, Blockwise, BlockwiseOptions, Operand, ParameterUpdate } from "../../core/backend.ts";
import { keyOf, normal, uniform } from "../../core/random.ts";
import { assertRms } from "../../core/testing/golden.ts";
import { onBackend, type Own, placed, placedBlockwise, readBlockwise, readFloats } from "./blockwise_operands.ts";
import { adamStep, type HostBlockwise, quantize } from "./blockwise_reference.ts";

/** A layout, and which operands are there. */
export interface AdamCase extends BlockwiseOptions {
  readonly size: number;
  readonly hasFactor: boolean;
  readonly hasParam: boolean;
  readonly hasOut: boolean;
}

/** Whole and short blocks, with and without each optional operand. */
export const ADAM_CASES: readonly AdamCase[] = [
  { blockSize: 256, rounding: "safe", size: 5003, hasFactor: true, hasParam: true, hasOut: true },
  { blockSize: 2048, rounding: "safe", size: 5002, hasFactor: false, hasParam: false, hasOut: true },
  { blockSize: 256, rounding: "stock", size: 37, hasFactor: true, hasParam: true, hasOut: false },
  { blockSize: 2048, rounding: "stock", size: 4096, hasFactor: false, hasParam: true, hasOut: true },
];

const BETAS = { beta1: 0.9, beta2: 0.999 };

interface State {
  readonly mu: HostBlockwise;
  readonly nu: HostBlockwise;
  readonly param: Float32Array;
}

/** Every step begins, on both sides, with what the device has: else one differing code would be met again and again. */
export async function checkAdam(
  backend: Backend,
  { size, hasFactor, hasParam, hasOut, epsPlacement, decayPlacement, ...options }:
    & AdamCase
    & Pick<AdamUpdate, "epsPlacement">
    & Pick<ParameterUpdate, "decayPlacement">,
): Promise<void> {
  const parameter: ParameterUpdate = { learningRate: 0.01, weightDecay: 0.1, decayPlacement };
  await onBackend(backend, async (own) => {
    let before: State = { ...zeroMoments(size, options), param: normal(keyOf(5), size) };
    const [mu, nu] = [before.mu, before.nu].map((state) => placedBlockwise(own, size, options.blockSize, state));
    const factor = hasFactor ? placed(own, Float32Array.of(0.25)) : undefined;
    const [param, out] = [hasParam, hasOut].map((has) => has ? placed(own, before.param) : undefined);
    for (let step = 1; step <= 20; step++) {
      const update = { ...BETAS, eps: 1e-8, step, epsPlacement, ...options };
      const gradient = gradientOf(step, size);
      const grad = placed(own, gradient);
      backend.updates.adamBlockwise!({ grad, mu, nu, factor, param, out }, update, hasParam ? parameter : undefined);
      const after = await readState(own, { mu, nu, param, out });
      const expected = adamStep(before, hasFactor ? gradient.map((g) => g / 4) : gradient, update, parameter);
      assertAlike(`mu after step ${step}`, after.mu, expected.mu);
      assertAlike(`nu after step ${step}`, after.nu, expected.nu);
      if (param) assertRms(`param after step ${step}`, after.param!, expected.param, { tolerance: 1e-6 });
      if (out) assertRms(`out of step ${step}`, after.out!, expected.out, { tolerance: 1e-6 });
      before = { mu: after.mu, nu: after.nu, param: after.param ?? before.param };
    }
  });
}

/** A factor below 0, with gradients that would spoil everything. */
export async function checkShutGate(backend: Backend): Promise<void> {
  for (const blockwise of ADAM_CASES) {
    const { size } = blockwise;
    const parameter: ParameterUpdate = { learningRate: 0.1, weightDecay: 0.1, decayPlacement: "before" };
    const x = normal(keyOf(7), size);
    const state = { mu: quantize(x, "signed", blockwise), nu: quantize(x.map(Math.abs), "nonnegative", blockwise) };
    await onBackend(backend, async (own) => {
      const [mu, nu] = [state.mu, state.nu].map((moment) => placedBlockwise(own, size, blockwise.blockSize, moment));
      const [param, out] = [placed(own, x), placed(own, x)];
      const [grad, factor] = [placed(own, new Float32Array(size).fill(NaN)), placed(own, Float32Array.of(-1))];
      const update: AdamUpdate = { ...BETAS, eps: 1e-8, step: 1, epsPlacement: "corrected" };
      backend.updates.adamBlockwise!({ grad, mu, nu, factor, param, out }, { ...update, ...blockwise }, parameter);
      const after = await readState(own, { mu, nu, param, out });
      assert.deepEqual(after, { ...state, param: x, out: new Float32Array(size) });
    });
  }
}

/** A param without its learning rate and decay. */
export async function checkMissingParameter(backend: Backend): Promise<void> {
  await onBackend(backend, (own) => {
    const [mu, nu] = [0, 1].map(() => placedBlockwise(own, 4, 256));
    const [grad, param] = [0, 1].map(() => placed(own, new Float32Array(4)));
    const update: AdamUpdate = { ...BETAS, eps: 1e-8, step: 1, epsPlacement: "corrected" };
    const run = () => {
      backend.updates.adamBlockwise!({ grad, mu, nu, param }, { ...update, blockSize: 256, rounding: "safe" });
    };
    assert.throws(run, TypeError);
  });
}

function zeroMoments(size: number, options: BlockwiseOptions): { mu: HostBlockwise; nu: HostBlockwise } {
  const zeros = new Float32Array(size);
  return { mu: quantize(zeros, "signed", options), nu: quantize(zeros, "nonnegative", options) };
}

async function readState(
  own: Own,
  { mu, nu, param, out }: Record<"mu" | "nu", Blockwise> & Partial<Record<"param" | "out", Operand>>,
) {
  const [muRead, nuRead, paramRead, outRead] = await Promise.all([
    readBlockwise(own, mu),
    readBlockwise(own, nu),
    param && readFloats(own, param),
    out && readFloats(own, out),
  ]);
  return { mu: muRead, nu: nuRead, param: paramRead, out: outRead };
}

/** Over some decades, a tenth of it exactly 0. */
function gradientOf(step: number, size: number): Float32Array<ArrayBuffer> {
  const decades = uniform(keyOf(100 + step), size);
  return normal(keyOf(step), size).map((g, i) => i % 10 === step % 10 ? 0 : g * 10 ** (-4 * decades[i]));
}

/** Codes equal for 99 % and never more than one off, absmax within 1e-6. */
function assertAlike(what: string, actual: HostBlockwise, expected: HostBlockwise): void {
  assertRms(`${what}: absmax`, actual.absmax, expected.absmax, { tolerance: 1e-6 });
  let different = 0;
  actual.codes.forEach((code, i) => {
    if (code === expected.codes[i]) return;
    different++;
    const away = Math.abs(code - expected.codes[i]);
    assert.ok(away <= 1, `${what}: element ${i} has code ${code}, not ${expected.codes[i]}`);
  });
  assert.ok(different <= actual.codes.length / 100, `${what}: ${different} of ${actual.codes.length} codes differ`);
}
