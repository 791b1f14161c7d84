/** Shapes and strides: NumPy's rules on lists of sizes. */
import assert from "node:assert/strict";
import {
  broadcastShapes,
  broadcastStrides,
  contiguousStrides,
  describe,
  isContiguous,
  normalizeAxis,
  sameShape,
  sizeOf,
} from "./shape.ts";

Deno.test("sizeOf() and contiguousStrides() count elements, a scalar's too", () => {
  assert.equal(sizeOf([]), 1);
  assert.equal(sizeOf([3, 0, 2]), 0);
  assert.equal(sizeOf([2, 3, 4]), 24);
  assert.deepEqual(contiguousStrides([]), []);
  assert.deepEqual(contiguousStrides([2, 3, 4]), [12, 4, 1]);
  assert.deepEqual(contiguousStrides([2, 1, 4]), [4, 4, 1]);
});

Deno.test("isContiguous() looks past axes of size 1 and tensors without elements", () => {
  assert.ok(isContiguous([], []));
  assert.ok(isContiguous([2, 3], [3, 1]));
  assert.ok(isContiguous([1, 3], [99, 1]));
  assert.ok(isContiguous([3, 1], [1, 99]));
  assert.ok(isContiguous([0, 3], [7, 7]));
  assert.ok(!isContiguous([3, 2], [1, 3]));
  assert.ok(!isContiguous([2, 3], [4, 1]));
  assert.ok(!isContiguous([2, 3], [0, 1]));
});

Deno.test("broadcastShapes() aligns the last axes and stretches 1", () => {
  assert.deepEqual(broadcastShapes(), []);
  assert.deepEqual(broadcastShapes([], [3]), [3]);
  assert.deepEqual(broadcastShapes([3, 1, 7], [5, 1]), [3, 5, 7]);
  assert.deepEqual(broadcastShapes([1], [2, 3], [4, 1, 1]), [4, 2, 3]);
  assert.deepEqual(broadcastShapes([0], [1]), [0]);
  assert.equal(broadcastShapes([2], [3]), undefined);
  assert.equal(broadcastShapes([0], [3]), undefined);
});

Deno.test("broadcastStrides() reads repeated axes with stride 0", () => {
  assert.deepEqual(broadcastStrides([3, 1], [1, 1], [2, 3, 4]), [0, 1, 0]);
  assert.deepEqual(broadcastStrides([], [], [2]), [0]);
  assert.deepEqual(broadcastStrides([1, 3], [3, 1], [1, 3]), [3, 1]);
});

Deno.test("normalizeAxis() counts negative axes from the end and refuses what lies outside", () => {
  assert.equal(normalizeAxis(-1, 3, "sum"), 2);
  assert.equal(normalizeAxis(0, 3, "sum"), 0);
  for (const axis of [3, -4, 0.5, NaN]) {
    assert.throws(() => normalizeAxis(axis, 3, "sum"), {
      name: "RangeError",
      message: `Cannot use axis ${axis} in sum(): the operand has 3 axes`,
    });
  }
});

Deno.test("sameShape() and describe() compare and show shapes", () => {
  assert.ok(sameShape([2, 3], [2, 3]) && !sameShape([2, 3], [2, 3, 1]) && !sameShape([2, 3], [3, 2]));
  assert.equal(describe({ dtype: "f32", shape: [2, 3] }), "f32[2, 3]");
  assert.equal(describe({ dtype: "i32", shape: [] }), "i32[]");
});
