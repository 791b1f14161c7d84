/** Cases of unary, binary, where and cast, with references in plain f64 arithmetic. */
import type { BinaryOp, UnaryOp } from "../../core/backend.ts";
import { type DType, isFloat } from "../../core/dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";
import { blank, type Case, type Draw, draw, drawIntegers, given, type Layout, round, sample } from "./samples.ts";
import { allowance, type Bounds, EXACT, ONE_ULP, QUOTIENT } from "./tolerance.ts";

const FLOATS: readonly DType[] = ["f32", "f64", "bf16", "f16"];
/** Sizes around the widths of vectors and workgroups. */
const SIZES: readonly Shape[] = [[], [0], [1], [3], [31], [32], [33], [257], [5, 0], [3, 5, 7]];

interface UnaryEntry {
  readonly reference: (x: number) => number;
  readonly draw: () => Draw;
  readonly bounds: Bounds;
}

function near(cpu: number, webgpu: number, absolute: number, webgpuAbsolute = absolute): Bounds {
  return { cpu: { relative: cpu, absolute }, webgpu: { relative: webgpu, absolute: webgpuAbsolute } };
}

const UNARY: { readonly [Op in UnaryOp]: UnaryEntry } = {
  neg: { reference: (x) => -x, draw: () => draw(-3, 3, 0), bounds: EXACT },
  abs: { reference: (x) => (x < 0 ? -x : x), draw: () => draw(-3, 3, 0), bounds: EXACT },
  exp: { reference: Math.exp, draw: () => draw(-10, 10, 0, -200), bounds: near(2e-6, 1e-5, 1e-7) },
  log: { reference: Math.log, draw: () => draw(0.01, 100, 1), bounds: near(2e-6, 1e-5, 1e-7, 1e-6) },
  sqrt: { reference: Math.sqrt, draw: () => draw(0, 100, 0, 1, 4), bounds: QUOTIENT },
  rsqrt: { reference: (x) => x ** -0.5, draw: () => draw(0.01, 100, 1, 4), bounds: near(2e-6, 5e-6, 1e-6) },
  recip: { reference: (x) => 1 / x, draw: () => draw(0.1, 10, -3, 4), bounds: QUOTIENT },
  tanh: { reference: Math.tanh, draw: () => draw(-4, 4, 0, 50, -50, 1e-4), bounds: near(2e-6, 1e-5, 1e-6, 2e-6) },
  erf: { reference: erf, draw: () => draw(-4, 4, 0, 9, -9, 1e-4), bounds: near(2e-6, 1e-5, 1e-6, 2e-6) },
  sin: { reference: Math.sin, draw: () => draw(-3, 3, 0), bounds: near(0, 0, 1e-6, 5e-4) },
  cos: { reference: Math.cos, draw: () => draw(-3, 3, 0), bounds: near(0, 0, 1e-6, 5e-4) },
  floor: { reference: Math.floor, draw: () => draw(-9, 9, 0, 2, -2, -0.5), bounds: EXACT },
  sign: { reference: (x) => (x > 0 ? 1 : x < 0 ? -1 : 0), draw: () => draw(-3, 3, 0, 1e-6), bounds: EXACT },
};

/** Cases of `Kernels.unary`. */
export function unaryCases(): Case[] {
  return (Object.keys(UNARY) as UnaryOp[]).flatMap((op) => {
    const { reference, draw, bounds } = UNARY[op];
    const make = (dtype: DType, shape: Shape, next: Draw, offset: number): Case => {
      const x = sample(dtype, shape, next, { offset });
      const expected = x.values.map(reference);
      return {
        name: `${op} ${dtype}`,
        inputs: [x],
        out: blank(dtype, shape, { offset: 2 * offset }),
        run: (kernels, [x], out) => kernels.unary(op, x, out),
        expected,
        allowed: (device, i) => allowance(bounds, dtype, device, expected[i]),
      };
    };
    const floats = FLOATS.flatMap((dtype) =>
      [0, 4].flatMap((offset) => SIZES.map((shape) => make(dtype, shape, draw(), offset)))
    );
    const whole = op === "neg" || op === "abs" || op === "sign";
    return [...floats, ...(whole ? SIZES.map((shape) => make("i32", shape, drawIntegers(-9, 9), 4)) : [])];
  });
}

