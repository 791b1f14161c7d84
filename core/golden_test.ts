/** Every op against PyTorch's numbers, on the loops in f32. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { GOLDEN_CASES, GOLDEN_LEFT_OUT, GOLDEN_RUNS, goldenOps } from "./testing/golden_ops.ts";

Deno.test("goldenOps() runs every case of the file or says why not", () => {
  const known = [...Object.keys(GOLDEN_RUNS), ...Object.keys(GOLDEN_LEFT_OUT)];
  assert.deepEqual(known.sort(), Object.keys(GOLDEN_CASES).sort());
});

goldenOps("loops", () => loopsBackend());
