/**
 * Chooses how a matmul runs: plain loops, one of the compiled kernels (wasm/assembly/gemm.ts), or a native BLAS on tiles
 * of C. Also cuts the work into tasks. Every choice depends on shapes, strides and on whether there is a BLAS, never on
 * the number of threads or on time: results are bit-equal for any number of threads.
 */
import type { Kernels, MatmulOptions, Operand } from "../../core/backend.ts";
import { contiguousStrides, sizeOf } from "../../core/shape.ts";
import { nest } from "./loops/operands.ts";
import type { Addresses, Runner } from "./runner.ts";

/** What a matmul needs of the backend. */
export interface MatmulParts {
  readonly runner: Runner;
  readonly addresses: Addresses;
  /** Address of PACK_BYTES for the packed B. */
  readonly pack: number;
  /** Whether the runner has `blasTiles`. */
  readonly native: boolean;
  /** Takes what the kernels do not: other dtypes, and empty sums. */
  readonly fallback: Kernels["matmul"];
}

/** Bytes of packed B held at once: a larger B is multiplied in parts. */
export const PACK_BYTES = 8 << 20;

/** Rows and columns of the micro-kernel's tile, and the K block, as in gemm.ts. */
const MR = 6;
const NR = 8;
const KC = 512;
/** Up to so many multiplications one thread packs and multiplies a matrix: a dispatch more would cost as much. */
const ALONE = 1 << 17;
/** Up to so many multiplications a matrix of a batch is one task. */
const BATCHED = 1 << 22;
/** Up to so many rows a product is as many vectors times a matrix: packing B would cost more than it brings. */
const FEW = 8;
/** With a BLAS that holds only from so many elements of B on: where the memory sets the pace. */
const LARGE = 1 << 20;
/** From so many on a BLAS pays for its call. */
const NATIVE = 1 << 15;

/** A tile that a BLAS gets has at least so many multiplications. */
const LEAST_NATIVE_TILE = 1 << 22;

/** Matrices by address: C = op(A) op(B). Row strides and strides between the matrices of a batch count elements. */
interface Problem {
  readonly transA: boolean;
  readonly transB: boolean;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: number;
  readonly lda: number;
  readonly b: number;
  readonly ldb: number;
  readonly c: number;
  readonly count: number;
  readonly strideA: number;
  readonly strideB: number;
  readonly strideC: number;
}

/** The matmul of the CPU backend. */
export function cpuMatmul(parts: MatmulParts): Kernels["matmul"] {
  return (a, b, out, options) => {
    const k = a.shape[a.shape.length - (options.transposeA ? 2 : 1)];
    if (sizeOf(out.shape) === 0) return;
    if (a.dtype !== "f32" || b.dtype !== "f32" || out.dtype !== "f32" || k === 0) {
      return parts.fallback(a, b, out, options);
    }
    forEachBatch(parts.addresses, a, b, out, options, (problem) => multiply(parts, problem));
  };
}

/** Splits batch axes into problems with one batch axis; a batch that lies like one tall A becomes one matrix. */
function forEachBatch(
  addresses: Addresses,
  a: Operand,
  b: Operand,
  out: Operand,
  { transposeA, transposeB }: MatmulOptions,
  run: (problem: Problem) => void,
): void {
  const rank = out.shape.length;
  const [m, n] = out.shape.slice(rank - 2);
  const k = a.shape[transposeA ? rank - 2 : rank - 1];
  const lda = rowStride(a), ldb = rowStride(b);
  const lead = (strides: readonly number[]) => strides.slice(0, rank - 2);
  const { extents, strides } = nest(
    out.shape.slice(0, rank - 2),
    lead(a.strides),
    lead(b.strides),
    lead(contiguousStrides(out.shape)),
  );
  const inner = extents.length - 1;
  const [strideA, strideB, strideC] = strides.map((own) => own[inner]);
  const stacked = m === 1 ? strideA >= k : strideA === m * lda;
  const tall = !transposeA && strideB === 0 && stacked && strideC === m * n;
  const one = tall
    ? { m: m * extents[inner], lda: m === 1 && extents[inner] > 1 ? strideA : lda, count: 1 }
    : { m, lda, count: extents[inner] };
  const base = {
    ...{ transA: transposeA, transB: transposeB, n, k, ldb, strideA, strideB, strideC, ...one },
    ...{ a: addresses.address(a), b: addresses.address(b), c: addresses.address(out) },
  };
  forEachOuter(extents, strides, ([fromA, fromB, toC]) => {
    run({ ...base, a: base.a + 4 * fromA, b: base.b + 4 * fromB, c: base.c + 4 * toC });
  });
}

