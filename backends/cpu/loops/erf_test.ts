/** The error function against its series in 300-bit integers. */
import assert from "node:assert/strict";
import { erf } from "./erf.ts";

const BITS = 300n;
const ONE = 1n << BITS;

/** By the alternating series in fixed point with 300 bits: exact to far more than f64 holds. */
function erfByIntegers(x: number): number {
  const scaled = BigInt(x * 2 ** 40) * (ONE >> 40n);
  const square = scaled * scaled / ONE;
  let power = scaled;
  let sum = scaled;
  for (let i = 1n; power !== 0n; i++) {
    power = -power * square / ONE / i;
    sum += power / (2n * i + 1n);
  }
  // 2 / sqrt(pi) to 40 digits.
  const factor = 11283791670955125738961589031215451716881n;
  return Number((sum * factor / 10n ** 40n) >> (BITS - 100n)) / 2 ** 100;
}

Deno.test("erf() lies within 5e-16 of the exact value when x spans every branch", () => {
  for (let x = 2 ** -10; x < 6.5; x += 2 ** -10 * 7) {
    const exact = erfByIntegers(x);
    assert.ok(Math.abs(erf(x) - exact) <= 5e-16 * exact, `erf(${x}) is ${erf(x)}, not ${exact}`);
    assert.equal(erf(-x), -erf(x));
  }
});

Deno.test("erf() keeps signs, limits and NaN when x is special", () => {
  assert.ok(Object.is(erf(-0), -0));
  assert.deepEqual([erf(0), erf(Infinity), erf(-Infinity), erf(30)], [0, 1, -1, 1]);
  assert.ok(Number.isNaN(erf(NaN)));
  assert.equal(erf(1e-300), 2 / Math.sqrt(Math.PI) * 1e-300);
});
