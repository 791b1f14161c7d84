/** Cases of reduce and matmul. Their bounds scale with the sum of magnitudes, so that cancellation cannot hide errors. */
import type { MatmulOptions } from "../../core/backend.ts";
import type { DType } from "../../core/dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";
import { blank, type Case, draw, drawIntegers, given, type Layout, type Sample, sample } from "./samples.ts";
import { storing, unit } from "./tolerance.ts";

const FLOATS: readonly DType[] = ["f32", "f64", "bf16", "f16"];

/** A shape, how many axes go, and the layout. */
const REDUCTIONS: readonly (readonly [Shape, number, Layout])[] = [
  [[], 0, { offset: 4 }],
  [[33], 0, {}],
  [[1], 1, {}],
  [[31], 1, { offset: 4 }],
  [[257], 1, {}],
  [[0, 5], 1, {}],
  [[33, 257], 1, {}],
  [[33, 257], 2, { offset: 8 }],
  [[257, 33], 1, { strides: [1, 257] }],
  [[31, 5, 3], 2, { strides: [1, 93, 31] }],
  [[2, 3, 32], 2, { strides: [96, 32, 1] }],
  [[33, 32], 1, { strides: [0, 1] }],
  [[33, 32], 1, { strides: [1, 0], offset: 3 }],
  [[4, 9], 1, { strides: [40, 2] }],
  [[5, 1, 7], 2, { strides: [14, 7, 2] }],
];

/** Cases of `Kernels.reduce`. */
export function reduceCases(): Case[] {
  const cases: Case[] = [];
  for (const dtype of FLOATS) {
    for (const [shape, axes, layout] of REDUCTIONS) {
      cases.push(sumCase(sample(dtype, shape, draw(-3, 3), layout), axes));
      cases.push(maxCase(sample(dtype, shape, draw(-3, -1, -2, -Infinity), layout), axes));
      if (axes === 1) cases.push(argmaxCase(sample(dtype, shape, drawIntegers(-9, 9), layout)));
    }
    cases.push(sumCase(sample(dtype, [3, 0], draw(0, 1)), 1));
  }
  // Running f32 sums of equal numbers always round to the same side: they would be off by 1e-4 here.
  cases.push(sumCase(sample("f32", [2, 100_003], draw(0.1, 0.1)), 1));
  cases.push(sumCase(sample("i32", [5, 33], drawIntegers(-99, 99)), 1));
  cases.push(argmaxCase(given("f32", [2, 4], [3, 7, 7, 1, -5, -5, -6, -5])));
  return cases;
}

function groups(x: Sample, axes: number): { readonly shape: Shape; readonly parts: readonly (readonly number[])[] } {
  const shape = x.shape.slice(0, x.shape.length - axes);
  const size = sizeOf(x.shape.slice(x.shape.length - axes));
  const parts = Array.from({ length: sizeOf(shape) }, (_, i) => x.values.slice(i * size, (i + 1) * size));
  return { shape, parts };
}

function sumCase(x: Sample, axes: number): Case {
  const { shape, parts } = groups(x, axes);
  const expected = parts.map((part) => part.reduce((a, b) => a + b, 0));
  const magnitudes = parts.map((part) => part.reduce((a, b) => a + Math.abs(b), 0));
  const steps = Math.ceil(Math.log2(Math.max(parts[0]?.length ?? 0, 1))) + 2;
  const slack = x.dtype === "f64" ? 8 : 1; // The reference itself rounds.
  return {
    name: `sum ${x.dtype}`,
    inputs: [x],
    out: blank(x.dtype, shape, { offset: 4 }),
    run: (kernels, [x], out) => kernels.reduce("sum", x, axes, out),
    expected,
    allowed: (_, i) => slack * steps * unit(x.dtype) * magnitudes[i] + storing(x.dtype, expected[i]),
  };
}

function maxCase(x: Sample, axes: number): Case {
  const { shape, parts } = groups(x, axes);
  return {
    name: `max ${x.dtype}`,
    inputs: [x],
    out: blank(x.dtype, shape, { offset: 4 }),
    run: (kernels, [x], out) => kernels.reduce("max", x, axes, out),
    expected: parts.map((part) => part.reduce((a, b) => (a > b ? a : b), -Infinity)),
  };
}

function argmaxCase(x: Sample): Case {
  const { shape, parts } = groups(x, 1);
  return {
    name: `argmax ${x.dtype}`,
    inputs: [x],
    out: blank("u32", shape, { offset: 3 }),
    run: (kernels, [x], out) => kernels.reduce("argmax", x, 1, out),
    expected: parts.map((part) => part.findIndex((value) => part.every((other) => other <= value))),
  };
}