/** A matrix of one row may come with any row stride; its length is as good. */
function rowStride({ shape, strides }: Operand): number {
  const rank = shape.length;
  return shape[rank - 2] === 1 ? shape[rank - 1] : strides[rank - 2];
}

/** The offsets of every index of all axes but the innermost. */
function forEachOuter(
  extents: readonly number[],
  strides: readonly (readonly number[])[],
  run: (offsets: readonly number[]) => void,
): void {
  const outer = extents.slice(0, -1);
  const total = sizeOf(outer);
  for (let index = 0; index < total; index++) {
    const offsets = strides.map(() => 0);
    for (let axis = outer.length - 1, rest = index; axis >= 0; axis--) {
      const at = rest % outer[axis];
      rest = Math.floor(rest / outer[axis]);
      for (let i = 0; i < offsets.length; i++) offsets[i] += at * strides[i][axis];
    }
    run(offsets);
  }
}

function multiply(parts: MatmulParts, problem: Problem): void {
  const { m, n, k, transA, transB, lda, ldb, count } = problem;
  const size = m * n * k;
  if (m === 1 && (!transA || lda === 1)) return vectorsTimesMatrix(parts.runner, problem);
  if (m <= FEW && !transA && count === 1 && (!parts.native || n * k >= LARGE)) {
    return vectorsTimesMatrix(parts.runner, { ...problem, count: m, strideA: lda, strideB: 0, strideC: n });
  }
  if (n === 1 && (transB || ldb === 1)) return matrixTimesVector(parts.runner, problem);
  if (parts.native && size >= NATIVE) return multiplyNative(parts.runner, problem);
  if (size <= ALONE || (count > 1 && size <= BATCHED)) return multiplyBatch(parts.runner, problem);
  for (let i = 0; i < count; i++) {
    multiplyTiled(parts, {
      ...problem,
      a: problem.a + 4 * i * problem.strideA,
      b: problem.b + 4 * i * problem.strideB,
      c: problem.c + 4 * i * problem.strideC,
    });
  }
}

/** m = 1: C = a op(B). */
function vectorsTimesMatrix(runner: Runner, { transB, n, k, a, b, ldb, c, count, ...strides }: Problem): void {
  const { strideA, strideB, strideC } = strides;
  multiplyVector(runner, transB, { size: n, k, count }, [b, ldb, strideB, a, strideA, c, strideC]);
}

/** n = 1: C = op(A) b. */
function matrixTimesVector(runner: Runner, { transA, m, k, a, lda, b, c, count, ...strides }: Problem): void {
  const { strideA, strideB, strideC } = strides;
  multiplyVector(runner, !transA, { size: m, k, count }, [a, lda, strideA, b, strideB, c, strideC]);
}

/** The matrix is stored [size][k] (`rows`) or [k][size]. A task covers about 2^15 elements of it. */
function multiplyVector(
  runner: Runner,
  rows: boolean,
  { size, k, count }: { size: number; k: number; count: number },
  operands: readonly number[],
): void {
  const perTask = Math.min(Math.ceil(size / 32) * 32, Math.max(32, Math.floor((1 << 15) / k / 32) * 32));
  const tasks = count * Math.ceil(size / perTask);
  runner.run(rows ? "gemvRows" : "gemvColumns", tasks, [size, k, ...operands, count, perTask]);
}

