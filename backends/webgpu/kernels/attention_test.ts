import assert from "node:assert/strict";
import { withoutFused } from "../../../core/define.ts";
import { attention, type AttentionOptions } from "../../../core/ops/attention.ts";
import { sizeOf } from "../../../core/shape.ts";
import { assertClose, assertRms } from "../../../core/testing/golden.ts";
import { random } from "../../../core/testing/gradcheck.ts";
import {
  evaluate,
  type Evaluation,
  float,
  type FloatType,
  given,
  type HostInput,
  type InputSpec,
  layOut,
  representable,
} from "../../../core/testing/inputs.ts";
import { assertNoLeak, peakBytes } from "../../../core/testing/leaks.ts";
import { empty, type Tensor } from "../../../core/tensor.ts";
import { scope } from "../../../core/scope.ts";
import { webgpuBackend } from "../mod.ts";
import { webgpuTest } from "../testing.ts";
import { chooseTile, threadsOf } from "./attention_tile.ts";

const causal = { causal: true };

function run(options: AttentionOptions) {
  return (q: Tensor, k: Tensor, v: Tensor, mask?: Tensor) => attention(q, k, v, mask ? { ...options, mask } : options);
}

function inputsOf([B, T, S, H, G, K]: readonly number[], mask?: InputSpec, dtype: FloatType = "f32"): HostInput[] {
  const specs = [float([B, T, H, K]), float([B, S, G, K]), float([B, S, G, K]), ...(mask ? [mask] : [])];
  return specs.map((spec, i) => representable(layOut(spec, `attention ${i}`, "contiguous"), dtype));
}

function cotangentOf([q]: readonly HostInput[]): Float64Array {
  return representable({ ...q, stored: random("attention cotangent", sizeOf(q.shape)) }, "bf16").stored;
}

function assertAgree(what: string, actual: Evaluation, expected: Evaluation, half = 0): void {
  assertClose(`${what}: value`, actual.value, expected.value, { rtol: 1e-4 + 1.01 * half, atol: 1e-5 });
  actual.gradients.forEach((gradient, i) => {
    if (!gradient) return;
    assertRms(`${what}: gradient ${i}`, gradient, expected.gradients[i]!, { tolerance: 2e-4 + 2 * half, floor: 0.03 });
  });
}

/** B, T, S, H, G, K: what the parity cases are too small for. */
const SIZES: readonly (readonly [name: string, sizes: readonly number[], options: AttentionOptions])[] = [
  ["a long causal sequence", [1, 1024, 1024, 2, 1, 64], causal],
  ["grouped heads", [2, 70, 70, 6, 2, 32], causal],
  ["one query on a long cache", [2, 1, 513, 4, 2, 64], causal],
  ["a few queries on a cache", [1, 9, 77, 2, 2, 64], causal],
  ["heads of 160", [1, 20, 40, 2, 1, 160], causal],
];

webgpuTest("attention() agrees with its composed form beyond the sizes of the parity cases", async (t) => {
  using backend = await webgpuBackend();
  for (const [name, sizes, options] of SIZES) {
    await t.step(name, async () => {
      const inputs = inputsOf(sizes);
      const how = { dtype: "f32", cotangent: cotangentOf(inputs) } as const;
      const fused = await assertNoLeak(name, backend, () => evaluate(backend, inputs, run(options), how));
      const compose = (q: Tensor, k: Tensor, v: Tensor) => withoutFused(() => attention(q, k, v, options));
      const composed = await evaluate(backend, inputs, compose, how);
      assertAgree(name, fused, composed);
    });
  }
});

