import assert from "node:assert/strict";
import type { FusedAttributes, FusedKernel, FusedName, Operand } from "../../core/backend.ts";
import type { HostArray } from "../../core/dtype.ts";
import { keyOf, normal, uniform } from "../../core/random.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { erf } from "./loops/erf.ts";
import { wasmFused } from "./wasm_fused.ts";
import { assertClose, type TestDevice, testEverywhere } from "./wasm_testing.ts";

const SIZES = [1, 31, 32, 33, 257];

type Values = Float64Array;
/** An op in f64: inputs row-major, output row-major. */
type Reference = (inputs: readonly Values[]) => Values;

interface Case<Name extends FusedName> {
  readonly name: Name;
  readonly attributes: FusedAttributes[Name];
  readonly shapes: readonly Shape[];
  readonly data: readonly ArrayLike<number>[];
  readonly dtypes?: readonly ("f32" | "i32" | "u32")[];
  readonly outShape?: Shape;
  readonly reference: Reference;
  /** Inputs to differentiate by. */
  readonly by: readonly number[];
  readonly forward: { readonly rtol: number; readonly atol: number };
  /** Of gradients, relative to the largest. */
  readonly backward: number;
}

/** Registers a test of value and gradients against the f64 reference, whose numbers are computed once. */
function testCase<Name extends FusedName>(label: string, test: Case<Name>): void {
  const inputs = test.data.map((values) => Float64Array.from(values));
  const outShape = test.outShape ?? test.shapes[0];
  const weights = normal(keyOf(99), sizeOf(outShape));
  const loss = (at: readonly Values[]) => test.reference(at).reduce((sum, value, i) => sum + value * weights[i], 0);
  const moved = (index: number, direction: ArrayLike<number>, step: number) =>
    inputs.map((values, i) => i === index ? values.map((value, j) => value + step * direction[j]) : values);
  const slope = (index: number, direction: ArrayLike<number>) =>
    (loss(moved(index, direction, 1e-5)) - loss(moved(index, direction, -1e-5))) / 2e-5;
  let expected: { out: Values; probes: { index: number; direction: Float32Array; slope: number }[] } | undefined;
  const expect = () =>
    expected ??= {
      out: test.reference(inputs),
      probes: test.by.flatMap((index) =>
        directions(inputs[index].length).map((direction) => ({ index, direction, slope: slope(index, direction) }))
      ),
    };
  testEverywhere(`${test.name} matches f64 in value and gradient: ${label}`, (device) => {
    const { out, probes } = expect();
    const { value, grads } = runCase(device, test, outShape, weights);
    assertClose(value, out, { ...test.forward, what: "value" });
    for (const { index, direction, slope } of probes) {
      const gradient = grads[index]!;
      const largest = gradient.reduce((most, part) => Math.max(most, Math.abs(part)), 0);
      const actual = gradient.reduce((sum, part, i) => sum + part * direction[i], 0);
      const reach = Math.sqrt(direction.reduce((sum, part) => sum + part * part, 0));
      const atol = test.backward * Math.max(largest, 0.1) * reach + 1e-8;
      assertClose([actual], [slope], { rtol: 0, atol, what: `gradient of input ${index}` });
    }
    return [value, ...grads.filter((grad) => grad !== undefined)];
  });
}

/** One random direction, which sees every element, and up to 12 single elements. */
function directions(size: number): Float32Array[] {
  const picks = new Set([0, size - 1, ...Array.from(uniform(keyOf(7), 10), (u) => Math.floor(u * size))]);
  const units = [...picks].map((pick) => new Float32Array(size).fill(1, pick, pick + 1));
  return [normal(keyOf(8), size), ...units];
}

