/**
 * out[.., M, N] = a @ b. Spec: `backends/cpu/loops/matmul.ts`.
 *
 * a [.., M, K] (or [.., K, M]), b [.., K, N] (or [.., N, K]): f32, bf16 or f16, rows at least as far apart as they are
 * long, batch strides anything; out contiguous, of that dtype or f32. Sums are f32. This file decides and enqueues; the
 * texts are in `matmul_tiles.ts` (tiles), `matmul_vector.ts` (one row or column), `matmul_split.ts` (slices of k), the
 * choice among tiles in `matmul_plan.ts`.
 *
 * Products that would keep a device busy for longer than a submission may take are enqueued as several dispatches over
 * ranges of tiles, which changes no bit.
 */
import type { MatmulOptions, Operand } from "../../../core/backend.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu } from "../gpu.ts";
import { walkParams } from "../layout.ts";
import type { KernelSource } from "../pipelines.ts";
import { perWord } from "../wgsl.ts";
import { cast, fill } from "./elementwise.ts";
import { checkWordStart } from "./map.ts";
import { bytesOf, isRagged, type Plan, planOf, shapeClass, sliceLength } from "./matmul_plan.ts";
import { type Factor, type Problem, problemOf } from "./matmul_problem.ts";
import { sumSlices } from "./matmul_split.ts";
import { problemParams, storeOf, type Variant, variantKey } from "./matmul_text.ts";
import { columnsOf, rowsOf, tileSource } from "./matmul_tiles.ts";
import { VECTOR_COLUMNS, VECTOR_ROWS, vectorSource } from "./matmul_vector.ts";

/** Seconds that a dispatch may take, by the recorder's estimate. */
const LONGEST = 0.1;
/** Workgroups that fill a large GPU: a vector's product is cut along k until it has so many. */
const VECTOR_GROUPS = 256;
/** Steps of k that a slice of a vector's product has at least. */
const LEAST_VECTOR_SLICE = 256;

/** See `Kernels.matmul`. */
export function matmul(gpu: Gpu, a: Operand, b: Operand, out: Operand, options: MatmulOptions): void {
  if (sizeOf(out.shape) === 0) return;
  checkWordStart(out);
  const problem = problemOf(a, b, out, options);
  if (problem.k === 0) return fill(gpu, 0, out);
  if (problem.m === 1 || problem.n === 1) return multiplyVector(gpu, problem);
  const device = { limits: gpu.limits, isSoftware: gpu.tiles.isSoftware };
  multiplyTiles(gpu, problem, planOf(problem, device, gpu.tiles.find(shapeClass(problem))));
}

/** Runs a plan: exported for tests and for the autotune. */
export function multiplyTiles(gpu: Gpu, problem: Problem, plan: Plan): void {
  const { m, n, k, a, b, out, batches, walk } = problem;
  const slice = sliceLength(k, plan.slices, plan.tile.depth);
  const slices = Math.ceil(k / slice);
  const store = storeOf(out, n);
  if (slices === 1 && store === undefined) {
    return gpu.withTemporary(out.shape, "f32", (wide) => {
      multiplyTiles(gpu, { ...problem, out: wide }, plan);
      cast(gpu, wide, out);
    });
  }
  const columns = Math.ceil(n / columnsOf(plan.tile));
  const enqueue = (target: Operand) => {
    const variant: Variant = {
      ...{ a, b, out: target.dtype, store: storeOf(target, n)!, isRagged: isRagged(problem, plan.tile) },
      ...{ isSplit: slices > 1, batchRank: walk.extents.length },
    };
    runRanges(gpu, problem, {
      key: `matmul ${plan.tile.name}: ${variantKey(variant)}`,
      build: () => tileSource(plan.tile, variant),
      operands: [a.operand, b.operand, target],
      params: { ...problemParams(problem, target), columns, slice, ...walkParams(walk, ["a", "b"]) },
      groups: slices * batches * Math.ceil(m / rowsOf(plan.tile)) * columns,
    });
  };
  if (slices === 1) enqueue(out);
  else withSlices(gpu, out, slices, enqueue);
}

function withSlices(gpu: Gpu, out: Operand, slices: number, enqueue: (parts: Operand) => void): void {
  gpu.withTemporary([slices, ...out.shape], "f32", (parts) => {
    enqueue(parts);
    sumSlices(gpu, parts, slices, out);
  });
}

function multiplyVector(gpu: Gpu, problem: Problem): void {
  const { m, n, k, a, b, out, batches, walk } = problem;
  const [matrix, vector, size] = n === 1 ? [a, b, m] : [b, a, n];
  const each = Math.ceil(size / (matrix.alongK ? VECTOR_ROWS : VECTOR_COLUMNS));
  const wanted = Math.min(k / LEAST_VECTOR_SLICE, VECTOR_GROUPS / (each * batches));
  const slice = sliceLength(k, gpu.tiles.isSoftware ? 1 : Math.max(1, Math.floor(wanted)), 4);
  const slices = Math.ceil(k / slice);
  const enqueue = (target: Operand) =>
    runRanges(gpu, problem, {
      key: `matmul vector ${side(matrix)}, ${vector.operand.dtype} batch ${walk.extents.length}`,
      build: () => vectorSource({ matrix, vector, batchRank: walk.extents.length }),
      operands: [matrix.operand, vector.operand, target],
      params: {
        ...{ size, k, slice, each, batches, stride: matrix.stride, step: vector.alongK ? 1 : vector.stride },
        ...{ at_w: matrix.operand.offset, at_x: vector.operand.offset, at_out: target.offset },
        ...walkParams(walk, n === 1 ? ["w", "x"] : ["x", "w"]),
      },
      groups: slices * batches * each,
    });
  if (slices > 1) return withSlices(gpu, out, slices, enqueue);
  if (perWord(out.dtype) === 1) return enqueue(out);
  gpu.withTemporary(out.shape, "f32", (wide) => {
    enqueue(wide);
    cast(gpu, wide, out);
  });
}

function side({ operand, alongK, isWide }: Factor): string {
  return `${operand.dtype}${alongK ? " rows" : " columns"}${isWide ? " wide" : ""}`;
}

interface Ranges {
  readonly key: string;
  readonly build: () => KernelSource;
  readonly operands: readonly Operand[];
  readonly params: Readonly<Record<string, number>>;
  readonly groups: number;
}

/** Enqueues all workgroups, in as many dispatches as it takes for each to be short. */
function runRanges(gpu: Gpu, problem: Problem, { key, build, operands, params, groups }: Ranges): void {
  const flops = 2 * problem.batches * problem.m * problem.n * problem.k;
  const bytes = bytesOf(problem);
  const parts = Math.min(groups, Math.ceil(gpu.recorder.seconds(bytes, flops) / LONGEST));
  const each = Math.ceil(groups / Math.max(1, parts));
  for (let first = 0; first < groups; first += each) {
    const count = Math.min(each, groups - first);
    const share = count / groups;
    const here = { ...params, first, groups: count };
    gpu.run({ key, build, operands, params: here, grid: flatGrid(count), bytes: bytes * share, flops: flops * share });
  }
}
