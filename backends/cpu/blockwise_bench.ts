/**
 * Adam on f32 and on block-wise 8-bit moments, a million elements, parameter included, on all threads; and the storage
 * by itself. `deno bench -A backends/cpu/blockwise_bench.ts`.
 */
import type { Blockwise } from "../../core/backend.ts";
import { keyOf, normal } from "../../core/random.ts";
import { TestDevice } from "./wasm_testing.ts";
import { wasmUpdates } from "./wasm_updates.ts";

const SIZE = 1_000_000;
const device = await TestDevice.pool();
const updates = wasmUpdates(device);
const randn = (seed: number) => device.operand([SIZE], normal(keyOf(seed), SIZE, 0, 1e-3));
const [grad, param, out] = [randn(1), randn(2), device.operand([SIZE])];
const parameter = { learningRate: 0.001, weightDecay: 0.1, decayPlacement: "before" } as const;
const update = { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 10, epsPlacement: "corrected" } as const;

const moments = [0, 0].map(() => device.operand([SIZE], new Float32Array(SIZE)));
Deno.bench("adam of f32 moments", { group: "adam", baseline: true }, () => {
  updates.adam!({ grad, mu: moments[0], nu: moments[1], param }, update, parameter);
});

for (const blockSize of [256, 2048]) {
  for (const rounding of ["safe", "stock"] as const) {
    const options = { blockSize, rounding };
    const [mu, nu] = [0, 1].map((): Blockwise => ({
      codes: device.operand([SIZE], undefined, "u8"),
      absmax: device.operand([Math.ceil(SIZE / blockSize)]),
    }));
    updates.quantizeBlockwise!(moments[0], mu, "signed", options);
    updates.quantizeBlockwise!(moments[1], nu, "nonnegative", options);
    Deno.bench(`adamBlockwise in ${rounding} blocks of ${blockSize}`, { group: "adam" }, () => {
      updates.adamBlockwise!({ grad, mu, nu, param }, { ...update, ...options }, parameter);
    });
    if (rounding === "stock") continue;
    Deno.bench(`quantizeBlockwise in blocks of ${blockSize}`, { group: "storage" }, () => {
      updates.quantizeBlockwise!(grad, mu, "signed", options);
    });
    Deno.bench(`dequantizeBlockwise from blocks of ${blockSize}`, { group: "storage" }, () => {
      updates.dequantizeBlockwise!(mu, out, "signed", blockSize);
    });
  }
}
