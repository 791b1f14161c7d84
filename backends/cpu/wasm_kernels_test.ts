import assert from "node:assert/strict";
import type { BinaryOp, Operand, UnaryOp } from "../../core/backend.ts";
import type { HostArray } from "../../core/dtype.ts";
import { keyOf, normal, randomBits } from "../../core/random.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import { loopKernels } from "./loops/mod.ts";
import { erf } from "./loops/erf.ts";
import { wasmKernels } from "./wasm_kernels.ts";
import { assertClose, assertSameBits, type TestDevice, testEverywhere, view } from "./wasm_testing.ts";

const SIZES = [1, 31, 32, 33, 257, 20_001];
const SPECIAL = [
  0,
  -0,
  1,
  -1,
  Infinity,
  -Infinity,
  NaN,
  1e-45,
  -1e-45,
  1e-40,
  1.1754944e-38,
  3.4e38,
  -3.4e38,
  0.5,
  2.5,
];

/** Compiled kernels that refuse to fall back, so that a test cannot pass on the loops. */
function kernels(device: TestDevice, loops = false) {
  const fallback = loopKernels((buffer, dtype) => device.memory.view(buffer, dtype));
  if (loops) return wasmKernels(device, fallback);
  const refused = Object.keys(fallback).map((name) => [name, () => assert.fail(`${name} fell back`)]);
  return wasmKernels(device, Object.fromEntries(refused));
}

function randn(device: TestDevice, shape: Shape, seed = 1): Operand {
  return device.operand(shape, normal(keyOf(seed), sizeOf(shape)));
}

const sign = (x: number) => Math.sign(x);
const UNARY: [UnaryOp, (x: number) => number, number][] = [
  ["neg", (x) => -x, 0],
  ["abs", Math.abs, 0],
  ["exp", Math.exp, 2e-7],
  ["log", Math.log, 3e-7],
  ["sqrt", Math.sqrt, 6e-8],
  ["rsqrt", (x) => 1 / Math.sqrt(x), 2e-7],
  ["recip", (x) => 1 / x, 6e-8],
  ["tanh", Math.tanh, 4e-7],
  ["erf", erf, 4e-7],
  ["floor", Math.floor, 0],
  ["sign", sign, 0],
];

for (const [op, reference, rtol] of UNARY) {
  testEverywhere(`unary() gives ${op} at any size and for special values`, (device) => {
    const results = SIZES.map((size) => {
      const x = randn(device, [size]);
      const out = device.operand([size]);
      kernels(device).unary(op, x, out);
      const expected = [...device.values(x)].map(reference);
      // Results below the smallest normal are as exact as denormals are.
      assertClose(device.values(out), expected, { rtol, atol: 1.5e-45, what: op });
      return device.values(out);
    });
    const out = device.operand([SPECIAL.length]);
    kernels(device).unary(op, device.operand([SPECIAL.length], SPECIAL), out);
    const expected = [...Float32Array.from(SPECIAL)].map((x) => Math.fround(reference(x)));
    assertClose(device.values(out), expected, { rtol, atol: 1.5e-45, what: `${op} of special values` });
    return [...results, device.values(out)];
  });
}

const RANGES: [UnaryOp, number, number, (x: number) => number, number][] = [
  ["exp", -110, 90, Math.exp, 2e-7],
  ["exp", -1, 1, Math.exp, 2e-7],
  ["tanh", -12, 12, Math.tanh, 4e-7],
  ["tanh", -1e-3, 1e-3, Math.tanh, 4e-7],
  ["erf", -5, 5, erf, 4e-7],
  ["erf", -1e-3, 1e-3, erf, 4e-7],
  ["log", 1e-6, 4, Math.log, 4e-7],
  ["log", 0.99, 1.01, Math.log, 4e-7],
];

for (const [op, low, high, reference, rtol] of RANGES) {
  testEverywhere(`unary() keeps ${op} within ${rtol} over [${low}, ${high}]`, (device) => {
    const x = device.operand([200_000], Array.from({ length: 200_000 }, (_, i) => low + (high - low) * i / 199_999));
    const out = device.operand([200_000]);
    kernels(device).unary(op, x, out);
    const expected = [...device.values(x)].map(reference);
    assertClose(device.values(out), expected, { rtol, atol: 1.5e-45, what: op });
    return [device.values(out)];
  });
}

const BINARY: [BinaryOp, (a: number, b: number) => number][] = [
  ["add", (a, b) => a + b],
  ["sub", (a, b) => a - b],
  ["mul", (a, b) => a * b],
  ["div", (a, b) => a / b],
  ["max", Math.max],
  ["min", Math.min],
  ["less", (a, b) => a < b ? 1 : 0],
  ["equal", (a, b) => a === b ? 1 : 0],
];

