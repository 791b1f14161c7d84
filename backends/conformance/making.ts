/** Cases of fill, iota, randomBits and copyStrided. */
import type { DType } from "../../core/dtype.ts";
import type { Shape } from "../../core/shape.ts";
import { blank, type Case, drawIntegers, type Layout, round, sample } from "./samples.ts";
import { storing } from "./tolerance.ts";

const SIZES: readonly Shape[] = [[], [0], [1], [31], [32], [33], [257], [3, 5, 7]];
const DTYPES: readonly DType[] = ["f32", "f64", "bf16", "f16", "i32", "u32", "u8"];

const FILLS: Readonly<Record<DType, readonly number[]>> = {
  f32: [0, 0.1, NaN, -Infinity],
  f64: [0, 0.1],
  bf16: [0, 0.1, Infinity],
  f16: [0, 0.1],
  i32: [0, -7, 2 ** 31 - 1],
  u32: [0, 1, 2 ** 32 - 1],
  u8: [0, 255],
};

/** Cases of `Kernels.fill`. */
export function fillCases(): Case[] {
  return DTYPES.flatMap((dtype) =>
    FILLS[dtype].flatMap((value) =>
      SIZES.map((shape): Case => ({
        name: `fill ${dtype}`,
        inputs: [],
        out: blank(dtype, shape, { offset: 4 }),
        run: (kernels, _, out) => kernels.fill(value, out),
        expected: new Array<number>(shape.reduce((a, b) => a * b, 1)).fill(round(dtype, value)),
      }))
    )
  );
}

/** Cases of `Kernels.iota`. */
export function iotaCases(): Case[] {
  const ranges: readonly (readonly [DType, number, number])[] = [
    ["i32", 0, 1],
    ["i32", -5, 3],
    ["i32", 9, -2],
    ["u32", 7, 5],
    ["f32", 0.5, 0.25],
    ["f32", -1, 0.1],
    ["f64", -1, 0.1],
    ["bf16", 0, 0.5],
    ["f16", 0, 0.5],
  ];
  return ranges.flatMap(([dtype, start, step]) =>
    SIZES.map((shape): Case => {
      const size = shape.reduce((a, b) => a * b, 1);
      const expected = Array.from({ length: size }, (_, i) => start + i * step);
      // The step, the product and the sum are rounded, or the sum alone.
      const rounding = dtype === "f32" ? 3 * 2 ** -24 : 0;
      return {
        name: `iota ${dtype}`,
        inputs: [],
        out: blank(dtype, shape, { offset: 4 }),
        run: (kernels, _, out) => kernels.iota(start, step, out),
        expected,
        allowed: (_, i) => rounding * (Math.abs(start) + Math.abs(i * step)) + storing(dtype, expected[i]),
      };
    })
  );
}

/** Cases of `Kernels.randomBits`. */
export function randomBitsCases(): Case[] {
  const keys: readonly (readonly [number, number])[] = [[0, 0], [0x13198a2e, 0x03707344], [0xffffffff, 1]];
  return keys.flatMap((key) =>
    [[], [0], [1], [2], [31], [33], [257], [5, 3], [4097]].map((shape): Case => {
      const size = shape.reduce((a: number, b: number) => a * b, 1);
      return {
        name: `key ${key}`,
        inputs: [],
        out: blank("u32", shape, { offset: 3 }),
        run: (kernels, _, out) => kernels.randomBits(key, out),
        expected: words(key, size),
      };
    })
  );
}

/** Words of threefry-2x32-20 in wide integers, after Salmon et al. 2011, section 3.3. */
export function words([k0, k1]: readonly [number, number], size: number): number[] {
  const keys = [BigInt(k0), BigInt(k1), 0x1bd11bdan ^ BigInt(k0) ^ BigInt(k1)];
  const rotations = [13n, 15n, 26n, 6n, 17n, 29n, 16n, 24n];
  const wrap = (value: bigint) => value & 0xffffffffn;
  const result: number[] = [];
  for (let block = 0n; result.length < size; block++) {
    let [x, y] = [wrap(block + keys[0]), wrap(keys[1])];
    for (let turn = 1; turn <= 20; turn++) {
      const by = rotations[(turn - 1) % 8];
      x = wrap(x + y);
      y = wrap((y << by) | (y >> (32n - by))) ^ x;
      if (turn % 4 !== 0) continue;
      const phase = turn / 4;
      x = wrap(x + keys[phase % 3]);
      y = wrap(y + keys[(phase + 1) % 3] + BigInt(phase));
    }
    result.push(Number(x), Number(y));
  }
  return result.slice(0, size);
}

/** A shape, the layout that is read, and the one that is written. */
const COPIES: readonly (readonly [string, Shape, Layout, Layout])[] = [
  ["of a scalar", [], { offset: 5 }, { offset: 3 }],
  ["of nothing", [3, 0], { strides: [1, 3] }, {}],
  ["that is contiguous", [257], { offset: 4 }, {}],
  ["of a transpose", [33, 31], { strides: [1, 33] }, {}],
  ["of permuted heads", [2, 3, 5, 7], { strides: [105, 7, 21, 1], offset: 4 }, { offset: 8 }],
  ["of a broadcast row", [5, 33], { strides: [0, 1] }, {}],
  ["of a broadcast column", [33, 5], { strides: [1, 0] }, {}],
  ["of a broadcast scalar", [257], { strides: [0] }, {}],
  ["of a slice", [4, 3, 9], { strides: [100, 20, 2], offset: 7 }, {}],
  ["into the left part of a concat", [31, 3], {}, { strides: [8, 1] }],
  ["into the right part of a concat", [31, 5], {}, { strides: [8, 1], offset: 3 }],
  ["into a part at an odd place", [33], {}, { offset: 5 }],
  ["between two strided views", [7, 33], { strides: [1, 7] }, { strides: [40, 1], offset: 1 }],
];

/** Cases of `Kernels.copyStrided`. Bits travel unchanged, and nothing between the written elements changes. */
export function copyStridedCases(): Case[] {
  return DTYPES.flatMap((dtype) =>
    COPIES.map(([name, shape, from, to]): Case => {
      const x = sample(dtype, shape, drawIntegers(0, 200, 3, 7), from);
      return {
        name: `copy ${name}`,
        inputs: [x],
        out: blank(dtype, shape, to),
        run: (kernels, [x], out) => kernels.copyStrided(x, out),
        expected: x.values,
        exactTail: true,
      };
    })
  );
}
