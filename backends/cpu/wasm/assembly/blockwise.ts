/**
 * Block-wise 8-bit storage, and Adam on moments that lie in it. Element i is values[codes[i]] absmax[i / blockSize].
 *
 *     absmax = max |x| of the block,  s = x (1 / absmax),  code = the number of limits below s      (codebooks.ts)
 *
 * A block is read twice: for its largest magnitude, and for its codes. Adam keeps the new moments of a block in scratch
 * in between, and has the formulas of optimizer.ts. NaN is the largest magnitude where there is one, and then the whole
 * block decodes to it. Where 1 / absmax is infinite (absmax below 2^-128), 0 has no share and gets code 0.
 *
 * Tasks: as many whole blocks as have CHUNK elements, at least one. No fused multiply-add: both builds have the same
 * bits.
 */
import {
  BUCKETS_SIGNED,
  ENTRIES_NONNEGATIVE,
  ENTRIES_SIGNED,
  LEAST,
  limitAbove,
  SHIFT_NONNEGATIVE,
  SHIFT_SIGNED,
  VALUES_NONNEGATIVE,
  VALUES_SIGNED,
} from "./codebooks";
import { SCRATCH } from "./gemm";
import { lanesBelow, loadPart, storePart } from "./lanes";
import { average, decayed, direction } from "./optimizer";

const CHUNK: i32 = 8192;

@inline
function blocksPerTask(blockSize: i32): i32 {
  return max(1, CHUNK / blockSize);
}

/** The largest magnitudes, lane by lane, as bits: they are ordered as integers, NaN above all. */
@inline
function largerBits(bits: v128, x: v128): v128 {
  return i32x4.max_s(bits, v128.and(x, i32x4.splat(0x7fffffff)));
}

@inline
function largestOf(bits: v128): f32 {
  const pairs = i32x4.max_s(bits, v128.shuffle<u32>(bits, bits, 2, 3, 0, 1));
  return reinterpret<f32>(max(i32x4.extract_lane(pairs, 0), i32x4.extract_lane(pairs, 1)));
}

/** The values of the four codes in a word: of the signed map where T is, i8, else of the other. */
@inline
function decode<T>(codes: u32, absmax: v128): v128 {
  const values: usize = isSigned<T>() ? VALUES_SIGNED : VALUES_NONNEGATIVE;
  let lanes = v128.load_zero<u32>(usize(codes << 2 & 0x3fc), values);
  lanes = v128.load_lane<u32>(usize(codes >> 6 & 0x3fc), lanes, 1, values);
  lanes = v128.load_lane<u32>(usize(codes >> 14 & 0x3fc), lanes, 2, values);
  lanes = v128.load_lane<u32>(usize(codes >> 22 & 0x3fc), lanes, 3, values);
  return f32x4.mul(lanes, absmax);
}

/** Codes of `count` (1 to 4) elements, in a word. */
@inline
function loadCodes(codes: usize, count: i32): u32 {
  if (count >= 4) return load<u32>(codes);
  let word = u32(load<u8>(codes));
  if (count > 1) word |= u32(load<u8>(codes, 1)) << 8;
  if (count > 2) word |= u32(load<u8>(codes, 2)) << 16;
  return word;
}

/** Entries at four places in bytes: of the signed map where T is, else of the other. */
@inline
function gather<T>(places: v128): v128 {
  const entries: usize = isSigned<T>() ? ENTRIES_SIGNED : ENTRIES_NONNEGATIVE;
  let lanes = v128.load_zero<u32>(i32x4.extract_lane(places, 0), entries);
  lanes = v128.load_lane<u32>(i32x4.extract_lane(places, 1), lanes, 1, entries);
  lanes = v128.load_lane<u32>(i32x4.extract_lane(places, 2), lanes, 2, entries);
  return v128.load_lane<u32>(i32x4.extract_lane(places, 3), lanes, 3, entries);
}

/** The bits of magnitudes, from those of 2^-23 on. */
@inline
function relativeBits(magnitudes: v128): v128 {
  return i32x4.sub(i32x4.max_s(magnitudes, i32x4.splat(LEAST)), i32x4.splat(LEAST));
}

/** Codes of four shares of magnitude 1 (or one unit above) at most. */
@inline
function encodeSigned(x: v128, inverse: v128, isStock: bool): v128 {
  const share = f32x4.mul(x, inverse);
  const magnitude = relativeBits(v128.and(share, i32x4.splat(0x7fffffff)));
  const bits = v128.xor(magnitude, i32x4.shr_s(share, 31));
  const bucket = i32x4.add(i32x4.shr_s(bits, SHIFT_SIGNED), i32x4.splat(BUCKETS_SIGNED));
  const last = v128.and(bits, i32x4.splat((1 << SHIFT_SIGNED) - 1));
  const code = i32x4.shr_u(i32x4.add(gather<i8>(i32x4.shl(bucket, 2)), last), SHIFT_SIGNED);
  return isStock ? i32x4.add(code, positiveCodeOfNegative(x, code)) : code;
}

