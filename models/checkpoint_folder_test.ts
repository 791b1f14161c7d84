import assert from "node:assert/strict";
import { checkWeights, openWeights, type Weights, writeWeights } from "./checkpoint_folder.ts";
import { fromFloat32, type SafetensorsDType, type TensorEntry } from "./safetensors.ts";
import { MemoryFolder } from "./safetensors_memory.ts";

const INDEX = "model.safetensors.index.json";

/** A LLaMA of one layer, in Hugging Face's layout. */
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  "model.embed_tokens.weight": [11, 4],
  "model.layers.0.self_attn.q_proj.weight": [4, 4],
  "model.layers.0.mlp.up_proj.weight": [6, 4],
  "model.layers.0.input_layernorm.weight": [4],
  "model.norm.weight": [4],
  "lm_head.weight": [11, 4],
};

const valuesOf = (name: string) => {
  const size = SHAPES[name].reduce((a, b) => a * b, 1);
  return Float32Array.from({ length: size }, (_, i) => i - size / 2 + name.length % 10);
};

function entries(dtype: SafetensorsDType = "F32"): TensorEntry[] {
  return Object.entries(SHAPES).map(([name, shape]) => ({
    name,
    dtype,
    shape,
    bytes: () => fromFloat32(valuesOf(name), dtype as "F32"),
  }));
}

const expected = () => new Map(Object.entries(SHAPES).map(([name, shape]) => [name, { shape, what: "rows, columns" }]));

async function write(maxShardBytes?: number, dtype?: SafetensorsDType): Promise<MemoryFolder> {
  const folder = new MemoryFolder("tiny-llama");
  assert.deepEqual(await writeWeights(folder, entries(dtype), { maxShardBytes }), [...folder.files.keys()]);
  assert.equal(folder.numOpen, 0);
  return folder;
}

const text = (folder: MemoryFolder, file: string) => new TextDecoder().decode(folder.files.get(file));

async function checkValues(folder: MemoryFolder): Promise<void> {
  {
    await using weights = await openWeights(folder);
    assert.deepEqual([...weights.names].sort(), Object.keys(SHAPES).sort());
    checkWeights(weights, expected());
    for (const name of weights.names) assert.deepEqual(await weights.float32(name), valuesOf(name));
    assert.ok(folder.numOpen > 0);
  }
  assert.equal(folder.numOpen, 0);
}

Deno.test("openWeights() reads back what writeWeights() wrote when one file holds all", async () => {
  const folder = await write();
  assert.deepEqual([...folder.files.keys()], ["model.safetensors"]);
  assert.match(text(folder, "model.safetensors"), /"__metadata__":\{"format":"pt"\}/);
  await checkValues(folder);
});

