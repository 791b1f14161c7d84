/** Crops, flips and normalised values, by hand. */

import assert from "node:assert/strict";
import {
  applyTransform,
  IMAGENET_NORMALIZATION,
  type ImageTransformOptions,
  makeTransform,
  normalizePixels,
  placeImage,
} from "./image_transform.ts";

const FROM = { height: 3, width: 4, channels: 1 };
/** Rows 10 11 12 13, 20 21 22 23, 30 31 32 33. */
const IMAGE = Uint8Array.of(10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33);
const make = (options: ImageTransformOptions, random = false) => makeTransform(FROM, { ...options, random });

function bytes(options: ImageTransformOptions, placement = placeImage(make(options), 0, 0, 0)): number[] {
  const transform = make(options);
  const out = new Uint8Array(transform.to.height * transform.to.width);
  applyTransform(transform, placement, IMAGE, out);
  return [...out];
}

Deno.test("applyTransform() cuts at the centre, and leaves an image whole by default", () => {
  assert.deepEqual(bytes({}), [...IMAGE]);
  assert.deepEqual(bytes({ crop: { height: 1, width: 2 } }), [21, 22]);
  assert.deepEqual(bytes({ crop: 2 }), [11, 12, 21, 22]);
  assert.deepEqual(bytes({ padding: 7 }), [...IMAGE]);
  assert.deepEqual(bytes({ padding: 1, crop: { height: 5, width: 4 } }), [0, 0, 0, 0, ...IMAGE, 0, 0, 0, 0]);
});

Deno.test("applyTransform() pads with black and mirrors where the placement says so", () => {
  const options = { padding: 1, crop: 2 };
  assert.deepEqual(bytes(options, { top: -1, left: -1, flipped: false }), [0, 0, 0, 10]);
  assert.deepEqual(bytes(options, { top: -1, left: -1, flipped: true }), [0, 0, 10, 0]);
  assert.deepEqual(bytes(options, { top: 2, left: 3, flipped: false }), [33, 0, 0, 0]);
  assert.deepEqual(bytes({}, { top: 0, left: 0, flipped: true }), [13, 12, 11, 10, 23, 22, 21, 20, 33, 32, 31, 30]);
});

Deno.test("applyTransform() normalises each channel and puts channels first", () => {
  const from = { height: 1, width: 2, channels: 3 };
  const image = Uint8Array.of(0, 51, 255, 255, 102, 0);
  const expected = [
    [0, 255].map((value) => (value / 255 - 0.485) / 0.229),
    [51, 102].map((value) => (value / 255 - 0.456) / 0.224),
    [255, 0].map((value) => (value / 255 - 0.406) / 0.225),
  ].flat().map(Math.fround);
  const transform = makeTransform(from, { ...IMAGENET_NORMALIZATION, random: false });
  const out = new Float32Array(6);
  applyTransform(transform, { top: 0, left: 0, flipped: false }, image, out);
  assert.deepEqual([...out], expected);
  const raw = new Uint8Array(6);
  applyTransform(transform, { top: 0, left: 0, flipped: false }, image, raw);
  assert.deepEqual([...raw], [0, 255, 51, 102, 255, 0]);
  const twice = Uint8Array.of(...raw, ...raw);
  assert.deepEqual([...normalizePixels(twice, from, IMAGENET_NORMALIZATION)], [...expected, ...expected]);
  assert.deepEqual([...normalizePixels(Uint8Array.of(0, 255), { ...FROM, height: 1, width: 2 })], [-1, 1]);
});

Deno.test("placeImage() draws every place and both sides alike, by seed, epoch and image alone", () => {
  const transform = make({ padding: 1, crop: { height: 3, width: 2 }, flip: true }, true);
  const counts = new Map<string, number>();
  for (let row = 0; row < 12_000; row++) {
    const { top, left, flipped } = placeImage(transform, 1, 0, row);
    const key = `${top} ${left} ${flipped}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  // 3 tops, 5 lefts, 2 sides: 400 of each on average, with a deviation of 20
  assert.equal(counts.size, 30);
  for (const [key, count] of counts) assert.ok(Math.abs(count - 400) < 100, `${key}: ${count}`);
  const draws = (seed: number, epoch: number) =>
    JSON.stringify(Array.from({ length: 20 }, (_, row) => placeImage(transform, seed, epoch, row)));
  assert.equal(draws(1, 2), draws(1, 2));
  assert.equal(new Set([draws(1, 2), draws(2, 1), draws(1, 3), draws(2, 2)]).size, 4);
  assert.equal(placeImage(make({ padding: 1 }, true), 1, 0, 5).flipped, false);
});

Deno.test("makeTransform() throws RangeError when options do not fit the images", () => {
  for (
    const [options, message] of [
      [{ crop: 4 }, /must fit into the image and its padding of 0, got 4 x 4 of 3 x 4$/],
      [{ crop: 6, padding: 1 }, /got 6 x 6 of 3 x 4$/],
      [{ crop: 0 }, /crop must be a whole number from 1, got 0$/],
      [{ padding: -1 }, /padding must be a whole number from 0, got -1$/],
      [{ mean: [0.1, 0.2] }, /mean must be one number or 1, one a channel, got \[0.1, 0.2\]$/],
      [{ mean: NaN }, /mean must be/],
      [{ std: 0 }, /std must be above 0, got 0$/],
    ] as [ImageTransformOptions, RegExp][]
  ) {
    assert.throws(() => make(options), { name: "RangeError", message });
  }
});
