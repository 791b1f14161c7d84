/**
 * Learned positions for images of another size: the class token's row is kept, and the grid of the patches' rows is
 * resampled bicubically, with half-pixel centres (`align_corners` false) and edges repeated.
 *
 * As `interpolate_pos_encoding` of Hugging Face's modeling_vit.py, with two differences. The grid of the table is the
 * configuration's, which need not be square. And it is two products with small matrices, made on the host in f64, so
 * that it runs wherever the table lies and has a gradient. Keys' kernel with a = -0.75, as PyTorch's (Keys 1981);
 * nothing is smoothed where the grid shrinks. Conventions and numbers: ONNX's Resize with mode "cubic".
 */
import {
  type Backend,
  cast,
  concat,
  type DType,
  fromArray,
  isHalf,
  matmul,
  reshape,
  scope,
  slice,
  type Tensor,
} from "../core/mod.ts";

/** Rows and columns of patches. */
export type Grid = readonly [rows: number, columns: number];

/** The parameter of the kernel. */
const A = -0.75;

/** The weight of a sample at distance `x` in samples. */
function cubic(x: number): number {
  const d = Math.abs(x);
  if (d >= 2) return 0;
  return d <= 1 ? ((A + 2) * d - (A + 3)) * d * d + 1 : ((A * d - 5 * A) * d + 8 * A) * d - 4 * A;
}

/** The matrix that resamples `from` points to `to`, row-major [to, from]. Its rows add up to 1. */
export function bicubicMatrix(from: number, to: number): Float64Array<ArrayBuffer> {
  const matrix = new Float64Array(to * from);
  for (let i = 0; i < to; i++) {
    const at = (i + 0.5) * (from / to) - 0.5;
    const first = Math.floor(at) - 1;
    for (let j = first; j < first + 4; j++) {
      matrix[i * from + Math.min(Math.max(j, 0), from - 1)] += cubic(at - j);
    }
  }
  return matrix;
}

/**
 * Positions of another grid.
 *
 * @param table [1, 1 + rows * columns, D]: the class token's row, then the patches' row by row. In 16 bits it is
 * resampled in f32 and rounded once.
 * @returns [1, 1 + rows * columns of `to`, D]; the table itself where the grids are the same
 */
export function resizePositions(table: Tensor, from: Grid, to: Grid): Tensor {
  if (from[0] === to[0] && from[1] === to[1]) return table;
  using inner = scope("resize positions");
  const { backend, shape: [, , D], dtype } = table;
  const wide = isHalf(dtype) ? "f32" : dtype;
  const [first, patches] = [{ end: 1 }, { start: 1 }].map((range) => slice(table, [undefined, range]));
  const grid = reshape(cast(patches, wide), [from[0], from[1] * D]);
  const tall = reshape(matmul(sampler(backend, from[0], to[0], wide), grid), [to[0], from[1], D]);
  const resized = matmul(sampler(backend, from[1], to[1], wide), tall); // [rows, columns, D]
  return inner.keep(concat([first, cast(reshape(resized, [1, to[0] * to[1], D]), dtype)], 1));
}

function sampler(backend: Backend, from: number, to: number, dtype: DType): Tensor {
  const matrix = bicubicMatrix(from, to);
  return fromArray(backend, dtype === "f64" ? matrix : Float32Array.from(matrix), [to, from], dtype);
}
