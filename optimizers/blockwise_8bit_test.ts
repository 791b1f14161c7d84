/** The composed definition of 8-bit storage against brute force and the kernels, and why rounding is `safe`. */
import assert from "node:assert/strict";
import { dequantize as referenceValues, quantize as reference } from "../backends/conformance/blockwise_reference.ts";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, type BlockwiseOptions, codebook, foldIn, fromArray, keyOf, normal } from "../core/mod.ts";
import { scope, type SlotKind, type Tensor, transpose, uniform } from "../core/mod.ts";
import { rmsError } from "../core/testing/golden.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { dequantize, quantize } from "./blockwise_8bit.ts";
import { type AdamOptions, blockwise8bit, finish, scaleByAdam, storeAs } from "./mod.ts";
import { GradientBench } from "./testing/bench.ts";

const KINDS: readonly SlotKind[] = ["signed", "nonnegative"];
const LAYOUTS: readonly BlockwiseOptions[] = [256, 2048].flatMap((blockSize) =>
  (["safe", "stock"] as const).map((rounding) => ({ blockSize, rounding }))
);

/** Normal numbers, then as many over twelve decades. */
function values(kind: SlotKind, size: number): Float32Array<ArrayBuffer> {
  const key = foldIn(keyOf(5), kind, size);
  const x = normal(key, size);
  uniform(foldIn(key, "decade"), size >> 1).forEach((u, i) => x[i] = Math.sign(x[i]) * 10 ** (2 - 12 * u));
  return kind === "signed" ? x : x.map(Math.abs);
}

/** All mid-points with the f32 above and below, each block beginning with its 1; zeros of both signs; 1 / 0 blocks. */
function edges(kind: SlotKind): Float32Array<ArrayBuffer> {
  const book = codebook(kind);
  const out: number[] = [];
  const around = [...book.subarray(1)].flatMap((value, code) => {
    const bits = new Int32Array(Float32Array.of((value + book[code]) / 2).buffer)[0];
    return [...new Float32Array(Int32Array.of(bits - 1, bits, bits + 1).buffer)];
  });
  while (around.length > 0) out.push(1, ...around.splice(0, 255));
  while (out.length % 2048 !== 0) out.push(0, kind === "signed" ? -0 : 0);
  return Float32Array.from([...out, ...new Array(2048).fill(0), 1e-30, 0, ...(kind === "signed" ? [-1e-38, -1] : [])]);
}

for (const kind of KINDS) {
  for (const options of LAYOUTS) {
    const of = `${kind} values in ${options.rounding} blocks of ${options.blockSize}`;
    Deno.test(`quantize() finds what a search over the code-book finds: ${of}`, async () => {
      using backend = loopsBackend();
      await assertNoLeak("quantize()", backend, async () => {
        for (const x of [edges(kind), ...[1, 255, 257, 4099].map((size) => values(kind, size))]) {
          using _ = fromArray(backend, x, [x.length]);
          const expected = reference(x, kind, options);
          const { codes, absmax } = quantize(_, kind, options);
          assert.deepEqual(await absmax.read(), expected.absmax);
          assert.deepEqual(await codes.read(), expected.codes);
          using back = dequantize(codes, absmax, kind, options.blockSize);
          assert.deepEqual(await back.read(), referenceValues(expected, kind, options.blockSize));
          codes.dispose();
          absmax.dispose();
        }
      });
    });
  }
}

Deno.test("blockwise8bit() stores and gives back the same bits with kernels as composed, transposed too", async () => {
  using backend = await cpuBackend({ threads: 2, blas: "off" });
  assert.ok(backend.updates.quantizeBlockwise && backend.updates.dequantizeBlockwise, "the kernels are there");
  const composed: Backend = { ...backend, updates: {} };
  for (const kind of KINDS) {
    for (const options of LAYOUTS) {
      const codec = blockwise8bit(options);
      const bits = [backend, composed].map((each) => {
        using _ = scope("stored");
        const x = fromArray(each, values(kind, 37 * 111), [37, 111]);
        const stored = codec.encode(x, kind, keyOf(0)) as Record<string, Tensor>;
        const turned = codec.encode(transpose(x), kind, keyOf(0)) as Record<string, Tensor>;
        const tensors = [stored.codes, stored.absmax, codec.decode(stored, kind), turned.codes, turned.absmax];
        return tensors.map((tensor) => [tensor.shape, tensor.dtype, tensor.readSync()]);
      });
      assert.deepEqual(bits[0], bits[1], `${kind} ${options.rounding} ${options.blockSize}`);
    }
  }
});

