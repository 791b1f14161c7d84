/** `prepare --images` and `verify` on what it makes, and images that no store can be made of: one line each, nothing written. */
import assert from "node:assert/strict";
import { ImageBatches, openImageStore, prepareImages } from "../data/mod.ts";
import { idxBytes, readTestImage, writeIdxFixture, writeImageFolder } from "../data/testing/image_fixture.ts";
import { type BadInput, editJson, flipByte, testBadInputs } from "./testing/bad_input.ts";
import { Workspace } from "./testing/workspace.ts";

Deno.test("main() prepares a folder of classes, and verify finds the store sound", async () => {
  await using workspace = await Workspace.open();
  await writeImageFolder("set");
  await Deno.writeTextFile("set/dog/9.png", "no image");
  const prepared = await workspace.run(
    ...["prepare", "--images", "set", "--size", "12x10", "--keep-aspect", "crop", "--skip-broken"],
    ...["--hold-out", "0", "--out", "set.zarr"],
  );
  assert.equal(prepared.code, 0, prepared.err);
  assert.equal(
    prepared.out.trim(),
    "set.zarr: 6 colour images of 12 x 10 in 2 classes to train on, 0 held out, 1 that could not be read left out",
  );
  const verified = await workspace.run("verify", "set.zarr");
  assert.equal(verified.code, 0, verified.err);
  assert.match(verified.out, /^set\.zarr: sound; 6 images in 1 chunks of 2 shards, every checksum right\n$/);
  assert.deepEqual((await openImageStore("set.zarr")).info.fit, "crop");
});

