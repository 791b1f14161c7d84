/**
 * out = op(x), op(a, b), mask ? a : b, conversions and constants. All elements are 4 bytes wide.
 *
 * Tasks: ranges of CHUNK elements of a contiguous output, or groups of rows of it (each export says which). The last
 * vector of a range is loaded and stored by lane, and computed as any other: bits do not depend on where ranges end.
 * The specs are `unary`, `binary`, `where`, `cast`, `fill`, `iota`, and `addInto` in backends/cpu/loops.
 */
import { loadPart, storePart } from "./lanes";
import { erf, exp, log, sign, tanh } from "./math";

/** Elements of a task: 32 KiB an operand. The wrappers count tasks by it too. */
const CHUNK: i32 = 8192;

const NEG = 0, ABS = 1, EXP = 2, LOG = 3, SQRT = 4, RSQRT = 5, RECIP = 6, TANH = 7, ERF = 8, FLOOR = 9, SIGN = 10;

@inline
function unaryLanes(op: i32, x: v128): v128 {
  if (op == NEG) return f32x4.neg(x);
  if (op == ABS) return f32x4.abs(x);
  if (op == EXP) return exp(x);
  if (op == LOG) return log(x);
  if (op == SQRT) return f32x4.sqrt(x);
  if (op == RSQRT) return f32x4.div(f32x4.splat(1), f32x4.sqrt(x));
  if (op == RECIP) return f32x4.div(f32x4.splat(1), x);
  if (op == TANH) return tanh(x);
  if (op == ERF) return erf(x);
  if (op == FLOOR) return f32x4.floor(x);
  return sign(x);
}

@inline
function unaryLoop(op: i32, x: usize, out: usize, count: i32): void {
  let i = 0;
  for (; i <= count - 8; i += 8, x += 32, out += 32) {
    const low = unaryLanes(op, v128.load(x));
    const high = unaryLanes(op, v128.load(x, 16));
    v128.store(out, low);
    v128.store(out, high, 16);
  }
  for (; i < count; i += 4, x += 16, out += 16) {
    storePart(out, unaryLanes(op, loadPart(x, count - i)), count - i);
  }
}

/** out[i] = op(x[i]), f32. Tasks: chunks of `size` elements. */
export function unary(begin: i32, end: i32, op: i32, x: usize, out: usize, size: i32): void {
  const first = begin * CHUNK;
  const count = min(size, end * CHUNK) - first;
  x += usize(first) << 2;
  out += usize(first) << 2;
  switch (op) {
    case NEG:
      return unaryLoop(NEG, x, out, count);
    case ABS:
      return unaryLoop(ABS, x, out, count);
    case EXP:
      return unaryLoop(EXP, x, out, count);
    case LOG:
      return unaryLoop(LOG, x, out, count);
    case SQRT:
      return unaryLoop(SQRT, x, out, count);
    case RSQRT:
      return unaryLoop(RSQRT, x, out, count);
    case RECIP:
      return unaryLoop(RECIP, x, out, count);
    case TANH:
      return unaryLoop(TANH, x, out, count);
    case ERF:
      return unaryLoop(ERF, x, out, count);
    case FLOOR:
      return unaryLoop(FLOOR, x, out, count);
    default:
      return unaryLoop(SIGN, x, out, count);
  }
}

const ADD = 0, SUB = 1, MUL = 2, DIV = 3, MAX = 4, MIN = 5, LESS = 6, EQUAL = 7;
/** The same on i32 and u32. */
const ADD_INT = 8, SUB_INT = 9, MUL_INT = 10, LESS_I32 = 11, LESS_U32 = 12, EQUAL_INT = 13;

@inline
function binaryLanes(op: i32, a: v128, b: v128): v128 {
  if (op == ADD) return f32x4.add(a, b);
  if (op == SUB) return f32x4.sub(a, b);
  if (op == MUL) return f32x4.mul(a, b);
  if (op == DIV) return f32x4.div(a, b);
  if (op == MAX) return f32x4.max(a, b);
  if (op == MIN) return f32x4.min(a, b);
  if (op == LESS) return i32x4.shr_u(f32x4.lt(a, b), 31);
  if (op == EQUAL) return i32x4.shr_u(f32x4.eq(a, b), 31);
  if (op == ADD_INT) return i32x4.add(a, b);
  if (op == SUB_INT) return i32x4.sub(a, b);
  if (op == MUL_INT) return i32x4.mul(a, b);
  if (op == LESS_I32) return i32x4.shr_u(i32x4.lt_s(a, b), 31);
  if (op == LESS_U32) return i32x4.shr_u(i32x4.lt_u(a, b), 31);
  return i32x4.shr_u(i32x4.eq(a, b), 31);
}