/** -1 where x < 0, or -0, has code 127 or above: +0. */
@inline
function positiveCodeOfNegative(x: v128, code: v128): v128 {
  return v128.and(i32x4.shr_s(x, 31), i32x4.gt_s(code, i32x4.splat(126)));
}

/** The same in the map of nonnegative values; a share below 0 gets code 0. */
@inline
function encodeNonnegative(x: v128, inverse: v128, isStock: bool): v128 {
  const bits = relativeBits(f32x4.mul(x, inverse));
  const last = v128.and(bits, i32x4.splat((1 << SHIFT_NONNEGATIVE) - 1));
  const places = i32x4.shl(i32x4.shr_u(bits, SHIFT_NONNEGATIVE), 2);
  const code = i32x4.shr_u(i32x4.add(gather<u8>(places), last), SHIFT_NONNEGATIVE);
  // a comparison that holds is -1
  return isStock ? code : i32x4.max_s(code, i32x4.neg(f32x4.gt(x, f32x4.splat(0))));
}

@inline
function encode(x: v128, inverse: v128, ofSigned: bool, isStock: bool): v128 {
  return ofSigned ? encodeSigned(x, inverse, isStock) : encodeNonnegative(x, inverse, isStock);
}

/** Writes the codes of `count` elements of one block; 1 / absmax is finite, or absmax 0. */
@inline
function encodeBlock(x: usize, codes: usize, count: i32, absmax: f32, ofSigned: bool, isStock: bool): void {
  const inverse = f32x4.splat(absmax == 0 ? 0 : 1 / absmax);
  let left = count;
  for (; left >= 16; left -= 16, x += 64, codes += 16) {
    const a = encode(v128.load(x), inverse, ofSigned, isStock);
    const b = encode(v128.load(x, 16), inverse, ofSigned, isStock);
    const c = encode(v128.load(x, 32), inverse, ofSigned, isStock);
    const d = encode(v128.load(x, 48), inverse, ofSigned, isStock);
    v128.store(codes, i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d)));
  }
  for (; left > 0; left -= 4, x += 16, codes += 4) {
    const code = encode(loadPart(x, left), inverse, ofSigned, isStock);
    store<u8>(codes, i32x4.extract_lane(code, 0));
    if (left > 1) store<u8>(codes, i32x4.extract_lane(code, 1), 1);
    if (left > 2) store<u8>(codes, i32x4.extract_lane(code, 2), 2);
    if (left > 3) store<u8>(codes, i32x4.extract_lane(code, 3), 3);
  }
}

/** The same where shares may be infinite or NaN, which no bucket takes: limit by limit. */
function encodeOdd(x: usize, codes: usize, count: i32, absmax: f32, ofSigned: bool, isStock: bool): void {
  const values = ofSigned ? VALUES_SIGNED : VALUES_NONNEGATIVE;
  for (let i = 0; i < count; i++, x += 4) {
    const share = load<f32>(x) * (1 / absmax);
    let code = 0;
    while (code < 255 && limitAbove(values, code) < share) code++;
    if (ofSigned && isStock && load<i32>(x) < 0 && code > 126) code--;
    if (!ofSigned && !isStock && load<f32>(x) > 0 && code == 0) code = 1;
    store<u8>(codes + usize(i), code);
  }
}

function encodeBlockOf(x: usize, codes: usize, count: i32, absmax: f32, ofSigned: bool, isStock: bool): void {
  // 2^-128 is the largest number whose inverse is infinite
  const isOdd = absmax != 0 && !(absmax > reinterpret<f32>(0x00200000) && absmax < Infinity);
  if (isOdd) encodeOdd(x, codes, count, absmax, ofSigned, isStock);
  else if (ofSigned && isStock) encodeBlock(x, codes, count, absmax, true, true);
  else if (ofSigned) encodeBlock(x, codes, count, absmax, true, false);
  else if (isStock) encodeBlock(x, codes, count, absmax, false, true);
  else encodeBlock(x, codes, count, absmax, false, false);
}

