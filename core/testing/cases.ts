/**
 * Cases of every op in `core/ops`: shapes of size 1, odd and broadcast ones, rank 0 to 5. Each runs in every layout of
 * `inputs.ts`. The gradient checks, the leak tests and the comparisons with other libraries read this one table.
 */
import * as attentionOps from "../ops/attention.ts";
import * as createOps from "../ops/create.ts";
import * as elementwiseOps from "../ops/elementwise.ts";
import * as indexingOps from "../ops/indexing.ts";
import * as layoutOps from "../ops/layout.ts";
import * as lossOps from "../ops/loss.ts";
import * as matmulOps from "../ops/matmul.ts";
import * as normOps from "../ops/norm.ts";
import * as reduceOps from "../ops/reduce.ts";
import { foldIn, keyOf } from "../random.ts";
import type { Shape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import {
  constant,
  float,
  given,
  type HostInput,
  index,
  type InputSpec,
  type Layout,
  layOut,
  LAYOUTS,
  mask,
} from "./inputs.ts";

const ops = {
  ...attentionOps,
  ...createOps,
  ...elementwiseOps,
  ...indexingOps,
  ...layoutOps,
  ...lossOps,
  ...matmulOps,
  ...normOps,
  ...reduceOps,
};

/** Name of an exported op. */
export type OpName = keyof typeof ops;

/** Every exported op's name. */
export const OP_NAMES = Object.keys(ops) as OpName[];

/** One call of an op. */
export interface OpCase {
  readonly name: string;
  readonly inputs: readonly InputSpec[];
  readonly run: (...inputs: Tensor[]) => Tensor;
  /** Two equal elements would put it on a kink: not for repeated rows. */
  readonly distinct?: boolean;
}

/** The case's inputs in each layout that it can have. */
export function layoutsOf({ name, inputs, distinct }: OpCase): { layout: Layout; inputs: HostInput[] }[] {
  return LAYOUTS.filter((layout) => !(distinct && layout === "repeated")).map((layout) => ({
    layout,
    inputs: inputs.map((spec, i) => layOut(spec, `${name} ${i}`, layout)),
  }));
}

const ANY: readonly Shape[] = [[], [1], [7], [1, 1], [3, 5], [2, 3, 1, 5]];
const PAIRS: readonly (readonly [Shape, Shape])[] = [
  [[], []],
  [[1], [1]],
  [[7], []],
  [[3, 5], [3, 5]],
  [[3, 1, 7], [5, 1]],
  [[1], [2, 3]],
  [[2, 1, 3, 5], [4, 1, 1]],
];

function show(specs: readonly InputSpec[]): string {
  return specs.map(({ shape }) => `[${shape}]`).join(" ");
}

function one(run: OpCase["run"], ...inputs: InputSpec[]): OpCase {
  return { name: show(inputs), inputs, run };
}

/** A function of one tensor, any shape. */
function each(run: (x: Tensor) => Tensor, low = -2, high = 2, apart: readonly number[] = []): OpCase[] {
  return [
    ...ANY.map((shape) => one(run, float(shape, low, high, apart))),
    { ...one(run, float([0, 3], low, high)), name: "[0,3]" },
  ];
}

/** A function of two that broadcast. */
function pairs(run: (a: Tensor, b: Tensor) => Tensor, low = -2, high = 2): OpCase[] {
  return PAIRS.map(([a, b]) => one(run, float(a, low, high), float(b, low, high)));
}

/** A reduction over every kind of axes. */
function reduction(
  run: (x: Tensor, axes?: reduceOps.Axes, keepDims?: boolean) => Tensor,
  distinct = false,
): OpCase[] {
  const over: readonly (readonly [Shape, reduceOps.Axes, boolean])[] = [
    [[], undefined, false],
    [[1], 0, false],
    [[7], undefined, true],
    [[3, 5], 0, false],
    [[3, 5], -1, true],
    [[4, 3, 2, 5], [0, 2], false],
    [[4, 3, 2, 5], [-1, 1], true],
    [[4, 1, 5], undefined, false],
  ];
  return over.map(([shape, axes, keep]) => ({
    name: `[${shape}] over ${axes === undefined ? "all" : `[${axes}]`}${keep ? " kept" : ""}`,
    inputs: [float(shape)],
    run: (x) => run(x, axes, keep),
    distinct,
  }));
}

const key = foldIn(keyOf(5), "dropout");
const {
  attention,
  rope,
  matmul,
  linear,
  slice,
  pad,
  concat,
  stack,
  crossEntropy,
} = ops;

function attentionCase(
  name: string,
  [B, T, S, H, G, K]: readonly number[],
  options: attentionOps.AttentionOptions,
  keys?: InputSpec,
): OpCase {
  return {
    name,
    inputs: [float([B, T, H, K]), float([B, S, G, K]), float([B, S, G, K]), ...(keys ? [keys] : [])],
    run: (q, k, v, seen) => attention(q, k, v, seen ? { ...options, mask: seen } : options),
  };
}

/** Every op of `core/ops`: a missing one is a compile error. */
export const CASES: { readonly [Name in OpName]: readonly OpCase[] } = {
  // attention
  attention: [
    attentionCase("of one key", [1, 1, 1, 1, 1, 2], {}),
    attentionCase("plain", [2, 3, 5, 2, 2, 4], {}),
    attentionCase("causal", [2, 5, 5, 3, 3, 4], { causal: true }),
    attentionCase("causal, grouped heads, more keys than queries", [2, 3, 7, 6, 2, 3], { causal: true }),
    attentionCase("causal, more queries than keys", [1, 5, 3, 2, 1, 3], { causal: true }),
    attentionCase("one group, scaled", [1, 4, 3, 5, 1, 3], { scale: 0.3 }),
    attentionCase("masked", [2, 3, 5, 4, 2, 3], {}, mask([2, 5])),
    attentionCase(
      "causal, no key seen",
      [2, 4, 3, 2, 1, 2],
      { causal: true },
      given("u32", [2, 3], [0, 0, 0, 0, 1, 1]),
    ),
    attentionCase("dropped out", [1, 3, 4, 2, 2, 3], { causal: true, dropout: { rate: 0.4, key } }),
  ],
  rope: [[1, 1, 1, 2], [2, 3, 4, 6], [1, 5, 1, 8]].map((shape) =>
    one(rope, float(shape), constant([shape[1], shape[3] / 2]), constant([shape[1], shape[3] / 2]))
  ),
  ropeTables: [one((x) => ops.ropeTables(x.backend, [1, 0.1, 0.01], 4, 5, "f64").sin, float([1]))],

  // create
  fill: [one((x) => ops.fill(x.backend, 2.5, [2, 3], x.dtype), float([1]))],
  zeros: [one((x) => ops.zeros(x.backend, [3], x.dtype), float([1]))],
  ones: [one((x) => ops.ones(x.backend, [], x.dtype), float([1]))],
  iota: [one((x) => ops.iota(x.backend, 5, x.dtype, -1, 0.5), float([1]))],
  randomBits: [one((x) => ops.randomBits(x.backend, key, [3, 3]), float([1]))],

  // elementwise
  neg: each(ops.neg),
  abs: each(ops.abs, -2, 2, [0]),
  exp: each(ops.exp),
  log: each(ops.log, 0.2, 3),
  sqrt: each(ops.sqrt, 0.2, 3),
  rsqrt: each(ops.rsqrt, 0.2, 3),
  recip: each(ops.recip, 0.3, 3),
  tanh: each(ops.tanh),
  erf: each(ops.erf),
  sin: each(ops.sin),
  cos: each(ops.cos),
  floor: each(ops.floor, -2, 2, [-2, -1, 0, 1, 2]),
  sign: each(ops.sign, -2, 2, [0]),
  square: each(ops.square),
  sigmoid: each(ops.sigmoid),
  relu: each(ops.relu, -2, 2, [0]),
  silu: each(ops.silu),
  gelu: [...each((x) => ops.gelu(x)), ...each((x) => ops.gelu(x, "tanh"))],
  clamp: each((x) => ops.clamp(x, -0.7, 1.1), -2, 2, [-0.7, 1.1]),
  stopGradient: [one((x) => ops.mul(ops.stopGradient(ops.mul(x, 0)), x), float([3, 5]))],
  cast: [
    one((x) => ops.cast(x, "f64"), float([3, 5])),
    one((x) => ops.cast(x, "i32"), constant([3, 5])),
    one((x) => ops.cast(x, "f64"), mask([3, 5])),
  ],
  add: [...pairs(ops.add), one((x) => ops.add(1.5, x), float([3]))],
  sub: [...pairs(ops.sub), one((x) => ops.sub(1.5, x), float([3]))],
  mul: [...pairs(ops.mul), one((x) => ops.mul(x, 1.5), float([3])), one((x) => ops.mul(x, x), float([3, 2]))],
  div: [...pairs(ops.div, 0.4, 2), one((x) => ops.div(1.5, x), float([3], 0.4, 2))],
  pow: [...pairs(ops.pow, 0.4, 2), one((x) => ops.pow(x, 3), float([5])), one((x) => ops.pow(2, x), float([5]))],
  maximum: [...pairs(ops.maximum), one((x) => ops.maximum(x, 0), float([5], -2, 2, [0]))],
  minimum: [...pairs(ops.minimum), one((x) => ops.minimum(0, x), float([5], -2, 2, [0]))],
  less: pairs(ops.less),
  equal: [...pairs(ops.equal), one((x) => ops.equal(x, 2), index([3, 4], 4))],
  where: [
    one(ops.where, mask([]), float([]), float([])),
    one(ops.where, mask([5, 7]), float([3, 1, 7]), float([5, 1])),
    one(ops.where, mask([2, 3, 1, 5]), float([1]), float([3, 2, 1])),
    one((m, x) => ops.where(m, x, 0), mask([3, 1]), float([3, 4])),
    one((m, x) => ops.where(m, -1, x), mask([4]), float([3, 1])),
  ],
  swiglu: [[], [1], [3, 7], [2, 3, 1, 5]].map((shape) => one(ops.swiglu, float(shape), float(shape))),

  // indexing
  embedding: [
    one(ops.embedding, float([1, 1]), index([1], 1)),
    one(ops.embedding, float([5, 3]), index([2, 7], 5)),
    one(ops.embedding, float([5, 3]), index([], 5, { dtype: "u32" })),
    one(ops.embedding, float([4, 2]), index([0], 4)),
  ],
  gather: [
    one(ops.gather, float([1]), index([3], 1)),
    one(ops.gather, float([3, 5]), index([3, 4], 5)),
    one(ops.gather, float([2, 3, 4]), index([2, 3, 1], 4, { dtype: "u32" })),
  ],
  dropout: [
    ...each((x) => ops.dropout(x, 0.3, key)),
    one((x) => ops.dropout(x, 0, key), float([3])),
  ],

  // layout
  contiguous: each(ops.contiguous),
  reshape: [
    one((x) => ops.reshape(x, [1, 1]), float([])),
    one((x) => ops.reshape(x, [-1, 6]), float([3, 4, 2])),
    one((x) => ops.reshape(x, [2, 3, 1, 4]), float([6, 4])),
    one((x) => ops.reshape(x, []), float([1, 1])),
  ],
  permute: [
    one((x) => ops.permute(x, []), float([])),
    one((x) => ops.permute(x, [1, 0]), float([3, 5])),
    one((x) => ops.permute(x, [2, 0, -1, 1]), float([2, 3, 5, 4])),
  ],
  transpose: [one((x) => ops.transpose(x), float([3, 5])), one((x) => ops.transpose(x, 0, 2), float([2, 1, 4, 3]))],
  broadcastTo: [
    one((x) => ops.broadcastTo(x, [2, 3]), float([])),
    one((x) => ops.broadcastTo(x, [4, 3, 5]), float([3, 1])),
    one((x) => ops.broadcastTo(x, [2, 2, 3, 5]), float([1, 1, 3, 5])),
  ],
  sumTo: [
    one((x) => ops.sumTo(x, []), float([2, 3])),
    one((x) => ops.sumTo(x, [3, 1]), float([4, 3, 5])),
    one((x) => ops.sumTo(x, [1, 3, 5]), float([2, 2, 3, 5])),
  ],
  slice: [
    one((x) => slice(x, [{ start: 1, end: 4 }, undefined, { start: 2, end: 7, step: 2 }]), float([5, 6, 7])),
    one((x) => slice(x, [{ start: -2 }, { end: -1 }]), float([3, 4])),
    one((x) => slice(x, [{ start: 2, end: 2 }]), float([3, 4])),
    one((x) => slice(x, []), float([2, 1, 3, 2])),
  ],
  concat: [
    one((...xs) => concat(xs, 0), float([1])),
    one((...xs) => concat(xs, 1), float([3, 2, 4]), float([3, 5, 4]), float([3, 1, 4])),
    one((...xs) => concat(xs, -1), float([2, 1, 2, 3]), float([2, 1, 2, 0]), float([2, 1, 2, 1])),
    one((x) => concat([x, x], 0), float([2, 3])),
  ],
  stack: [
    one((...xs) => stack(xs, 0), float([]), float([])),
    one((...xs) => stack(xs, -1), float([3, 4]), float([3, 4]), float([3, 4])),
    one((...xs) => stack(xs, 1), float([2, 1, 3]), float([2, 1, 3])),
  ],
  pad: [
    one((x) => pad(x, [1], [2]), float([1])),
    one((x) => pad(x, [0, 0, 2], [0, 3, 1]), float([3, 4, 5])),
    one((x) => pad(x, [1, 0, 0, 1], [0, 0, 1, 0]), float([2, 3, 1, 2])),
  ],

  // loss
  crossEntropy: [
    one((x, t) => crossEntropy(x, t), float([1, 1]), index([1], 1)),
    one((x, t) => crossEntropy(x, t), float([3, 5]), index([3], 5)),
    one((x, t) => crossEntropy(x, t), float([11, 7]), index([11], 7, { holes: true })),
    one((x, t) => crossEntropy(x, t, 2), float([6, 4]), index([6], 4)),
    one((x, t) => crossEntropy(x, t), float([2, 3]), given("i32", [2], [-100, -100])),
  ],
  meanSquaredError: [[], [1], [3, 5], [2, 3, 1, 5]].map((shape) =>
    one(ops.meanSquaredError, float(shape), float(shape))
  ),
  sumOfSquares: each(ops.sumOfSquares),

  // matmul
  matmul: [
    one((a, b) => matmul(a, b), float([1, 1]), float([1, 1])),
    one((a, b) => matmul(a, b), float([3, 5]), float([5, 4])),
    one((a, b) => matmul(a, b, { transposeA: true }), float([5, 3]), float([5, 4])),
    one((a, b) => matmul(a, b, { transposeB: true }), float([3, 5]), float([4, 5])),
    one((a, b) => matmul(a, b, { transposeA: true, transposeB: true }), float([5, 3]), float([4, 5])),
    one((a, b) => matmul(a, b), float([1, 7]), float([7, 1])),
    one((a, b) => matmul(a, b), float([7, 1]), float([1, 3])),
    one((a, b) => matmul(a, b), float([2, 3, 5]), float([5, 4])),
    one((a, b) => matmul(a, b, { transposeA: true }), float([2, 5, 3]), float([5, 4])),
    one((a, b) => matmul(a, b, { transposeB: true }), float([3, 5]), float([2, 4, 5])),
    one((a, b) => matmul(a, b), float([2, 3, 4, 5]), float([2, 3, 5, 2])),
    one((a, b) => matmul(a, b, { transposeB: true }), float([2, 1, 3, 5]), float([1, 4, 2, 5])),
    one((a, b) => matmul(a, b, { transposeA: true }), float([2, 1, 5, 3]), float([4, 5, 2])),
    one((a) => matmul(a, a, { transposeB: true }), float([3, 5])),
    one((a, b) => matmul(a, b), float([0, 3]), float([3, 2])),
    one((a, b) => matmul(a, b), float([2, 0]), float([0, 3])),
    one((a, b) => matmul(a, b), float([2, 3, 0]), float([0, 4])),
  ],
  linear: [
    one((x, w) => linear(x, w), float([1]), float([1, 1])),
    one((x, w, b) => linear(x, w, b), float([2, 7, 5]), float([3, 5]), float([3])),
    one((x, w, b) => linear(x, w, b), float([5]), float([3, 5]), float([3])),
    one((x, w) => linear(x, w), float([2, 1, 3, 5]), float([4, 5])),
    one((x, w, b) => linear(x, w, b), float([0, 5]), float([3, 5]), float([3])),
  ],
  patchEmbedding: [
    one((x, w) => ops.patchEmbedding(x, w), float([1, 1, 1, 1]), float([1, 1, 1, 1])),
    one((x, w, b) => ops.patchEmbedding(x, w, b), float([2, 3, 4, 6]), float([5, 3, 2, 2]), float([5])),
  ],

  // norm
  rmsNorm: [[1], [5], [3, 5], [2, 3, 1, 7]].map((shape) =>
    one((x, w) => ops.rmsNorm(x, w, 1e-2), float(shape), float(shape.slice(-1)))
  ),
  layerNorm: [[5], [3, 5], [2, 3, 1, 7]].map((shape) =>
    one((x, w, b) => ops.layerNorm(x, w, b, 1e-2), float(shape), float(shape.slice(-1)), float(shape.slice(-1)))
  ),
  softmax: [
    ...[[1], [7], [3, 5], [2, 3, 1, 5]].map((shape) => one((x) => ops.softmax(x), float(shape))),
    one((x) => ops.softmax(x, 1), float([2, 3, 4])),
    one((x) => ops.softmax(x, -3), float([2, 3, 4])),
  ],
  logSoftmax: [[1], [7], [3, 5], [2, 3, 1, 5]].map((shape) => one((x) => ops.logSoftmax(x), float(shape))),

  // reduce
  sum: reduction(ops.sum),
  mean: reduction(ops.mean),
  max: reduction(ops.max, true),
  min: reduction(ops.min, true),
  variance: reduction(ops.variance),
  norm: [...reduction(ops.norm), one((x) => ops.norm(x, -1), given("float", [2, 2], [3, 4, 1, 2]))],
  argmax: [
    { ...one((x) => ops.argmax(x), float([7])), distinct: true },
    { ...one((x) => ops.argmax(x, 0), float([3, 5])), distinct: true },
    { ...one((x) => ops.argmax(x, 1), float([2, 3, 4, 5])), distinct: true },
  ],
};
