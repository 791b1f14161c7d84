import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { openSafetensors, type SafetensorsDType, type TensorEntry, writeSafetensors } from "./safetensors.ts";
import { MemoryFolder, memorySource } from "./safetensors_memory.ts";

async function write(entries: Iterable<TensorEntry>, metadata?: Record<string, string>): Promise<Uint8Array> {
  const folder = new MemoryFolder("memory");
  let length: number;
  {
    await using sink = await folder.create("x.safetensors");
    length = await writeSafetensors(sink, entries, metadata);
  }
  const file = folder.files.get("x.safetensors")!;
  assert.equal(length, file.length);
  return file;
}

function entry(name: string, dtype: SafetensorsDType, shape: number[], ...bytes: number[]): TensorEntry {
  return { name, dtype, shape, bytes: () => new Uint8Array(bytes) };
}

const DTYPES = "BOOL U8 I8 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64".split(" ") as SafetensorsDType[];
const ITEM_BYTES = [1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8];

/** One tensor of each dtype, an empty one, and two names that UTF-16 and code points sort differently. */
const EVERY_DTYPE: readonly TensorEntry[] = [
  ...DTYPES.map((dtype, i) => entry(`t${i}`, dtype, [1], ...Array(ITEM_BYTES[i]).fill(i))),
  entry("a", "F32", [0, 2]),
  entry("\u{1f600}", "U8", [], 0xaa),
  entry("\ue000", "U8", [], 0xbb),
];

Deno.test("writeSafetensors() gives the bytes of Hugging Face's crate when every dtype is there", async () => {
  // Made by Python's safetensors 0.8.0: serialize(tensors, metadata={"format": "pt"}), in the order of EVERY_DTYPE.
  const golden = await readFile(new URL("./testdata/safetensors/every_dtype.safetensors", import.meta.url));
  assert.deepEqual(await write(EVERY_DTYPE, { format: "pt" }), new Uint8Array(golden));
});

Deno.test("writeSafetensors() gives the bytes of the format when there are no tensors", async () => {
  const text = (file: Uint8Array) => new TextDecoder().decode(file.subarray(8));
  const file = await write([]);
  assert.equal(text(file), "{}      ");
  assert.deepEqual([...file.subarray(0, 8)], [8, 0, 0, 0, 0, 0, 0, 0]);
  assert.equal(text(await write([], { b: '"\n', a: "é" })), '{"__metadata__":{"a":"é","b":"\\"\\n"}}  ');
});

Deno.test("writeSafetensors() gives equal bytes when the entries come in another order", async () => {
  const forward = await write(EVERY_DTYPE, { a: "1", b: "2" });
  assert.deepEqual(await write(EVERY_DTYPE.toReversed(), { b: "2", a: "1" }), forward);
});

Deno.test("openSafetensors() reads back what writeSafetensors() wrote when every dtype is there", async () => {
  const { tensors, metadata, bytes } = await openSafetensors(
    memorySource("x.safetensors", await write(EVERY_DTYPE, { format: "pt", "__proto__ ": "\0\u{1f600}" })),
  );
  assert.deepEqual([...metadata].sort(), [["__proto__ ", "\0\u{1f600}"], ["format", "pt"]]);
  assert.equal(tensors.size, EVERY_DTYPE.length);
  for (const { name, dtype, shape, bytes: expected } of EVERY_DTYPE) {
    const info = tensors.get(name)!;
    assert.deepEqual([info.name, info.dtype, info.shape], [name, dtype, shape]);
    assert.deepEqual(await bytes(name), await expected());
  }
});

Deno.test("openSafetensors() reads one tensor at a time when bytes() is called", async () => {
  const file = memorySource("x.safetensors", await write(EVERY_DTYPE));
  const reads: number[] = [];
  const { bytes } = await openSafetensors({
    ...file,
    read: (offset, length) => (reads.push(length), file.read(offset, length)),
  });
  assert.deepEqual(reads, [8, reads[1]]);
  await bytes("t10");
  assert.deepEqual(reads.slice(2), [8]);
  await assert.rejects(bytes("t99"), /^RangeError: Cannot read tensor "t99": x.safetensors has no such tensor$/);
});

Deno.test("writeSafetensors() asks for a few megabytes at a time when it writes, and for a larger tensor alone", async () => {
  const events: string[] = [];
  const lazy = (name: string, size: number): TensorEntry => ({
    ...entry(name, "U8", [size]),
    bytes: () => (events.push(`read ${name}`), Promise.resolve(new Uint8Array(size))),
  });
  const large = 2 ** 24 + 1;
  const sink = { write: (bytes: Uint8Array) => Promise.resolve(void events.push(`write ${bytes.length}`)) };
  await writeSafetensors(sink, [lazy("c", large), lazy("b", 2), lazy("a", 1), lazy("d", 3)]);
  const expected = ["read a", "read b", "write 1", "write 2", "read c", `write ${large}`, "read d", "write 3"];
  assert.deepEqual(events.slice(1), expected);
});

const REFUSED: readonly (readonly [string, readonly TensorEntry[], RegExp, Record<string, string>?])[] = [
  ["a name is there twice", [entry("a", "U8", [0]), entry("a", "I8", [0])], /RangeError: .* once: got "a" twice/],
  [
    "a name is reserved",
    [entry("__proto__", "U8", [0])],
    /RangeError: Cannot write tensor "__proto__": .* not be named/,
  ],
  ["a name is __metadata__", [entry("__metadata__", "U8", [0])], /RangeError: .* not be named/],
  ["a name holds a newline", [entry("a\nb", "U8", [0])], /RangeError: .* no control characters: got "a\\nb"/],
  ["a name is half a surrogate pair", [entry("\ud800", "U8", [0])], /RangeError: .* valid Unicode/],
  ["a name is too long", [entry("a".repeat(513), "U8", [0])], /RangeError: .* at most 512 bytes/],
  ["the dtype is unknown", [entry("a", "F8" as SafetensorsDType, [0])], /TypeError: .* one of BOOL, .*: got "F8"/],
  ["a size is negative", [entry("a", "U8", [-1])], /RangeError: .* whole numbers: got u8\[-1\]/],
  ["a size is a fraction", [entry("a", "U8", [0.5, 2])], /RangeError: .* whole numbers/],
  ["there are nine axes", [entry("a", "U8", [1, 1, 1, 1, 1, 1, 1, 1, 1], 1)], /RangeError: .* at most 8 whole/],
  ["the shape overflows", [entry("a", "F32", [2 ** 52])], /RangeError: .* whole numbers/],
  ["the bytes are too few", [entry("a", "F32", [2], 0)], /RangeError: .* f32\[2\] takes 8 bytes: got 1/],
  ["the metadata is not Unicode", [], /RangeError: .* valid Unicode/, { a: "\udc00" }],
  ["the metadata is too long", [], /RangeError: .* at most 1048576 bytes/, { a: "a".repeat(2 ** 20) }],
];

for (const [when, entries, message, metadata] of REFUSED) {
  Deno.test(`writeSafetensors() refuses the entries when ${when}`, async () => {
    await assert.rejects(write(entries, metadata), message);
  });
}
