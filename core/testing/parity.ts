/**
 * Fused against composed: values and gradients of every fused entry of a backend, at awkward sizes in f32 (and in the
 * 16-bit types, if asked), against the composed form on the same backend and against the loops in f64. Any backend's test
 * can register them.
 *
 * Tolerances are those of other frameworks and of the WGSL specification: an exponential of 3 + 2 |x| units in the last
 * place, sums by pairs, and a quotient of 2.5. A 16-bit type adds one rounding of the output and two of the gradients,
 * which may come by way of a rounded output.
 */
import assert from "node:assert/strict";
import { loopsBackend } from "../../backends/cpu/loops/mod.ts";
import type { Backend, FusedName } from "../backend.ts";
import { withoutFused } from "../define.ts";
import type { DType } from "../dtype.ts";
import { attention, type AttentionOptions, rope } from "../ops/attention.ts";
import { gelu, silu, swiglu } from "../ops/elementwise.ts";
import { crossEntropy, sumOfSquares } from "../ops/loss.ts";
import { layerNorm, rmsNorm, softmax } from "../ops/norm.ts";
import { sizeOf } from "../shape.ts";
import type { OpCase } from "./cases.ts";
import { counted } from "./fake_fused.ts";
import { random } from "./gradcheck.ts";
import { assertClose, assertRms } from "./golden.ts";
import {
  constant,
  evaluate,
  type Evaluation,
  float,
  given,
  index,
  type InputSpec,
  layOut,
  mask,
  representable,
  roundTo,
} from "./inputs.ts";
import { assertNoLeak } from "./leaks.ts";
import { registerTest } from "./register.ts";

/** Where rounding is looser: a GPU's functions are approximate. */
export type Device = "cpu" | "gpu";

/** Types that an entry can be tried in. */
export type ParityType = "f32" | "bf16" | "f16";

/** How close an op's values must be, elementwise, and its gradients, as a whole. */
interface Tolerance {
  readonly value: { readonly rtol: number; readonly atol: number };
  readonly gradient: number;
}

const TOLERANCES: { readonly [Name in FusedName]: { readonly [Where in Device]: Tolerance } } = {
  softmax: tolerance({ rtol: 2e-6, atol: 1e-7 }, { rtol: 1e-5, atol: 1e-7 }),
  crossEntropy: tolerance({ rtol: 1e-6, atol: 1e-7 }, { rtol: 5e-6, atol: 1e-7 }),
  rmsNorm: tolerance({ rtol: 2e-6, atol: 1e-6 }, { rtol: 5e-6, atol: 1e-6 }),
  layerNorm: tolerance({ rtol: 2e-6, atol: 1e-6 }, { rtol: 5e-6, atol: 1e-6 }),
  gelu: tolerance({ rtol: 2e-6, atol: 1e-6 }, { rtol: 1e-5, atol: 2e-6 }),
  silu: tolerance({ rtol: 2e-6, atol: 1e-6 }, { rtol: 1e-5, atol: 2e-6 }),
  swiglu: tolerance({ rtol: 2e-6, atol: 1e-6 }, { rtol: 1e-5, atol: 2e-6 }),
  rope: tolerance({ rtol: 0, atol: 1e-6 }, { rtol: 0, atol: 1e-6 }),
  attention: tolerance({ rtol: 1e-5, atol: 1e-6 }, { rtol: 5e-5, atol: 5e-6 }, 2e-5),
  sumOfSquares: tolerance({ rtol: 1e-6, atol: 1e-7 }, { rtol: 5e-6, atol: 1e-7 }),
};

/** Ops over 16-bit operands that give f32. */
const GIVES_F32: readonly FusedName[] = ["crossEntropy", "sumOfSquares"];

/** Half the distance between neighbours, relative and among subnormals. */
const ROUNDING = { f32: [0, 0], bf16: [2 ** -8, 2 ** -134], f16: [2 ** -11, 2 ** -25] } as const;

