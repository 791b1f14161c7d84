/** 16-bit types: every number there and back, and rounding. */
import assert from "node:assert/strict";
import { bf16FromF32Bits, narrow, widen } from "./half.ts";

Deno.test("narrow() gives back all 65536 bf16 and f16 numbers when they were widened", () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  for (const dtype of ["bf16", "f16"] as const) {
    const values = widen(dtype, bits, 0, bits.length);
    const again = new Uint16Array(bits.length);
    narrow(dtype, values, again, 0);
    for (let i = 0; i < bits.length; i++) {
      if (Number.isNaN(values[i])) assert.ok(Number.isNaN(widen(dtype, again, i, 1)[0]));
      else assert.equal(again[i], bits[i]);
    }
  }
});

Deno.test("bf16FromF32Bits() rounds to nearest even when bits are cut off", () => {
  const cases: [number, number][] = [
    [0x3f808000, 0x3f80], // a tie, down to even
    [0x3f818000, 0x3f82], // a tie, up to even
    [0x3f808001, 0x3f81],
    [0x3f807fff, 0x3f80],
    [0x7f7fffff, 0x7f80], // beyond the largest: infinity
    [0xff800000, 0xff80],
    [0xbf818000, 0xbf82],
  ];
  for (const [word, half] of cases) assert.equal(bf16FromF32Bits(word), half, word.toString(16));
  assert.equal(bf16FromF32Bits(0x7f800001), 0x7fc0, "a NaN whose upper half would be an infinity");
});

Deno.test("widen() reads from the given place when the array is part of a buffer", () => {
  const bits = new Uint16Array(8).subarray(2);
  narrow("f16", Float32Array.of(1, 2, 3), bits, 1);
  assert.deepEqual(widen("f16", bits, 2, 2), Float32Array.of(2, 3));
  narrow("bf16", Float32Array.of(1, 2, 3), bits, 1);
  assert.deepEqual(widen("bf16", bits, 2, 2), Float32Array.of(2, 3));
});