function runCase<Name extends FusedName>(
  device: TestDevice,
  test: Case<Name>,
  outShape: Shape,
  weights: Float32Array,
): { value: Float32Array; grads: (Float32Array | undefined)[] } {
  const kernel = wasmFused(device)[test.name] as FusedKernel<FusedAttributes[Name]>;
  const operands = test.shapes.map((shape, i) => device.operand(shape, test.data[i], test.dtypes?.[i]));
  assert.ok(kernel.supports(operands, test.attributes), "must be supported");
  const out = device.operand(outShape);
  const residuals = (kernel.residuals?.(operands, test.attributes) ?? []).map(({ shape }) => device.operand(shape));
  kernel.forward(operands, test.attributes, out, residuals);
  const { saves, run } = kernel.vjp!;
  const saved = operands.map((operand, i) => saves.inputs.includes(i) ? operand : undefined);
  const grads = operands.map((operand, i) => test.by.includes(i) ? device.operand(operand.shape) : undefined);
  const gradient = device.operand(outShape, weights);
  run({ inputs: saved, out: saves.out ? out : undefined, residuals }, gradient, test.attributes, grads);
  // Wanted alone, each gradient has the same bits.
  for (const index of test.by.length > 1 ? test.by : []) {
    const alone = grads.map((grad, i) => i === index ? device.operand(grad!.shape) : undefined);
    run({ inputs: saved, out: saves.out ? out : undefined, residuals }, gradient, test.attributes, alone);
    assert.deepEqual(device.values(alone[index]!), device.values(grads[index]!));
  }
  return {
    value: device.values(out) as Float32Array,
    grads: grads.map((grad) => grad && device.values(grad) as Float32Array),
  };
}

/** `reference` applied to rows of `columns` elements of the first input; the others are passed whole. */
function byRow(columns: number, row: (x: Values, rest: readonly Values[]) => ArrayLike<number>): Reference {
  return ([x, ...rest]) => {
    const out = new Float64Array(x.length);
    for (let at = 0; at < x.length; at += columns) out.set(row(x.subarray(at, at + columns), rest), at);
    return out;
  };
}

const mean = (values: Values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function softmaxRow(x: Values): Values {
  const top = x.reduce((most, value) => Math.max(most, value), -Infinity);
  const powers = x.map((value) => Math.exp(value - top));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}

for (const [rows, columns] of [...SIZES.map((size) => [3, size]), [70, 33], [2, 9001]]) {
  const x = normal(keyOf(1), rows * columns, 0, 3);
  const [weight, bias] = [2, 3].map((seed) => normal(keyOf(seed), columns, 1));
  const label = `[${rows}, ${columns}]`;
  testCase(label, {
    name: "softmax",
    attributes: {},
    shapes: [[rows, columns]],
    data: [x],
    reference: byRow(columns, softmaxRow),
    by: [0],
    forward: { rtol: 2e-6, atol: 1e-7 },
    backward: 1e-5,
  });
  testCase(label, {
    name: "rmsNorm",
    attributes: { eps: 1e-6 },
    shapes: [[rows, columns], [columns]],
    data: [x, weight],
    reference: byRow(columns, (row, [w]) => {
      const r = 1 / Math.sqrt(mean(row.map((value) => value * value)) + 1e-6);
      return row.map((value, i) => value * r * w[i] * 1.00001);
    }),
    by: [0, 1],
    forward: { rtol: 2e-6, atol: 1e-6 },
    backward: 1e-5,
  });
  testCase(label, {
    name: "layerNorm",
    attributes: { eps: 1e-5 },
    shapes: [[rows, columns], [columns], [columns]],
    data: [x, weight, bias],
    reference: byRow(columns, (row, [w, b]) => {
      const center = mean(row);
      const r = 1 / Math.sqrt(mean(row.map((value) => (value - center) ** 2)) + 1e-5);
      return row.map((value, i) => (value - center) * r * w[i] * 1.00001 + b[i]);
    }),
    by: [0, 1, 2],
    forward: { rtol: 2e-6, atol: 1e-6 },
    backward: 1e-5,
  });
}

const silu = (x: number) => x / (1 + Math.exp(-x));
const ACTIVATIONS: [FusedName, FusedAttributes["gelu"] | Record<never, never>, (x: number) => number][] = [
  ["gelu", { approximate: "none" }, (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2))],
  ["gelu", { approximate: "tanh" }, (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.04472 * x ** 3)))],
  ["silu", {}, silu],
];