function tolerance(cpu: Tolerance["value"], gpu: Tolerance["value"], gradient = 1e-5) {
  return { cpu: { value: cpu, gradient }, gpu: { value: gpu, gradient: 1e-4 } };
}

const SIZES = [1, 31, 32, 33, 257];

function rows(run: OpCase["run"], inputs: (size: number) => InputSpec[]): OpCase[] {
  return SIZES.map((size) => ({ name: `of ${size}`, inputs: inputs(size), run }));
}

/** Weights, which are around 1. */
function around1(size: number): InputSpec {
  return float([size], 0.5, 1.5);
}

function attends(
  [B, T, S, H, G, K]: readonly number[],
  options: AttentionOptions = {},
  keys?: InputSpec,
): OpCase {
  const traits = [options.causal && "causal", keys && "masked"].filter(Boolean).join(", ");
  return {
    name: `of B ${B} T ${T} S ${S} H ${H} G ${G} K ${K} ${traits}`,
    inputs: [float([B, T, H, K]), float([B, S, G, K]), float([B, S, G, K]), ...(keys ? [keys] : [])],
    run: (q, k, v, seen) => attention(q, k, v, seen ? { ...options, mask: seen } : options),
  };
}

const causal = { causal: true };

/** What each fused entry is tried on: a missing one is a compile error. */
export const PARITY_CASES: { readonly [Name in FusedName]: readonly OpCase[] } = {
  softmax: [
    ...rows((x) => softmax(x), (n) => [float([n])]),
    ...rows((x) => softmax(x), (n) => [float([3, n], -30, 30)]),
    ...rows((x) => softmax(x), (n) => [float([n, 2, 3], 900, 1000)]),
  ],
  crossEntropy: [
    ...rows((x, t) => crossEntropy(x, t), (n) => [float([1, n], -20, 20), index([1], n)]),
    ...rows((x, t) => crossEntropy(x, t), (n) => [float([33, n]), index([33], n, { holes: true })]),
    ...rows((x, t) => crossEntropy(x, t, 2), (n) => [float([n, 7], 90, 100), index([n], 7)]),
    ...rows((x, t) => crossEntropy(x, t), (n) => [float([n, 5]), given("i32", [n], new Float64Array(n).fill(-100))]),
  ],
  rmsNorm: [
    // the gradient of a single element is a difference of equals, which rounding near 1 / x drowns where x is small
    ...rows((x, w) => rmsNorm(x, w, 1e-5), (n) => [float([3, n], n === 1 ? 1 : -2, 2), around1(n)]),
    ...rows((x, w) => rmsNorm(x, w, 1e-6), (n) => [float([n, 32], -1e-3, 1e-3), around1(32)]),
    ...rows((x, w) => rmsNorm(x, w, 1e-5), (n) => [float([n], 50, 100), around1(n)]),
  ],
  layerNorm: [
    ...rows((x, w, b) => layerNorm(x, w, b, 1e-5), (n) => [float([3, n]), around1(n), float([n])]),
    ...rows((x, w, b) => layerNorm(x, w, b, 1e-3), (n) => [float([n, 32], -1e-2, 1e-2), around1(32), float([32])]),
    ...rows((x, w, b) => layerNorm(x, w, b, 1e-5), (n) => [float([2, 1, n], 4, 6), around1(n), float([n])]),
  ],
  gelu: [
    ...rows((x) => gelu(x), (n) => [float([n], -9, 9)]),
    ...rows((x) => gelu(x), (n) => [float([3, n])]),
    ...rows((x) => gelu(x, "tanh"), (n) => [float([n], -9, 9)]),
    ...rows((x) => gelu(x, "tanh"), (n) => [float([3, n])]),
  ],
  silu: [...rows(silu, (n) => [float([n], -90, 90)]), ...rows(silu, (n) => [float([3, n])])],
  swiglu: [
    ...rows(swiglu, (n) => [float([n], -30, 30), float([n])]),
    ...rows(swiglu, (n) => [float([2, 1, n]), float([2, 1, n])]),
  ],
  rope: [
    ...rows(rope, (n) => [float([2, n, 3, 8]), constant([n, 4], -1, 1), constant([n, 4], -1, 1)]),
    ...[2, 6, 34, 128].map((k): OpCase => ({
      name: `of heads of ${k}`,
      inputs: [float([1, 5, 2, k]), constant([5, k / 2], -1, 1), constant([5, k / 2], -1, 1)],
      run: rope,
    })),
  ],
  attention: [
    ...SIZES.flatMap((n) => [
      attends([2, n, n, 2, 2, 8], causal),
      attends([1, n, n, 4, 2, 6]),
      attends([1, 3, n, 6, 1, 5], causal),
      attends([2, 3, n, 2, 1, 4], {}, mask([2, n])),
    ]),
    ...[1, 31, 33, 64, 128].map((k) => attends([1, 5, 7, 2, 1, k], causal)),
    attends([2, 33, 65, 6, 2, 16], { causal: true, scale: 0.3 }, mask([2, 65])),
    attends([2, 5, 40, 4, 2, 8], causal, given("u32", [2, 40], Array.from({ length: 80 }, (_, i) => i < 40 ? 0 : 1))),
    attends([1, 40, 33, 2, 2, 8], causal), // the first queries see no key
    attends([1, 7, 7, 2, 2, 8], { scale: 3 }),
  ],
  sumOfSquares: [
    ...rows(sumOfSquares, (n) => [float([n])]),
    ...rows(sumOfSquares, (n) => [float([33, n], 5, 9)]),
    ...rows(sumOfSquares, (n) => [float([2, n, 3, 32], -1e-3, 1e-3)]),
    { name: "of nothing", inputs: [float([3, 0])], run: sumOfSquares },
  ],
};

