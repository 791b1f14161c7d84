/**
 * Values of ops against an independent library, TensorFlow.js on its plain CPU backend, on random inputs in every
 * layout. It has no gradients under Deno: those are checked by differences.
 */
import assert from "node:assert/strict";
import * as tf from "npm:@tensorflow/tfjs-core@4.22.0";
import "npm:@tensorflow/tfjs-backend-cpu@4.22.0";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import * as core from "./mod.ts";
import { OP_NAMES, type OpName } from "./testing/cases.ts";
import { assertClose } from "./testing/golden.ts";
import { constant, evaluate, float, index, type InputSpec, layOut, LAYOUTS, mask } from "./testing/inputs.ts";

/** Inputs, our op and theirs. */
type Oracle = readonly [
  inputs: readonly InputSpec[],
  ours: (...inputs: core.Tensor[]) => core.Tensor,
  theirs: (...inputs: tf.Tensor[]) => tf.Tensor,
];

const RANDOM = { rank4: [2, 3, 4, 5], matrix: [7, 5], row: [1, 33] };

function each(
  ours: (x: core.Tensor) => core.Tensor,
  theirs: (x: tf.Tensor) => tf.Tensor,
  low = -3,
  high = 3,
): Oracle[] {
  return Object.values(RANDOM).map((shape) => [[float(shape, low, high)], ours, theirs]);
}

function pairs(
  ours: (a: core.Tensor, b: core.Tensor) => core.Tensor,
  theirs: (a: tf.Tensor, b: tf.Tensor) => tf.Tensor,
  low = -3,
  high = 3,
): Oracle[] {
  const shapes = [[[7, 5], [7, 5]], [[3, 1, 7], [5, 1]], [[4], []], [[2, 1, 3, 5], [4, 1, 1]]];
  return shapes.map(([a, b]) => [[float(a, low, high), float(b, low, high)], ours, theirs]);
}

function reduction(
  ours: (x: core.Tensor, axes?: core.Axes, keep?: boolean) => core.Tensor,
  theirs: (x: tf.Tensor, axes?: number[], keep?: boolean) => tf.Tensor,
): Oracle[] {
  const over: [number[], number[] | undefined, boolean][] = [
    [[7, 33], undefined, false],
    [[4, 3, 2, 5], [0, 2], false],
    [[4, 3, 2, 5], [3], true],
    [[33], [0], false],
  ];
  return over.map(([shape, axes, keep]) => [[float(shape)], (x) => ours(x, axes, keep), (x) => theirs(x, axes, keep)]);
}

function variance(x: tf.Tensor, axes?: number[], keep = false): tf.Tensor {
  return tf.moments(x, axes, keep).variance;
}

function normalise(x: tf.Tensor, mean: tf.Tensor | number, eps: number): tf.Tensor {
  const centered = tf.sub(x, mean);
  return tf.div(centered, tf.sqrt(tf.add(tf.mean(tf.square(centered), -1, true), eps)));
}

/** Attention by Einstein sums; every query head has its own key head. */
function attention(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): tf.Tensor {
  const scores = tf.div(tf.einsum("bthk,bshk->bhts", q, k), Math.sqrt(q.shape[3]!));
  return tf.einsum("bhts,bshk->bthk", tf.softmax(scores), v);
}

function rope(x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor): tf.Tensor {
  const [a, b] = tf.split(x, 2, 3);
  const [c, s] = [cos, sin].map((table) => tf.expandDims(table, 1));
  return tf.concat([tf.sub(tf.mul(a, c), tf.mul(b, s)), tf.add(tf.mul(b, c), tf.mul(a, s))], 3);
}

/** Rows times a matrix: tfjs multiplies only tensors of equal rank. */
function linear(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const rows = tf.reshape(x, [-1, x.shape[x.rank - 1]]);
  return tf.reshape(tf.add(tf.matMul(rows, w, false, true), b), [...x.shape.slice(0, -1), w.shape[0]]);
}

function crossEntropy(logits: tf.Tensor, targets: tf.Tensor): tf.Tensor {
  const hot = tf.oneHot(tf.cast(targets, "int32"), logits.shape[1]!);
  return tf.neg(tf.mean(tf.sum(tf.mul(hot, tf.logSoftmax(logits)), -1)));
}

/** [B, C, H, W] to patches by a convolution over [B, H, W, C]. */
function patches(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const image = tf.transpose(x, [0, 2, 3, 1]) as tf.Tensor4D;
  const filter = tf.transpose(w, [2, 3, 1, 0]) as tf.Tensor4D;
  const out = tf.add(tf.conv2d(image, filter, w.shape[2]!, "valid"), b);
  return tf.reshape(out, [x.shape[0], -1, w.shape[0]]);
}