/** By its series, or far out by the continued fraction of the complement; Abramowitz & Stegun 7.1.6 and 7.1.14. */
function erf(x: number): number {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  if (size > 3) {
    let fraction = size;
    for (let i = 200; i > 0; i--) fraction = size + i / 2 / fraction;
    return Math.sign(x) * (1 - Math.exp(-x * x) / fraction / Math.sqrt(Math.PI));
  }
  let term = x;
  let sum = 0;
  for (let i = 1; sum + term !== sum; i++) {
    sum += term;
    term *= 2 * x * x / (2 * i + 1);
  }
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

interface BinaryEntry {
  readonly reference: (a: number, b: number) => number;
  readonly draws: () => readonly [Draw, Draw];
  readonly bounds: Bounds;
}

const plain = () => [draw(-3, 3), draw(-2, 4)] as const;
/** Whole numbers that often meet. */
const colliding = () => [drawIntegers(-2, 3), drawIntegers(-1, 3)] as const;

const BINARY: { readonly [Op in BinaryOp]: BinaryEntry } = {
  add: { reference: (a, b) => a + b, draws: plain, bounds: ONE_ULP },
  sub: { reference: (a, b) => a - b, draws: plain, bounds: ONE_ULP },
  mul: { reference: (a, b) => a * b, draws: plain, bounds: ONE_ULP },
  div: { reference: (a, b) => a / b, draws: () => [draw(-3, 3), draw(0.1, 5, -2)], bounds: QUOTIENT },
  max: { reference: (a, b) => (a > b ? a : b), draws: colliding, bounds: EXACT },
  min: { reference: (a, b) => (a < b ? a : b), draws: colliding, bounds: EXACT },
  pow: { reference: (a, b) => a ** b, draws: () => [draw(0.1, 4), draw(-3, 3)], bounds: near(2e-6, 2e-5, 1e-7) },
  less: { reference: (a, b) => (a < b ? 1 : 0), draws: colliding, bounds: EXACT },
  equal: { reference: (a, b) => (a === b ? 1 : 0), draws: colliding, bounds: EXACT },
};

/** Views that broadcasting, transposing and slicing make: an output shape and the layouts of both operands. */
const VIEWS: readonly (readonly [Shape, Layout, Layout])[] = [
  [[33, 31], { strides: [31, 1] }, { strides: [0, 1] }],
  [[31, 33], { strides: [1, 0] }, { strides: [33, 1], offset: 4 }],
  [[257], { strides: [1] }, { strides: [0], offset: 3 }],
  [[33], { strides: [0] }, { strides: [0] }],
  [[32, 33], { strides: [1, 32] }, { strides: [33, 1] }],
  [[2, 3, 5, 7], { strides: [105, 7, 21, 1], offset: 8 }, { strides: [0, 7, 0, 1] }],
  [[4, 1, 33], { strides: [80, 999, 2] }, { strides: [0, 0, 1], offset: 5 }],
  [[3, 0], { strides: [1, 3] }, { strides: [0, 0] }],
];

/** Cases of `Kernels.binary`. Powers of integers are left out: no op makes them. */
export function binaryCases(): Case[] {
  const cases: Case[] = [];
  for (const op of Object.keys(BINARY) as BinaryOp[]) {
    const { draws, bounds } = BINARY[op];
    const whole: readonly DType[] = op === "pow" ? [] : ["i32", "u32"];
    for (const dtype of [...FLOATS, ...whole]) {
      for (const shape of SIZES) {
        const layout = { strides: contiguousStrides(shape), offset: 4 };
        cases.push(binaryCase(op, dtype, isFloat(dtype) ? draws() : integers(dtype, op), bounds, [shape, layout, {}]));
      }
      for (const view of VIEWS) {
        cases.push(binaryCase(op, dtype, isFloat(dtype) ? draws() : integers(dtype, op), bounds, view));
      }
    }
  }
  const squares = () => [draw(-3, 3, -2), drawIntegers(0, 4, 2)] as const;
  for (const dtype of FLOATS) cases.push(binaryCase("pow", dtype, squares(), BINARY.pow.bounds, [[33], {}, {}]));
  return cases;
}

function integers(dtype: DType, op: BinaryOp): readonly [Draw, Draw] {
  const low = dtype === "i32" ? -9 : 0;
  const large = dtype === "i32" ? 2 ** 31 - 1 : 2 ** 32 - 1;
  if (op === "div") return [drawIntegers(low, 99, large), drawIntegers(1, 9, 3)];
  return [drawIntegers(low, 5, large, 123456789), drawIntegers(low, 5, 2, 987654321)];
}

function binaryCase(
  op: BinaryOp,
  dtype: DType,
  [nextA, nextB]: readonly [Draw, Draw],
  bounds: Bounds,
  [shape, layoutA, layoutB]: readonly [Shape, Layout, Layout],
): Case {
  const a = sample(dtype, shape, nextA, layoutA);
  const b = sample(dtype, shape, nextB, layoutB);
  const { reference } = BINARY[op];
  const result = op === "less" || op === "equal" ? "u32" : dtype;
  const expected = a.values.map((value, i) =>
    isFloat(dtype) ? reference(value, b.values[i]) : wrapped(op, dtype, value, b.values[i])
  );
  return {
    name: `${op} ${dtype}`,
    inputs: [a, b],
    out: blank(result, shape, { offset: 4 }),
    run: (kernels, [a, b], out) => kernels.binary(op, a, b, out),
    expected,
    allowed: (device, i) => isFloat(dtype) ? allowance(bounds, dtype, device, expected[i]) : 0,
  };
}

/** Integer arithmetic modulo 2^32, exact; quotients truncate. */
function wrapped(op: BinaryOp, dtype: DType, a: number, b: number): number {
  const exact = op === "mul" ? BigInt(a) * BigInt(b) : BigInt(Math.trunc(BINARY[op].reference(a, b)));
  return Number(dtype === "i32" ? BigInt.asIntN(32, exact) : BigInt.asUintN(32, exact));
}

/** Cases of `Kernels.where`. */
export function whereCases(): Case[] {
  return ([...FLOATS, "i32", "u32"] as const).flatMap((dtype) =>
    SIZES.map((shape): Case => {
      const next = () => isFloat(dtype) ? draw(-3, 3, Infinity, NaN) : drawIntegers(0, 99);
      const mask = sample("u32", shape, drawIntegers(0, 2), { offset: 3 });
      const a = sample(dtype, shape, next(), { offset: 4 });
      const b = sample(dtype, shape, next(), {});
      return {
        name: `where ${dtype}`,
        inputs: [mask, a, b],
        out: blank(dtype, shape, { offset: 4 }),
        run: (kernels, [mask, a, b], out) => kernels.where(mask, a, b, out),
        expected: mask.values.map((bit, i) => bit === 1 ? a.values[i] : b.values[i]),
      };
    })
  );
}

const DTYPES: readonly DType[] = [...FLOATS, "i32", "u32", "u8"];

/** Cases of `Kernels.cast`: values that the target can hold, and every kind of rounding on the way to 16 bits. */
export function castCases(): Case[] {
  const cases: Case[] = [];
  for (const from of DTYPES) {
    for (const to of DTYPES) {
      const unsigned = [from, to].some((dtype) => dtype === "u32" || dtype === "u8");
      const low = unsigned ? 0 : -100;
      const next = () => isFloat(from) ? draw(low, 200, 0.5, 1.5, 2.5, 99.99) : drawIntegers(low, 200);
      for (const shape of SIZES) cases.push(castCase(to, sample(from, shape, next(), { offset: 4 })));
    }
  }
  const halves: readonly DType[] = ["bf16", "f16"];
  // Ties to both sides, the largest numbers and what rounds beyond them, subnormals, and what is no number.
  const awkward = [2, 8, 9, 11, 12].flatMap((bits) => [1 + 2 ** -bits, 1 + 3 * 2 ** -bits, -1 - 2 ** -bits - 2 ** -20])
    .concat([65504, 65519, 65520, 3.3895e38, 3.3961e38, 2 ** -24, 2 ** -25, 3 * 2 ** -25, 1.1 * 2 ** -15, 2 ** -14])
    .concat([0, -0, Infinity, -Infinity, NaN]);
  for (const to of halves) cases.push(castCase(to, given("f32", [awkward.length], awkward, 4)));
  for (const from of halves) cases.push(castCase("f32", given(from, [awkward.length], awkward, 4)));
  cases.push(castCase("f32", given("i32", [4], [2 ** 24 + 1, 2 ** 24 + 3, -(2 ** 31), 2 ** 31 - 1])));
  cases.push(castCase("f32", given("u32", [2], [2 ** 32 - 1, 2 ** 31 + 1])));
  return cases;
}

function castCase(to: DType, x: ReturnType<typeof sample>): Case {
  return {
    name: `${x.dtype} to ${to}`,
    inputs: [x],
    out: blank(to, x.shape, { offset: sizeOf(x.shape) % 2 === 0 ? 0 : 4 }),
    run: (kernels, [x], out) => kernels.cast(x, out),
    expected: x.values.map((value) => isFloat(to) ? round(to, round("f32", value)) : Math.trunc(value)),
    // f64 to f64 keeps every bit; the reference above went through f32.
    ...(x.dtype === "f64" && to === "f64" ? { expected: x.values } : {}),
  };
}
