/** Decoded images beside Pillow's (`testdata/images`, written by Pillow 9.4), and files that are no sound images. */

import assert from "node:assert/strict";
import { crc32 } from "node:zlib";
import { decodeImage } from "./images.ts";
import { readGolden, readTestImage } from "./testing/image_fixture.ts";

const { images } = await readGolden();

for (const [name, expected] of Object.entries(images)) {
  Deno.test(`decodeImage() gives what Pillow gives when it is ${name}`, async () => {
    const bytes = await readTestImage(name);
    for (const [channels, wanted] of [[3, expected.rgb], [1, expected.grey]] as const) {
      const image = await decodeImage(name, bytes, channels);
      assert.deepEqual([image.height, image.width, image.channels], [expected.height, expected.width, channels]);
      assert.deepEqual([...image.pixels], [...wanted], `${channels} channels`);
    }
  });
}

Deno.test("decodeImage() tells images apart by their bytes, decodes several at once, and part of a buffer", async () => {
  const names = ["rgb.png", "colour.jpg", "lossless.webp", "grey.jpg", "colour.jpg"];
  const decoded = await Promise.all(names.map(async (name) => {
    const bytes = await readTestImage(name);
    const larger = new Uint8Array(bytes.length + 10);
    larger.set(bytes, 5);
    return await decodeImage("any", larger.subarray(5, 5 + bytes.length));
  }));
  for (const [i, name] of names.entries()) assert.deepEqual([...decoded[i].pixels], [...images[name].rgb], name);
});

/** A JPEG with bytes that belong to nothing at a place of it. */
async function strewJpeg(at: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = await readTestImage("colour.jpg");
  return Uint8Array.of(...bytes.subarray(0, at), ...new Uint8Array(40).fill(7), ...bytes.subarray(at));
}

for (
  const [place, at] of [["in its header", 89], ["before its first scan", 609], ["behind its last pixel", -2]] as const
) {
  Deno.test(`decodeImage() gives what Pillow gives when a JPEG has stray bytes ${place}`, async () => {
    const bytes = await strewJpeg(at);
    assert.deepEqual([...(await decodeImage("strewn.jpg", bytes)).pixels], [...images["colour.jpg"].rgb]);
    await assert.rejects(
      decodeImage("cut.jpg", bytes.subarray(0, -90)),
      /not sound JPEG \(Premature end of JPEG file\)$/,
    );
  });
}

const change = (at: number, byte: number) => (bytes: Uint8Array) => void (bytes[at] = byte);
const cut = (length: number) => (bytes: Uint8Array) => bytes.subarray(0, length);
/** Every checksum is right, but rows are missing: twice as high. */
function heightenPng(bytes: Uint8Array): void {
  bytes[23] *= 2;
  new DataView(bytes.buffer).setUint32(29, crc32(bytes.subarray(12, 29)));
}
const DAMAGES: [string, string, (bytes: Uint8Array) => Uint8Array | void, RegExp][] = [
  ["it is empty", "rgb.png", cut(0), /: the file is empty$/],
  ["it is something else", "rgb.png", change(0, 0x47), /: it is neither PNG, JPEG nor WebP$/],
  ["a PNG header is cut off", "rgb.png", cut(20), /: its png header is cut off$/],
  ["a PNG is cut off", "rgb.png", cut(60), /: it is not sound PNG \(the data is cut off\)$/],
  [
    "a PNG has a flipped bit",
    "rgb.png",
    (bytes) => void (bytes[60] ^= 4),
    /the checksum of its chunk "IDAT" does not match\)$/,
  ],
  ["a PNG's data ends early", "rgb.png", heightenPng, /: it is not sound PNG \(the data is damaged or cut off\)$/],
  ["a PNG has no pixels", "rgb.png", change(19, 0), /: its header says 0 x 6 pixels$/],
  ["a PNG promises too much", "rgb.png", (bytes) => void bytes.fill(0x7f, 16, 24), /may have at most 89478485 pixels/],
  ["a JPEG header is cut off", "colour.jpg", cut(100), /: its jpeg header is cut off$/],
  [
    "a JPEG is cut off",
    "colour.jpg",
    (bytes) => bytes.subarray(0, -90),
    /not sound JPEG \(Premature end of JPEG file\)$/,
  ],
  ["a JPEG's data is damaged", "colour.jpg", (bytes) => void bytes.fill(0xff, 700, 720), /: it is not sound JPEG \(/],
  ["a JPEG is CMYK", "cmyk.jpg", () => {}, /got 4 components \(CMYK\?\); convert it to RGB first$/],
  ["a WebP is cut off", "lossless.webp", (bytes) => bytes.subarray(0, -60), /: it is not sound WEBP \(/],
  ["a WebP is animated", "animated.webp", () => {}, /: it is an animated WebP$/],
];

for (const [condition, name, damage, message] of DAMAGES) {
  Deno.test(`decodeImage() throws SyntaxError with the file when ${condition}, and goes on`, async () => {
    const bytes = await readTestImage(name);
    const damaged = damage(bytes) ?? bytes;
    for (let i = 0; i < 2; i++) {
      await assert.rejects(decodeImage("cats/1.x", damaged as Uint8Array<ArrayBuffer>), (error) => {
        assert.ok(error instanceof SyntaxError, String(error));
        assert.match(error.message, /^Cannot read image "cats\/1\.x": /);
        assert.match(error.message, message);
        return true;
      });
    }
    const whole = name === "cmyk.jpg" ? "colour.jpg" : name === "animated.webp" ? "lossless.webp" : name;
    const { pixels } = await decodeImage(whole, await readTestImage(whole));
    assert.deepEqual([...pixels], [...images[whole].rgb]);
  });
}