const { matmul } = core;
const TABLES: Partial<Record<OpName, readonly Oracle[]>> = {
  attention: [[
    [float([2, 3, 4, 5]), float([2, 7, 4, 5]), float([2, 7, 4, 5])],
    (q, k, v) => core.attention(q, k, v),
    attention,
  ]],
  rope: [[[float([2, 5, 3, 8]), constant([5, 4]), constant([5, 4])], core.rope, rope]],
  fill: [[[float([1])], (x) => core.fill(x.backend, 2.5, [2, 3]), () => tf.fill([2, 3], 2.5)]],
  zeros: [[[float([1])], (x) => core.zeros(x.backend, [2, 3]), () => tf.zeros([2, 3])]],
  ones: [[[float([1])], (x) => core.ones(x.backend, [2, 3]), () => tf.ones([2, 3])]],
  iota: [[[float([1])], (x) => core.iota(x.backend, 4, "f32", -1, 0.5), () => tf.range(-1, 1, 0.5)]],
  neg: each(core.neg, tf.neg),
  abs: each(core.abs, tf.abs),
  exp: each(core.exp, tf.exp),
  log: each(core.log, tf.log, 0.1, 9),
  sqrt: each(core.sqrt, tf.sqrt, 0, 9),
  rsqrt: each(core.rsqrt, tf.rsqrt, 0.1, 9),
  recip: each(core.recip, tf.reciprocal, 0.1, 9),
  tanh: each(core.tanh, tf.tanh),
  erf: each(core.erf, tf.erf),
  sin: each(core.sin, tf.sin),
  cos: each(core.cos, tf.cos),
  floor: each(core.floor, tf.floor),
  sign: each(core.sign, tf.sign),
  square: each(core.square, tf.square),
  sigmoid: each(core.sigmoid, tf.sigmoid),
  relu: each(core.relu, tf.relu),
  silu: each(core.silu, (x) => tf.mul(x, tf.sigmoid(x))),
  gelu: each((x) => core.gelu(x), (x) => tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.div(x, Math.SQRT2)), 1))),
  swiglu: [[
    [float([7, 5]), float([7, 5])],
    core.swiglu,
    (g, u) => tf.mul(tf.mul(g, tf.sigmoid(g)), u),
  ]],
  clamp: each((x) => core.clamp(x, -0.5, 1), (x) => tf.clipByValue(x, -0.5, 1)),
  stopGradient: each(core.stopGradient, tf.clone),
  cast: each((x) => core.cast(x, "i32"), (x) => tf.cast(x, "int32")),
  add: pairs(core.add, tf.add),
  sub: pairs(core.sub, tf.sub),
  mul: pairs(core.mul, tf.mul),
  div: pairs(core.div, tf.div, 0.2, 3),
  pow: pairs(core.pow, tf.pow, 0.2, 3),
  maximum: pairs(core.maximum, tf.maximum),
  minimum: pairs(core.minimum, tf.minimum),
  less: pairs(core.less, tf.less),
  equal: [[[index([7, 5], 3), index([5], 3)], core.equal, tf.equal]],
  where: [[[mask([7, 5]), float([7, 5]), float([7, 5])], core.where, (m, a, b) => tf.where(tf.cast(m, "bool"), a, b)]],
  embedding: [[[float([9, 5]), index([4, 3], 9)], core.embedding, (x, i) => tf.gather(x, tf.cast(i, "int32"))]],
  gather: [[
    [float([6, 5]), index([6, 3], 5)],
    core.gather,
    (x, i) => tf.sum(tf.mul(tf.oneHot(tf.cast(i, "int32"), 5), tf.expandDims(x, 1)), -1),
  ]],
  contiguous: each(core.contiguous, tf.clone),
  reshape: [[[float([2, 3, 4])], (x) => core.reshape(x, [-1, 6]), (x) => tf.reshape(x, [-1, 6])]],
  permute: [[[float([2, 3, 4, 5])], (x) => core.permute(x, [2, 0, 3, 1]), (x) => tf.transpose(x, [2, 0, 3, 1])]],
  transpose: [[[float([2, 3, 4])], (x) => core.transpose(x), (x) => tf.transpose(x, [0, 2, 1])]],
  broadcastTo: [[[float([3, 1])], (x) => core.broadcastTo(x, [2, 3, 4]), (x) => tf.broadcastTo(x, [2, 3, 4])]],
  sumTo: [[[float([2, 3, 4])], (x) => core.sumTo(x, [3, 1]), (x) => tf.sum(tf.sum(x, 0), 1, true)]],
  slice: [[
    [float([5, 6, 7])],
    (x) => core.slice(x, [{ start: 1, end: -1 }, undefined, { start: 2, step: 2 }]),
    (x) => tf.stridedSlice(x, [1, 0, 2], [4, 6, 7], [1, 1, 2]),
  ]],
  concat: [[[float([3, 2]), float([3, 4])], (a, b) => core.concat([a, b], -1), (a, b) => tf.concat([a, b], 1)]],
  stack: [[[float([3, 2]), float([3, 2])], (a, b) => core.stack([a, b], 1), (a, b) => tf.stack([a, b], 1)]],
  pad: [[[float([3, 2])], (x) => core.pad(x, [1, 0], [0, 2]), (x) => tf.pad(x, [[1, 0], [0, 2]])]],
  crossEntropy: [[[float([6, 11]), index([6], 11)], (x, t) => core.crossEntropy(x, t), crossEntropy]],
  meanSquaredError: [[
    [float([6, 5]), float([6, 5])],
    core.meanSquaredError,
    (x, y) => tf.mean(tf.squaredDifference(x, y)),
  ]],
  sumOfSquares: each(core.sumOfSquares, (x) => tf.sum(tf.square(x))),
  matmul: [
    [[float([7, 33]), float([33, 5])], (a, b) => matmul(a, b), (a, b) => tf.matMul(a, b)],
    [
      [float([33, 7]), float([5, 33])],
      (a, b) => matmul(a, b, { transposeA: true, transposeB: true }),
      (a, b) => tf.matMul(a, b, true, true),
    ],
    [
      [float([2, 3, 4, 5]), float([2, 1, 5, 6])],
      (a, b) => matmul(a, b),
      (a, b) => tf.matMul(a, tf.tile(b, [1, 3, 1, 1])), // it takes the wrong b where an inner batch axis broadcasts
    ],
  ],
  linear: [[[float([2, 3, 5]), float([4, 5]), float([4])], core.linear, linear]],
  patchEmbedding: [[[float([2, 3, 4, 6]), float([5, 3, 2, 2]), float([5])], core.patchEmbedding, patches]],
  rmsNorm: [[
    [float([3, 33]), float([33])],
    (x, w) => core.rmsNorm(x, w, 1e-5),
    (x, w) => tf.mul(normalise(x, 0, 1e-5), w),
  ]],
  layerNorm: [[
    [float([3, 33]), float([33]), float([33])],
    (x, w, b) => core.layerNorm(x, w, b, 1e-5),
    (x, w, b) => tf.add(tf.mul(normalise(x, tf.mean(x, -1, true), 1e-5), w), b),
  ]],
  softmax: each((x) => core.softmax(x), (x) => tf.softmax(x), -30, 30),
  logSoftmax: each(core.logSoftmax, (x) => tf.logSoftmax(x), -30, 30),
  sum: reduction(core.sum, tf.sum),
  mean: reduction(core.mean, tf.mean),
  max: reduction(core.max, tf.max),
  min: reduction(core.min, tf.min),
  variance: reduction(core.variance, variance),
  norm: reduction(core.norm, (x, axes, keep) => tf.norm(x, "euclidean", axes, keep)),
  argmax: [[[float([5, 33])], (x) => core.argmax(x), (x) => tf.argMax(x, -1)]],
};

