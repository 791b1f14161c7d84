/** PNG files of reports are read back, by a decoder that is not ours. */
import assert from "node:assert/strict";
import { decodeImage } from "../data/mod.ts";
import { encodePng, pngAddress } from "./png.ts";

for (const channels of [1, 3] as const) {
  Deno.test(`encodePng() keeps every pixel when there ${channels === 1 ? "is 1 channel" : "are 3"}`, async () => {
    const [height, width] = [5, 7];
    const pixels = Uint8Array.from({ length: height * width * channels }, (_, i) => (i * 37) % 256);
    const read = await decodeImage("x.png", await encodePng({ pixels, height, width, channels }), channels);
    assert.deepEqual([read.height, read.width, read.channels], [height, width, channels]);
    assert.deepEqual(read.pixels, pixels);
  });
}

Deno.test("pngAddress() holds the whole file", async () => {
  const image = { pixels: Uint8Array.of(0, 255), height: 1, width: 2, channels: 1 } as const;
  const [kind, data] = (await pngAddress(image)).split(",");
  assert.equal(kind, "data:image/png;base64");
  assert.deepEqual(Uint8Array.fromBase64(data), await encodePng(image));
});
