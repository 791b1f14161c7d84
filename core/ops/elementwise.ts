/**
 * Elementwise ops with NumPy broadcasting. A number stands for a scalar tensor of the other operand's dtype, to which it
 * is rounded: beside 16-bit operands to two or three digits.
 * Masks are u32 tensors of 0 and 1; comparisons carry no gradient.
 */
import type { BinaryOp, UnaryOp } from "../backend.ts";
import { type DType, isFloat } from "../dtype.ts";
import { record, type Vjp } from "../autograd.ts";
import { checkAlike, composed, factors, fused, widened } from "../define.ts";
import { scope } from "../scope.ts";
import { broadcastShapes, broadcastStrides, describe, sameShape } from "../shape.ts";
import { empty, type Tensor } from "../tensor.ts";
import { fill } from "./create.ts";
import { broadcastTo, contiguous, sumTo } from "./layout.ts";

/** A tensor, or a number that stands for a scalar tensor. */
export type TensorLike = Tensor | number;

function unary(op: UnaryOp, x: Tensor, saves: "input" | "output" | "nothing", vjp: Vjp): Tensor {
  const source = contiguous(x);
  const out = empty(x.backend, x.shape, x.dtype);
  x.backend.kernels.unary(op, source, out);
  return record(op, out, [x], saves === "input" ? [source] : saves === "output" ? [out] : [], vjp);
}

/** -x */
export function neg(x: Tensor): Tensor {
  return unary("neg", x, "nothing", (g) => [() => neg(g)]);
}

/** |x|; the gradient at 0 is 0. */
export function abs(x: Tensor): Tensor {
  return unary("abs", x, "input", (g, [input]) => [() => mul(g, sign(input))]);
}

/** e^x. The gradient needs only the output, so only that is kept. */
export function exp(x: Tensor): Tensor {
  return unary("exp", x, "output", (g, [out]) => [() => mul(g, out)]);
}

/** Natural logarithm. */
export function log(x: Tensor): Tensor {
  return unary("log", x, "input", (g, [input]) => [() => div(g, input)]);
}

/** Square root. */
export function sqrt(x: Tensor): Tensor {
  return unary("sqrt", x, "output", (g, [out]) => [() => div(mul(g, 0.5), out)]);
}

/** 1 / sqrt(x) */
export function rsqrt(x: Tensor): Tensor {
  return unary("rsqrt", x, "output", (g, [out]) => [() => mul(mul(g, -0.5), mul(out, square(out)))]);
}

/** 1 / x */
export function recip(x: Tensor): Tensor {
  return unary("recip", x, "output", (g, [out]) => [() => neg(mul(g, square(out)))]);
}

/** Hyperbolic tangent. */
export function tanh(x: Tensor): Tensor {
  return unary("tanh", x, "output", (g, [out]) => [() => mul(g, sub(1, square(out)))]);
}

/** The error function, 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x. */
export function erf(x: Tensor): Tensor {
  const slope = 2 / Math.sqrt(Math.PI);
  return unary("erf", x, "input", (g, [input]) => [() => mul(g, mul(exp(neg(square(input))), slope))]);
}

/** Sine. On a GPU, exact only within [-pi, pi]. */
export function sin(x: Tensor): Tensor {
  return unary("sin", x, "input", (g, [input]) => [() => mul(g, cos(input))]);
}

/** Cosine. On a GPU, exact only within [-pi, pi]. */
export function cos(x: Tensor): Tensor {
  return unary("cos", x, "input", (g, [input]) => [() => neg(mul(g, sin(input)))]);
}

/** Largest integer not above x. No gradient flows. */
export function floor(x: Tensor): Tensor {
  return unary("floor", x, "nothing", () => [undefined]);
}

/** -1, 0 or 1. No gradient flows. */
export function sign(x: Tensor): Tensor {
  return unary("sign", x, "nothing", () => [undefined]);
}

/** x * x */
export function square(x: Tensor): Tensor {
  return record("square", raw("mul", x, x), [x], [x], (g, [input]) => [() => mul(mul(g, 2), input)]);
}

