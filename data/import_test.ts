/**
 * `data` as others get it: imported by URL from another folder, without this project's settings, with read and write permission
 * alone; worker included. The consumer prepares a store, checks it, and reads it on and off its thread.
 */

import assert from "node:assert/strict";
import { withFolder } from "./testing/store_fixture.ts";

const CONSUMER = `
const { Batches, byteTokenizer, loadTokenizer, prepareStore, verifyStore } = await import("MODULE");
await Deno.writeTextFile("a.txt", "to be or not to be, that is the question\\n".repeat(500));
await prepareStore({ inputs: "a.txt", tokenizer: byteTokenizer(), seq: 32, out: "store" });
const { faults } = await verifyStore("store");
using here = new Batches("store", { batch: 4, readers: 0 });
using there = new Batches("store", { batch: 4, readers: 2 });
let equal = 0;
for (let i = 0; i < 200; i++) equal += String((await here.next()).tokens) === String((await there.next()).tokens) ? 1 : 0;
const tiny = await loadTokenizer("TINY");
console.log(JSON.stringify([faults.length, equal, tiny.vocabSize, tiny.decode(tiny.encode("été"))]));
`;

async function runConsumer(module: string, folder: string, permissions: string[]): Promise<string> {
  const tiny = new URL("./testdata/tiny-bpe", import.meta.url).pathname;
  await Deno.writeTextFile(`${folder}/consumer.ts`, CONSUMER.replace("MODULE", module).replace("TINY", tiny));
  const command = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-config",
      "--no-lock",
      "--no-prompt",
      "--quiet",
      "--allow-read",
      "--allow-write",
      ...permissions,
      "consumer.ts",
    ],
    cwd: folder,
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  assert.equal(code, 0, decoder.decode(stderr));
  assert.equal(decoder.decode(stderr), "");
  return decoder.decode(stdout).trim();
}

Deno.test("data/mod.ts works when it is imported by URL without a configuration", async () => {
  await withFolder(async (folder) => {
    const root = new URL("../", import.meta.url);
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
      const { pathname } = new URL(request.url);
      const source = pathname.startsWith("/data/")
        ? await Deno.readFile(new URL(`.${pathname}`, root)).catch(() => null)
        : null;
      return new Response(source, {
        status: source ? 200 : 404,
        headers: { "content-type": "application/typescript" },
      });
    });
    try {
      const host = `127.0.0.1:${(server.addr as Deno.NetAddr).port}`;
      const output = await runConsumer(`http://${host}/data/mod.ts`, folder, [`--allow-import=${host}`]);
      assert.equal(output, '[0,200,317,"été"]');
    } finally {
      await server.shutdown();
    }
  });
});

Deno.test("data/mod.ts needs read and write permission only, and prints nothing", async () => {
  await withFolder(async (folder) => {
    assert.equal(await runConsumer(new URL("./mod.ts", import.meta.url).href, folder, []), '[0,200,317,"été"]');
  });
});
