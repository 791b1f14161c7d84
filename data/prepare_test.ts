/** From text to a store: every token in its place, whatever the inputs are; and stores that are found again. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { byteTokenizer } from "./byte_tokenizer.ts";
import { cachedStore } from "./cache.ts";
import { loadTokenizer } from "./load_tokenizer.ts";
import { type PrepareProgress, prepareStore } from "./prepare.ts";
import { openStore } from "./store.ts";
import { damage, withFolder } from "./testing/store_fixture.ts";
import type { Tokenizer } from "./tokenizer.ts";

const TINY = new URL("./testdata/tiny-bpe", import.meta.url).pathname;
const TEXT = "The quick brown fox didn't mind; été 日本語 123.\n\n  Once upon a time\t".repeat(3000);
const DOCUMENTS = ["one fox", "", "the dogs 日本", "end"];

/** All tokens of a store, both splits. */
async function tokensOf(path: string): Promise<number[]> {
  const store = await openStore(path);
  let parts: number[] = [];
  for (const name of store.splits) {
    const tokens = await store.split(name).readTokens();
    parts = parts.concat([...parts.length > 0 ? tokens.subarray(1) : tokens]);
  }
  return parts;
}

/** What the stream must be, cut to whole rows. */
function expectedTokens(documents: string[], tokenizer: Tokenizer, seq: number): number[] {
  const tokens: number[] = [];
  for (const document of documents.filter((text) => text !== "")) {
    if (tokens.length > 0) tokens.push(tokenizer.eosId);
    for (const id of tokenizer.encode(document)) tokens.push(id);
  }
  return tokens.slice(0, Math.floor((tokens.length - 1) / seq) * seq + 1);
}

const LINES = DOCUMENTS.map((text) => JSON.stringify({ text })).join("\n");
for (const spec of ["byte", TINY]) {
  for (
    const [condition, files, documents] of [
      ["one long .txt", { "a.txt": TEXT }, [TEXT]],
      ["lines of .jsonl", { "a.jsonl": LINES }, DOCUMENTS],
      ["gzipped and mixed files", { "a.txt.gz": gzipSync("first"), "b.jsonl": LINES, "c.txt": "last" }, [
        "first",
        ...DOCUMENTS,
        "last",
      ]],
    ] as [string, Record<string, string | Uint8Array>, string[]][]
  ) {
    Deno.test(`prepareStore() stores exactly the tokens of ${condition}, tokenizer ${spec === "byte" ? spec : "tiny-bpe"}`, async () => {
      await withFolder(async (folder) => {
        const tokenizer = await loadTokenizer(spec);
        const inputs = Object.keys(files).map((name) => `${folder}/${name}`);
        const contents = Object.values(files).map((text) =>
          typeof text === "string" ? new TextEncoder().encode(text) : text
        );
        for (const [i, path] of inputs.entries()) await Deno.writeFile(path, contents[i]);
        const seq = 5;
        const info = await prepareStore({ inputs, tokenizer, seq, out: `${folder}/store`, holdOut: 0.1 });
        assert.deepEqual(await tokensOf(`${folder}/store`), expectedTokens(documents, tokenizer, seq));
        assert.deepEqual((await openStore(`${folder}/store`)).info, info);
        assert.deepEqual(info.tokenizer, {
          name: tokenizer.name,
          hash: tokenizer.hash,
          vocabSize: tokenizer.vocabSize,
          eosId: tokenizer.eosId,
        });
        const prints = contents.map((bytes) => createHash("sha256").update(bytes).digest("hex"));
        assert.deepEqual(info.sources.map(({ sha256 }) => sha256), prints);
        assert.deepEqual(info.sources.map(({ name }) => name), Object.keys(files));
      });
    });
  }
}