/** x f32 [size], codes u8 [size], absmax f32 [blocks]. */
export function quantizeBlockwise(
  begin: i32,
  end: i32,
  x: usize,
  codes: usize,
  absmax: usize,
  size: i32,
  blockSize: i32,
  ofSigned: i32,
  isStock: i32,
): void {
  const perTask = blocksPerTask(blockSize);
  for (let block = begin * perTask; block < end * perTask; block++) {
    const first = block * blockSize, count = min(blockSize, size - first);
    if (count <= 0) return;
    const from = x + (usize(first) << 2);
    let bits = i32x4.splat(0);
    for (let i = 0; i < count; i += 4) bits = largerBits(bits, loadPart(from + (usize(i) << 2), count - i));
    const largest = largestOf(bits);
    store<f32>(absmax + (usize(block) << 2), largest);
    encodeBlockOf(from, codes + usize(first), count, largest, ofSigned != 0, isStock != 0);
  }
}

/** codes u8 [size], absmax f32 [blocks], out f32 [size]. */
export function dequantizeBlockwise(
  begin: i32,
  end: i32,
  codes: usize,
  absmax: usize,
  out: usize,
  size: i32,
  blockSize: i32,
  ofSigned: i32,
): void {
  const perTask = blocksPerTask(blockSize);
  for (let block = begin * perTask; block < end * perTask; block++) {
    const first = block * blockSize, stop = min(size, first + blockSize);
    if (first >= stop) return;
    const largest = v128.load_splat<f32>(absmax + (usize(block) << 2));
    for (let i = first; i < stop; i += 4) {
      const left = stop - i, word = loadCodes(codes + usize(i), left);
      const x = ofSigned ? decode<i8>(word, largest) : decode<u8>(word, largest);
      storePart(out + (usize(i) << 2), x, left);
    }
  }
}

/** Operands as those of `adam`; codes u8 [size], absmax f32 [blocks] of both moments. 8 blockSize bytes of scratch. */
export function adamBlockwise(
  begin: i32,
  end: i32,
  grad: usize,
  muCodes: usize,
  muAbsmax: usize,
  nuCodes: usize,
  nuAbsmax: usize,
  factor: usize,
  param: usize,
  out: usize,
  size: i32,
  blockSize: i32,
  isStock: i32,
  beta1: f32,
  rest1: f32,
  beta2: f32,
  rest2: f32,
  k1: f32,
  k2: f32,
  eps: f32,
  learningRate: f32,
  weightDecay: f32,
  shrink: f32,
  decaysAfter: i32,
): void {
  const clip = f32x4.splat(factor ? load<f32>(factor) : f32(1));
  const b1 = f32x4.splat(beta1), r1 = f32x4.splat(rest1), b2 = f32x4.splat(beta2), r2 = f32x4.splat(rest2);
  const gain = f32x4.splat(k1), scale = f32x4.splat(k2), floor = f32x4.splat(eps);
  const rate = f32x4.splat(learningRate), decay = f32x4.splat(weightDecay), loss = f32x4.splat(shrink);
  const perTask = blocksPerTask(blockSize);
  const mu = SCRATCH, nu = mu + (usize(blockSize + 3) >> 2 << 4);
  for (let block = begin * perTask; block < end * perTask; block++) {
    const first = block * blockSize, count = min(blockSize, size - first);
    if (count <= 0) return;
    const ofBlock = usize(block) << 2;
    const muScale = v128.load_splat<f32>(muAbsmax + ofBlock), nuScale = v128.load_splat<f32>(nuAbsmax + ofBlock);
    let muBits = i32x4.splat(0), nuBits = i32x4.splat(0);
    for (let i = 0; i < count; i += 4) {
      const left = count - i, code = usize(first + i), at = code << 2, kept = usize(i) << 2;
      const g = f32x4.mul(loadPart(grad + at, left), clip);
      const m = average(decode<i8>(loadCodes(muCodes + code, left), muScale), b1, g, r1);
      const old = decode<u8>(loadCodes(nuCodes + code, left), nuScale);
      const v = average(old, b2, f32x4.mul(g, g), r2);
      v128.store(mu + kept, m);
      v128.store(nu + kept, v);
      // Lanes behind the end hold g = 0 and code 0, the signed map's least value: not 0.
      muBits = largerBits(muBits, left >= 4 ? m : v128.and(m, lanesBelow(left)));
      nuBits = largerBits(nuBits, v);
      const u = direction(m, v, gain, scale, floor);
      if (out) storePart(out + at, u, left);
      if (!param) continue;
      const moved = decayed(loadPart(param + at, left), u, rate, decay, loss, decaysAfter);
      storePart(param + at, moved, left);
    }
    const muLargest = largestOf(muBits), nuLargest = largestOf(nuBits);
    store<f32>(muAbsmax + ofBlock, muLargest);
    store<f32>(nuAbsmax + ofBlock, nuLargest);
    encodeBlockOf(mu, muCodes + usize(first), count, muLargest, true, isStock != 0);
    encodeBlockOf(nu, nuCodes + usize(first), count, nuLargest, false, isStock != 0);
  }
}