Deno.test("storeAs(blockwise8bit()) moves weights with its kernel as composed, whole chains and projections alike", async () => {
  using backend = await cpuBackend({ threads: 2, blas: "off" });
  assert.ok(backend.updates.adamBlockwise);
  const composed: Backend = { ...backend, updates: {} };
  for (const epsPlacement of ["corrected", "uncorrected"] as const) {
    for (const decayPlacement of ["before", "after"] as const) {
      const make = (each: Backend) => {
        const inner = storeAs(blockwise8bit(), scaleByAdam({ eps: 1e-6, epsPlacement }), { minSize: 0 });
        const rule = finish(inner, { learningRate: 0.01, weightDecay: 0.1, decayPlacement });
        return new GradientBench(each, { w: [65, 67], v: [5] }, rule, { clip: 1 });
      };
      using fused = make(backend);
      using slow = make(composed);
      for (let step = 1; step <= 5; step++) for (const bench of [fused, slow]) await bench.step(bench.gradients(step));
      const [a, b] = [await fused.weights(), await slow.weights()];
      for (const name of ["w", "v"]) {
        assert.ok(rmsError(a[name], b[name]) < 1e-5, `${name}: ${rmsError(a[name], b[name])}`);
      }
      const codes = await Promise.all([fused, slow].map((bench) => bench.read("w", "nu/codes")));
      const other = Array.from(codes[0]).filter((code, i) => code !== codes[1][i]).length;
      assert.ok(other <= 0.001 * codes[0].length, `${other} codes differ`);
    }
  }
});

Deno.test("blockwise8bit() refuses blocks that are no multiple of 256 up to 4096", () => {
  for (const blockSize of [0, 128, 300, 8192, 256.5, NaN]) {
    assert.throws(() => blockwise8bit({ blockSize }), /^RangeError: Cannot store in blocks of/);
  }
  assert.deepEqual(blockwise8bit().options, { blockSize: 256, rounding: "safe" });
});

/** The largest step of any weight over the learning rate, in 60 steps. */
async function largestStep(rounding: BlockwiseOptions["rounding"], gradientAt: (step: number) => Float32Array) {
  const learningRate = 1e-3;
  const size = gradientAt(1).length;
  const largest: number[] = [];
  for (const makeBackend of [() => loopsBackend(), () => cpuBackend({ threads: 1, blas: "off" })]) {
    using backend = await makeBackend();
    const adam: AdamOptions = { eps: 1e-8 };
    const rule = finish(storeAs(blockwise8bit({ rounding }), scaleByAdam(adam), { minSize: 0 }), { learningRate });
    using bench = new GradientBench(backend, { w: [size] }, rule, { start: { w: new Float32Array(size) } });
    let most = 0;
    let before = (await bench.weights()).w;
    for (let step = 1; step <= 60; step++) {
      await bench.step({ w: gradientAt(step) });
      const after = (await bench.weights()).w;
      after.forEach((weight, i) => most = Math.max(most, Math.abs(weight - before[i]) / learningRate));
      before = after;
    }
    largest.push(most);
  }
  return largest;
}

/** One gradient of 1, beside 255 of 1e-4 that come every fifth step. */
const sparse = (step: number) => Float32Array.from({ length: 256 }, (_, i) => i === 0 ? 1 : step % 5 === 1 ? 1e-4 : 0);

const DECADES = uniform(keyOf(9), 1024).map((u) => 10 ** (-12 * u));

/** Gradients over twelve decades, each its own, of changing sign. */
const wide = (step: number) => normal(foldIn(keyOf(step), "sign"), 1024).map((x, i) => Math.sign(x) * DECADES[i]);

Deno.test("blockwise8bit() safe never moves a weight by more than twice the rate beside large neighbours", async () => {
  for (const gradientAt of [sparse, wide]) {
    for (const most of await largestStep("safe", gradientAt)) {
      assert.ok(most <= 2, `${most} times the learning rate`);
      assert.ok(most >= 0.5, `${most}: the weights move`);
    }
  }
});

Deno.test("blockwise8bit() stock moves them by thousands of the rate: why it is not the default", async () => {
  for (const most of await largestStep("stock", sparse)) assert.ok(most > 1000, `${most} times the learning rate`);
});
