/** Resizing beside Pillow's, by hand, and what `fitImage` makes of other shapes. */

import assert from "node:assert/strict";
import type { Image } from "./images.ts";
import { fitImage, resizeImage } from "./resize.ts";
import { readGolden } from "./testing/image_fixture.ts";

function image(height: number, width: number, channels: 1 | 3, values?: ArrayLike<number>): Image {
  const pixels = Uint8Array.from(
    { length: height * width * channels },
    (_, i) => values ? values[i] : Number(BigInt(i) * 2654435761n >> 9n & 255n),
  );
  return { pixels, height, width, channels };
}

const { resizes } = await readGolden();
for (const { from, to, pixels } of resizes) {
  Deno.test(`resizeImage() gives Pillow's bits when ${from} becomes ${to}`, () => {
    const out = resizeImage(image(from[0], from[1], from[2] as 1 | 3), { height: to[0], width: to[1] });
    assert.deepEqual([out.height, out.width, out.channels], [to[0], to[1], from[2]]);
    assert.deepEqual([...out.pixels], [...pixels]);
  });
}

Deno.test("resizeImage() averages over what it leaves out", () => {
  // halving: the triangle reaches two input pixels to each side of a centre between two: weights 1/8, 3/8, 3/8, 1/8,
  // of which 3/7, 3/7, 1/7 are left at a border: 70 * 3/7, 70 / 8, 210 * 3/7
  const row = image(1, 6, 1, [0, 70, 0, 0, 0, 210]);
  assert.deepEqual([...resizeImage(row, { height: 1, width: 3 }).pixels], [30, 9, 90]);
});

Deno.test("resizeImage() keeps an even grey, whatever the sizes", () => {
  const grey = image(31, 17, 1, new Uint8Array(31 * 17).fill(201));
  for (const [height, width] of [[1, 1], [31, 5], [7, 17], [90, 64]]) {
    assert.ok(resizeImage(grey, { height, width }).pixels.every((value) => value === 201));
  }
  assert.equal(resizeImage(grey, { height: 31, width: 17 }).pixels, grey.pixels);
});

Deno.test("fitImage() cuts or pads at the centre when shapes differ", () => {
  const wide = image(2, 6, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  const square = { height: 2, width: 2 };
  assert.deepEqual([...fitImage(wide, square, "crop").pixels], [3, 4, 9, 10]);
  assert.deepEqual([...fitImage(wide, { height: 6, width: 6 }, "pad").pixels], [
    ...new Uint8Array(12),
    ...wide.pixels,
    ...new Uint8Array(12),
  ]);
  assert.deepEqual(fitImage(wide, square, "stretch"), resizeImage(wide, square));
  const tall = image(6, 1, 3, Array.from({ length: 18 }, (_, i) => i));
  assert.deepEqual([...fitImage(tall, { height: 1, width: 1 }, "crop").pixels], [6, 7, 8]);
  const padded = fitImage(tall, { height: 6, width: 4 }, "pad");
  assert.deepEqual([...padded.pixels.subarray(0, 12)], [0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0]);
});

Deno.test("resizeImage() throws RangeError when a side is no whole number from 1", () => {
  for (const height of [0, 1.5, NaN, -3]) {
    assert.throws(() => resizeImage(image(2, 2, 1), { height, width: 2 }), /^RangeError: Cannot resize an image: /);
  }
});
