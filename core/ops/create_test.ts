/** Constants, ranges and random bits. */
import assert from "node:assert/strict";
import { loopsBackend } from "../../backends/cpu/loops/mod.ts";
import { keyOf, randomBits as hostBits } from "../random.ts";
import { scope } from "../scope.ts";
import { fill, iota, ones, randomBits, zeros } from "./create.ts";

Deno.test("fill(), zeros(), ones() and iota() make what they say in every dtype", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  assert.deepEqual(fill(backend, -7, [2, 2], "i32").readSync(), Int32Array.of(-7, -7, -7, -7));
  assert.deepEqual(fill(backend, 2 ** 32 - 1, [], "u32").readSync(), Uint32Array.of(2 ** 32 - 1));
  assert.deepEqual(fill(backend, 1, [2], "bf16").readSync(), Uint16Array.of(0x3f80, 0x3f80));
  assert.deepEqual(zeros(backend, [0]).readSync(), new Float32Array(0));
  assert.deepEqual(ones(backend, [3], "f64").readSync(), Float64Array.of(1, 1, 1));
  assert.deepEqual(iota(backend, 4).readSync(), Int32Array.of(0, 1, 2, 3));
  assert.deepEqual(iota(backend, 3, "f32", 1, -0.5).readSync(), Float32Array.of(1, 0.5, 0));
});

Deno.test("randomBits() gives the words of the key's stream for any shape", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  for (const shape of [[], [1], [33], [3, 5]]) {
    const bits = randomBits(backend, keyOf(11), shape);
    assert.deepEqual(bits.readSync(), hostBits(keyOf(11), bits.size));
  }
});