Deno.test("prepareStore() encodes a document whole when the tokenizer knows no exact cut", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/a.txt`, TEXT);
    const seen: number[] = [];
    const encode = (text: string): Uint32Array => {
      seen.push(text.length);
      return byteTokenizer().encode(text);
    };
    const tokenizer = { ...byteTokenizer(), splitPoint: undefined, encode };
    await prepareStore({ inputs: `${folder}/a.txt`, tokenizer, seq: 16, out: `${folder}/store` });
    assert.deepEqual(seen, [TEXT.length]);
  });
});

Deno.test("prepareStore() reports both phases to their ends", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/a.txt`, TEXT);
    const seen: PrepareProgress[] = [];
    const onProgress = (progress: PrepareProgress): void => void seen.push(progress);
    await prepareStore({
      inputs: `${folder}/a.txt`,
      tokenizer: byteTokenizer(),
      seq: 32,
      out: `${folder}/s`,
      onProgress,
    });
    for (const phase of ["tokenize", "write"]) {
      const steps = seen.filter((progress) => progress.phase === phase);
      assert.ok(steps.length > 1, phase);
      assert.equal(steps.at(-1)!.done, steps.at(-1)!.total);
      assert.ok(steps.every(({ done, total }, i) => done <= total && done >= (steps[i - 1]?.done ?? 0)));
    }
    assert.equal(seen.at(-1)!.tokens, new TextEncoder().encode(TEXT).length);
  });
});

Deno.test("prepareStore() leaves nothing behind when an input is bad, missing or too short", async () => {
  await withFolder(async (folder) => {
    const prepare = (inputs: string | string[]): Promise<unknown> =>
      prepareStore({ inputs, tokenizer: byteTokenizer(), seq: 8, out: `${folder}/out/store` });
    await Deno.writeTextFile(`${folder}/good.txt`, TEXT);
    await Deno.writeTextFile(`${folder}/bad.jsonl`, '{"text":"a"}\n{');
    await Deno.writeTextFile(`${folder}/short.txt`, "12345678");
    await assert.rejects(prepare([`${folder}/good.txt`, `${folder}/bad.jsonl`]), /^SyntaxError: .*bad.jsonl": line 2/);
    await assert.rejects(prepare(`${folder}/none.txt`), Deno.errors.NotFound);
    await assert.rejects(prepare(`${folder}/short.txt`), /^RangeError: .*seq 8 needs 9 tokens, got 8$/);
    await assert.rejects(prepare([`${folder}/good.txt`, `${folder}/good.txt`]), /^RangeError: .*named twice$/);
    assert.deepEqual([...Deno.readDirSync(`${folder}/out`)], []);
  });
});

Deno.test("cachedStore() prepares once, and again for other contents, options, or a damaged store", async () => {
  await withFolder(async (folder) => {
    const input = `${folder}/a.txt`;
    let steps = 0;
    const cached = (seq = 8): Promise<string> =>
      cachedStore({
        inputs: input,
        tokenizer: byteTokenizer(),
        seq,
        cacheDir: `${folder}/cache/`,
        onProgress: () => void steps++,
      });
    await Deno.writeTextFile(input, TEXT);
    const first = await cached();
    assert.ok(steps > 0);
    steps = 0;
    assert.equal(await cached(), first);
    assert.equal(steps, 0);
    assert.notEqual(await cached(9), first);
    await damage(`${first}/train/c/0/0`, (bytes) => bytes.subarray(1));
    steps = 0;
    assert.equal(await cached(), first);
    assert.ok(steps > 0);
    assert.equal((await tokensOf(first)).length, Math.floor((new TextEncoder().encode(TEXT).length - 1) / 8) * 8 + 1);
    await Deno.writeTextFile(input, TEXT + "!");
    assert.notEqual(await cached(), first);
    await Deno.remove(input);
    await assert.rejects(cached(), /^NotFound: Cannot read ".*a.txt": there is no such file$/);
  });
});

Deno.test("cachedStore() gives one store when it is asked for twice at the same time", async () => {
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/a.txt`, TEXT);
    const cached = (): Promise<string> =>
      cachedStore({ inputs: `${folder}/a.txt`, tokenizer: byteTokenizer(), seq: 64, cacheDir: `${folder}/cache` });
    const paths = await Promise.all([cached(), cached(), cached()]);
    assert.equal(new Set(paths).size, 1);
    assert.deepEqual([...Deno.readDirSync(`${folder}/cache`)].map(({ name }) => `${folder}/cache/${name}`), [paths[0]]);
  });
});
