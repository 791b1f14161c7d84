/**
 * Fused attention: which kernels run for which operands. The formulas and what a workgroup owns: attention_forward.ts and
 * attention_gradient.ts; the parts they share: attention_tile.ts.
 *
 *     q, out [B, T, H, K];  k, v [B, S, G, K];  mask u32 [B, S]?  Head h reads group floor(h G / H).
 *
 * f32, bf16 and f16, contiguous; computed in f32. Texts depend on K, dtype, causality, the mask and the tile; sizes are
 * parameters. Declined: heads wider than the workgroup memory holds (256 at 32 KiB, 128 at the guaranteed 16 KiB), and odd
 * 16-bit heads, whose rows share words.
 *
 * Measured only on llvmpipe (software, two busy cores), B 2, T 256, H 8, K 64, causal, against the composed form: forward 0.10
 * s and 1 MB (0.23 s, 40 MB), with gradients 0.39 s and 5 MB (0.48 to 0.68 s, 40 MB).
 */
import type { FusedAttributes, FusedKernel, Operand, Spec } from "../../../core/backend.ts";
import { isHalf } from "../../../core/dtype.ts";
import { sameShape, sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu, MAX_GRID } from "../gpu.ts";
import { forwardSource } from "./attention_forward.ts";
import { keyGradientSource, queryGradientSource, STATS_ROWS, statsSource } from "./attention_gradient.ts";
import type { KernelSource } from "../pipelines.ts";
import { chooseTile, type Demand, type Head, headKey } from "./attention_tile.ts";
import { checkWordStart } from "./map.ts";
import { areWide } from "./quads.ts";

type Attributes = FusedAttributes["attention"];

const WIDEST = 256;

const FORWARD: Demand = { kept: 1, reduces: true };
const GRADIENT: Demand = { kept: 2, reduces: false };

/** The fused attention over `gpu`. Residual f32 [B, H, T]: the log of each query's sum of e^score, in base 2. */
export function attentionEntry(gpu: Gpu): FusedKernel<Attributes> {
  return {
    supports: (inputs) => takes(gpu, inputs),
    residuals: ([q]) => [{ shape: [q.shape[0], q.shape[2], q.shape[1]], dtype: "f32" }],
    forward: ([q, k, v, mask], attributes, out, [lse]) => {
      const [, T, H] = q.shape;
      const work: Work = { name: "attention", source: forwardSource, rows: T, heads: H, demand: FORWARD, flops: 4 };
      launch(gpu, work, attributes, { q, k, v, ...(mask && { mask }), out, lse }, [out]);
    },
    vjp: {
      saves: { inputs: [0, 1, 2, 3], out: true },
      run: ({ inputs: [q, k, v, mask], out, residuals: [lse] }, slope, attributes, [dq, dk, dv]) => {
        gpu.withTemporary([...lse.shape, 2], "f32", (stats) => {
          writeStats(gpu, [out!, slope, lse], stats);
          const inputs: Inputs = { q: q!, k: k!, v: v!, slope, stats, ...(mask && { mask }) };
          if (dq) queryGradient(gpu, attributes, inputs, dq);
          if (dk || dv) keyGradients(gpu, attributes, inputs, [dk, dv]);
        });
      },
    },
  };
}

function takes({ limits }: Gpu, [q, k, v, mask]: readonly Spec[]): boolean {
  if (q.shape.length !== 4 || k.shape.length !== 4 || !sameShape(k.shape, v.shape)) return false;
  const [B, T, H, K] = q.shape;
  const [, S, G] = k.shape;
  const bytes = limits.maxComputeWorkgroupStorageSize;
  const isTyped = (q.dtype === "f32" || (isHalf(q.dtype) && K % 2 === 0)) && k.dtype === q.dtype && v.dtype === q.dtype;
  return isTyped && sizeOf(q.shape) > 0 && sizeOf(k.shape) > 0 && k.shape[0] === B && k.shape[3] === K && H % G === 0 &&
    Math.max(B, H) <= MAX_GRID && K <= WIDEST && (mask === undefined || mask.dtype === "u32") &&
    [[T, FORWARD], [T, GRADIENT], [S, GRADIENT]].every(([rows, demand]) =>
      chooseTile(rows as number, K, demand as Demand, bytes) !== undefined
    );
}