for (const size of [...SIZES, 20_001]) {
  const x = normal(keyOf(4), size, 0, 3);
  for (const [name, attributes, activation] of ACTIVATIONS) {
    testCase(`${JSON.stringify(attributes)} [${size}]`, {
      name,
      attributes: attributes as never,
      shapes: [[size]],
      data: [x],
      reference: ([values]) => values.map(activation),
      by: [0],
      forward: { rtol: 2e-6, atol: 1e-6 },
      backward: 1e-5,
    });
  }
  testCase(`[${size}]`, {
    name: "swiglu",
    attributes: {},
    shapes: [[size], [size]],
    data: [x, normal(keyOf(5), size)],
    reference: ([gate, up]) => gate.map((value, i) => silu(value) * up[i]),
    by: [0, 1],
    forward: { rtol: 2e-6, atol: 1e-6 },
    backward: 1e-5,
  });
}

for (const [B, T, H, K] of [[1, 1, 1, 2], [2, 3, 2, 6], [2, 33, 3, 32], [1, 5, 2, 62]]) {
  const half = K / 2;
  const angles = uniform(keyOf(6), T * half).map((u) => u * 6);
  testCase(`[${B}, ${T}, ${H}, ${K}]`, {
    name: "rope",
    attributes: {},
    shapes: [[B, T, H, K], [T, half], [T, half]],
    data: [normal(keyOf(1), B * T * H * K), angles.map(Math.cos), angles.map(Math.sin)],
    reference: ([x, cos, sin]) =>
      x.map((value, at) => {
        const [i, t] = [at % K, Math.floor(at / (K * H)) % T];
        const turn = t * half + i % half;
        return i < half ? value * cos[turn] - x[at + half] * sin[turn] : value * cos[turn] + 1.00001 * x[at - half] * sin[turn];
      }),
    by: [0],
    forward: { rtol: 0, atol: 1e-6 },
    backward: 1e-5,
  });
}

function crossEntropyReference(columns: number, ignoreIndex: number): Reference {
  return ([x, targets]) => {
    let sum = 0;
    let count = 0;
    targets.forEach((target, row) => {
      if (target === ignoreIndex) return;
      count++;
      const logits = x.subarray(row * columns, (row + 1) * columns);
      const top = logits.reduce((most, value) => Math.max(most, value), -Infinity);
      sum += Math.log(logits.reduce((total, value) => total + Math.exp(value - top), 0)) + top - logits[target];
    });
    return Float64Array.of(sum / Math.max(count, 1));
  };
}

for (const [rows, columns] of [[1, 1], [1, 31], [31, 32], [33, 257], [70, 33], [3, 50_257]]) {
  for (const ignored of [0, 2]) {
    const targets = Array.from({ length: rows }, (_, n) => n < ignored ? -100 : n * 7919 % columns);
    testCase(`[${rows}, ${columns}], ${ignored} ignored`, {
      name: "crossEntropy",
      attributes: { ignoreIndex: -100 },
      shapes: [[rows, columns], [rows]],
      data: [normal(keyOf(1), rows * columns, 0, 3), targets],
      dtypes: ["f32", "i32"],
      outShape: [],
      reference: crossEntropyReference(columns, -100),
      by: [0],
      forward: { rtol: 1e-6, atol: 1e-7 },
      backward: 1e-5,
    });
  }
}

interface Sizes {
  readonly B: number;
  readonly T: number;
  readonly S: number;
  readonly H: number;
  readonly G: number;
  readonly K: number;
}