/** The kernel over broadcast views; off the tape. */
function raw(op: BinaryOp, a: Tensor, b: Tensor): Tensor {
  checkAlike(op, a, b);
  const shape = broadcastShapes(a.shape, b.shape);
  if (!shape) throw new TypeError(`Cannot broadcast in ${op}(): got a ${describe(a)} and b ${describe(b)}`);
  const out = empty(a.backend, shape, op === "less" || op === "equal" ? "u32" : a.dtype);
  using left = view(a, shape);
  using right = view(b, shape);
  a.backend.kernels.binary(op, left, right, out);
  return out;
}

function view(x: Tensor, shape: readonly number[]): Tensor {
  return x.view(shape, sameShape(x.shape, shape) ? x.strides : broadcastStrides(x.shape, x.strides, shape), x.offset);
}

/** Runs `body` with both operands as tensors: a number takes the other's backend and dtype, and is freed after. */
function lifted(a: TensorLike, b: TensorLike, body: (x: Tensor, y: Tensor) => Tensor): Tensor {
  if (typeof a === "number") {
    if (typeof b === "number") throw new TypeError("Cannot combine two numbers: one operand must be a tensor");
    using scalar = fill(b.backend, a, [], b.dtype);
    return body(scalar, b);
  }
  if (typeof b !== "number") return body(a, b);
  using scalar = fill(a.backend, b, [], a.dtype);
  return body(a, scalar);
}

/** a + b */
export function add(a: TensorLike, b: TensorLike): Tensor {
  return lifted(
    a,
    b,
    (x, y) => record("add", raw("add", x, y), [x, y], [], (g) => [() => sumTo(g, x.shape), () => sumTo(g, y.shape)]),
  );
}

/** a - b */
export function sub(a: TensorLike, b: TensorLike): Tensor {
  return lifted(
    a,
    b,
    (x, y) =>
      record("sub", raw("sub", x, y), [x, y], [], (g) => [() => sumTo(g, x.shape), () => neg(sumTo(g, y.shape))]),
  );
}

/** a * b */
export function mul(a: TensorLike, b: TensorLike): Tensor {
  return lifted(a, b, (x, y) =>
    record("mul", raw("mul", x, y), [x, y], factors(x, y), (g, [p, q]) => [
      () => sumTo(mul(g, q), x.shape),
      () => sumTo(mul(g, p), y.shape),
    ]));
}

/** a / b */
export function div(a: TensorLike, b: TensorLike): Tensor {
  return lifted(a, b, (x, y) => {
    const out = raw("div", x, y);
    return record("div", out, [x, y], [y, y.node ? out : y], (g, [q, ratio]) => [
      () => sumTo(div(g, q), x.shape),
      () => sumTo(neg(mul(div(g, q), ratio)), y.shape),
    ]);
  });
}

/** The larger of a and b; where they are equal the gradient is shared. */
export function maximum(a: TensorLike, b: TensorLike): Tensor {
  return extreme("max", a, b);
}

/** The smaller of a and b; where they are equal the gradient is shared. */
export function minimum(a: TensorLike, b: TensorLike): Tensor {
  return extreme("min", a, b);
}

function extreme(op: "max" | "min", a: TensorLike, b: TensorLike): Tensor {
  const share = (g: Tensor, mine: Tensor, other: Tensor) => {
    const wins = op === "max" ? less(other, mine) : less(mine, other);
    const weight = add(cast(wins, g.dtype), mul(cast(equal(mine, other), g.dtype), 0.5));
    return sumTo(mul(g, weight), mine.shape);
  };
  return lifted(
    a,
    b,
    (x, y) => record(op, raw(op, x, y), [x, y], [x, y], (g, [p, q]) => [() => share(g, p, q), () => share(g, q, p)]),
  );
}

/** x limited to [low, high]; no gradient flows outside. */
export function clamp(x: Tensor, low: number, high: number): Tensor {
  return composed("clamp", () => minimum(maximum(x, low), high));
}

/** a ^ b. The gradient of b needs a > 0. */
export function pow(a: TensorLike, b: TensorLike): Tensor {
  return lifted(a, b, (x, y) => {
    const out = raw("pow", x, y);
    return record("pow", out, [x, y], [x, y, y.node ? out : y], (g, [base, power, result]) => [
      () => sumTo(mul(g, mul(power, pow(base, sub(power, 1)))), base.shape),
      () => sumTo(mul(g, mul(result, log(base))), power.shape),
    ]);
  });
}

