/** The code-books against stored ones (testdata/codebooks.safetensors: the maps of the published kernels). */
import assert from "node:assert/strict";
import { codebook, codeLimits, type SlotKind, ZERO_CODE } from "./codebook.ts";
import { assertClose, readGolden } from "./testing/golden.ts";

const STORED: Readonly<Record<SlotKind, string>> = { signed: "dynamic_signed", nonnegative: "dynamic_unsigned" };

for (const kind of ["signed", "nonnegative"] as const) {
  Deno.test(`codebook() has the published values: ${kind}`, () => {
    const stored = readGolden(new URL("./testing/testdata/codebooks.safetensors", import.meta.url));
    assertClose(kind, codebook(kind), stored.get(STORED[kind])!.data, { rtol: 0, atol: 1e-7 });
    assert.equal(codebook(kind)[ZERO_CODE[kind]], 0);
  });

  Deno.test(`codeLimits() lie between neighbours, the last f32 that is not nearer to the larger one: ${kind}`, () => {
    const values = codebook(kind);
    const limits = codeLimits(kind);
    assert.equal(limits.length, 255);
    limits.forEach((limit, code) => {
      const next = nextFloat(limit);
      assert.ok(limit - values[code] <= values[code + 1] - limit, `limit ${code} is ${limit}`);
      assert.ok(next - values[code] > values[code + 1] - next, `limit ${code} could be ${next}`);
    });
  });
}

/** The next f32 above x, x not 0. */
function nextFloat(x: number): number {
  const bits = new Int32Array(Float32Array.of(x).buffer);
  bits[0] += x > 0 ? 1 : -1;
  return new Float32Array(bits.buffer)[0];
}
