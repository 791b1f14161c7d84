/** IDX files, plain and in gzip: what they hold, and everything that can be wrong with them. */

import assert from "node:assert/strict";
import { openIdx } from "./idx.ts";
import { openIdxSource } from "./image_source.ts";
import { idxBytes } from "./testing/image_fixture.ts";
import { withFolder } from "./testing/store_fixture.ts";

const VALUES = Array.from({ length: 3 * 2 * 4 }, (_, i) => 10 * i);

async function gzip(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

Deno.test("openIdx() reads items in any order, in place or from gzip, whatever the name", async () => {
  await withFolder(async (folder) => {
    const bytes = idxBytes([3, 2, 4], VALUES);
    for (const [name, content] of [["a.idx", bytes], ["b", await gzip(bytes)]] as const) {
      await Deno.writeFile(`${folder}/${name}`, content);
      using file = await openIdx(`${folder}/${name}`, { dimensions: 3, spool: `${folder}/spool` });
      assert.deepEqual([file.shape, file.itemBytes], [[3, 2, 4], 8]);
      assert.deepEqual([...file.read(2, 1)], VALUES.slice(16));
      assert.deepEqual([...file.read(0, 2)], VALUES.slice(0, 16));
    }
  });
});

const cut = (bytes: Uint8Array<ArrayBuffer>, length: number) => bytes.subarray(0, length);
const GOOD = idxBytes([3, 2, 4], VALUES);
const BAD: [string, Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>, RegExp][] = [
  ["it is empty", new Uint8Array(0), /: the file is empty$/],
  ["it is something else", new TextEncoder().encode("a,b,c\n1,2,3\n"), /must begin with two zero bytes/],
  ["it holds floats", idxBytes([3, 2, 4], VALUES, 13), /must hold unsigned bytes \(type 8\), got type 13$/],
  ["it holds labels", idxBytes([24], VALUES), /images have 3 dimensions, got 1$/],
  ["its header is cut off", cut(GOOD, 10), /its header is cut off$/],
  ["there is nothing in it", idxBytes([0, 2, 4], []), /says 0 x 2 x 4: there is nothing in it$/],
  ["it is cut off", cut(GOOD, 39), /says 3 x 2 x 4, which takes 40 bytes, got 39$/],
  ["there is more than it says", idxBytes([3, 2, 4], [...VALUES, 1]), /takes 40 bytes, got 41$/],
  ["its gzip is cut off", gzip(GOOD).then((bytes) => cut(bytes, bytes.length - 12)), /gzip data is damaged or cut off/],
  ["its gzip holds too much", gzip(idxBytes([3, 2, 4], new Uint8Array(1e6))), /takes 40 bytes, got \d+$/],
  ["its gzip holds too little", gzip(cut(GOOD, 30)), /takes 40 bytes, got 30$/],
  ["its gzip holds something else", gzip(new Uint8Array(40).fill(7)), /must begin with two zero bytes/],
  ["its gzip holds nothing", gzip(new Uint8Array(0)), /must begin with two zero bytes/],
];

for (const [condition, content, message] of BAD) {
  Deno.test(`openIdx() throws SyntaxError with the file when ${condition}`, async () => {
    await withFolder(async (folder) => {
      const path = `${folder}/a.idx`;
      await Deno.writeFile(path, await content);
      await assert.rejects(openIdx(path, { dimensions: 3, spool: `${folder}/spool` }), (error) => {
        assert.ok(error instanceof SyntaxError, String(error));
        assert.match(error.message, /^Cannot read IDX file ".*a\.idx": /);
        assert.match(error.message, message);
        return true;
      });
    });
  });
}

Deno.test("openIdx() throws when there is no file, or a folder", async () => {
  await withFolder(async (folder) => {
    const options = { dimensions: 1, spool: `${folder}/spool` } as const;
    await assert.rejects(openIdx(`${folder}/none`, options), /^NotFound: Cannot read ".*none": there is no such file$/);
    await assert.rejects(openIdx(folder, options), /^TypeError: .*expected a file, got a folder/);
  });
});

Deno.test("openIdxSource() gives images with labels, and refuses another number of them", async () => {
  await withFolder(async (folder) => {
    await Deno.writeFile(`${folder}/images`, await gzip(GOOD));
    await Deno.writeFile(`${folder}/labels`, await gzip(idxBytes([3], [4, 0, 4])));
    await Deno.writeFile(`${folder}/fewer`, idxBytes([2], [1, 0]));
    const open = (labels: string, spool: string) =>
      openIdxSource(`${folder}/images`, `${folder}/${labels}`, [`${folder}/${spool}1`, `${folder}/${spool}2`]);
    using source = await open("labels", "a");
    assert.deepEqual([source.classes, [...source.labels]], [["0", "1", "2", "3", "4"], [4, 0, 4]]);
    assert.deepEqual(source.size, { height: 2, width: 4 });
    const shape = { size: { height: 2, width: 4 }, channels: 1, fit: "stretch" } as const;
    assert.deepEqual([...(await source.read(1, shape)).pixels], VALUES.slice(8, 16));
    const colour = await source.read(1, { ...shape, channels: 3 });
    assert.deepEqual([...colour.pixels.subarray(0, 6)], [80, 80, 80, 90, 90, 90]);
    const half = await source.read(0, { ...shape, size: { height: 1, width: 2 } });
    assert.deepEqual([half.height, half.width, half.pixels.length], [1, 2, 2]);
    await assert.rejects(open("fewer", "b"), /^RangeError: .*must be one label to an image, got 2 labels, 3 images$/);
  });
});