Deno.test("openWeights() reads back what writeWeights() wrote when there are shards", async () => {
  const folder = await write(200);
  const shards = [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`);
  assert.deepEqual([...folder.files.keys()], [...shards, INDEX]);
  await checkValues(folder);
});

Deno.test("openWeights() widens to float32 when the weights are bf16 or f16", async () => {
  await checkValues(await write(undefined, "BF16"));
  await checkValues(await write(100, "F16"));
});

Deno.test("writeWeights() cuts shards as Hugging Face does when the next tensor would not fit", async () => {
  const folder = await write(200);
  // Bytes of the entries in order: 176, 64, 96, 16, 16, 176. 64 + 96 + 16 + 16 = 192.
  assert.equal(
    text(folder, INDEX),
    `{
  "metadata": {
    "total_size": 544
  },
  "weight_map": {
    "lm_head.weight": "model-00003-of-00003.safetensors",
    "model.embed_tokens.weight": "model-00001-of-00003.safetensors",
    "model.layers.0.input_layernorm.weight": "model-00002-of-00003.safetensors",
    "model.layers.0.mlp.up_proj.weight": "model-00002-of-00003.safetensors",
    "model.layers.0.self_attn.q_proj.weight": "model-00002-of-00003.safetensors",
    "model.norm.weight": "model-00002-of-00003.safetensors"
  }
}
`,
  );
});

Deno.test("writeWeights() gives a tensor a shard of its own when it is larger than maxShardBytes", async () => {
  assert.equal((await write(1)).files.size, Object.keys(SHAPES).length + 1);
});

Deno.test("writeWeights() creates no file when an entry cannot be written", async () => {
  const folder = new MemoryFolder("empty");
  const twice = [...entries(), ...entries()];
  await assert.rejects(
    writeWeights(folder, twice, { maxShardBytes: 100 }),
    /RangeError: .*"model.embed_tokens.weight" is/,
  );
  await assert.rejects(writeWeights(folder, entries(), { maxShardBytes: 0 }), RangeError);
  await assert.rejects(writeWeights(folder, entries("F8" as SafetensorsDType)), TypeError);
  assert.equal(folder.files.size, 0);
});

Deno.test("openWeights() takes the single file when there is an index as well", async () => {
  const folder = await write();
  folder.files.set(INDEX, new TextEncoder().encode("not JSON"));
  await checkValues(folder);
});

Deno.test("openWeights() reads the folder when the index says more than it must", async () => {
  const folder = await write(200);
  const more = `"total_parameters": 136, "note": "x", "rate": -1.5e-3, "a": true, "b": null, "total_size"`;
  folder.files.set(INDEX, new TextEncoder().encode(text(folder, INDEX).replace('"total_size"', more)));
  await checkValues(folder);
  folder.files.set(INDEX, new TextEncoder().encode(text(folder, INDEX).replace(/"metadata": \{[^}]*\},/, "")));
  await checkValues(folder);
});

const SECOND = "model-00002-of-00003.safetensors";

/** What is wrong, how to break a good folder so, and what the message must say. */
const BROKEN: readonly (readonly [string, (index: string, folder: MemoryFolder) => string | void, RegExp])[] = [
  ["there are no weights", (_, { files }) => files.clear(), /expected model.safetensors or .*index.json: got neither/],
  [
    "there are only pickled weights",
    (_, { files }) => (files.clear(), void files.set("pytorch_model.bin", new Uint8Array(1))),
    /got only pytorch_model.bin, which is pickled/,
  ],
  ["a shard is missing", (_, { files }) => void files.delete(SECOND), /must hold "model-00002-of-00003/],
  ["a shard is cut", (_, { files }) => cut(files, SECOND), /Cannot read model-00002-of-00003.safetensors: .*must fill/],
  ["the index is cut", (index) => index.slice(0, -3), /expected \} of the index: got the end/],
  ["the index is empty", () => "", /Cannot read model.safetensors.index.json: expected \{/],
  ["something follows the index", (index) => index + "{}", /nothing may follow/],
  ["the index has no weight_map", () => `{"metadata":{}}`, /must have a weight_map/],
  [
    "the index has an unknown key",
    (index) => index.replace('"metadata"', '"meta"'),
    /only metadata and weight_map: got "meta"/,
  ],
  ["total_size is wrong", (index) => index.replace("544", "545"), /total_size must be the 544 bytes .*: got 545/],
  ["total_size is a fraction", (index) => index.replace("544", "544.0"), /total_size must be a plain whole number/],
  ["total_size is there twice", (index) => index.replace("544", '544, "total_size": 544'), /must not repeat a key/],
  ["the metadata is nested", (index) => index.replace("544", '544, "a": {}'), /metadata "a" must be a string, number/],
  [
    "a tensor is mapped twice",
    (index) => index.replace('"model.norm.weight"', '"lm_head.weight"'),
    /weight_map must not repeat a key: got "lm_head.weight" twice/,
  ],
  [
    "a tensor is mapped to the wrong shard",
    (index) => index.replace("00003-of", "00002-of"),
    /the index maps "lm_head.weight" to this file: got no such tensor|Cannot read model-0000/,
  ],
  [
    "a mapped tensor is in no shard",
    (index) => index.replace('"lm_head.weight"', `"a": "${SECOND}",\n    "lm_head.weight"`),
    /Cannot read model-00002-of-00003.safetensors: the index maps "a" to this file: got no such tensor/,
  ],
  [
    "a shard holds a tensor that is not mapped",
    (index) => index.replace(/,\n *"model.norm.weight": "[^"]*"/, ""),
    /Cannot read model-00002.*every tensor of a shard to it: got "model.norm.weight" mapped nowhere/,
  ],
  ["a tensor name is reserved", (index) => index.replace("lm_head.weight", "__proto__"), /must not be named/],
  ...[
    "../x.safetensors",
    "/x.safetensors",
    "a/x.safetensors",
    "a\\\\x.safetensors",
    "C:x.safetensors",
    ".x.safetensors",
    "",
    "x.bin",
    "a..safetensors",
    "a\\u0000.safetensors",
    "a b.safetensors",
    "http://x/x.safetensors",
  ].map((shard) =>
    [
      `a shard is named ${JSON.stringify(shard)}`,
      (index: string) => index.replace("model-00003-of-00003.safetensors", shard),
      /shard of "lm_head.weight" must be a plain file name that ends in .safetensors: got "/,
    ] as const
  ),
  [
    "a shard is a number",
    (index) => index.replace(/"model-00003[^"]*"/, "3"),
    /expected " of shard of "lm_head.weight"/,
  ],
];

function cut(files: Map<string, Uint8Array>, file: string): void {
  files.set(file, files.get(file)!.slice(0, -1));
}

for (const [when, damage, message] of BROKEN) {
  Deno.test(`openWeights() refuses the folder when ${when}`, async () => {
    const folder = await write(200);
    const index = damage(text(folder, INDEX), folder);
    if (typeof index === "string") folder.files.set(INDEX, new TextEncoder().encode(index));
    await assert.rejects(openWeights(folder), (error: Error) => {
      assert.equal(error.constructor, SyntaxError);
      assert.match(error.message, message);
      return true;
    });
    assert.equal(folder.numOpen, 0);
  });
}

Deno.test("openWeights() refuses the index when it is not UTF-8 or too long", async () => {
  const folder = await write(200);
  folder.files.set(INDEX, new Uint8Array([0x7b, 0xff, 0x7d]));
  await assert.rejects(openWeights(folder), /^SyntaxError: .*index.json: the text must be UTF-8/);
  folder.files.set(INDEX, new Uint8Array(2 ** 26 + 1));
  await assert.rejects(openWeights(folder), /^SyntaxError: .*at most 67108864 bytes: got 67108865 bytes/);
});

/** Weights with a header alone. */
function weightsOf(
  tensors: Record<string, [SafetensorsDType, number[]]>,
): Pick<Weights, "name" | "names" | "has" | "info"> {
  return {
    name: "tiny-llama",
    names: Object.keys(tensors),
    has: (name) => name in tensors,
    info: (name) => ({ name, dtype: tensors[name][0], shape: tensors[name][1], begin: 0, end: 0 }),
  };
}

Deno.test("checkWeights() names the config keys when a shape differs", () => {
  const name = "model.layers.0.mlp.up_proj.weight";
  const expected = new Map([[name, { shape: [172, 64], what: "intermediate_size, hidden_size" }]]);
  assert.throws(() => checkWeights(weightsOf({ [name]: ["F32", [128, 64]] }), expected), {
    name: "TypeError",
    message: `Cannot load "${name}": expected f32[172, 64] (intermediate_size, hidden_size), got f32[128, 64]`,
  });
  const bare = new Map([[name, { shape: [172, 64] }]]);
  for (const shape of [[172], [172, 64, 1], [64, 172], []]) {
    assert.throws(
      () => checkWeights(weightsOf({ [name]: ["BF16", shape] }), bare),
      /expected bf16\[172, 64\], got bf16\[/,
    );
  }
});

Deno.test("checkWeights() lists ten names and the counts when tensors are missing or extra", () => {
  const many = Array.from({ length: 12 }, (_, i) => `w${i}`);
  const expected = new Map(many.map((name) => [name, { shape: [1] }]));
  assert.throws(() => checkWeights(weightsOf({ x: ["F32", [1]], w0: ["F32", [1]] }), expected), {
    name: "RangeError",
    message: "Cannot load weights of tiny-llama: expected 12 tensors: got 11 missing " +
      '("w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9", "w10", ...) and 1 extra ("x")',
  });
  assert.throws(
    () => checkWeights(weightsOf({ a: ["F32", []] }), new Map()),
    { message: 'Cannot load weights of tiny-llama: expected 0 tensors: got 1 extra ("a")' },
  );
});

Deno.test("checkWeights() lets a tensor be missing or extra when it is optional, and checks it when it is both", () => {
  const optional = (name: string) => name === "lm_head.weight";
  const head = new Map([["lm_head.weight", { shape: [2] }]]);
  checkWeights(weightsOf({}), head, { optional });
  checkWeights(weightsOf({ "lm_head.weight": ["I64", [3]] }), new Map(), { optional });
  checkWeights(weightsOf({ "lm_head.weight": ["F16", [2]] }), head, { optional });
  assert.throws(() => checkWeights(weightsOf({ "lm_head.weight": ["F16", [3]] }), head, { optional }), TypeError);
});

Deno.test("checkWeights() names the dtype when it is not F32, BF16 or F16", () => {
  assert.throws(() => checkWeights(weightsOf({ a: ["F64", [1]] }), new Map([["a", { shape: [1] }]])), {
    name: "TypeError",
    message: 'Cannot load "a": the dtype must be one of F32, BF16, F16: got F64',
  });
});