function multiplyBatch(runner: Runner, problem: Problem): void {
  const { transA, transB, m, n, k, a, lda, b, ldb, c, count, strideA, strideB, strideC } = problem;
  const sizes = [Number(transA), Number(transB), m, n, k];
  runner.run("gemmBatch", count, [...sizes, a, lda, strideA, b, ldb, strideB, c, n, strideC]);
}

/** Packs parts of B, each once, then multiplies tiles of C. */
function multiplyTiled({ runner, pack }: MatmulParts, problem: Problem): void {
  const { transA, transB, m, n, k, a, lda, b, ldb, c } = problem;
  const { columns, depth } = partOfB(n, k);
  for (let j = 0; j < n; j += columns) {
    const nc = Math.min(columns, n - j);
    for (let p = 0; p < k; p += depth) {
      const kc = Math.min(depth, k - p);
      const partB = b + 4 * (transB ? j * ldb + p : p * ldb + j);
      const partA = a + 4 * (transA ? p * lda : p);
      const perTask = 8;
      const packs = Math.ceil(kc / KC) * Math.ceil(Math.ceil(nc / NR) / perTask);
      runner.run("gemmPackB", packs, [Number(transB), kc, nc, partB, ldb, pack, perTask]);
      const [rows, across] = tiles(m, nc, kc);
      const operands = [partA, lda, pack, Number(p > 0), c + 4 * j, n];
      runner.run("gemmTiles", rows * across, [Number(transA), m, nc, kc, ...operands, rows, across]);
    }
  }
}

/** How much of B is packed at once: all of K where a useful number of columns then fits. */
function partOfB(n: number, k: number): { columns: number; depth: number } {
  const capacity = PACK_BYTES / 4;
  const padded = Math.ceil(n / NR) * NR;
  const least = Math.min(padded, 512);
  if (k * least > capacity) return { columns: least, depth: Math.floor(capacity / least / KC) * KC };
  const parts = Math.ceil(padded / (Math.floor(capacity / k / NR) * NR));
  return { columns: Math.ceil(padded / parts / NR) * NR, depth: k };
}

/** Tiles of C: at most 48 x 256, less where that leaves few of them. */
function tiles(m: number, n: number, k: number): [rows: number, columns: number] {
  const rows = Math.ceil(Math.ceil(m / MR) / 8);
  const least = Math.max(1, Math.min(16, Math.floor(m * n * k / (1 << 18))));
  const columns = Math.max(Math.ceil(n / 256), Math.min(Math.ceil(n / 64), Math.ceil(least / rows)));
  return [rows, columns];
}

function multiplyNative(runner: Runner, problem: Problem): void {
  const { transA, transB, m, n, k, a, lda, b, ldb, c, count, strideA, strideB, strideC } = problem;
  const [rows, columns] = count > 8 ? [1, 1] : nativeTiles(m, n, k);
  const sizes = [Number(transA), Number(transB), m, n, k];
  const operands = [a, lda, strideA, b, ldb, strideB, c, n, strideC];
  runner.run("blasTiles", count * rows * columns, [...sizes, ...operands, rows, columns]);
}

/**
 * Halves the longer side until there are eight tiles of at most 512 x 512 (a library packs its operands again for each
 * tile: one core does 100 GFLOP/s on tiles of 128, 112 on 256, 118 on 512, 122 on 1024), but no tile below 2^22.
 */
function nativeTiles(m: number, n: number, k: number): [rows: number, columns: number] {
  let rows = 1, columns = 1;
  while (true) {
    const [height, width] = [m / rows, n / columns];
    const enough = rows * columns >= 8 && Math.max(height, width) <= 512;
    if (enough || height * width * k < 2 * LEAST_NATIVE_TILE) return [rows, columns];
    if (height >= width) rows *= 2;
    else columns *= 2;
  }
}