/** Strides of a and b over a shape: alike, scalars, rows, columns, transposed, and broadcasts in the middle. */
const PATTERNS: [Shape, readonly number[], readonly number[]][] = [
  ...SIZES.map((size) => [[size], [1], [1]] as [Shape, number[], number[]]),
  [[257], [0], [1]],
  [[257], [1], [0]],
  [[], [], []],
  [[5, 33], [33, 1], [0, 1]],
  [[5, 33], [0, 1], [33, 1]],
  [[33, 5], [5, 1], [1, 0]],
  [[33, 31], [1, 0], [31, 1]],
  [[300, 70], [70, 1], [1, 300]],
  [[2, 3, 4, 5], [60, 20, 5, 1], [5, 0, 0, 1]],
  [[2, 3, 4, 5], [60, 20, 5, 1], [12, 4, 1, 0]],
  [[3, 5, 7], [1, 3, 15], [35, 7, 1]],
  [[4, 1, 9000], [9000, 9000, 1], [1, 1, 0]],
  [[6, 7], [0, 0], [0, 0]],
];

for (const [op, reference] of BINARY) {
  testEverywhere(
    `binary() gives ${op} for every pattern of strides`,
    (device) =>
      PATTERNS.map(([shape, stepsA, stepsB]) => {
        const reach = (steps: readonly number[]) => 1 + shape.reduce((sum, n, axis) => sum + (n - 1) * steps[axis], 0);
        const data = (seed: number, size: number) => {
          const values = normal(keyOf(seed), size);
          for (let i = 0; i < size; i += 3) values[i] = SPECIAL[i % SPECIAL.length];
          return device.operand([size], values);
        };
        const a = view(data(1, reach(stepsA)), shape, stepsA);
        const b = view(data(2, reach(stepsB)), shape, stepsB);
        const isMask = op === "less" || op === "equal";
        const out = device.operand(shape, undefined, isMask ? "u32" : "f32");
        kernels(device).binary(op, a, b, out);
        const [left, right] = [device.values(a), device.values(b)];
        const expected = Float32Array.from(left, (value, i) => reference(value, right[i]));
        assertClose(device.values(out), expected, { rtol: 0, what: `${op} of [${shape}]` });
        return device.values(out);
      }),
  );
}

testEverywhere("binary() wraps and compares integers when they are i32 or u32", (device) => {
  const a = [0, 1, -1, 2 ** 31 - 1, -(2 ** 31), 123_456_789, 7];
  const b = [1, 1, 1, 1, -1, 987_654_321, -7];
  const results: HostArray[] = [];
  for (const dtype of ["i32", "u32"] as const) {
    const host = dtype === "i32" ? Int32Array : Uint32Array;
    const [x, y] = [a, b].map((values) => device.operand([7], host.from(values), dtype));
    for (const op of ["add", "sub", "mul", "less", "equal"] as const) {
      const outType = op === "less" || op === "equal" ? "u32" : dtype;
      const out = device.operand([7], undefined, outType);
      kernels(device).binary(op, x, y, out);
      const reference = op === "mul" ? Math.imul : new Map(BINARY).get(op)!;
      const [left, right] = [a, b].map((values) => [...host.from(values)]);
      const expected = host.from(left.map((value, i) => reference(value, right[i])));
      assert.deepEqual([...device.values(out)], [...expected], `${op} ${dtype}`);
      results.push(device.values(out));
    }
  }
  return results;
});

testEverywhere("where(), fill(), iota(), cast() and addInto() compute what the loops do", (device) => {
  const loops = loopKernels((buffer, dtype) => device.memory.view(buffer, dtype));
  const results: HostArray[] = [];
  const compare = (make: (run: typeof loops) => Operand) => {
    const [actual, expected] = [kernels(device), loops].map((run) => device.values(make(run)));
    assertSameBits(actual, expected);
    results.push(actual);
  };
  for (const size of SIZES) {
    const [a, b] = [randn(device, [size], 1), randn(device, [size], 2)];
    const bits = randomBits(keyOf(3), size);
    const mask = device.operand([size], bits.map((word) => word % 3), "u32");
    compare((run) => {
      const out = device.operand([size]);
      run.where(mask, a, b, out);
      return out;
    });
    for (const [value, dtype] of [[1.5, "f32"], [-7, "i32"], [2 ** 32 - 1, "u32"]] as const) {
      compare((run) => {
        const out = device.operand([size], undefined, dtype);
        run.fill(value, out);
        return out;
      });
      compare((run) => {
        const out = device.operand([size], undefined, dtype);
        run.iota(dtype === "u32" ? 3 : -2, dtype === "f32" ? 0.1 : 2, out);
        return out;
      });
    }
    const wide = device.operand([size], Float32Array.from(device.values(a), (value) => value * 1e9));
    device.memory.write(wide.buffer, 0, new Uint8Array(Float32Array.of(NaN).buffer));
    const signed = device.operand([size], bits, "i32");
    const unsigned = device.operand([size], bits, "u32");
    for (const x of [wide, signed, unsigned]) {
      for (const dtype of ["f32", "i32", "u32"] as const) {
        compare((run) => {
          const out = device.operand([size], undefined, dtype);
          run.cast(x, out);
          return out;
        });
      }
    }
    compare((run) => {
      const param = device.operand([size], device.values(a) as Float32Array);
      run.addInto(param, b, { rounding: "nearest" });
      return param;
    });
  }
  return results;
});

