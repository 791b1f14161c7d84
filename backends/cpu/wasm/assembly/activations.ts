/**
 * gelu, silu, swiglu and their gradients, f32, elementwise.
 *
 *     silu(x) = x s(x), s = 1 / (1 + e^-x)           silu'(x) = s + x s (1 - s)
 *     gelu(x) = x Phi(x) ("none")                    gelu'(x) = Phi + x e^(-x^2 / 2) / sqrt(2 pi)
 *     gelu(x) = x s(2 u) ("tanh"), u = c (x + 0.044715 x^3), c = sqrt(2 / pi): 1/2 (1 + tanh u) is s(2 u)
 *
 * Phi comes from erfcx, so that it keeps its relative accuracy where 1 + erf would cancel. Tasks: chunks of CHUNK
 * elements; the last vector is loaded and stored by lane. The specs are the composed forms in core/ops/elementwise.ts.
 */
import { loadPart, storePart } from "./lanes";
import { erfcx, expSmall, madd, sigmoid } from "./math";

const CHUNK: i32 = 8192;

const GELU = 0, GELU_TANH = 1, SILU = 2;

/** 0: -1/2. 1: 1/2. 2: sqrt(1/2). 3: 1. 4: 1 / sqrt(2 pi). 5: 2 c. 6: 2 c 0.044715. 7: 6 c 0.044715. */
const TABLE: usize = memory.data<f32>([
  -0.5,
  0.5,
  0.707106781186547524,
  1.0,
  0.398942280401432678,
  1.59576912160573071,
  0.0713548162726,
  0.214064448818,
]);

@inline
function splat(index: i32): v128 {
  return v128.load_splat<f32>(TABLE + (index << 2));
}

/** e^(-x^2 / 2) */
@inline
function bell(x: v128): v128 {
  return expSmall(f32x4.mul(f32x4.mul(x, x), splat(0)));
}

/** The normal distribution function; `density` is bell(x). */
@inline
function phi(x: v128, density: v128): v128 {
  const scaled = f32x4.mul(f32x4.abs(x), splat(2));
  const tail = f32x4.mul(f32x4.mul(erfcx(scaled), density), splat(1));
  return v128.bitselect(tail, f32x4.sub(splat(3), tail), i32x4.shr_s(x, 31));
}

@inline
function value(kind: i32, x: v128): v128 {
  if (kind == GELU) return f32x4.mul(x, phi(x, bell(x)));
  if (kind == SILU) return f32x4.mul(x, sigmoid(x));
  const square = f32x4.mul(x, x);
  return f32x4.mul(x, sigmoid(f32x4.mul(x, madd(square, splat(6), splat(5)))));
}

@inline
function slope(kind: i32, x: v128): v128 {
  if (kind == GELU) {
    const density = bell(x);
    return madd(f32x4.mul(x, density), splat(4), phi(x, density));
  }
  if (kind == SILU) {
    const s = sigmoid(x);
    return madd(f32x4.mul(x, s), f32x4.sub(splat(3), s), s);
  }
  const square = f32x4.mul(x, x);
  const s = sigmoid(f32x4.mul(x, madd(square, splat(6), splat(5))));
  const inner = f32x4.mul(x, madd(square, splat(7), splat(5)));
  return madd(f32x4.mul(inner, s), f32x4.sub(splat(3), s), s);
}

@inline
function valueLoop(kind: i32, x: usize, out: usize, count: i32): void {
  let i = 0;
  for (; i <= count - 8; i += 8, x += 32, out += 32) {
    const low = value(kind, v128.load(x)), high = value(kind, v128.load(x, 16));
    v128.store(out, low);
    v128.store(out, high, 16);
  }
  for (; i < count; i += 4, x += 16, out += 16) storePart(out, value(kind, loadPart(x, count - i)), count - i);
}

/** out = gelu or silu of x. Tasks: chunks of `size` elements. */
export function activation(begin: i32, end: i32, kind: i32, x: usize, out: usize, size: i32): void {
  const first = begin * CHUNK, count = min(size, end * CHUNK) - first;
  x += usize(first) << 2;
  out += usize(first) << 2;
  if (kind == GELU) valueLoop(GELU, x, out, count);
  else if (kind == SILU) valueLoop(SILU, x, out, count);
  else valueLoop(GELU_TANH, x, out, count);
}

@inline
function slopeLoop(kind: i32, x: usize, gradient: usize, out: usize, count: i32): void {
  for (let i = 0; i < count; i += 4, x += 16, gradient += 16, out += 16) {
    const left = count - i;
    storePart(out, f32x4.mul(loadPart(gradient, left), slope(kind, loadPart(x, left))), left);
  }
}

/** out = gradient * (gelu or silu)'(x). Tasks: chunks of `size` elements. */
export function activationGradient(
  begin: i32,
  end: i32,
  kind: i32,
  x: usize,
  gradient: usize,
  out: usize,
  size: i32,
): void {
  const first = begin * CHUNK, count = min(size, end * CHUNK) - first;
  const shift = usize(first) << 2;
  if (kind == GELU) slopeLoop(GELU, x + shift, gradient + shift, out + shift, count);
  else if (kind == SILU) slopeLoop(SILU, x + shift, gradient + shift, out + shift, count);
  else slopeLoop(GELU_TANH, x + shift, gradient + shift, out + shift, count);
}

/** out = silu(gate) * up. Tasks: chunks of `size` elements. */
export function swiglu(begin: i32, end: i32, gate: usize, up: usize, out: usize, size: i32): void {
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 4) {
    const at = usize(i) << 2, left = stop - i;
    storePart(out + at, f32x4.mul(value(SILU, loadPart(gate + at, left)), loadPart(up + at, left)), left);
  }
}

/** gateOut = gradient * up * silu'(gate); upOut = gradient * silu(gate); either may be 0: not wanted. Tasks: chunks. */
export function swigluGradient(
  begin: i32,
  end: i32,
  gate: usize,
  up: usize,
  gradient: usize,
  gateOut: usize,
  upOut: usize,
  size: i32,
): void {
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 4) {
    const at = usize(i) << 2, left = stop - i;
    const x = loadPart(gate + at, left), g = loadPart(gradient + at, left);
    const s = sigmoid(x), silu = f32x4.mul(x, s);
    if (gateOut) {
      const rise = madd(silu, f32x4.sub(splat(3), s), s);
      storePart(gateOut + at, f32x4.mul(f32x4.mul(g, loadPart(up + at, left)), rise), left);
    }
    if (upOut) storePart(upOut + at, f32x4.mul(g, silu), left);
  }
}
