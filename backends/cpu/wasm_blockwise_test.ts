/** What the compiled block-wise kernels promise beyond conformance: the same bits in any pieces, NaN, refusals. */
import assert from "node:assert/strict";
import type { Blockwise } from "../../core/backend.ts";
import { keyOf, normal } from "../../core/random.ts";
import { type TestDevice, testEverywhere } from "./wasm_testing.ts";
import { wasmUpdates } from "./wasm_updates.ts";

const UPDATE = { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 1, epsPlacement: "corrected" } as const;
const PARAMETER = { learningRate: 0.01, weightDecay: 0.1, decayPlacement: "before" } as const;

function blockwise(device: TestDevice, size: number, blockSize: number): Blockwise {
  const codes = device.operand([size], undefined, "u8");
  return { codes, absmax: device.operand([Math.ceil(size / blockSize)]) };
}

for (const blockSize of [256, 2048, 20_000]) {
  testEverywhere(`adamBlockwise() has the same bits in any pieces: blocks of ${blockSize}`, (device) => {
    const size = 50_003;
    const options = { blockSize, rounding: "safe" } as const;
    const updates = wasmUpdates(device);
    const [param, values] = [device.operand([size], normal(keyOf(1), size)), device.operand([size])];
    const [mu, nu] = [0, 1].map(() => blockwise(device, size, blockSize));
    const zeros = device.operand([size], new Float32Array(size));
    updates.quantizeBlockwise!(zeros, mu, "signed", options);
    updates.quantizeBlockwise!(zeros, nu, "nonnegative", options);
    for (let step = 1; step <= 3; step++) {
      const grad = device.operand([size], normal(keyOf(step), size));
      updates.adamBlockwise!({ grad, mu, nu, param }, { ...UPDATE, step, ...options }, PARAMETER);
    }
    updates.dequantizeBlockwise!(mu, values, "signed", blockSize);
    assert.ok(device.values(values).every((value) => Math.abs(value) < 1));
    return [mu.codes, mu.absmax, nu.codes, nu.absmax, param, values].map((operand) => device.values(operand));
  });
}

testEverywhere("quantizeBlockwise() keeps a NaN in its block, and out of the others", (device) => {
  const x = normal(keyOf(2), 1000);
  x[300] = NaN;
  const [to, out] = [blockwise(device, 1000, 256), device.operand([1000])];
  const updates = wasmUpdates(device);
  for (const kind of ["signed", "nonnegative"] as const) {
    updates.quantizeBlockwise!(device.operand([1000], x), to, kind, { blockSize: 256, rounding: "safe" });
    updates.dequantizeBlockwise!(to, out, kind, 256);
    device.values(out).forEach((value, i) => assert.equal(isNaN(value), i >= 256 && i < 512, `element ${i}`));
  }
  return [];
});

testEverywhere("quantizeBlockwise() takes blocks whose inverse is infinite, and infinite ones", (device) => {
  const [to, updates] = [blockwise(device, 5, 5), wasmUpdates(device)];
  const codesOf = (x: readonly number[], rounding: "safe" | "stock") => {
    updates.quantizeBlockwise!(device.operand([5], x), to, "signed", { blockSize: 5, rounding });
    return [...device.values(to.codes)];
  };
  // 0 and infinity times infinity, and infinity times 0, are NaN, which no limit is below
  assert.deepEqual(codesOf([1e-40, -1e-40, 0, 1e-45, -1e-45], "safe"), [255, 0, 0, 255, 0]);
  assert.deepEqual(codesOf([Infinity, -Infinity, 1, -1, 0], "safe"), [0, 0, 127, 127, 127]);
  assert.deepEqual(codesOf([Infinity, -Infinity, 1, -1, 0], "stock"), [0, 0, 127, 126, 127]);
  return [];
});

testEverywhere("quantizeBlockwise() refuses blocks without an element, or larger than a thread's scratch", (device) => {
  const [x, to] = [device.operand([8], normal(keyOf(1), 8)), blockwise(device, 8, 8)];
  for (const blockSize of [0, -1, 2.5, 2 ** 17 + 1]) {
    const run = () => wasmUpdates(device).quantizeBlockwise!(x, to, "signed", { blockSize, rounding: "safe" });
    assert.throws(run, RangeError);
  }
  return [];
});