testEverywhere("addInto() leaves 16-bit parameters, with a master or without, to the loops", (device) => {
  const loops = loopKernels((buffer, dtype) => device.memory.view(buffer, dtype));
  const results: HostArray[] = [];
  for (const dtype of ["bf16", "f16"] as const) {
    for (const isMaster of [false, true]) {
      const [actual, expected] = [kernels(device, true), loops].map((run) => {
        const param = device.operand([257], new Uint16Array(257).fill(0x3c01), dtype);
        const master = isMaster ? randn(device, [257], 1) : undefined;
        run.addInto(param, randn(device, [257], 2), { rounding: "nearest", master });
        return [param, ...(master ? [master] : [])].map((x) => device.values(x));
      });
      actual.forEach((values, i) => assertSameBits(values, expected[i], dtype));
      results.push(...actual);
    }
  }
  return results;
});

/** Shape, strides of x, shape of the memory behind out, strides and offset of out. */
const COPIES: [Shape, readonly number[], readonly number[], number][] = [
  [[20_001], [1], [1], 0],
  [[33, 70], [1, 33], [70, 1], 0],
  [[70, 33], [33, 1], [1, 70], 0],
  [[31, 257], [257, 1], [300, 1], 7],
  [[2, 5, 3, 16], [240, 16, 80, 1], [240, 48, 16, 1], 0],
  [[2, 3, 33, 65], [6435, 2145, 1, 33], [6435, 2145, 65, 1], 0],
  [[4, 5, 6], [1, 4, 20], [30, 6, 1], 0],
  [[9], [3], [2], 1],
  [[3, 4], [0, 1], [4, 1], 0],
  [[], [], [], 0],
];

testEverywhere(
  "copyStrided() copies between any two views and touches nothing else",
  (device) =>
    COPIES.map(([shape, steps, outSteps, offset]) => {
      const reach = (own: readonly number[]) => 1 + shape.reduce((sum, n, axis) => sum + (n - 1) * own[axis], 0);
      const x = view(randn(device, [reach(steps)]), shape, steps);
      const all = device.operand(
        [offset + reach(outSteps) + 5],
        new Float32Array(offset + reach(outSteps) + 5).fill(-3),
      );
      const out = view(all, shape, outSteps, offset);
      kernels(device).copyStrided(x, out);
      assertSameBits(device.values(out), device.values(x), `[${shape}]`);
      const written = new Set<number>();
      const places = device.operand([reach(outSteps)], Array.from({ length: reach(outSteps) }, (_, i) => i), "i32");
      for (const place of device.values(view(places, shape, outSteps))) written.add(offset + place);
      device.values(all).forEach((value, i) => written.has(i) || assert.equal(value, -3, `[${shape}] wrote at ${i}`));
      return device.values(all);
    }),
);

/** Shape, strides, reduced axes. */
const REDUCTIONS: [Shape, readonly number[], number][] = [
  [[1], [1], 1],
  [[257], [1], 1],
  [[100_003], [1], 1],
  [[33, 31], [31, 1], 1],
  [[3, 70_000], [70_000, 1], 1],
  [[33, 31], [1, 33], 1],
  [[512, 700], [1, 512], 1],
  [[7, 1000], [1, 7], 1],
  [[5, 31], [40, 1], 1],
  [[2, 3, 4, 5], [60, 20, 5, 1], 2],
  [[2, 5, 3, 4], [60, 1, 20, 5], 2],
  [[4, 6, 5], [30, 1, 6], 1],
  [[17], [1], 0],
];