function attentionReference({ B, T, S, H, G, K }: Sizes, causal: boolean, scale: number): Reference {
  return ([q, k, v, mask]) => {
    const out = new Float64Array(B * T * H * K);
    for (let b = 0; b < B; b++) {
      for (let t = 0; t < T; t++) {
        for (let h = 0; h < H; h++) {
          const g = Math.floor(h * G / H);
          const at = ((b * T + t) * H + h) * K;
          const seen: number[] = [];
          for (let s = 0; s < S; s++) if ((!mask || mask[b * S + s]) && (!causal || s <= t + S - T)) seen.push(s);
          if (seen.length === 0) continue;
          const from = (s: number) => ((b * S + s) * G + g) * K;
          const scores = Float64Array.from(seen, (s) => {
            let sum = 0;
            for (let i = 0; i < K; i++) sum += q[at + i] * k[from(s) + i];
            return sum * scale * 1.0002;
          });
          softmaxRow(scores).forEach((weight, j) => {
            for (let i = 0; i < K; i++) out[at + i] += weight * v[from(seen[j]) + i];
          });
        }
      }
    }
    return out;
  };
}

const ATTENTION: [Sizes, { causal: boolean; masked: boolean }][] = [
  [{ B: 1, T: 1, S: 1, H: 1, G: 1, K: 1 }, { causal: false, masked: false }],
  [{ B: 2, T: 31, S: 31, H: 2, G: 2, K: 8 }, { causal: true, masked: false }],
  [{ B: 1, T: 33, S: 32, H: 4, G: 2, K: 5 }, { causal: true, masked: true }],
  [{ B: 2, T: 5, S: 9, H: 3, G: 1, K: 7 }, { causal: true, masked: true }],
  [{ B: 1, T: 9, S: 5, H: 2, G: 1, K: 12 }, { causal: true, masked: false }],
  [{ B: 1, T: 257, S: 257, H: 1, G: 1, K: 4 }, { causal: true, masked: false }],
  [{ B: 1, T: 66, S: 131, H: 2, G: 2, K: 33 }, { causal: false, masked: true }],
  [{ B: 1, T: 130, S: 130, H: 1, G: 1, K: 64 }, { causal: true, masked: false }],
  [{ B: 1, T: 3, S: 1100, H: 1, G: 1, K: 16 }, { causal: false, masked: false }],
  [{ B: 1, T: 65, S: 140, H: 1, G: 1, K: 200 }, { causal: true, masked: false }],
  [{ B: 1, T: 5, S: 300, H: 1, G: 1, K: 512 }, { causal: true, masked: false }],
];

for (const [sizes, { causal, masked }] of ATTENTION) {
  const { B, T, S, H, G, K } = sizes;
  // The last batch sees no key at all.
  const mask = Array.from({ length: B * S }, (_, i) => i >= (B - 1) * S && B > 1 ? 0 : i * 7 % 5 === 0 ? 0 : 1);
  const scale = 1 / Math.sqrt(K);
  testCase(`${JSON.stringify(sizes)}${causal ? " causal" : ""}${masked ? " masked" : ""}`, {
    name: "attention",
    attributes: { causal, scale },
    shapes: [[B, T, H, K], [B, S, G, K], [B, S, G, K], ...(masked ? [[B, S]] : [])],
    data: [
      normal(keyOf(1), B * T * H * K, 0, 2),
      normal(keyOf(2), B * S * G * K, 0, 2),
      normal(keyOf(3), B * S * G * K),
      ...(masked ? [mask] : []),
    ],
    dtypes: ["f32", "f32", "f32", "u32"],
    reference: attentionReference(sizes, causal, scale),
    by: [0, 1, 2],
    forward: { rtol: 1e-5, atol: 1e-5 },
    backward: 2e-5,
  });
}

