/**
 * Matrix products. Weights are [out, in], as in PyTorch and Hugging Face files, so a linear map is x @ W^T.
 */
import { isHalfLeaf, record } from "../autograd.ts";
import { checkAlike, factors } from "../define.ts";
import { type DType, isHalf } from "../dtype.ts";
import { broadcastShapes, describe, type Shape, sizeOf } from "../shape.ts";
import { empty, type Tensor } from "../tensor.ts";
import { add, cast } from "./elementwise.ts";
import { contiguous, permute, reshape, sumTo } from "./layout.ts";

/** Which operands are stored transposed in their last two axes. */
export interface Transposes {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}

/** How `matmul` reads its operands, and what it writes. */
export interface ProductOptions extends Transposes {
  /** The product's dtype: that of the operands (the default), or f32 where they are 16-bit, which rounds nothing. */
  readonly dtype?: DType;
}

/**
 * a @ b over the last two axes; leading axes broadcast. Accumulates in f32 (f64 for f64). Transposed views cost nothing.
 * The gradient of a 16-bit leaf is f32: what an optimizer gets of a weight is not rounded to the weight's own digits.
 *
 * @param a [.., M, K], or [.., K, M] with `transposeA`
 * @param b [.., K, N], or [.., N, K] with `transposeB`
 * @returns [.., M, N]
 * @throws TypeError when the inner sizes or the leading axes do not match, or the operands do not give `dtype`
 */
export function matmul(a: Tensor, b: Tensor, options: ProductOptions = {}): Tensor {
  const { transposeA = false, transposeB = false, dtype = a.dtype } = options;
  checkAlike("matmul", a, b);
  if (dtype !== a.dtype && !(dtype === "f32" && isHalf(a.dtype))) {
    throw new TypeError(`Cannot multiply in matmul(): a ${describe(a)} and b ${describe(b)} give no ${dtype}`);
  }
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw new TypeError(
      `Cannot multiply in matmul(): operands need two axes: got a ${describe(a)} and b ${describe(b)}`,
    );
  }
  const [m, k] = matrixShape(a, transposeA);
  const [inner, n] = matrixShape(b, transposeB);
  if (k !== inner) {
    throw new TypeError(
      `Cannot multiply in matmul(): inner sizes must match: got a ${describe(a)} and b ${
        describe(b)
      } (${k} and ${inner})`,
    );
  }
  // [.., M, K] @ [K, N] is one tall product
  if (b.shape.length === 2 && a.shape.length > 2 && !transposeA) {
    const tall = reshape(a, [sizeOf(a.shape.slice(0, -1)), k]);
    return reshape(matmul(tall, b, { transposeB, dtype }), [...a.shape.slice(0, -1), n]);
  }
  const batch = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2));
  if (!batch) {
    throw new TypeError(
      `Cannot multiply in matmul(): leading axes must broadcast: got a ${describe(a)} and b ${describe(b)}`,
    );
  }
  const out = empty(a.backend, [...batch, m, n], dtype);
  run(a, b, out, batch, transposeA, transposeB);
  const [wideA, wideB] = [a, b].map((x): DType => isHalfLeaf(x) ? "f32" : x.dtype);
  return record("matmul", out, [a, b], factors(a, b), (g, [p, q]) => [
    () => sumTo(gradientOfA(cast(g, q.dtype), q, { transposeA, transposeB, dtype: wideA }), a.shape),
    () => sumTo(gradientOfB(cast(g, p.dtype), p, { transposeA, transposeB, dtype: wideB }), b.shape),
  ]);
}

function matrixShape(x: Tensor, transposed: boolean): [number, number] {
  const rows = x.shape[x.shape.length - 2];
  const columns = x.shape[x.shape.length - 1];
  return transposed ? [columns, rows] : [rows, columns];
}