for (const op of ["sum", "max"] as const) {
  testEverywhere(
    `reduce() gives the ${op} over the last axes for every pattern of strides`,
    (device) =>
      REDUCTIONS.flatMap(([shape, steps, axes]) =>
        [false, true].map((special) => {
          const reach = 1 + shape.reduce((sum, n, axis) => sum + (n - 1) * steps[axis], 0);
          const values = normal(keyOf(4), reach);
          if (special) values[reach >> 1] = NaN;
          const x = view(device.operand([reach], values), shape, steps);
          const kept = shape.slice(0, shape.length - axes);
          const out = device.operand(kept);
          kernels(device).reduce(op, x, axes, out);
          const flat = device.values(x);
          const inner = sizeOf(shape) / sizeOf(kept);
          const rows = Array.from({ length: sizeOf(kept) }, (_, r) => [...flat.slice(r * inner, (r + 1) * inner)]);
          const expected = rows.map((row) =>
            op === "sum" ? row.reduce((a, b) => a + b, 0) : row.reduce((a, b) => Math.max(a, b))
          );
          const sizes = rows.map((row) => row.reduce((a, b) => a + Math.abs(b), 0));
          // Relative to the sum of sizes: four neighbours are added in f32, the rest in f64.
          const atol = op === "sum" ? 2e-7 * Math.max(...sizes.filter(Number.isFinite), 0) : 0;
          assertClose(device.values(out), expected, { rtol: 0, atol, what: `${op} of [${shape}]` });
          return device.values(out);
        })
      ),
  );
}

testEverywhere("reduce() gives argmax as the first of equals, past NaN", (device) =>
  SIZES.map((size) => {
    const rows = 5;
    const values = normal(keyOf(5), rows * size).map((value) => Math.round(value * 2));
    for (let i = 0; i < size; i += 3) values[size + i] = NaN; // Row 1 starts with NaN.
    for (let i = 1; i < size; i += 3) values[2 * size + i] = NaN;
    values.fill(-Infinity, 3 * size, 4 * size);
    const out = device.operand([rows], undefined, "u32");
    kernels(device).reduce("argmax", device.operand([rows, size], values), 1, out);
    const expected = Array.from({ length: rows }, (_, r) => {
      const row = values.subarray(r * size, (r + 1) * size);
      let best = 0;
      for (let i = 1; i < size; i++) if (row[i] > row[best]) best = i;
      return best;
    });
    assert.deepEqual([...device.values(out)], expected);
    return device.values(out);
  }));

testEverywhere("takeRows() and scatterAddRows() follow the indices in order", (device) => {
  const results: HostArray[] = [];
  for (const [V, N, D] of [[1, 1, 1], [33, 31, 33], [1000, 257, 5], [70, 1000, 64], [3, 257, 1]]) {
    const picks = randomBits(keyOf(6), N).map((word) => word % V);
    const indices = device.operand([N], picks, "i32");
    const table = randn(device, [V, D]);
    const out = device.operand([N, D]);
    kernels(device).takeRows(table, indices, out);
    const from = device.values(table);
    const expected = Float32Array.from({ length: N * D }, (_, i) => from[picks[Math.floor(i / D)] * D + i % D]);
    assertSameBits(device.values(out), expected);
    const rows = randn(device, [N, D], 7);
    const sums = device.operand([V, D]);
    kernels(device).scatterAddRows(rows, indices, sums);
    const totals = new Float32Array(V * D);
    device.values(rows).forEach((value, i) => totals[picks[Math.floor(i / D)] * D + i % D] += value);
    assertSameBits(device.values(sums), totals);
    results.push(device.values(out), device.values(sums));
  }
  return results;
});

testEverywhere("takeRows() and scatterAddRows() throw when an index lies outside", (device) => {
  const [table, rows] = [randn(device, [4, 2]), device.operand([3, 2])];
  for (const bad of [-1, 4]) {
    const indices = device.operand([3], [0, bad, 1], "i32");
    assert.throws(() => kernels(device).takeRows(table, indices, rows), RangeError);
    assert.throws(() => kernels(device).scatterAddRows(rows, indices, table), RangeError);
  }
  return [];
});

testEverywhere("randomBits() gives the words of core/random", (device) =>
  SIZES.map((size) => {
    const key = [0x13198a2e, 0xf3707344] as const;
    const out = device.operand([size], undefined, "u32");
    kernels(device).randomBits(key, out);
    assertSameBits(device.values(out), randomBits(key, size));
    return device.values(out);
  }));

testEverywhere("kernels leave no work space behind", (device) => {
  const x = randn(device, [300, 200]);
  const [out, columns] = [device.operand([300, 200]), device.operand([300])];
  const { live, inUse } = device.memory.memory();
  kernels(device).binary("add", x, view(x, [300, 200], [1, 300]), out);
  kernels(device).reduce("sum", view(x, [300, 200], [1, 300]), 1, columns);
  assert.deepEqual([device.memory.memory().live, device.memory.memory().inUse], [live, inUse]);
  return [];
});

testEverywhere("kernels fall back to the loops when the dtype is not theirs", (device) => {
  const x = device.operand([5], [1, 2, 3, 4, 5], "f64");
  const out = device.operand([5], undefined, "f64");
  kernels(device, true).unary("exp", x, out);
  assert.equal(device.values(out)[4], Math.exp(5));
  kernels(device, true).binary("mul", x, x, out);
  assert.equal(device.values(out)[4], 25);
  return [];
});
