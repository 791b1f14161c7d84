/** Text readers: what they yield, and the line or byte that each refusal names. */

import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { readDocuments } from "./text.ts";
import { findInvalidUtf8, unfinishedTail } from "./utf8.ts";

const utf8 = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

async function withFile(
  name: string,
  content: string | Uint8Array,
  body: (path: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeFile(`${folder}/${name}`, typeof content === "string" ? utf8(content) : content);
    await body(`${folder}/${name}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function documentsOf(inputs: string | string[]): Promise<string[]> {
  const documents: string[] = [];
  let held = "";
  for await (const { text, endOfDocument } of readDocuments(inputs)) {
    held += text;
    if (!endOfDocument) continue;
    documents.push(held);
    held = "";
  }
  assert.equal(held, "");
  return documents;
}

const LONG = "日本語é👩 abc\n".repeat(20_000);
const LINES = '{"text":"one"}\r\n\n{"text":"two\\n","id":3}\n{"text":""}';
for (
  const [condition, name, content, expected] of [
    ["a .txt is one document", "a.txt", "a\n\nb\n", ["a\n\nb\n"]],
    ["characters straddle its pieces", "a.txt", LONG, [LONG]],
    ["a byte order mark is first", "a.txt", "\ufeffab", ["ab"]],
    ["a .jsonl has blank lines and no last newline", "a.jsonl", LINES, ["one", "two\n", ""]],
    ["a .jsonl is gzipped", "a.jsonl.gz", gzipSync(LINES), ["one", "two\n", ""]],
    ["a .txt is gzipped", "a.TXT.GZ", gzipSync(LONG), [LONG]],
    ["gzip has two members", "a.txt.gz", Uint8Array.from([...gzipSync("ab"), ...gzipSync("cd")]), ["abcd"]],
    ["a line spans many pieces", "a.jsonl", JSON.stringify({ text: LONG }) + "\n", [LONG]],
  ] as [string, string, string | Uint8Array, string[]][]
) {
  Deno.test(`readDocuments() yields its documents when ${condition}`, async () => {
    await withFile(name, content, async (path) => assert.deepEqual(await documentsOf(path), expected));
  });
}

Deno.test("readDocuments() reads several files in order, and shows their stored bytes", async () => {
  await withFile("a.txt", "first", async (a) => {
    await withFile("b.jsonl", '{"text":"second"}', async (b) => {
      let seen = 0;
      const texts: string[] = [];
      for await (const { text } of readDocuments([a, b], { onBytes: (_, bytes) => seen += bytes.length })) {
        texts.push(text);
      }
      assert.equal(texts.join("|"), "first||second");
      assert.equal(seen, 5 + 17);
    });
  });
});

const damaged = gzipSync(LONG);
damaged[damaged.length - 6] ^= 1; // its checksum
for (
  const [condition, name, content, error] of [
    ["the file is empty", "a.txt", "", /^SyntaxError: Cannot read ".*a.txt": the file is empty$/],
    ["only blank lines are there", "a.jsonl", "\n \n", /the file holds no documents$/],
    ["the name says nothing", "a.parquet", "x", /^TypeError: .*must end in .txt, .jsonl/],
    ["a byte is wrong", "a.txt", Uint8Array.from([97, 98, 0xff, 99]), /not UTF-8 at byte 2/],
    [
      "a byte is wrong far on",
      "a.txt",
      Uint8Array.from([...utf8(LONG), 0xc0]),
      new RegExp(`byte ${utf8(LONG).length};`),
    ],
    ["the last character is cut", "a.txt", utf8("aé").subarray(0, 2), /not UTF-8 at byte 1/],
    ["a line's byte is wrong", "a.jsonl", Uint8Array.from([...utf8('{"text":"a"}\n{"text":"'), 0x80]), /at byte 22/],
    ["a line is not JSON", "a.jsonl", '{"text":"a"}\n{oops}\n', /line 2 is not JSON/],
    ["a line has no text", "a.jsonl", '\n{"txt":"a"}\n', /line 2 must be an object with a string field "text"/],
    ["a line's text is a number", "a.jsonl", '{"text":5}', /line 1 must be an object/],
    ["a line is null", "a.jsonl", "null", /line 1 must be an object/],
    ["gzip is cut off", "a.txt.gz", gzipSync(LONG).subarray(0, 50), /gzip data is damaged or cut off/],
    ["gzip is damaged", "a.txt.gz", damaged, /gzip data is damaged or cut off/],
    ["gzip is no gzip", "a.txt.gz", "plain text", /gzip data is damaged or cut off/],
  ] as [string, string, string | Uint8Array, RegExp][]
) {
  Deno.test(`readDocuments() throws when ${condition}`, async () => {
    await withFile(name, content, async (path) => {
      await assert.rejects(documentsOf(path), error);
    });
  });
}

Deno.test("readDocuments() throws when a file is missing or none is given", async () => {
  await assert.rejects(
    documentsOf("/nonexistent/a.txt"),
    /^NotFound: Cannot read "\/nonexistent\/a.txt": there is no such file$/,
  );
  await assert.rejects(documentsOf([]), RangeError);
});

Deno.test("readDocuments() stays small when gzip holds 256 MiB of one letter", async () => {
  await withFile("a.txt.gz", gzipSync(new Uint8Array(256 << 20).fill(97)), async (path) => {
    let bytes = 0;
    let largest = 0;
    for await (const { text } of readDocuments(path)) {
      bytes += text.length;
      largest = Math.max(largest, text.length);
    }
    assert.equal(bytes, 256 << 20);
    assert.ok(largest <= 64 * 1024, `a piece of ${largest}`);
  });
});

Deno.test("findInvalidUtf8() agrees with TextDecoder on random bytes", () => {
  const strict = new TextDecoder("utf-8", { fatal: true });
  const alphabet = [0x41, 0x80, 0x8f, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff];
  let state = 1;
  const next = (): number => (state = (state * 48271) % 2147483647);
  let valid = 0;
  for (let trial = 0; trial < 20_000; trial++) {
    const bytes = Uint8Array.from({ length: 1 + next() % 4 }, () => alphabet[next() % alphabet.length]);
    const at = findInvalidUtf8(bytes);
    const decodes = ((): boolean => {
      try {
        strict.decode(bytes);
        return true;
      } catch {
        return false;
      }
    })();
    assert.equal(at === -1, decodes, `${bytes}`);
    valid += Number(decodes);
  }
  assert.ok(valid > 500, `${valid} valid samples`);
});

Deno.test("unfinishedTail() counts the bytes of a cut character", () => {
  const bytes = utf8("a👩");
  assert.deepEqual([1, 2, 3, 4, 5].map((n) => unfinishedTail(bytes.subarray(0, n))), [0, 1, 2, 3, 0]);
});