function gradientOfA(g: Tensor, b: Tensor, { transposeA, transposeB, dtype }: ProductOptions): Tensor {
  return transposeA
    ? matmul(b, g, { transposeA: transposeB, transposeB: true, dtype })
    : matmul(g, b, { transposeB: !transposeB, dtype });
}

function gradientOfB(g: Tensor, a: Tensor, { transposeA, transposeB, dtype }: ProductOptions): Tensor {
  return transposeB
    ? matmul(g, a, { transposeA: true, transposeB: transposeA, dtype })
    : matmul(a, g, { transposeA: !transposeA, dtype });
}

/** Brings both operands to what the kernel takes (innermost stride 1) and runs it. */
function run(a: Tensor, b: Tensor, out: Tensor, batch: Shape, transposeA: boolean, transposeB: boolean): void {
  const left = operand(a, batch, transposeA);
  const right = operand(b, batch, transposeB);
  out.backend.kernels.matmul(left.view, right.view, out, {
    transposeA: left.transposed,
    transposeB: right.transposed,
  });
  left.view.dispose();
  right.view.dispose();
}

function operand(x: Tensor, batch: Shape, transposed: boolean): { view: Tensor; transposed: boolean } {
  const rank = x.shape.length;
  const [rowStride, columnStride] = [x.strides[rank - 2], x.strides[rank - 1]];
  const [rows, columns] = [x.shape[rank - 2], x.shape[rank - 1]];
  let source = x;
  let swap = false;
  if ((columnStride !== 1 && columns !== 1) || (rowStride < columns && rows !== 1)) {
    swap = (rowStride === 1 || rows === 1) && (columnStride >= rows || columns === 1);
    if (!swap) source = contiguous(x);
  }
  const strides = source.strides;
  const spread = batch.map((_, axis) => {
    const own = axis - (batch.length - (rank - 2));
    return own < 0 || source.shape[own] === 1 ? 0 : strides[own];
  });
  // an axis of size 1 may carry any stride: give the kernel a row stride that keeps its promise
  const row = swap ? Math.max(strides[rank - 1], rows) : Math.max(strides[rank - 2], columns);
  const shape = swap ? [...batch, columns, rows] : [...batch, rows, columns];
  return { view: source.view(shape, [...spread, row, 1], source.offset), transposed: transposed !== swap };
}

/**
 * x @ weight^T + bias.
 *
 * @param x [.., K]
 * @param weight [N, K]
 * @param bias [N]
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  if (x.shape[x.shape.length - 1] !== weight.shape[1]) {
    throw new TypeError(
      `Cannot apply linear(): inner sizes must match: got x ${describe(x)} and weight ${describe(weight)}`,
    );
  }
  const rows = reshape(x, [sizeOf(x.shape.slice(0, -1)), weight.shape[1]]);
  const product = reshape(matmul(rows, weight, { transposeB: true }), [...x.shape.slice(0, -1), weight.shape[0]]);
  return bias ? add(product, bias) : product;
}

/**
 * Splits images into square patches and maps each linearly: a convolution whose kernel and stride are the patch.
 *
 * @param pixels [B, C, H, W], H and W multiples of P
 * @param weight [D, C, P, P]
 * @param bias [D]
 * @returns [B, (H / P) * (W / P), D], patches row by row
 */
export function patchEmbedding(pixels: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const [batch, channels, height, width] = pixels.shape;
  const [dim, inChannels, patch] = weight.shape;
  if (channels !== inChannels || height % patch !== 0 || width % patch !== 0) {
    throw new TypeError(
      `Cannot apply patchEmbedding(): got pixels ${describe(pixels)} and weight ${describe(weight)}; ` +
        `channels must match and the patch must divide the image`,
    );
  }
  const [rows, columns] = [height / patch, width / patch];
  const split = reshape(pixels, [batch, channels, rows, patch, columns, patch]);
  const patches = permute(split, [0, 2, 4, 1, 3, 5]);
  return linear(reshape(patches, [batch, rows * columns, channels * patch * patch]), reshape(weight, [dim, -1]), bias);
}
