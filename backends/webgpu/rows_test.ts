/** Rows by index in a large vocabulary, and indices that mean nothing. */
import assert from "node:assert/strict";
import { loopsBackend } from "../cpu/loops/mod.ts";
import { embedding } from "../../core/ops/indexing.ts";
import { assertClose } from "../../core/testing/golden.ts";
import { random } from "../../core/testing/gradcheck.ts";
import { evaluate, given, type HostInput, layOut } from "../../core/testing/inputs.ts";
import type { Shape } from "../../core/shape.ts";
import { webgpuBackend } from "./mod.ts";
import { webgpuTest } from "./testing.ts";

function floats(shape: Shape, values: ArrayLike<number>): HostInput {
  return layOut(given("float", shape, values), "x", "contiguous");
}

function integers(values: ArrayLike<number>): HostInput {
  return layOut(given("i32", [values.length], values), "i", "contiguous");
}

const VOCABULARY = 32_000;

webgpuTest("scatterAddRows() adds up rows of equal and of mixed indices in a large vocabulary", async () => {
  using backend = await webgpuBackend();
  using loops = loopsBackend();
  for (const [columns, mixed] of [[8, false], [4, true], [3, true]] as const) {
    const count = 4096 + (mixed ? 905 : 0);
    const uniform = random("indices", count);
    // a few indices often, most of them once
    const pick = (u: number, i: number) => Math.floor(Math.abs(u) * (i % 3 === 0 ? 7 : VOCABULARY)) % VOCABULARY;
    const indices = Array.from(uniform, (u, i) => mixed ? pick(u, i) : 31_999);
    const inputs = [floats([VOCABULARY, columns], new Float64Array(VOCABULARY * columns)), integers(indices)];
    const cotangent = random("rows", count * columns).map((x) => Math.fround(x + 0.5));
    const expected = await evaluate(loops, inputs, embedding, { cotangent });
    const actual = await evaluate(backend, inputs, embedding, { dtype: "f32", cotangent });
    const what = `[${VOCABULARY}, ${columns}] ${mixed ? "mixed" : "equal"}`;
    assertClose(what, actual.gradients[0]!, expected.gradients[0]!, { rtol: 2e-6, atol: 1e-6 });
    const untouched = new Set(indices);
    actual.gradients[0]!.forEach((value, i) =>
      assert.ok(value === 0 || untouched.has(Math.floor(i / columns)), `${what}: row ${i}`)
    );
  }
});

webgpuTest("an index outside reads nothing: NaN in its row, and in row 0 of the gradient", async () => {
  using backend = await webgpuBackend();
  for (const dtype of ["f32", "bf16", "f16"] as const) {
    for (const columns of [4, 3, 1]) {
      for (const wrong of [-1, 7, 2 ** 31 - 1]) {
        for (const zero of [0, 2]) {
          const table = floats([7, columns], new Float64Array(7 * columns).fill(2));
          const inputs = [table, integers([3, wrong, zero, 3])];
          const cotangent = new Float64Array(4 * columns).fill(1);
          const { value, gradients: [gradient] } = await evaluate(backend, inputs, embedding, { dtype, cotangent });
          const rowOf = (i: number) => Math.floor(i / columns);
          value.forEach((x, i) =>
            assert.ok(rowOf(i) === 1 ? Number.isNaN(x) : x === 2, `${dtype} ${columns} ${i}: ${x}`)
          );
          const expected = [NaN, 0, zero === 2 ? 1 : 0, 2, 0, 0, 0];
          assert.deepEqual([...gradient!], expected.flatMap((x) => new Array<number>(columns).fill(x)));
        }
      }
    }
  }
});