Deno.test("main() prepares IDX files: some classes, so many images of each, the rest held out", async () => {
  await using workspace = await Workspace.open();
  await writeIdxFixture(".", 60);
  const idx = ["--images", "images.idx", "--labels", "labels.idx"];
  const flags = [
    "--classes",
    "2,0",
    "--per-class",
    "6",
    "--hold-out-rest",
    "--validation-per-class",
    "9",
    "--seed",
    "4",
  ];
  const prepared = await workspace.run("prepare", ...idx, ...flags, "--out", "some.zarr");
  assert.equal(prepared.code, 0, prepared.err);
  // class 2 has 10 images, of which 4 are left
  assert.equal(prepared.out.trim(), "some.zarr: 12 grey images of 5 x 4 in 2 classes to train on, 13 held out");
  const { info } = await openImageStore("some.zarr");
  assert.deepEqual([info.classes, info.seed, info.splits.validation?.perClass], [["2", "0"], 4, [4, 9]]);
  using batches = new ImageBatches("some.zarr", { batch: 12, readers: 0 });
  assert.deepEqual([...(await batches.next()).labels].toSorted(), [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);

  const colour = ["--validation-images", "images.idx", "--validation-labels", "labels.idx", "--channels", "3"];
  const whole = await workspace.run("prepare", ...idx, ...colour, "--size", "7", "--out", "whole.zarr");
  assert.equal(whole.out.trim(), "whole.zarr: 60 colour images of 7 x 7 in 3 classes to train on, 60 held out");
});

Deno.test("main() takes a class with a comma in its name when --classes names it alone", async () => {
  await using workspace = await Workspace.open();
  await writeImageFolder("set");
  await Deno.rename("set/dog", "set/tench, Tinca tinca");
  await Deno.mkdir("set/bird");
  await Deno.writeFile("set/bird/1.png", await readTestImage("rgb.png"));
  const flags = ["--classes", "tench, Tinca tinca", "--classes", "bird, cat"];
  const { code, err } = await workspace.run("prepare", "--images", "set", "--size", "8", "--out", "out.zarr", ...flags);
  assert.equal(code, 0, err);
  assert.deepEqual((await openImageStore("out.zarr")).info.classes, ["tench, Tinca tinca", "bird", "cat"]);
});

for (const [what, ...flags] of [["images", "--images", "set", "--size", "99"], ["text", "--input", "corpus.txt"]]) {
  Deno.test({
    name: `main() leaves nothing of ${what} and exits with 130 when prepare gets SIGTERM`,
    ignore: Deno.build.os === "windows",
    async fn() {
      await using workspace = await Workspace.open();
      await writeImageFolder("set");
      await Deno.writeTextFile("corpus.txt", "to be or not to be\n".repeat(100_000));
      const before = [...Deno.readDirSync(".")].map(({ name }) => name).sort();
      const running = workspace.run("prepare", ...flags, "--out", "out.zarr");
      Deno.kill(Deno.pid, "SIGTERM"); // heard already: the verb listens before anything that takes time
      const { code, err } = await running;
      assert.equal(code, 130, err);
      assert.match(err, /^SIGTERM: removing what was written; once more to stop at once$/m);
      assert.match(err, /^Cannot prepare out\.zarr: stopped by SIGTERM, and what was written is removed$/m);
      assert.deepEqual([...Deno.readDirSync(".")].map(({ name }) => name).sort(), before);
    },
  });
}

Deno.test("verify lists what is wrong with an image store", async () => {
  await using workspace = await Workspace.open();
  await makeImageStore(() => flipByte("images.zarr/train/images/c/0/0/0/0", 30));
  const { code, err } = await workspace.run("verify", "images.zarr");
  assert.equal(code, 1);
  assert.match(
    err,
    /chunk 0 of shard "train\/images\/c\/0\/0\/0\/0" of store "images\.zarr": its checksum does not match/,
  );
  assert.match(err, /Cannot vouch for images\.zarr: 1 problem\n$/);
});

async function makeImageStore(change?: () => Promise<unknown>): Promise<void> {
  await prepareImages({ inputs: await writeIdxFixture(".", 30), out: "images.zarr" });
  await change?.();
}

async function makeSet(...broken: [path: string, bytes: Uint8Array<ArrayBuffer>][]): Promise<void> {
  await writeImageFolder("set");
  for (const [path, bytes] of broken) await Deno.writeFile(`set/${path}`, bytes);
}

const prepareSet = (...flags: string[]) => ["prepare", "--images", "set", "--size", "8", "--out", "out.zarr", ...flags];
const prepareIdx = (...flags: string[]) => {
  const idx = ["--images", "images.idx", "--labels", "labels.idx"];
  return ["prepare", ...idx, "--out", "out.zarr", ...flags];
};
const text = (content: string) => new TextEncoder().encode(content);

const FOLDERS: BadInput[] = [
  {
    when: "there is no such folder of images",
    argv: prepareSet(),
    message: /^Cannot read images from "set": there is no such folder$/,
  },
  {
    when: "a folder has no classes",
    make: () => Deno.mkdir("set"),
    argv: prepareSet(),
    message: /^Cannot read images from "set": expected one sub-folder a class, got none$/,
  },
  {
    when: "an image lies beside the classes",
    make: () => makeSet(["a.png", text("x")]),
    argv: prepareSet(),
    message: /every image must lie in the sub-folder of its class, got "a\.png" outside$/,
  },
  {
    when: "a class has no images",
    make: async () => {
      await makeSet();
      await Deno.mkdir("set/bird");
    },
    argv: prepareSet(),
    message: /^Cannot prepare images of "set": class "bird" has no images$/,
  },
  {
    when: "an image is broken",
    make: async () => makeSet(["cat/1.png", (await readTestImage("rgb.png")).subarray(0, 70)]),
    argv: prepareSet(),
    message: /^Cannot read image "set\/cat\/1\.png": it is not sound PNG .*; --skip-broken leaves such images out$/,
  },
  {
    when: "an image is CMYK",
    make: async () => makeSet(["dog/c.jpg", await readTestImage("cmyk.jpg")]),
    argv: prepareSet(),
    message: /^Cannot read image "set\/dog\/c\.jpg": .*got 4 components \(CMYK\?\); convert it to RGB first; --skip/,
  },
  {
    when: "an image is of another format",
    make: () => makeSet(["dog/c.bmp", text("BM")]),
    argv: prepareSet(),
    message: /^Cannot read image "set\/dog\/c\.bmp": it must be PNG, JPEG or WebP; convert it first; --skip/,
  },
  {
    when: "every image of a class is broken",
    make: async () => {
      await Deno.mkdir("set/bird", { recursive: true });
      await makeSet(["bird/1.png", text("x")]);
    },
    argv: prepareSet("--skip-broken"),
    message: /^Cannot prepare images of "set": class "bird" must have 1 readable image to train on, got 0$/,
  },
  {
    when: "a folder comes without a size",
    make: () => makeSet(),
    argv: ["prepare", "--images", "set", "--out", "out.zarr"],
    message: /^Cannot prepare images of "set": files have sizes of their own, so size must be given; use --size$/,
  },
  {
    when: "the size is no size",
    argv: ["prepare", "--images", "set", "--out", "out.zarr", "--size", "28x"],
    message: /^Cannot use --size in prepare: expected pixels, such as 28 or 224x192 \(height x width\), got "28x"$/,
    code: 2,
  },
  {
    when: "a class is not there",
    make: () => makeSet(),
    argv: prepareSet("--classes", "cat,bird"),
    message: /^Cannot prepare images of "set": there is no class "bird", only cat, dog$/,
  },
  {
    when: "other images have a class that none are trained on",
    make: async () => {
      await makeSet();
      await writeImageFolder("held");
      await Deno.mkdir("held/bird");
      await Deno.writeFile("held/bird/1.png", await readTestImage("rgb.png"));
    },
    argv: prepareSet("--validation-images", "held"),
    message:
      /images of "held" to evaluate on: class "bird" is not among those to train on; --classes says which to take$/,
  },
  {
    when: "a class has too few images",
    make: () => makeSet(),
    argv: prepareSet("--per-class", "4"),
    message: /^Cannot prepare 4 images a class of "set": class "cat" has only 3$/,
  },
];

const IDX: BadInput[] = [
  {
    when: "IDX images come without labels",
    make: () => writeIdxFixture(".", 12),
    argv: ["prepare", "--images", "images.idx", "--out", "out.zarr"],
    message: /expected a folder, got a file; IDX images need labels; use --labels$/,
  },
  {
    when: "labels and images are exchanged",
    make: () => writeIdxFixture(".", 12),
    argv: ["prepare", "--images", "labels.idx", "--labels", "images.idx", "--out", "out.zarr"],
    message: /^Cannot read IDX file "labels\.idx": images have 3 dimensions, got 1$/,
  },
  {
    when: "there are fewer labels than images",
    make: async () => {
      await writeIdxFixture(".", 12);
      await Deno.writeFile("labels.idx", idxBytes([11], new Uint8Array(11)));
    },
    argv: prepareIdx(),
    message: /there must be one label to an image, got 11 labels, 12 images$/,
  },
  {
    when: "an IDX file is cut off",
    make: async () => {
      await writeIdxFixture(".", 12);
      await Deno.truncate("images.idx", 200);
    },
    argv: prepareIdx(),
    message: /^Cannot read IDX file "images\.idx": its header says 12 x 5 x 4, which takes 256 bytes, got 200$/,
  },
  {
    when: "a store is there already",
    make: () => makeImageStore(),
    argv: prepareIdx("--out", "images.zarr"),
    message: /^Cannot prepare a store in "images\.zarr": it exists already; remove it, or choose another name$/,
  },
];

const USAGE: BadInput[] = ([
  ["there is neither text nor images", ["--out", "o"], /^Cannot prepare without --input or --images: give text/],
  [
    "both are given",
    ["--images", "i", "--input", "t", "--out", "o"],
    /--input in prepare: it is for text, got it with/,
  ],
  ["text comes with a size", ["--input", "t", "--size", "9", "--out", "o"], /--size in prepare: it is for images, got/],
  ["a rest is held out of nothing", ["--images", "i", "--hold-out-rest", "--out", "o"], /it needs --per-class, which/],
  [
    "what is held out is said twice",
    ["--images", "i", "--hold-out", "0.2", "--validation-images", "v", "--out", "o"],
    /^Cannot use --hold-out in prepare: what is held out must be said once, got --validation-images as well$/,
  ],
  [
    "other labels come alone",
    ["--images", "i", "--validation-labels", "l", "--out", "o"],
    /it needs --validation-images$/,
  ],
] as const).map(([when, flags, message]) => ({ when, argv: ["prepare", ...flags], message, code: 2 }));

const STORES: BadInput[] = [
  {
    when: "an image store's metadata is damaged",
    make: () => makeImageStore(() => editJson("images.zarr/train/images/zarr.json", (json) => json.data_type = "int8")),
    argv: ["verify", "images.zarr"],
    message: /^Cannot read store "images\.zarr": train\/images\/zarr\.json: data_type must be "uint8", got "int8"$/,
  },
  {
    when: "an image store is taken for text",
    make: () => makeImageStore(),
    argv: ["train", "--model", "tiny", "--data", "images.zarr", "--steps", "1", "--out", "run", "--device", "cpu"],
    message: /^Cannot read store "images\.zarr": .*attributes\.format must be "lowrank-tokens", got "lowrank-images"$/,
  },
];

testBadInputs([...FOLDERS, ...IDX, ...USAGE, ...STORES]);
