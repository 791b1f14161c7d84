/** The promise that packages can be imported by URL: from another folder, without our deno.json, workers and WASM too. */
import assert from "node:assert/strict";
import { byteTokenizer, prepareStore } from "../data/mod.ts";
import { sentences } from "./testing/workspace.ts";

const ROOT = new URL("../", import.meta.url);

/** Serves the sources, and nothing else, to this machine alone. */
function serveSources(): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { pathname } = new URL(request.url);
    if (!/^\/(core|backends|optimizers|models|data)\/[\w/.-]+\.ts$/.test(pathname) || pathname.includes("..")) {
      return new Response(null, { status: 404 });
    }
    try {
      const body = await Deno.readFile(new URL(pathname.slice(1), ROOT));
      return new Response(body, { headers: { "content-type": "application/typescript" } });
    } catch {
      return new Response(null, { status: 404 });
    }
  });
}

/** A program of somebody else's. */
const consumer = (url: string) => `
import { backward, fromArray, scope } from "${url}/core/mod.ts";
import { cpuBackend } from "${url}/backends/cpu/mod.ts";
import { dryBackend } from "${url}/backends/dry/mod.ts";
import { galoreAdamW, Optimizer } from "${url}/optimizers/mod.ts";
import { initLlama, LLAMA_PROJECTED, llamaLoss, makeLlamaConfig } from "${url}/models/mod.ts";
import { Batches } from "${url}/data/mod.ts";

using dry = dryBackend();
using backend = await cpuBackend({ threads: 2 });
const config = makeLlamaConfig({
  vocab_size: 257,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 1,
  num_attention_heads: 2,
});
using params = initLlama(backend, config, 1);
using optimizer = new Optimizer(
  params,
  galoreAdamW({ learningRate: 0.01, projected: LLAMA_PROJECTED, galore: { rank: 8, updateProjGap: 4 } }),
);
await using batches = new Batches("store", { batch: 8, seed: 1 });
const losses: number[] = [];
for (let step = 0; step < 12; step++) {
  const { tokens, batch, seq } = await batches.next();
  const rows = Int32Array.from(tokens);
  {
    using train = scope("train step");
    const inputs = fromArray(backend, rows.filter((_, i) => i % (seq + 1) < seq), [batch, seq]);
    const targets = fromArray(backend, rows.filter((_, i) => i % (seq + 1) > 0), [batch, seq]);
    const loss = llamaLoss(params, config, inputs, targets);
    backward(loss, optimizer.stage);
    losses.push(train.keep(loss).readSync!()[0]);
    loss.dispose();
  }
  if (optimizer.refreshDue) await optimizer.refresh();
  optimizer.commit();
}
console.log(JSON.stringify({ losses, threads: backend.threads, kernelPath: backend.kernelPath, dry: dry.name }));
`;

Deno.test("modules train when they are imported by URL from another folder", async () => {
  const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: "lowrank-" }));
  const server = serveSources();
  try {
    await Deno.writeTextFile(`${folder}/corpus.txt`, sentences(8_000));
    const inputs = `${folder}/corpus.txt`;
    await prepareStore({ inputs, tokenizer: byteTokenizer(), seq: 32, out: `${folder}/store` });
    const host = `127.0.0.1:${server.addr.port}`;
    await Deno.writeTextFile(`${folder}/train.ts`, consumer(`http://${host}`));
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--no-config",
        "--no-lock",
        "--no-prompt",
        `--allow-import=${host}`,
        "--allow-read=store",
        "train.ts",
      ],
      cwd: folder,
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    const { losses, threads, kernelPath, dry } = JSON.parse(new TextDecoder().decode(stdout));
    assert.equal(losses.length, 12);
    assert.ok(losses[11] < losses[0] - 0.5, `${losses}`);
    assert.equal(threads, 2);
    assert.match(kernelPath, /^wasm/);
    assert.equal(dry, "dry");
  } finally {
    await server.shutdown();
    await Deno.remove(folder, { recursive: true });
  }
});
