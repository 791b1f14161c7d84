/** The subspaces of a compressed form: the stored ones, and those of the paper's null space, done literally. */
import assert from "node:assert/strict";
import { keyOf, svd } from "../core/mod.ts";
import { assertClose, readGolden, readJson } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { deepSubspaces } from "./deep_subspaces.ts";
import { drawIsometry, formIsometry } from "./isometry.ts";
import { asIsometry, eye, largestSine, product, transpose } from "./testing/host_matrices.ts";

const FOLDER = new URL("testdata/adapters/", import.meta.url);

Deno.test("deepSubspaces() spans the stored subspaces of the completion fixture within its angle", () => {
  const { d, est, eps } = readJson<{ d: number; est: number; eps: number }>(new URL("deep_completion.json", FOLDER));
  const golden = readGolden(new URL("deep_completion.safetensors", FOLDER));
  const data = (name: string) => golden.get(name)!.data;
  const start = product(data("full.W3"), product(data("full.W2"), data("full.W1"), [d, d, d]), [d, d, d]);
  const gradient = start.map((value, i) => data("mask")[i] * (value - data("target")[i]));
  const { left, right } = deepSubspaces(gradient, asIsometry(start.map((value) => value / eps ** 3), d, d), est);
  assert.ok(largestSine(data("compressed.right"), right, d, 2 * est) < 1e-3);
  assert.ok(largestSine(data("compressed.left"), left, d, 2 * est) < 1e-3);
});

/** Steps 1 to 5 as the paper's code has them, over wide factors: W_1's null space by the unit cosines of V_a^T V_b. */
function literalRight(gradient: Float64Array, W: readonly Float64Array[], d: number, rank: number): Float64Array {
  // dl/dW_1 = (W_3 W_2)^T G, with as many rows as columns
  const rows = gradient.length / d;
  const W1 = W[0];
  const before = product(W[2], W[1], [rows, d, d]);
  const { left: U, right: V } = svd(product(transpose(before, rows, d), gradient, [d, rows, d]), d, d);
  const tail = (x: Float64Array) =>
    Float64Array.from({ length: d * (d - rank) }, (_, i) => x[Math.floor(i / (d - rank)) * d + rank + i % (d - rank)]);
  const n = d - rank;
  const Vb = tail(V);
  const Va = product(transpose(W1, d, d), tail(U), [d, d, n]);
  const { left, values } = svd(product(transpose(Va, d, n), Vb, [n, d, n]), n, n);
  const kept = values.filter((cosine) => cosine > 1 - 1e-9).length;
  assert.equal(kept, d - 2 * rank, "unit cosines");
  const N = Float64Array.from({ length: d * kept }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < n; k++) sum += Va[Math.floor(i / kept) * n + k] * left[k * n + i % kept];
    return sum;
  });
  const complement = product(N, transpose(N, d, kept), [d, kept, d]).map((value, i) =>
    (i % (d + 1) === 0 ? 1 : 0) - value
  );
  const { left: basis } = svd(complement, d, d);
  return Float64Array.from({ length: 2 * rank * d }, (_, i) => basis[Math.floor(i / (2 * rank)) * d + i % (2 * rank)]);
}

for (const [rows, columns] of [[12, 12], [9, 12], [12, 9]]) {
  Deno.test(`deepSubspaces() is the complement of the paper's null space at ${rows} x ${columns}`, () => {
    const [rank, d] = [2, Math.max(rows, columns)];
    const gradient = random("gradient", rows * columns);
    // of a tall one the transposed problem is the same with its factors turned round
    const isTall = rows > columns;
    const shapes = [[d, columns], [d, d], [rows, d]];
    const factors = shapes.map(([m, n], i) => formIsometry(drawIsometry(keyOf(i), m, n)));
    const start = product(factors[2], product(factors[1], factors[0], [d, d, columns]), [rows, d, columns]);
    const { left, right, corner } = deepSubspaces(gradient, asIsometry(start, rows, columns), rank);
    const flipped = factors.map((factor, i) => transpose(factor, ...shapes[i] as [number, number])).reverse();
    const expected = isTall
      ? literalRight(transpose(gradient, rows, columns), flipped, d, rank)
      : literalRight(gradient, factors, d, rank);
    const found = isTall ? left : right;
    assertClose("orthonormal", product(transpose(found, d, 4), found, [4, d, 4]), eye(4), { rtol: 0, atol: 1e-13 });
    assert.ok(largestSine(expected, found, d, 4) < 1e-8);
    // the other side spans the image, orthonormally, and the corner says how
    const other = isTall ? right : left;
    const size = isTall ? columns : rows;
    const image = isTall
      ? product(transpose(start, rows, columns), left, [columns, rows, 4])
      : product(start, right, [rows, columns, 4]);
    assertClose("orthonormal", product(transpose(other, size, 4), other, [4, size, 4]), eye(4), {
      rtol: 0,
      atol: 1e-13,
    });
    const turn = isTall ? transpose(corner, 4, 4) : corner;
    assertClose("the other side", product(other, turn, [size, 4, 4]), image, { rtol: 0, atol: 1e-12 });
    if (rows === columns) assert.deepEqual(corner, eye(4));
    else assert.ok(Math.abs(corner[0] - 1) > 1e-3);
  });
}

Deno.test("deepSubspaces() holds the gradient's own directions whole", () => {
  const [rows, columns, rank] = [10, 14, 2];
  const u = random("u", rows * rank);
  const v = random("v", rank * columns);
  const gradient = product(u, v, [rows, rank, columns]);
  const start = drawIsometry(keyOf(1), rows, columns);
  const { right } = deepSubspaces(gradient, start, rank);
  const inside = product(gradient, product(right, transpose(right, columns, 4), [columns, 4, columns]), [
    ...[rows, columns, columns],
  ]);
  assertClose("G P = G", inside, gradient, { rtol: 0, atol: 1e-12 });
});