/** One row. `repeats`: 0 neither operand, 1 a, 2 b is one element for the whole row. */
@inline
function binaryRow(op: i32, repeats: i32, a: usize, b: usize, out: usize, count: i32): void {
  const scalarA = v128.load_splat<u32>(a), scalarB = v128.load_splat<u32>(b);
  let i = 0;
  for (; i <= count - 8; i += 8, a += 32, b += 32, out += 32) {
    const low = binaryLanes(op, repeats == 1 ? scalarA : v128.load(a), repeats == 2 ? scalarB : v128.load(b));
    const high = binaryLanes(op, repeats == 1 ? scalarA : v128.load(a, 16), repeats == 2 ? scalarB : v128.load(b, 16));
    v128.store(out, low);
    v128.store(out, high, 16);
  }
  for (; i < count; i += 4, a += 16, b += 16, out += 16) {
    const left = repeats == 1 ? scalarA : loadPart(a, count - i);
    const right = repeats == 2 ? scalarB : loadPart(b, count - i);
    storePart(out, binaryLanes(op, left, right), count - i);
  }
}

@inline
function binaryRowOf(op: i32, repeats: i32, a: usize, b: usize, out: usize, count: i32): void {
  if (repeats == 1) binaryRow(op, 1, a, b, out, count);
  else if (repeats == 2) binaryRow(op, 2, a, b, out, count);
  else binaryRow(op, 0, a, b, out, count);
}

function binaryRowSwitch(op: i32, repeats: i32, a: usize, b: usize, out: usize, count: i32): void {
  switch (op) {
    case ADD:
      return binaryRowOf(ADD, repeats, a, b, out, count);
    case SUB:
      return binaryRowOf(SUB, repeats, a, b, out, count);
    case MUL:
      return binaryRowOf(MUL, repeats, a, b, out, count);
    case DIV:
      return binaryRowOf(DIV, repeats, a, b, out, count);
    case MAX:
      return binaryRowOf(MAX, repeats, a, b, out, count);
    case MIN:
      return binaryRowOf(MIN, repeats, a, b, out, count);
    case LESS:
      return binaryRowOf(LESS, repeats, a, b, out, count);
    case EQUAL:
      return binaryRowOf(EQUAL, repeats, a, b, out, count);
    case ADD_INT:
      return binaryRowOf(ADD_INT, repeats, a, b, out, count);
    case SUB_INT:
      return binaryRowOf(SUB_INT, repeats, a, b, out, count);
    case MUL_INT:
      return binaryRowOf(MUL_INT, repeats, a, b, out, count);
    case LESS_I32:
      return binaryRowOf(LESS_I32, repeats, a, b, out, count);
    case LESS_U32:
      return binaryRowOf(LESS_U32, repeats, a, b, out, count);
    default:
      return binaryRowOf(EQUAL_INT, repeats, a, b, out, count);
  }
}

/**
 * out = op(a, b) over rows of `columns` elements: row (i0, i1, i2) of a starts at i0 a0 + i1 a1 + i2 a2. Within a row
 * an operand has stride 1, or repeats one element. Tasks: groups of rows of about CHUNK elements, or CHUNK columns of a
 * row.
 */