function writeStats(gpu: Gpu, [out, slope, lse]: readonly [Operand, Operand, Operand], stats: Operand): void {
  const [B, T, H, K] = out.shape;
  const { dtype } = out;
  const isWide = areWide(K, [out, slope]);
  gpu.run({
    key: `attention stats ${K} ${dtype}${isWide ? " wide" : ""}`,
    build: () => statsSource({ K, dtype, isWide }),
    operands: [out, slope, lse, stats],
    params: { rows: B * T * H, T, H, at_out: out.offset, at_slope: slope.offset, at_lse: lse.offset },
    grid: flatGrid(Math.ceil(B * T * H / STATS_ROWS)),
    flops: 2 * B * T * H * K,
  });
}

/** Inputs of a kernel by the names of its bindings, in their order. */
interface Inputs {
  readonly q: Operand;
  readonly k: Operand;
  readonly v: Operand;
  readonly slope?: Operand;
  readonly stats?: Operand;
  readonly mask?: Operand;
}

function queryGradient(gpu: Gpu, attributes: Attributes, inputs: Inputs, dq: Operand): void {
  const [, T, H] = inputs.q.shape;
  const name = "attention gradient of q";
  const work: Work = { name, source: queryGradientSource, rows: T, heads: H, demand: GRADIENT, flops: 6 };
  launch(gpu, work, attributes, { ...inputs, dq }, [dq]);
}

/** One that is not wanted is written all the same. */
function keyGradients(
  gpu: Gpu,
  attributes: Attributes,
  inputs: Inputs,
  [dk, dv]: readonly [Operand | undefined, Operand | undefined],
): void {
  const { shape, dtype } = inputs.k;
  const [, S, G] = shape;
  const name = "attention gradient of k and v";
  const work: Work = { name, source: keyGradientSource, rows: S, heads: G, demand: GRADIENT, flops: 8 };
  const run = (keys: Operand, values: Operand) =>
    launch(gpu, work, attributes, { ...inputs, dk: keys, dv: values }, [keys, values]);
  if (dk && dv) run(dk, dv);
  else gpu.withTemporary(shape, dtype, (unwanted) => run(dk ?? unwanted, dv ?? unwanted));
}

/** A kernel, and what its workgroups share out. */
interface Work {
  readonly name: string;
  readonly source: (head: Head) => KernelSource;
  /** T or S. */
  readonly rows: number;
  /** H or G. */
  readonly heads: number;
  readonly demand: Demand;
  /** For each pair of a query and a key and each element of a head. */
  readonly flops: number;
}

/** Runs `work` over `operands`, named and ordered as its bindings. */
function launch(
  gpu: Gpu,
  { name, source, rows, heads, demand, flops }: Work,
  { causal, scale }: Attributes,
  operands: Inputs & Readonly<Record<string, Operand>>,
  outs: readonly Operand[],
): void {
  const { q, k, v, slope = q, mask } = operands;
  const [B, T, H, K] = q.shape;
  const [, S, G] = k.shape;
  outs.forEach(checkWordStart);
  const tile = chooseTile(rows, K, demand, gpu.limits.maxComputeWorkgroupStorageSize)!;
  const isWide = areWide(K, [q, k, v, slope, ...outs]);
  const head: Head = { K, dtype: q.dtype, isWide, causal, hasMask: mask !== undefined, tile };
  const offsets = Object.fromEntries(Object.entries(operands).map(([key, { offset }]) => [`at_${key}`, offset]));
  gpu.run({
    key: `${name} ${headKey(head)}`,
    build: () => source(head),
    operands: Object.values(operands),
    params: { T, S, H, G, scale, slope: scale * Math.LOG2E, at_mask: 0, ...offsets },
    grid: [Math.ceil(rows / tile.rows), heads, B],
    flops: flops * B * H * T * S * K / (causal ? 2 : 1),
  });
}
