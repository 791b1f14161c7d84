/**
 * Ops and their gradients against PyTorch: the cases of `testdata/golden.json`, computed there in f64 from f32 inputs and
 * judged as that file says. Any backend's test can register them.
 */
import assert from "node:assert/strict";
import type { Backend } from "../backend.ts";
import { attention, rope, ropeTables } from "../ops/attention.ts";
import { iota } from "../ops/create.ts";
import * as elementwise from "../ops/elementwise.ts";
import { embedding, gather } from "../ops/indexing.ts";
import * as layout from "../ops/layout.ts";
import { crossEntropy } from "../ops/loss.ts";
import { linear, matmul, patchEmbedding } from "../ops/matmul.ts";
import { layerNorm, logSoftmax, rmsNorm, softmax } from "../ops/norm.ts";
import * as reduce from "../ops/reduce.ts";
import type { Tensor } from "../tensor.ts";
import { assertRms, readGolden, readJson } from "./golden.ts";
import { evaluate, type HostInput } from "./inputs.ts";
import { registerTest } from "./register.ts";

/** A case as the JSON describes it. */
export interface GoldenCase {
  readonly inputs?: Readonly<Record<string, readonly number[]>>;
  readonly gradients?: readonly string[];
  readonly recommended_tolerance?: number;
}

const FOLDER = new URL("testdata/", import.meta.url);

/** All cases of the file, by name. */
export const GOLDEN_CASES: Readonly<Record<string, GoldenCase>> =
  readJson<{ cases: Record<string, GoldenCase> }>(new URL("golden.json", FOLDER)).cases;

/** The numbers of `case:tensor`. */
export const GOLDEN_TENSORS = readGolden(new URL("golden.safetensors", FOLDER));

const { add, clamp, div, equal, less, maximum, minimum, mul, neg, pow, sub, where } = elementwise;
const { permute, reshape, slice, transpose } = layout;

/** [B, H, T, K] to [B, T, H, K] and back. */
function swapHeads(x: Tensor): Tensor {
  return transpose(x, 1, 2);
}

function ropeWith(theta: number): (x: Tensor) => Tensor {
  return (x) => {
    const frequencies = [0, 1, 2, 3].map((i) => theta ** (-i / 4));
    const { cos, sin } = ropeTables(x.backend, frequencies, 0, 11);
    return swapHeads(rope(swapHeads(x), cos, sin));
  };
}

/** How core computes each case from its inputs, in the JSON's order. */
export const GOLDEN_RUNS: Readonly<Record<string, (...inputs: Tensor[]) => Tensor>> = {
  "matmul.plain": (a, b) => matmul(a, b),
  "matmul.ta": (a, b) => matmul(a, b, { transposeA: true }),
  "matmul.tb": (a, b) => matmul(a, b, { transposeB: true }),
  "matmul.tatb": (a, b) => matmul(a, b, { transposeA: true, transposeB: true }),
  "matmul.batched": (a, b) => matmul(a, b),
  "matmul.batched_tb": (a, b) => matmul(a, b, { transposeB: true }),
  "matmul.broadcast": (a, b) => matmul(a, b),
  "matmul.big": (a, b) => matmul(a, b),
  "matmul.vector": (a, b) => matmul(a, b),
  linear,
  "softmax.last": (x) => softmax(x),
  "softmax.middle": (x) => softmax(x, 1),
  "softmax.large": (x) => softmax(x),
  log_softmax: logSoftmax,
  "cross_entropy.mean": (x, target) => crossEntropy(x, target),
  "cross_entropy.sum": (x, target) => {
    const kept = elementwise.cast(equal(equal(target, -100), 0), x.dtype);
    return mul(crossEntropy(x, target), reduce.sum(kept));
  },
  rms_norm: (x, w) => rmsNorm(x, w, 1e-6),
  "rms_norm.small": (x, w) => rmsNorm(x, w, 1e-5),
  layer_norm: (x, w, b) => layerNorm(x, w, b, 1e-5),
  "layer_norm.eps12": (x, w, b) => layerNorm(x, w, b, 1e-12),
  "gelu.erf": (x) => elementwise.gelu(x),
  "gelu.tanh": (x) => elementwise.gelu(x, "tanh"),
  silu: elementwise.silu,
  relu: elementwise.relu,
  sigmoid: elementwise.sigmoid,
  tanh: elementwise.tanh,
  erf: elementwise.erf,
  exp: elementwise.exp,
  log: elementwise.log,
  sqrt: elementwise.sqrt,
  rsqrt: elementwise.rsqrt,
  abs: elementwise.abs,
  neg,
  square: elementwise.square,
  "pow.scalar": (x) => pow(x, -0.8),
  sin: elementwise.sin,
  cos: elementwise.cos,
  clamp: (x) => clamp(x, -0.7, 1.1),
  add,
  sub,
  mul,
  div,
  maximum,
  minimum,
  where,
  "sum.all": (x) => reduce.sum(x),
  "sum.axes": (x) => reduce.sum(x, [0, 2]),
  "mean.keep": (x) => reduce.mean(x, -1, true),
  "mean.first": (x) => reduce.mean(x, 0),
  "max.axis": (x) => reduce.max(x, 1),
  "min.axis": (x) => reduce.min(x, -1),
  "var.population": (x) => reduce.variance(x, -1),
  norm: (x) => reduce.norm(x),
  slice: (x) => slice(x, [{ start: 1, end: 4 }, undefined, { start: 2, end: 7, step: 2 }]),
  concat: (...parts) => layout.concat(parts, 1),
  stack: (...parts) => layout.stack(parts, 0),
  transpose: (x) => transpose(x, 0, 2),
  permute: (x) => permute(x, [2, 0, 3, 1]),
  reshape: (x) => reshape(x, [-1, 7]),
  expand: (x) => layout.broadcastTo(x, [4, 3, 5]),
  pad: (x) => layout.pad(x, [0, 0, 2], [0, 3, 1]),
  embedding,
  gather,
  triu_mask: (x) => where(less(iota(x.backend, 6), reshape(iota(x.backend, 6, "i32", 1), [6, 1])), x, 0),
  "rope.theta10000": ropeWith(10000),
  "rope.theta500000": ropeWith(500000),
  "attention.causal": (q, k, v) => swapHeads(attention(swapHeads(q), swapHeads(k), swapHeads(v), { causal: true })),
  "attention.masked": (q, k, v, mask) => swapHeads(attention(swapHeads(q), swapHeads(k), swapHeads(v), { mask })),
  swiglu: elementwise.swiglu,
  patch_embed: (x, w, b) => reshape(transpose(patchEmbedding(x, w, b), 1, 2), [2, 6, 3, 5]),
};