export function binary(
  begin: i32,
  end: i32,
  op: i32,
  repeats: i32,
  a: usize,
  b: usize,
  out: usize,
  rows: i32,
  columns: i32,
  extent1: i32,
  extent2: i32,
  a0: i32,
  a1: i32,
  a2: i32,
  b0: i32,
  b1: i32,
  b2: i32,
): void {
  const perRow = (columns + CHUNK - 1) / CHUNK, perTask = max(1, CHUNK / columns);
  for (let task = begin; task < end; task++) {
    const column = task % perRow * CHUNK;
    const count = min(CHUNK, columns - column);
    const shiftA = repeats == 1 ? 0 : column, shiftB = repeats == 2 ? 0 : column;
    const first = task / perRow * perTask;
    for (let row = first; row < min(rows, first + perTask); row++) {
      const i2 = row % extent2, outer = row / extent2, i1 = outer % extent1, i0 = outer / extent1;
      const atA = a + (usize(i0 * a0 + i1 * a1 + i2 * a2 + shiftA) << 2);
      const atB = b + (usize(i0 * b0 + i1 * b1 + i2 * b2 + shiftB) << 2);
      binaryRowSwitch(op, repeats, atA, atB, out + (usize(row * columns + column) << 2), count);
    }
  }
}

/** out[i] = mask[i] ? a[i] : b[i]. Tasks: chunks of `size` elements. */
export function where(begin: i32, end: i32, mask: usize, a: usize, b: usize, out: usize, size: i32): void {
  const zero = i32x4.splat(0);
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 4) {
    const at = usize(i) << 2, count = stop - i;
    const chosen = i32x4.ne(loadPart(mask + at, count), zero);
    storePart(out + at, v128.bitselect(loadPart(a + at, count), loadPart(b + at, count), chosen), count);
  }
}

const F32_TO_I32 = 0, F32_TO_U32 = 1, I32_TO_F32 = 2, U32_TO_F32 = 3;

@inline
function castLoop(kind: i32, x: usize, out: usize, count: i32): void {
  for (let i = 0; i < count; i += 4, x += 16, out += 16) {
    let lanes = loadPart(x, count - i);
    if (kind == F32_TO_I32) lanes = i32x4.trunc_sat_f32x4_s(lanes);
    if (kind == F32_TO_U32) lanes = i32x4.trunc_sat_f32x4_u(lanes);
    if (kind == I32_TO_F32) lanes = f32x4.convert_i32x4_s(lanes);
    if (kind == U32_TO_F32) lanes = f32x4.convert_i32x4_u(lanes);
    storePart(out, lanes, count - i);
  }
}

/** Values of x in another type; out-of-range floats saturate. Any other kind copies bits. Tasks: chunks of `size`. */
export function cast(begin: i32, end: i32, kind: i32, x: usize, out: usize, size: i32): void {
  const first = begin * CHUNK;
  const count = min(size, end * CHUNK) - first;
  x += usize(first) << 2;
  out += usize(first) << 2;
  switch (kind) {
    case F32_TO_I32:
      return castLoop(F32_TO_I32, x, out, count);
    case F32_TO_U32:
      return castLoop(F32_TO_U32, x, out, count);
    case I32_TO_F32:
      return castLoop(I32_TO_F32, x, out, count);
    case U32_TO_F32:
      return castLoop(U32_TO_F32, x, out, count);
    default:
      memory.copy(out, x, usize(count) << 2);
  }
}

/** out[i] = the 32 bits of `bits`. Tasks: chunks of `size` elements. */
export function fill(begin: i32, end: i32, bits: i32, out: usize, size: i32): void {
  const lanes = i32x4.splat(bits);
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i += 4) {
    storePart(out + (usize(i) << 2), lanes, stop - i);
  }
}

/** out[i] = start + i step, computed in f64; i32 unless `isFloat`. Tasks: chunks of `size` elements. */
export function iota(begin: i32, end: i32, isFloat: i32, start: f64, step: f64, out: usize, size: i32): void {
  for (let i = begin * CHUNK, stop = min(size, end * CHUNK); i < stop; i++) {
    const value = start + f64(i) * step;
    if (isFloat) store<f32>(out + (usize(i) << 2), f32(value));
    else store<i32>(out + (usize(i) << 2), i32(i64(value)));
  }
}

/** param[i] += delta[i], f32. Tasks: chunks of `size` elements. */
export function addInto(begin: i32, end: i32, param: usize, delta: usize, size: i32): void {
  const first = begin * CHUNK;
  const count = min(size, end * CHUNK) - first;
  param += usize(first) << 2;
  binaryRow(ADD, 0, param, delta + (usize(first) << 2), param, count);
}