/** What is asserted of an evaluation: how close it is, and its dtype. */
interface Demand extends Tolerance {
  readonly dtype: DType;
}

/** Asserts that values and gradients agree. */
function assertAgree(what: string, actual: Evaluation, expected: Evaluation, { dtype, value, gradient }: Demand): void {
  assert.deepEqual([actual.shape, actual.dtype], [expected.shape, dtype], what);
  assertClose(`${what}: value`, actual.value, expected.value, value);
  actual.gradients.forEach((own, i) => {
    assert.equal(own !== undefined, expected.gradients[i] !== undefined, `${what}: gradient ${i}`);
    // where the exact gradient vanishes, what is left over is rounding of terms near 1
    const floor = 0.03;
    if (own) assertRms(`${what}: gradient ${i}`, own, expected.gradients[i]!, { tolerance: gradient, floor });
  });
}

/** What `op` must keep to in `dtype`: the tolerance of f32, and the roundings of the type in which results are stored. */
function demandOf(op: FusedName, device: Device, dtype: ParityType): Demand {
  const { value, gradient } = TOLERANCES[op][device];
  const stored = GIVES_F32.includes(op) ? "f32" : dtype;
  const [relative, absolute] = ROUNDING[stored];
  return {
    dtype: stored,
    value: { rtol: value.rtol + 1.01 * relative, atol: value.atol + absolute },
    gradient: gradient + 2 * ROUNDING[dtype][0],
  };
}

/** Twice as far from each other as each from the truth. */
function twice({ dtype, value: { rtol, atol }, gradient }: Demand): Demand {
  return { dtype, value: { rtol: 2 * rtol, atol: 2 * atol }, gradient: 2 * gradient };
}

/** How an op is tried. */
export interface CheckOptions {
  /** Whose tolerances hold; `cpu` by default. */
  readonly device?: Device;
  /** Default f32. */
  readonly dtype?: ParityType;
  /** Default: all of `PARITY_CASES`. */
  readonly cases?: readonly OpCase[];
}