/** Cases without a run above, and why. */
export const GOLDEN_LEFT_OUT: Readonly<Record<string, string>> = {
  mse: "its input y is not in the file: the output has the same name",
  "pow.tensor": "its input y is not in the file: the output has the same name",
  cumsum: "core has no cumulative sum",
  scatter_add: "core has it only as the gradient of embedding()",
  conv2d: "core has only patchEmbedding()",
  topk: "core has no top-k",
  argmax: "below, with integers",
  argmin: "below, as argmax() of the negative",
  sort: "core has no sort",
  "svd.square": "on the host: linalg_test.ts",
  "svd.tall": "on the host: linalg_test.ts",
  "svd.wide": "on the host: linalg_test.ts",
  "svd.rank6": "on the host: linalg_test.ts",
};

/** A case's tensor as an input. Whole numbers that choose are masks, the others indices. */
function hostInput(golden: string, name: string, wanted: boolean): HostInput {
  const { shape, data } = GOLDEN_TENSORS.get(`${golden}:${name}`)!;
  const isMask = name === "cond" || name === "mask";
  const kind = data instanceof Float32Array ? (wanted ? "float" : "constant") : isMask ? "u32" : "i32";
  return { stored: Float64Array.from(data), shape, kind, view: (x) => x };
}

/** Registers a test with a step for each case, in f32 on one backend. */
export function goldenOps(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { ignore }: { readonly ignore?: string } = {},
): void {
  registerTest(`${name}: ops give PyTorch's values and gradients`, async (test) => {
    using backend = await makeBackend();
    for (const golden of Object.keys(GOLDEN_RUNS)) await test.step(golden, () => checkGolden(backend, golden));
    await test.step("argmax", async () => {
      const x = hostInput("argmax", "x", false);
      const largest = await evaluate(backend, [x], (input) => reduce.argmax(input), { dtype: "f32" });
      assert.deepEqual([...largest.value], [...GOLDEN_TENSORS.get("argmax:y")!.data]);
      const smallest = await evaluate(backend, [x], (input) => reduce.argmax(neg(input)), { dtype: "f32" });
      assert.deepEqual([...smallest.value], [...GOLDEN_TENSORS.get("argmin:y")!.data]);
    });
  }, ignore);
}

async function checkGolden(backend: Backend, golden: string): Promise<void> {
  const { inputs, gradients, recommended_tolerance } = GOLDEN_CASES[golden];
  const within = { tolerance: recommended_tolerance!, floor: 0.01 };
  const names = Object.keys(inputs!);
  const host = names.map((input) => hostInput(golden, input, gradients!.includes(input)));
  const numbers = (tensor: string) => GOLDEN_TENSORS.get(`${golden}:${tensor}`)!.data;
  const options = { dtype: "f32", cotangent: numbers("cotangent") } as const;
  const result = await evaluate(backend, host, GOLDEN_RUNS[golden], options);
  assertRms("y", result.value, numbers("y"), within);
  names.forEach((input, i) => {
    const gradient = result.gradients[i];
    assert.equal(gradient !== undefined, gradients!.includes(input), `gradient of ${input}`);
    if (gradient) assertRms(`gradient of ${input}`, gradient, numbers(`grad_${input}`), within);
  });
}