webgpuTest("attention() gives zeros, and zero gradients, where a query sees no key", async () => {
  using backend = await webgpuBackend();
  const sizes = [2, 40, 36, 2, 1, 16];
  const inputs = inputsOf(sizes, given("u32", [2, 36], Array.from({ length: 72 }, (_, i) => i < 36 ? 0 : 1)));
  const { value, gradients } = await evaluate(backend, inputs, run(causal), {
    dtype: "f32",
    cotangent: cotangentOf(inputs),
  });
  const [dq, dk, dv] = gradients as Float64Array[];
  for (const numbers of [value, dq, dk, dv]) {
    assert.ok(numbers.subarray(0, numbers.length / 2).every((x) => x === 0), "the masked example");
    assert.ok(numbers.every(Number.isFinite));
  }
  const row = 2 * 16; // the second example's first four queries come before every key
  const unseen = value.subarray(value.length / 2, value.length / 2 + 4 * row);
  assert.ok(unseen.every((x) => x === 0));
  assert.ok(value.subarray(value.length / 2 + 4 * row).some((x) => x !== 0));
});

webgpuTest("attention() gives the same bits twice", async () => {
  using backend = await webgpuBackend();
  const inputs = inputsOf([2, 100, 100, 4, 2, 32]);
  const how = { dtype: "f32", cotangent: cotangentOf(inputs) } as const;
  const first = await evaluate(backend, inputs, run(causal), how);
  assert.deepEqual(await evaluate(backend, inputs, run(causal), how), first);
});

webgpuTest("attention() gives NaN where NaN is seen, and nowhere else", async () => {
  using backend = await webgpuBackend();
  const [T, K] = [40, 16];
  for (const [which, place] of [[0, 20], [1, 35]]) {
    const inputs = inputsOf([1, T, T, 1, 1, K]);
    inputs[which].stored[place * K + 3] = NaN;
    const { value, gradients } = await evaluate(backend, inputs, run(causal), {
      dtype: "f32",
      cotangent: cotangentOf(inputs),
    });
    for (let t = 0; t < T; t++) {
      const isNaNRow = which === 0 ? t === place : t >= place;
      assert.equal(value.subarray(t * K, (t + 1) * K).every(Number.isNaN), isNaNRow, `input ${which}: query ${t}`);
      assert.equal(value.subarray(t * K, (t + 1) * K).some(Number.isNaN), isNaNRow, `input ${which}: query ${t}`);
    }
    for (const gradient of gradients) assert.ok(gradient!.some(Number.isNaN), `gradients with NaN in input ${which}`);
  }
});

webgpuTest("attention() over 16 bits is that over 32, rounded once", async () => {
  using backend = await webgpuBackend();
  for (const [dtype, half] of [["bf16", 2 ** -8], ["f16", 2 ** -11]] as const) {
    for (const K of dtype === "bf16" ? [64, 34] : [34]) {
      const inputs = inputsOf([1, 50, 50, 4, 2, K], undefined, dtype);
      const cotangent = cotangentOf(inputs);
      const narrow = await assertNoLeak(
        dtype,
        backend,
        () => evaluate(backend, inputs, run(causal), { dtype, cotangent }),
      );
      const wide = await evaluate(backend, inputs, run(causal), { dtype: "f32", cotangent });
      assert.equal(narrow.dtype, dtype);
      assertAgree(`${dtype} heads of ${K}`, narrow, wide, half);
    }
  }
});

webgpuTest("attention() keeps no matrix of scores", async () => {
  using backend = await webgpuBackend();
  using _inner = scope("test");
  const [q, k, v] = [1, 2, 3].map(() => empty(backend, [1, 512, 4, 16], "f32"));
  const bytes = peakBytes(backend, () => attention(q, k, v, causal).dispose());
  assert.equal(bytes, 4 * 512 * 4 * (16 + 1)); // the output and the log-sum-exp
});

Deno.test("chooseTile() fits the workgroup memory of any device, with 64 invocations for heads of 64", () => {
  for (const kept of [1, 2]) {
    const demand = { kept, reduces: kept === 1 };
    for (const K of [1, 33, 64, 128]) assert.ok(chooseTile(500, K, demand, 16384), `heads of ${K}`);
    for (const rows of [1, 500]) assert.equal(threadsOf(chooseTile(rows, 64, demand, 16384)!).all, 64);
    assert.ok(chooseTile(1, 256, demand, 32768));
    assert.equal(chooseTile(1, 256, demand, 16384), undefined);
  }
});