/** What has no counterpart there, and where it is checked. */
const ELSEWHERE: Partial<Record<OpName, string>> = {
  ropeTables: "golden_test.ts, through rope()",
  randomBits: "ops/create_test.ts",
  dropout: "ops/indexing_test.ts",
};

Deno.test("the oracle covers every op or says where it is checked", () => {
  assert.deepEqual([...Object.keys(TABLES), ...Object.keys(ELSEWHERE)].sort(), [...OP_NAMES].sort());
});

for (const [op, table] of Object.entries(TABLES)) {
  Deno.test(`${op}() gives what TensorFlow.js gives`, async () => {
    using backend = loopsBackend();
    for (const [i, [specs, ours, theirs]] of table.entries()) {
      for (const layout of LAYOUTS) {
        const what = `${op} ${i} ${layout}`;
        const inputs = specs.map((spec, j) => layOut(spec, `oracle ${op} ${i} ${j}`, layout));
        const logical = await Promise.all(
          inputs.map((input, j) =>
            evaluate(backend, [input], (x) => x, { dtype: "f32" }).then(({ value }) =>
              tf.tensor(Float32Array.from(value), [...specs[j].shape])
            )
          ),
        );
        const expected = theirs(...logical);
        const actual = await evaluate(backend, inputs, ours, { dtype: "f32" });
        assert.deepEqual(actual.shape, expected.shape, what);
        // erf there is a polynomial good to 1.5e-7; sums there are f32, one after another
        assertClose(what, actual.value, Float64Array.from(expected.dataSync()), { rtol: 1e-5, atol: 1e-6 });
      }
    }
  });
}
