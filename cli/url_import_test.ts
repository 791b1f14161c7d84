/** The promise that packages can be imported by URL: from another folder, without our deno.json, workers and WASM too. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { webgpuTest } from "../backends/webgpu/testing.ts";
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

/** Which backend the program uses: its import, and how it is made. */
const BACKENDS = {
  cpu: ['import { cpuBackend } from "URL/backends/cpu/mod.ts";', "await cpuBackend({ threads: 2 })"],
  webgpu: ['import { webgpuBackend } from "URL/backends/webgpu/mod.ts";', "await webgpuBackend()"],
} as const;

/** A program of somebody else's. */
const consumer = (url: string, [backend, made]: readonly [string, string]) => `
import { backward, fromArray, scope } from "${url}/core/mod.ts";
${backend.replace("URL", url)}
import { dryBackend } from "${url}/backends/dry/mod.ts";
import { galoreAdamW, Optimizer } from "${url}/optimizers/mod.ts";
import { initLlama, LLAMA_PROJECTED, llamaLoss, makeLlamaConfig } from "${url}/models/mod.ts";
import { Batches } from "${url}/data/mod.ts";

using dry = dryBackend();
using backend = ${made};
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
  const loss = (() => {
    using train = scope("train step");
    const inputs = fromArray(backend, rows.filter((_, i) => i % (seq + 1) < seq), [batch, seq]);
    const targets = fromArray(backend, rows.filter((_, i) => i % (seq + 1) > 0), [batch, seq]);
    const loss = llamaLoss(params, config, inputs, targets);
    backward(loss, optimizer.stage);
    return train.keep(loss);
  })();
  losses.push((await loss.read())[0]);
  loss.dispose();
  if (optimizer.refreshDue) await optimizer.refresh();
  optimizer.commit();
}
console.log(JSON.stringify({ losses, kernelPath: backend.kernelPath, dry: dry.name }));
`;

Deno.test("modules train when they are imported by URL from another folder", async () => {
  assert.match(await trainByUrl(BACKENDS.cpu), /^wasm/);
});

webgpuTest("the WebGPU backend trains when it is imported by URL from another folder", async () => {
  assert.match(await trainByUrl(BACKENDS.webgpu), /^webgpu /);
});

/** Runs the program in a folder of its own, without our configuration; its kernel path. */
async function trainByUrl(backend: readonly [string, string]): Promise<string> {
  const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: "lowrank-" }));
  const server = serveSources();
  try {
    await Deno.writeTextFile(`${folder}/corpus.txt`, sentences(8_000));
    const inputs = `${folder}/corpus.txt`;
    await prepareStore({ inputs, tokenizer: byteTokenizer(), seq: 32, out: `${folder}/store` });
    const host = `127.0.0.1:${server.addr.port}`;
    await Deno.writeTextFile(`${folder}/train.ts`, consumer(`http://${host}`, backend));
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
    const { losses, kernelPath, dry } = JSON.parse(new TextDecoder().decode(stdout));
    assert.equal(losses.length, 12);
    assert.ok(losses[11] < losses[0] - 0.5, `${losses}`);
    assert.equal(dry, "dry");
    return kernelPath;
  } finally {
    await server.shutdown();
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("public modules have the types that they need without our configuration", async () => {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-" });
  const names = ["core", "backends/cpu", "backends/dry", "backends/webgpu", "optimizers", "models", "data"];
  const modules = names.map((name) => fileURLToPath(new URL(`${name}/mod.ts`, ROOT)));
  try {
    const args = ["check", "--no-config", "--no-lock", ...modules];
    const { code, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: folder }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