const PLAIN: readonly (readonly [number, number, number])[] = [
  [1, 1, 1],
  [1, 33, 31],
  [31, 32, 33],
  [33, 257, 32],
  [257, 31, 1],
  [2, 1, 5],
  [65, 65, 66],
  [0, 3, 4],
  [3, 0, 4],
  [3, 4, 0],
];

const TRANSPOSES: readonly MatmulOptions[] = [false, true].flatMap((transposeA) =>
  [false, true].map((transposeB) => ({ transposeA, transposeB }))
);

/** Operands, and the output where it is of another dtype. */
const DTYPES: readonly (readonly [DType, DType])[] = [
  ...FLOATS.map((dtype) => [dtype, dtype] as const),
  ["bf16", "f32"],
  ["f16", "f32"],
];

/** Cases of `Kernels.matmul`. */
export function matmulCases(): Case[] {
  return DTYPES.flatMap(([dtype, result]) =>
    TRANSPOSES.flatMap((options) => [
      ...PLAIN.map(([m, k, n]) => matmulCase(dtype, [], [m, k, n], options, { result })),
      // Rows further apart than they are long, and matrices that start inside their buffers.
      matmulCase(dtype, [], [33, 31, 17], options, { result, gap: 3, offset: 4 }),
      matmulCase(dtype, [3], [5, 33, 4], options, { result }),
      matmulCase(dtype, [2, 3], [4, 5, 33], options, { result, offset: 8 }),
      matmulCase(dtype, [0], [4, 5, 6], options, { result }),
      // One matrix for all of a batch; heads inside rows, as attention reads them.
      matmulCase(dtype, [2, 3], [5, 8, 7], options, { result, broadcast: [0, 1] }),
      matmulCase(dtype, [2, 3], [5, 8, 7], options, { result, broadcast: [1] }),
      matmulCase(dtype, [2, 3], [9, 8, 6], options, { result, heads: true }),
    ])
  );
}

interface Arrangement {
  /** The output's dtype, if not the operands'. */
  readonly result?: DType;
  /** Elements between rows. */
  readonly gap?: number;
  readonly offset?: number;
  /** Batch axes along which b repeats. */
  readonly broadcast?: readonly number[];
  /** Batch axis 1 lies inside the rows: [B, T, H, K] seen as [B, H, T, K]. */
  readonly heads?: boolean;
}

function matmulCase(
  dtype: DType,
  batch: Shape,
  [m, k, n]: readonly [number, number, number],
  options: MatmulOptions,
  { result = dtype, gap = 0, offset = 0, broadcast = [], heads = false }: Arrangement = {},
): Case {
  const layout = (rows: number, columns: number): Layout => {
    const row = heads ? batch[1] * columns : columns + gap;
    const lead = heads ? [rows * row, columns] : contiguousStrides(batch).map((stride) => stride * rows * row);
    return { strides: [...lead, row, 1], offset };
  };
  const [aRows, aColumns] = options.transposeA ? [k, m] : [m, k];
  const [bRows, bColumns] = options.transposeB ? [n, k] : [k, n];
  const repeated = layout(bRows, bColumns);
  const strides = repeated.strides!.map((stride, axis) => broadcast.includes(axis) ? 0 : stride);
  const a = sample(dtype, [...batch, aRows, aColumns], draw(-1, 1), layout(aRows, aColumns));
  const b = sample(dtype, [...batch, bRows, bColumns], draw(-1, 2), { strides, offset });
  const { expected, magnitudes } = product(a, b, [m, k, n], options);
  return {
    name: `${dtype}${result === dtype ? "" : ` to ${result}`}${options.transposeA ? ", a transposed" : ""}${
      options.transposeB ? ", b transposed" : ""
    }`,
    inputs: [a, b],
    out: blank(result, [...batch, m, n], { offset }),
    run: (kernels, [a, b], out) => kernels.matmul(a, b, out, options),
    expected,
    allowed: (device, i) =>
      (device === "cpu" ? 2 : 4) * Math.sqrt(k) * unit(dtype) * magnitudes[i] + storing(result, expected[i]),
  };
}

function product(a: Sample, b: Sample, [m, k, n]: readonly [number, number, number], options: MatmulOptions) {
  const expected: number[] = [];
  const magnitudes: number[] = [];
  const batches = sizeOf(a.shape.slice(0, -2));
  for (let batch = 0; batch < batches; batch++) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        let magnitude = 0;
        for (let l = 0; l < k; l++) {
          const left = a.values[batch * m * k + (options.transposeA ? l * m + i : i * k + l)];
          const right = b.values[batch * k * n + (options.transposeB ? j * k + l : l * n + j)];
          sum += left * right;
          magnitude += Math.abs(left * right);
        }
        expected.push(sum);
        magnitudes.push(magnitude);
      }
    }
  }
  return { expected, magnitudes };
}