/**
 * Holds one fused op of `plain` to its composed form, and to the loops in f64, on inputs that `dtype` holds exactly. The
 * entry, if there is one, must run in f32; it may decline the 16-bit types.
 */
export async function checkFused(
  op: FusedName,
  plain: Backend,
  { device = "cpu", dtype = "f32", cases = PARITY_CASES[op] }: CheckOptions = {},
): Promise<void> {
  using loops = loopsBackend();
  const { backend, runs } = counted(plain, op);
  const within = demandOf(op, device, dtype);
  for (const { name, inputs: specs, run } of cases) {
    for (const layout of ["contiguous", "offset"] as const) {
      const what = `${op} ${name} ${layout}${dtype === "f32" ? "" : ` ${dtype}`}`;
      const inputs = specs.map((spec, i) => representable(layOut(spec, `${op} ${name} ${i}`, layout), dtype));
      const probe = await evaluate(loops, inputs, run);
      const cotangent = roundTo(within.dtype, random(`${what} cotangent`, sizeOf(probe.shape)));
      const exact = await evaluate(loops, inputs, run, { cotangent });
      const options = { dtype, cotangent };
      const fused = await assertNoLeak(what, plain, () => evaluate(backend, inputs, run, options));
      assertAgree(`${what} against f64`, fused, exact, within);
      const compose: OpCase["run"] = (...tensors) => withoutFused(() => run(...tensors));
      const composed = await evaluate(plain, inputs, compose, options);
      assertAgree(`${what} against composed`, fused, composed, twice(within));
    }
  }
  if (op === "sumOfSquares") await checkNotFinite(backend, dtype);
  const entry = plain.fused[op];
  if (dtype !== "f32") return;
  assert.equal(runs.forward > 0, entry !== undefined, `${op}: the entry ran ${runs.forward} times`);
  assert.equal(runs.vjp > 0, entry?.vjp !== undefined, `${op}: the entry's vjp ran ${runs.vjp} times`);
}

/** No infinity and no NaN may get lost in a sum of squares, wherever it is: a training step is judged by it. */
async function checkNotFinite(backend: Backend, dtype: ParityType): Promise<void> {
  for (const special of [Infinity, -Infinity, NaN]) {
    for (const place of [0, 31, 258, 5000]) {
      const numbers = new Float64Array(5001).fill(1).with(place, special);
      const input = layOut(given("float", [numbers.length], numbers), "special", "contiguous");
      const { value: [sum] } = await evaluate(backend, [input], sumOfSquares, { dtype });
      assert.ok(!Number.isFinite(sum), `sumOfSquares with ${special} at ${place} in ${dtype} is ${sum}`);
    }
  }
}

/** What a backend's test can say of it. */
interface ParityOptions {
  readonly device?: Device;
  readonly dtypes?: readonly ParityType[];
  readonly ops?: readonly FusedName[];
  readonly ignore?: string;
}

/**
 * Registers a test for each fused op and dtype. An entry that runs in none of its f32 cases fails; without an entry the
 * composed form is held to the loops all the same.
 *
 * @param device whose tolerances hold; `cpu` by default
 * @param dtypes what the entries are tried in; f32 by default
 * @param ops which fused ops; all by default
 * @param ignore why the tests cannot run here, if they cannot
 */
export function fusedParity(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { device = "cpu", dtypes = ["f32"], ops = Object.keys(PARITY_CASES) as FusedName[], ignore }: ParityOptions = {},
): void {
  for (const op of ops) {
    for (const dtype of dtypes) {
      const where = dtype === "f32" ? "" : ` on ${dtype}`;
      registerTest(`${name}: fused ${op}${where} agrees with its composed form and with the loops in f64`, async () => {
        using backend = await makeBackend();
        await checkFused(op, backend, { device, dtype });
      }, ignore);
    }
  }
}
