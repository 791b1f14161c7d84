import assert from "node:assert/strict";
import type { AdamUpdate, ParameterUpdate } from "../../core/backend.ts";
import { keyOf, normal } from "../../core/random.ts";
import { assertClose, testEverywhere } from "./wasm_testing.ts";
import { wasmUpdates } from "./wasm_updates.ts";

const SIZES = [1, 31, 32, 33, 257, 20_001];

/** One element in f64, as the contract says. */
function adam(
  state: { p: number; m: number; v: number; g: number },
  { beta1, beta2, eps, step, epsPlacement }: AdamUpdate,
  { learningRate, weightDecay, decayPlacement }: ParameterUpdate,
): { p: number; m: number; v: number; u: number } {
  const m = beta1 * state.m + (1 - beta1) * state.g;
  const v = beta2 * state.v + (1 - beta2) * state.g ** 2;
  const [bias1, bias2] = [1 - beta1 ** step, 1 - beta2 ** step];
  const u = epsPlacement === "corrected"
    ? m / bias1 / (Math.sqrt(v / bias2) + eps)
    : m / (Math.sqrt(v) + eps) * Math.sqrt(bias2) / bias1;
  if (decayPlacement === "before") return { p: state.p - learningRate * (u + weightDecay * state.p), m, v, u };
  const p = state.p - learningRate * u;
  return { p: p - learningRate * weightDecay * p, m, v, u };
}

for (const epsPlacement of ["corrected", "uncorrected"] as const) {
  for (const decayPlacement of ["before", "after"] as const) {
    testEverywhere(
      `adam() follows the formula over steps: eps ${epsPlacement}, decay ${decayPlacement}`,
      (device) =>
        SIZES.flatMap((size) => {
          const parameter = { learningRate: 0.01, weightDecay: 0.1, decayPlacement };
          const start = normal(keyOf(1), size);
          const [mu, nu] = [0, 0].map((value) => device.operand([size], new Float32Array(size).fill(value)));
          const [param, out] = [device.operand([size], start), device.operand([size])];
          const factor = device.operand([], [0.25]);
          const states = Array.from(start, (p) => ({ p, m: 0, v: 0, u: 0 }));
          for (let step = 1; step <= 4; step++) {
            const update = { beta1: 0.9, beta2: 0.999, eps: 1e-6, step, epsPlacement };
            const g = normal(keyOf(step), size);
            const grad = device.operand([size], g);
            wasmUpdates(device).adam!({ grad, mu, nu, factor, param, out }, update, parameter);
            states.forEach((state, i) => states[i] = adam({ ...state, g: g[i] / 4 }, update, parameter));
          }
          const key = (name: "p" | "m" | "v" | "u") => states.map((state) => state[name]);
          assertClose(device.values(mu), key("m"), { rtol: 1e-6, atol: 1e-7, what: "mu" });
          assertClose(device.values(nu), key("v"), { rtol: 1e-6, atol: 1e-9, what: "nu" });
          assertClose(device.values(out), key("u"), { rtol: 2e-6, atol: 1e-6, what: "u" });
          assertClose(device.values(param), key("p"), { rtol: 1e-6, atol: 1e-7, what: "param" });
          return [mu, nu, out, param].map((operand) => device.values(operand));
        }),
    );
  }
}

testEverywhere("adam() moves nothing but the moments and out when there is no param", (device) => {
  const [grad, mu, nu] = [2, 3, 4].map((value) => device.operand([5], new Float32Array(5).fill(value)));
  const out = device.operand([5]);
  const update = { beta1: 0.5, beta2: 0.75, eps: 0, step: 1, epsPlacement: "uncorrected" } as const;
  wasmUpdates(device).adam!({ grad, mu, nu, out }, update);
  assert.deepEqual([...device.values(grad)], [2, 2, 2, 2, 2]);
  assert.deepEqual([...device.values(mu)], new Array(5).fill(2.5));
  assert.deepEqual([...device.values(nu)], new Array(5).fill(4));
  assertClose(device.values(out), new Array(5).fill(2.5 / 2 * 0.5 / 0.5));
  return [device.values(out)];
});

testEverywhere("adam() throws when a param comes without its update", (device) => {
  const [grad, mu, nu, param] = [1, 2, 3, 4].map(() => device.operand([3], [0, 0, 0]));
  const update = { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 1, epsPlacement: "corrected" } as const;
  assert.throws(() => wasmUpdates(device).adam!({ grad, mu, nu, param }, update), TypeError);
  return [];
});

testEverywhere("adam() changes nothing and writes 0 when the factor is negative", (device) =>
  SIZES.flatMap((size) => {
    const [mu, nu, param, out] = [2, 3, 4, 5].map((value) =>
      device.operand([size], new Float32Array(size).fill(value))
    );
    const grad = device.operand([size], new Float32Array(size).fill(NaN));
    const update = { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 1, epsPlacement: "corrected" } as const;
    const parameter = { learningRate: 0.1, weightDecay: 0.1, decayPlacement: "before" } as const;
    const factor = device.operand([], [-1]);
    wasmUpdates(device).adam!({ grad, mu, nu, factor, param, out }, update, parameter);
    [mu, nu, param, out].forEach((operand, i) =>
      assert.deepEqual([...device.values(operand)], new Array(size).fill([2, 3, 4, 0][i]))
    );
    return [];
  }));
