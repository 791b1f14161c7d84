/** Positions between positions: ONNX's numbers for cubic resizing, the class token's row, gradients, and 16 bits. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { fromArray, noGrad, scope } from "../core/mod.ts";
import { assertClose, assertRms } from "../core/testing/golden.ts";
import { gradcheck, random } from "../core/testing/gradcheck.ts";
import { float, layOut, roundTo, takeHost, toArray } from "../core/testing/inputs.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { bicubicMatrix, resizePositions } from "./vit_positions.ts";

/** 1 to 16 in 4 x 4 to 3 x 3: ONNX's test resize_downsample_sizes_cubic, whose conventions are PyTorch's. */
const SMALLER = [
  1.63078704,
  3.00462963,
  4.37847222,
  7.12615741,
  8.5,
  9.87384259,
  12.62152778,
  13.99537037,
  15.36921296,
];
/** The first two of eight rows of resize_upsample_scales_cubic, by 2. */
const LARGER = [0.47265625, 0.76953125, 1.24609375, 1.875, 2.28125, 2.91015625, 3.38671875, 3.68359375]
  .concat([1.66015625, 1.95703125, 2.43359375, 3.0625, 3.46875, 4.09765625, 4.57421875, 4.87109375]);

Deno.test("resizePositions() gives ONNX's numbers for cubic resizing, and keeps the class token's row", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const table = fromArray(backend, Float64Array.from([-7, ...Array.from({ length: 16 }, (_, i) => i + 1)]), [1, 17, 1]);
  const smaller = resizePositions(table, [4, 4], [3, 3]);
  assert.deepEqual(smaller.shape, [1, 10, 1]);
  assertClose("smaller", smaller.readSync(), [-7, ...SMALLER], { rtol: 0, atol: 5e-9 });
  const larger = resizePositions(table, [4, 4], [8, 8]);
  assertClose("larger", larger.readSync().subarray(0, 17), [-7, ...LARGER], { rtol: 0, atol: 1e-12 });
});

Deno.test("resizePositions() resamples rows and columns apart, for each number of a position", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const [rows, columns, D] = [2, 3, 4];
  const values = Float64Array.from(random("table", (1 + rows * columns) * D));
  const actual = resizePositions(fromArray(backend, values, [1, 7, D]), [rows, columns], [5, 4]).readSync();
  const [down, across] = [bicubicMatrix(rows, 5), bicubicMatrix(columns, 4)];
  const expected = Float64Array.from(actual, (_, at) => {
    const [token, d] = [Math.floor(at / D), at % D];
    if (token === 0) return values[d];
    const [i, j] = [Math.floor((token - 1) / 4), (token - 1) % 4];
    let sum = 0;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        sum += down[i * rows + r] * across[j * columns + c] * values[(1 + r * columns + c) * D + d];
      }
    }
    return sum;
  });
  assertClose("positions", actual, expected, { rtol: 1e-14, atol: 1e-15 });
});

Deno.test("bicubicMatrix() has rows that add up to 1, and is the identity at the same size", () => {
  for (const [from, to] of [[14, 24], [24, 14], [1, 5], [3, 1], [7, 7]]) {
    const matrix = bicubicMatrix(from, to);
    for (let i = 0; i < to; i++) {
      const row = matrix.subarray(i * from, (i + 1) * from);
      assert.ok(Math.abs(row.reduce((a, b) => a + b) - 1) < 1e-14, `${from} to ${to}`);
      if (from === to) assert.ok(row.every((value, j) => value === (i === j ? 1 : 0)));
    }
  }
});

Deno.test("resizePositions() has the gradient of its values, and gives the table back at the same size", async () => {
  using backend = loopsBackend();
  const table = layOut(float([1, 7, 3]), "table", "contiguous");
  await gradcheck("resize", backend, [table], (x) => resizePositions(x, [2, 3], [3, 5]));
  await assertNoLeak("resize", backend, () => {
    using _ = scope("test");
    const x = fromArray(backend, new Float32Array(21), [1, 7, 3]);
    assert.equal(resizePositions(x, [2, 3], [2, 3]), x);
    assert.equal(noGrad(() => resizePositions(x, [2, 3], [4, 1])).shape[1], 5);
  });
});

Deno.test("resizePositions() of 16-bit tables rounds once", async () => {
  using backend = loopsBackend();
  const values = roundTo("bf16", random("table", 7 * 3));
  using wide = fromArray(backend, Float32Array.from(values), [1, 7, 3]);
  using narrow = fromArray(backend, toArray(values, "bf16"), [1, 7, 3], "bf16");
  const [expected, actual] = [wide, narrow].map((x) => resizePositions(x, [2, 3], [4, 5]));
  assert.equal(actual.dtype, "bf16");
  const rounded = roundTo("bf16", await takeHost(expected));
  assertRms("bf16", await takeHost(actual), rounded, { tolerance: 0 });
});
