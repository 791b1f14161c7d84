import assert from "node:assert/strict";
import {
  baseName,
  FileFolder,
  FileSink,
  FileSource,
  folderOf,
  join,
  plainName,
  readJsonFile,
  readTextFile,
} from "./files.ts";

async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-" });
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("FileSource.read() gives exactly the bytes asked for, also to many at once", () =>
  inFolder(async (folder) => {
    const data = Uint8Array.from({ length: 300_000 }, (_, i) => i * 7 + (i >> 8));
    await Deno.writeFile(`${folder}/x`, data);
    await using source = await FileSource.open(`${folder}/x`);
    assert.equal(source.size, 300_000);
    const places = [[0, 0], [299_999, 1], [5, 200_000], [100, 3], [0, 300_000]];
    const pieces = await Promise.all(places.map(([offset, length]) => source.read(offset, length)));
    places.forEach(([offset, length], i) => assert.deepEqual(pieces[i], data.slice(offset, offset + length)));
  }));

Deno.test("FileSource.read() throws when the file is shorter than asked, or got shorter", () =>
  inFolder(async (folder) => {
    await Deno.writeFile(`${folder}/x`, new Uint8Array(10));
    await using source = await FileSource.open(`${folder}/x`);
    await assert.rejects(source.read(5, 6), {
      name: "RangeError",
      message: /Cannot read 6 bytes at 5 of .*: it has 10/,
    });
    await Deno.truncate(`${folder}/x`, 7);
    await assert.rejects(source.read(5, 5), { name: "SyntaxError", message: /the file ended after 2 of them/ });
    assert.equal((await source.read(0, 7)).length, 7);
  }));

Deno.test("FileSource.open() says what is wrong when there is no file", () =>
  inFolder(async (folder) => {
    await assert.rejects(FileSource.open(`${folder}/x`), { message: `Cannot open ${folder}/x: there is no such file` });
    await assert.rejects(FileSource.open(folder), /it is (not a file|a folder)/);
  }));

Deno.test("FileSink.create() refuses a file that is there", () =>
  inFolder(async (folder) => {
    {
      await using sink = await FileSink.create(`${folder}/x`, { sync: true });
      await sink.write(new Uint8Array([1, 2]));
      await sink.write(new Uint8Array([3]));
      assert.equal(sink.bytes, 3);
    }
    assert.deepEqual(await Deno.readFile(`${folder}/x`), new Uint8Array([1, 2, 3]));
    await assert.rejects(FileSink.create(`${folder}/x`), /it is there already/);
  }));

Deno.test("FileFolder opens files by plain name", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/x`, "hello");
    const files = new FileFolder(folder);
    assert.equal(await files.text("x"), "hello");
    assert.ok(await files.has("x"));
    assert.ok(!await files.has("y"));
    await using source = await files.open("x");
    assert.equal(source.size, 5);
    for (const name of ["../x", "a/b", "a\\b", "..", ".", "", "C:x", "a\0b"]) {
      await assert.rejects(files.has(name), RangeError);
      await assert.rejects(files.open(name), RangeError);
    }
  }));

Deno.test("FileFolder refuses links that leave the folder, save into a Hugging Face cache's blobs", () =>
  inFolder(async (folder) => {
    const snapshot = `${folder}/models--x/snapshots/abc`;
    await Deno.mkdir(snapshot, { recursive: true });
    await Deno.mkdir(`${folder}/models--x/blobs`);
    await Deno.writeTextFile(`${folder}/secret`, "secret");
    await Deno.writeTextFile(`${folder}/models--x/blobs/123`, "weights");
    await Deno.writeTextFile(`${snapshot}/real`, "real");
    await Deno.symlink("../../../secret", `${snapshot}/out`);
    await Deno.symlink("../../blobs/123", `${snapshot}/blob`);
    await Deno.symlink("real", `${snapshot}/within`);
    await Deno.symlink("gone", `${snapshot}/dangling`);
    const files = new FileFolder(snapshot);
    await assert.rejects(files.open("out"), /it is a link that leaves the folder, to .*secret/);
    await assert.rejects(files.text("out"), TypeError);
    assert.equal(await files.text("blob"), "weights");
    assert.equal(await files.text("within"), "real");
    await assert.rejects(files.open("dangling"), /there is no such file/);
    await Deno.mkdir(`${folder}/models--x/snapshots/abc-2`);
    await Deno.writeTextFile(`${folder}/models--x/snapshots/abc-2/x`, "");
    await Deno.symlink("../abc-2/x", `${snapshot}/sibling`);
    await assert.rejects(files.open("sibling"), TypeError);
  }));

Deno.test("readTextFile() and readJsonFile() name the file when it is unreadable", () =>
  inFolder(async (folder) => {
    await Deno.writeFile(`${folder}/x`, new Uint8Array([0xff, 0x41]));
    await Deno.writeTextFile(`${folder}/y`, "{");
    await assert.rejects(readTextFile(`${folder}/x`), { name: "SyntaxError", message: /x: it is not UTF-8 text/ });
    await assert.rejects(readJsonFile(`${folder}/y`), { name: "SyntaxError", message: /^Cannot read .*\/y: / });
    await assert.rejects(readTextFile(`${folder}/z`), /there is no such file/);
  }));

Deno.test("paths are taken apart and joined", () => {
  assert.deepEqual(["a/b", "/a", "a", "/a/b/", "a\\b"].map(folderOf), ["a", "/", ".", "/a", "a"]);
  assert.deepEqual(["a/b", "/a", "a", "/a/b/", "a\\b"].map(baseName), ["b", "a", "a", "b", "b"]);
  assert.deepEqual([join("a", "b"), join("a/", "b"), join("/", "b")], ["a/b", "a/b", "/b"]);
  assert.equal(plainName("model-00001-of-00002.safetensors"), "model-00001-of-00002.safetensors");
});
