/**
 * Block-wise dynamic 8-bit storage of moments (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"; the
 * code-books of bitsandbytes): a byte an element and four a block.
 *
 * `safe`, the default, departs from the published method in two places. A second moment that is not 0 never gets the code of
 * 0: with the stock rule a small one vanishes beside a large neighbour while its first moment survives, and the next step
 * is divided by eps alone (3,900 times the learning rate, measured on bitsandbytes). And a first moment gets the nearest
 * code, where the stock rule pushes small negative ones away from 0 and leaves small positive ones there. `stock` is
 * bit-faithful. Either way the update uses the moments before they are rounded again.
 */
import {
  abs,
  add,
  type Backend,
  type Blockwise,
  type BlockwiseOptions,
  cast,
  codebook,
  codeLimits,
  contiguous,
  embedding,
  empty,
  equal,
  fill,
  fromArray,
  less,
  max,
  maximum,
  mul,
  pad,
  recip,
  reshape,
  scope,
  sizeOf,
  slice,
  type SlotKind,
  sub,
  type Tensor,
  where,
  ZERO_CODE,
  zeros,
} from "../core/mod.ts";
import { type AdamOptions, matchAdamW } from "./adam.ts";
import type { State } from "./rule.ts";
import type { Codec } from "./store_as.ts";

/** A tensor in 8 bits, as a state holds it. */
export interface BlockwiseState extends State {
  /** u8, of the tensor's shape. */
  codes: Tensor;
  /** f32 [blocks] */
  absmax: Tensor;
}

/** The codec `storeAs` takes. Block size 256 (bitsandbytes; 2048 when GaLore was written), rounding `safe`. */
export function blockwise8bit(options: Partial<BlockwiseOptions> = {}): Codec {
  const { blockSize = 256, rounding = "safe" } = options;
  if (!Number.isInteger(blockSize) || blockSize < 256 || blockSize % 256 !== 0 || blockSize > 4096) {
    throw new RangeError(`Cannot store in blocks of ${blockSize}: expected a multiple of 256 up to 4096`);
  }
  const settings = { blockSize, rounding };
  const blocks = (size: number) => Math.ceil(size / blockSize);
  return {
    name: "blockwise8bit",
    options: settings,
    zeros: (backend, shape, kind) => ({
      codes: fill(backend, ZERO_CODE[kind], shape, "u8"),
      absmax: zeros(backend, [blocks(sizeOf(shape))]),
    }),
    decode: (stored, kind) => {
      const { codes, absmax } = stored as BlockwiseState;
      const fused = codes.backend.updates.dequantizeBlockwise;
      if (!fused) return dequantize(codes, absmax, kind, blockSize);
      const out = empty(codes.backend, codes.shape);
      fused({ codes, absmax }, out, kind, blockSize);
      return out;
    },
    encode: (values, kind) => {
      const fused = values.backend.updates.quantizeBlockwise;
      if (!fused) return quantize(values, kind, settings);
      const codes = empty(values.backend, values.shape, "u8");
      const absmax = empty(values.backend, [blocks(values.size)]);
      fused(contiguous(values), { codes, absmax }, kind, settings);
      return { codes, absmax };
    },
    fuse: (inner, gradient, state, context, rest) => {
      const fused = inner.name === "scaleByAdam" && gradient.dtype === "f32" && gradient.backend.updates.adamBlockwise;
      if (!fused || !isBlockwise(state.mu) || !isBlockwise(state.nu)) return undefined;
      const parameter = rest && context.param?.dtype === "f32" ? matchAdamW(rest, context) : undefined;
      if (rest && !parameter) return undefined;
      const change = rest ? undefined : empty(gradient.backend, gradient.shape);
      fused(
        {
          ...{ grad: contiguous(gradient), mu: state.mu, nu: state.nu, factor: context.factor },
          ...(rest ? { param: context.param } : { out: change }),
        },
        { ...inner.options as Required<AdamOptions>, ...settings, step: context.step },
        parameter,
      );
      return { change, state };
    },
  };
}

function isBlockwise(value: State[string]): value is BlockwiseState & Blockwise {
  return value !== null && typeof value === "object" && "codes" in value && "absmax" in value;
}

/** The definition of `dequantizeBlockwise`. */
export function dequantize(codes: Tensor, absmax: Tensor, kind: SlotKind, blockSize: number): Tensor {
  using inner = scope("dequantize");
  const flat = cast(reshape(codes, [codes.size]), "u32");
  const values = reshape(embedding(table(codes.backend, codebook(kind)), flat), [codes.size]);
  const scaled = mul(inBlocks(values, blockSize), reshape(absmax, [absmax.size, 1]));
  return inner.keep(unblocked(scaled, codes.shape));
}

/** The definition of `quantizeBlockwise`. */
export function quantize(values: Tensor, kind: SlotKind, { blockSize, rounding }: BlockwiseOptions): BlockwiseState {
  using inner = scope("quantize");
  const { backend, shape } = values;
  const x = inBlocks(contiguous(values), blockSize); // [blocks, blockSize]
  const absmax = max(abs(x), -1, true); // [blocks, 1]
  const share = mul(x, recip(where(equal(absmax, 0), 1, absmax)));
  let codes = countBelow(share, table(backend, codeLimits(kind)));
  if (kind === "nonnegative" && rounding === "safe") {
    codes = maximum(codes, cast(less(0, x), "f32"));
  }
  if (kind === "signed" && rounding === "stock") codes = withSign(codes, x);
  return {
    codes: inner.keep(cast(unblocked(codes, shape), "u8")),
    absmax: inner.keep(contiguous(reshape(absmax, [absmax.size]))),
  };
}

/** For each element the number of limits below it, by bisection; as f32. */
function countBelow(x: Tensor, limits: Tensor): Tensor {
  let count = fill(x.backend, 0, x.shape);
  for (let step = 128; step >= 1; step /= 2) {
    const probe = reshape(embedding(limits, cast(add(reshape(count, [x.size]), step - 1), "u32")), x.shape);
    count = add(count, mul(cast(less(probe, x), "f32"), step));
  }
  return count;
}

/** The stock rule: a code whose value has another sign bit than x gives way to its neighbour. */
function withSign(codes: Tensor, x: Tensor): Tensor {
  // of zeros, the reciprocal tells the sign bit
  const isNegative = cast(less(recip(x), 0), "f32");
  const valueIsNegative = cast(less(codes, ZERO_CODE.signed), "f32");
  const up = mul(valueIsNegative, sub(1, isNegative));
  const down = mul(sub(1, valueIsNegative), isNegative);
  return add(codes, sub(up, down));
}

function table(backend: Backend, values: Float32Array<ArrayBuffer>): Tensor {
  return fromArray(backend, values, [values.length, 1]);
}

/** [blocks, blockSize], the last one filled up with zeros. */
function inBlocks(values: Tensor, blockSize: number): Tensor {
  const blocks = Math.ceil(values.size / blockSize);
  const flat = reshape(values, [values.size]);
  const missing = blocks * blockSize - values.size;
  return reshape(missing === 0 ? flat : pad(flat, [0], [missing]), [blocks, blockSize]);
}

function unblocked(values: Tensor, shape: readonly number[]): Tensor {
  const flat = reshape(values, [values.size]);
  return contiguous(reshape(slice(flat, [{ end: sizeOf(shape) }]), shape));
}
