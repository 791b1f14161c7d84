/** Cases of takeRows, scatterAddRows and addInto. */
import type { AddIntoOptions } from "../../core/backend.ts";
import type { DType } from "../../core/dtype.ts";
import { blank, type Case, draw, drawIntegers, f32Bits, fromF32Bits, given, round, sample } from "./samples.ts";
import { words } from "./making.ts";
import { allowance, ONE_ULP, storing, unit } from "./tolerance.ts";

const FLOATS: readonly DType[] = ["f32", "f64", "bf16", "f16"];
/** Rows of the table, their length, and how many are picked. */
const SIZES: readonly (readonly [number, number, number])[] = [
  [1, 1, 1],
  [5, 4, 0],
  [33, 31, 257],
  [257, 32, 33],
  [7, 1, 40],
  [3, 0, 4],
  [1, 257, 9],
];

/** Cases of `Kernels.takeRows`. */
export function takeRowsCases(): Case[] {
  return FLOATS.flatMap((dtype) =>
    (["i32", "u32"] as const).flatMap((index) =>
      SIZES.map(([rows, dim, count]): Case => {
        const table = sample(dtype, [rows, dim], draw(-3, 3), { offset: 4 });
        const indices = sample(index, [count], drawIntegers(0, rows, rows - 1, 0), { offset: 3 });
        return {
          name: `${dtype} by ${index}`,
          inputs: [table, indices],
          out: blank(dtype, [count, dim], { offset: 4 }),
          run: (kernels, [table, indices], out) => kernels.takeRows(table, indices, out),
          expected: indices.values.flatMap((row) => table.values.slice(row * dim, (row + 1) * dim)),
        };
      })
    )
  );
}

/** Cases of `Kernels.scatterAddRows`. */
export function scatterAddRowsCases(): Case[] {
  return FLOATS.flatMap((dtype) =>
    (["i32", "u32"] as const).flatMap((index) =>
      SIZES.map(([count, dim, picks]): Case => {
        const rows = sample(dtype, [picks, dim], draw(-3, 3), { offset: 4 });
        const indices = sample(index, [picks], drawIntegers(0, count, count - 1), { offset: 3 });
        const sums = new Array<number>(count * dim).fill(0);
        const magnitudes = [...sums];
        const terms = [...sums];
        rows.values.forEach((value, i) => {
          const to = indices.values[Math.floor(i / dim)] * dim + i % dim;
          sums[to] += value;
          magnitudes[to] += Math.abs(value);
          terms[to]++;
        });
        return {
          name: `${dtype} by ${index}`,
          inputs: [rows, indices],
          out: blank(dtype, [count, dim], { offset: 4 }),
          run: (kernels, [rows, indices], out) => kernels.scatterAddRows(rows, indices, out),
          expected: sums,
          // A lone row is a copy.
          allowed: (_, i) =>
            terms[i] < 2 ? 0 : 2 * Math.sqrt(terms[i]) * unit(dtype) * magnitudes[i] + storing(dtype, sums[i]),
        };
      })
    )
  );
}

/** Cases of `Kernels.addInto`. */
export function addIntoCases(): Case[] {
  const cases: Case[] = [];
  for (const size of [0, 1, 31, 32, 33, 257]) {
    for (const dtype of FLOATS) cases.push(addCase(dtype, size, { rounding: "nearest" }));
    for (const key of [[0, 0], [7, 0x80000001]] as const) {
      cases.push(addCase("bf16", size, { rounding: "stochastic", key }));
    }
    cases.push(addCase("f32", size, { rounding: "stochastic", key: [1, 2] }));
    for (const dtype of ["bf16", "f16"] as const) cases.push(masterCase(dtype, size));
    for (const dtype of ["f32", "bf16"] as const) for (const gate of [0, 1]) cases.push(gatedCase(dtype, size, gate));
  }
  // Neither an infinity nor a NaN may be carried into another number.
  const param = given("bf16", [4], [Infinity, -Infinity, NaN, 1], 4);
  const delta = given("f32", [4], [1, 1, 1, fromF32Bits(0x7fffffff)]);
  cases.push({
    name: "bf16 stochastic",
    inputs: [delta],
    out: param,
    run: (kernels, [delta], param) => kernels.addInto(param, delta, { rounding: "stochastic", key: [3, 4] }),
    expected: [Infinity, -Infinity, NaN, NaN],
  });
  return cases;
}

/** The parameter is what the master rounds to, whatever it was: the first of them are far off. */
function masterCase(dtype: "bf16" | "f16", size: number): Case {
  const param = sample(dtype, [size], draw(-3, 3, NaN, Infinity, 100), { offset: 4 });
  const delta = sample("f32", [size], draw(-1e-3, 1e-3, 1, 0, 0, 0, 0), { offset: 3 });
  // ties to both sides, beyond the range of the 16-bit type, and infinite
  const special = [1, 2 + 2 ** -7, 2 + 3 * 2 ** -7, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 3.3999e38, -Infinity, 70000];
  const master = sample("f32", [size], draw(-3, 3, ...special), { offset: 1 });
  const sums = master.values.map((value, i) => Math.fround(value + delta.values[i]));
  return {
    name: `${dtype} with a master`,
    inputs: [delta, master],
    out: param,
    run: (kernels, [delta, master], param) => kernels.addInto(param, delta, { rounding: "nearest", master }),
    expected: sums.map((sum) => round(dtype, sum)),
    updated: { input: 1, expected: sums },
  };
}

/** Shut, the parameter keeps every bit, and a NaN in the change does not pass. */
function gatedCase(dtype: "f32" | "bf16", size: number, open: number): Case {
  const param = sample(dtype, [size], draw(-3, 3), { offset: 4 });
  const delta = sample("f32", [size], open === 1 ? drawIntegers(-4, 4) : draw(-1, 1, NaN, Infinity), { offset: 3 });
  const gate = given("u32", [], [open], 2);
  const sums = param.values.map((value, i) => round(dtype, Math.fround(value + delta.values[i])));
  return {
    name: `${dtype} behind a gate`,
    inputs: [delta, gate],
    out: param,
    run: (kernels, [delta, gate], param) => kernels.addInto(param, delta, { rounding: "nearest", gate }),
    expected: open === 1 ? sums : param.values,
  };
}

function addCase(dtype: DType, size: number, options: AddIntoOptions): Case {
  const half = dtype === "bf16" || dtype === "f16";
  const param = sample(dtype, [size], draw(-3, 3), { offset: 4 });
  const delta = sample(dtype === "f64" ? "f64" : "f32", [size], draw(-0.1, 0.1), { offset: 3 });
  const random = words(options.key ?? [0, 0], size);
  const expected = param.values.map((value, i) => {
    const sum = value + delta.values[i];
    if (!half) return sum;
    const single = Math.fround(sum);
    if (options.rounding === "nearest") return round(dtype, single);
    const bits = BigInt(f32Bits(single)) + BigInt(random[i] & 0xffff);
    return fromF32Bits(Number(bits - bits % 65536n));
  });
  return {
    name: `${dtype} ${options.rounding}`,
    inputs: [delta],
    out: param,
    run: (kernels, [delta], param) => kernels.addInto(param, delta, options),
    expected,
    allowed: (device, i) => half ? 0 : allowance(ONE_ULP, dtype, device, expected[i]),
  };
}
