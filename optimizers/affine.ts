/**
 * Whole numbers of 4 or 8 bits with a scale and a zero point for each group: how Q-GaLore stores projectors (Zhang et al.
 * 2024, arXiv 2407.08296, section 3.2). 4-bit codes are packed two to a byte, where the released code spends a byte on each.
 *
 *     scale = (max - min) / (2^bits - 1), zero = round(-min / scale), code = clamp(round(x / scale) + zero)
 *
 * Groups are runs of `group` elements in row-major order. It refuses to be a codec of moments: its smallest step is a share of
 * the group's range, and second moments span decades.
 */
import {
  add,
  cast,
  clamp,
  contiguous,
  div,
  floor,
  max,
  maximum,
  min,
  mul,
  pad,
  reshape,
  scope,
  sizeOf,
  slice,
  stack,
  sub,
  type Tensor,
  zeros,
} from "../core/mod.ts";
import type { State } from "./rule.ts";
import type { Codec } from "./store_as.ts";

interface AffineState extends State {
  /** u8 [groups, group], or [groups, group / 2] with the earlier element in the lower half of each byte. */
  codes: Tensor;
  /** f32 [groups, 1] */
  scale: Tensor;
  /** f32 [groups, 1], a whole number */
  zero: Tensor;
  rows: number;
  columns: number;
}

/** Options of `affine`. */
export interface AffineOptions {
  readonly bits: 4 | 8;
  /** Elements that share a scale: an even number. Default 256, as Q-GaLore. */
  readonly group?: number;
}

/** The codec for matrices, such as a basis. */
export function affine({ bits, group = 256 }: AffineOptions): Codec {
  if (!Number.isInteger(group) || group < 2 || group % 2 !== 0) {
    throw new RangeError(`Cannot store in groups of ${group}: expected an even number from 2`);
  }
  const most = 2 ** bits - 1;
  return {
    name: `int${bits}`,
    options: { bits, group },
    zeros: (backend, shape) => {
      const groups = Math.ceil(sizeOf(shape) / group);
      return {
        codes: zeros(backend, [groups, bits === 4 ? group / 2 : group], "u8"),
        scale: zeros(backend, [groups, 1]),
        zero: zeros(backend, [groups, 1]),
        rows: shape[0],
        columns: shape[1],
      };
    },
    encode: (values) => {
      using inner = scope("affine");
      const x = inGroups(contiguous(values), group);
      const low = min(x, -1, true);
      const scale = maximum(mul(sub(max(x, -1, true), low), 1 / most), 1e-5 / most);
      const zero = rounded(div(mul(low, -1), scale));
      const codes = clamp(add(rounded(div(x, scale)), zero), 0, most);
      return {
        codes: inner.keep(cast(bits === 4 ? packed(codes) : codes, "u8")),
        scale: inner.keep(contiguous(scale)),
        zero: inner.keep(contiguous(zero)),
        rows: values.shape[0],
        columns: values.shape[1],
      };
    },
    decode: (stored) => {
      using inner = scope("affine");
      const { codes, scale, zero, rows, columns } = stored as AffineState;
      const wide = cast(codes, "f32");
      const values = mul(sub(bits === 4 ? unpacked(wide) : wide, zero), scale);
      const flat = slice(reshape(values, [values.size]), [{ end: rows * columns }]);
      return inner.keep(contiguous(reshape(flat, [rows, columns])));
    },
  };
}

function rounded(x: Tensor): Tensor {
  return floor(add(x, 0.5));
}

/** [groups, group], the last one filled up with zeros. */
function inGroups(values: Tensor, group: number): Tensor {
  const flat = reshape(values, [values.size]);
  const missing = Math.ceil(values.size / group) * group - values.size;
  return reshape(missing === 0 ? flat : pad(flat, [0], [missing]), [-1, group]);
}

/** [groups, group] codes below 16 to [groups, group / 2] bytes. */
function packed(codes: Tensor): Tensor {
  const [groups, group] = codes.shape;
  const pairs = reshape(codes, [groups, group / 2, 2]);
  const half = (index: number) =>
    reshape(slice(pairs, [undefined, undefined, { start: index, end: index + 1 }]), [groups, group / 2]);
  return add(half(0), mul(half(1), 16));
}

function unpacked(bytes: Tensor): Tensor {
  const [groups, half] = bytes.shape;
  const high = floor(mul(bytes, 1 / 16));
  return reshape(stack([sub(bytes, mul(high, 16)), high], 2), [groups, 2 * half]);
}