testEverywhere("attention gives 0 and gradients 0 to a query that sees no key", (device) => {
  const sizes = { B: 1, T: 70, S: 3, H: 1, G: 1, K: 8 };
  const data = [normal(keyOf(1), 560), normal(keyOf(2), 24), normal(keyOf(3), 24)];
  const { value, grads } = runCase(
    device,
    {
      name: "attention",
      attributes: { causal: true, scale: 1 },
      shapes: [[1, 70, 1, 8], [1, 3, 1, 8], [1, 3, 1, 8]],
      data,
      reference: attentionReference(sizes, true, 1),
      by: [0, 1, 2],
      forward: { rtol: 0, atol: 0 },
      backward: 0,
    },
    [1, 70, 1, 8],
    normal(keyOf(4), 560),
  );
  assert.ok(value.subarray(0, 67 * 8).every((x) => x === 0) && value.subarray(67 * 8).every((x) => x !== 0));
  assert.ok(grads[0]!.subarray(0, 67 * 8).every((x) => x === 0));
  return [value];
});

function forward(
  device: TestDevice,
  name: FusedName,
  attributes: object,
  operands: Operand[],
  outShape: Shape,
): HostArray {
  const kernel = wasmFused(device)[name] as FusedKernel<object>;
  const out = device.operand(outShape);
  const residuals = (kernel.residuals?.(operands, attributes) ?? []).map(({ shape }) => device.operand(shape));
  kernel.forward(operands, attributes, out, residuals);
  return device.values(out);
}

testEverywhere("softmax and crossEntropy bear large, infinite and NaN logits", (device) => {
  const rows = [[1e30, -1e30, 0, 1], [-Infinity, 0, 0, -Infinity], [NaN, 0, 1, 2], [-3e38, -3e38, -3e38, -3e38]];
  const x = device.operand([4, 4], rows.flat());
  const weights = forward(device, "softmax", {}, [x], [4, 4]);
  assertClose(weights, [1, 0, 0, 0, 0, 0.5, 0.5, 0, NaN, NaN, NaN, NaN, 0.25, 0.25, 0.25, 0.25]);
  const losses = rows.map((row, n) => {
    const operands = [device.operand([1, 4], row), device.operand([1], [1], "i32")];
    const [loss] = forward(device, "crossEntropy", { ignoreIndex: -1 }, operands, []);
    assertClose([loss], [[2e30, Math.LN2, NaN, Math.log(4)][n]], { rtol: 1e-6 });
    return Float32Array.of(loss);
  });
  return [weights, ...losses];
});

testEverywhere("crossEntropy is 0 with gradient 0 when every target is ignored", (device) => {
  const { value, grads } = runCase(
    device,
    {
      name: "crossEntropy",
      attributes: { ignoreIndex: 7 },
      shapes: [[3, 5], [3]],
      data: [normal(keyOf(1), 15), [7, 7, 7]],
      dtypes: ["f32", "i32"],
      reference: ([x]) => x,
      by: [0],
      forward: { rtol: 0, atol: 0 },
      backward: 0,
    },
    [],
    Float32Array.of(1),
  );
  assert.equal(value[0], 0);
  assert.deepEqual([...grads[0]!], new Array(15).fill(0));
  return [value];
});

testEverywhere("crossEntropy throws when a target lies outside", (device) => {
  for (const bad of [-1, 5]) {
    const operands = [device.operand([2, 5], new Array(10).fill(0)), device.operand([2], [0, bad], "i32")];
    assert.throws(() => forward(device, "crossEntropy", { ignoreIndex: -100 }, operands, []), RangeError);
  }
  return [];
});

testEverywhere("fused kernels decline other dtypes, empty operands and heads that are too wide", (device) => {
  const fused = wasmFused(device);
  const spec = (shape: Shape, dtype: "f32" | "f64" | "bf16" = "f32") => ({ shape, dtype });
  assert.ok(!fused.softmax!.supports([spec([2, 3], "f64")], {}));
  assert.ok(!fused.silu!.supports([spec([2, 3], "bf16")], {}));
  assert.ok(!fused.rmsNorm!.supports([spec([0, 3]), spec([3])], { eps: 1e-6 }));
  const heads = [spec([1, 2, 1, 513]), spec([1, 2, 1, 513]), spec([1, 2, 1, 513])];
  assert.ok(!fused.attention!.supports(heads, { causal: true, scale: 1 }));
  return [];
});