/** Mask of a < b. */
export function less(a: TensorLike, b: TensorLike): Tensor {
  return lifted(a, b, (x, y) => raw("less", x, y));
}

/** Mask of a == b. */
export function equal(a: TensorLike, b: TensorLike): Tensor {
  return lifted(a, b, (x, y) => raw("equal", x, y));
}

/** mask ? a : b, all broadcast. mask u32. */
export function where(mask: Tensor, a: TensorLike, b: TensorLike): Tensor {
  return lifted(a, b, (x, y) => select(mask, x, y));
}

function select(mask: Tensor, x: Tensor, y: Tensor): Tensor {
  checkAlike("where", x, y);
  if (mask.dtype !== "u32") {
    throw new TypeError(`Cannot select in where(): the mask must be u32, got ${describe(mask)}`);
  }
  const shape = broadcastShapes(mask.shape, x.shape, y.shape);
  if (!shape) {
    throw new TypeError(`Cannot broadcast in where(): got ${describe(mask)}, ${describe(x)} and ${describe(y)}`);
  }
  using inner = scope("where");
  const out = empty(x.backend, shape, x.dtype);
  const full = contiguous(broadcastTo(mask, shape));
  x.backend.kernels.where(full, contiguous(broadcastTo(x, shape)), contiguous(broadcastTo(y, shape)), out);
  return inner.keep(record("where", out, [x, y], [full], (g, [chosen]) => [
    () => sumTo(where(chosen, g, 0), x.shape),
    () => sumTo(where(chosen, 0, g), y.shape),
  ]));
}

/** Converts values; the gradient converts back. A no-op for the same dtype. */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x;
  const out = empty(x.backend, x.shape, dtype);
  x.backend.kernels.cast(contiguous(x), out);
  const from = x.dtype;
  return isFloat(dtype) ? record("cast", out, [x], [], (g) => [() => cast(g, from)]) : out;
}

/** A view of x off the tape: no gradient flows through it. */
export function stopGradient(x: Tensor): Tensor {
  return x.view(x.shape, x.strides, x.offset);
}

/** 1 / (1 + e^-x). The gradient is taken from the output, because e^-x overflows where it vanishes. */
export function sigmoid(x: Tensor): Tensor {
  const compose = widened(x.dtype, (input) => recip(add(exp(neg(input)), 1)));
  const out = composed("sigmoid", () => compose(stopGradient(x)));
  return record("sigmoid", out, [x], [out], (g, [s]) => [() => mul(g, mul(s, sub(1, s)))]);
}

/** max(x, 0); the gradient at 0 is 0. */
export function relu(x: Tensor): Tensor {
  return composed("relu", () => mul(x, cast(less(0, x), x.dtype)));
}

/** x * sigmoid(x) (Elfwing et al. 2017). */
export function silu(x: Tensor): Tensor {
  return fused("silu", [x], {}, x, (input) => mul(input, sigmoid(input)));
}

/** silu(gate) * up (Shazeer 2020, "GLU variants"). Both of one shape. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  checkAlike("swiglu", gate, up);
  if (!sameShape(gate.shape, up.shape)) {
    throw new TypeError(`Cannot apply swiglu(): shapes must match: got gate ${describe(gate)} and up ${describe(up)}`);
  }
  return fused("swiglu", [gate, up], {}, gate, (g, u) => mul(silu(g), u));
}

/**
 * Gaussian error linear unit (Hendrycks & Gimpel 2016): x Phi(x) with erf (`none`, the default, as HF's "gelu") or its
 * tanh approximation (`tanh`, HF's "gelu_new").
 */
export function gelu(x: Tensor, approximate: "none" | "tanh" = "none"): Tensor {
  return fused("gelu", [x], { approximate }, x, (input) => {
    if (approximate === "none") return mul(mul(input, 0.5), add(erf(mul(input, Math.SQRT1_2)), 1));
    const cubic = mul(mul(square(input), input), 0.044715);
    return mul(mul(input, 0.5), add(tanh(mul(add(input, cubic), Math.sqrt(2 / Math.PI))), 1));
  });
}
