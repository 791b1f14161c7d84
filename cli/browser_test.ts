/**
 * The promise that core, backends/webgpu, optimizers and models run in a browser: the example page trains in Chromium, and
 * its WebGPU (Dawn and Tint, over SwiftShader) is held to the conformance table and the fused parity tests. It refuses
 * WGSL that Deno's (wgpu and Naga) accepts, and the other way round.
 *
 * SwiftShader compiles a kernel in a quarter of a second, so that of kernels with many variants only some cases run. With
 * `LOWRANK_BROWSER=all` all do.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import type { FusedName, KernelName } from "../core/mod.ts";
import { pageHandler } from "./examples/browser/serve.ts";
import type { Inventory, Outcome } from "./testing/browser_conformance.ts";
import { Chromium, findChromium } from "./testing/chromium.ts";

const HERE = new URL("./", import.meta.url);
const chromium = await findChromium();
const runsAll = Deno.env.get("LOWRANK_BROWSER") === "all";

function browserTest(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  const why = chromium === undefined ? " (ignored: no Chromium here; install it or name it in CHROMIUM)" : "";
  Deno.test({ name: name + why, ignore: chromium === undefined, fn });
}

/** Bundles a module for a browser. */
async function bundle(entry: string, to: string, ...flags: string[]): Promise<void> {
  const args = ["bundle", "--quiet", "--platform", "browser", "--frozen", ...flags, "-o", to, entry];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: fileURLToPath(HERE) }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
}

/** Serves to this machine alone, and opens the root in Chromium. */
async function withPage(
  handler: (request: Request) => Response | Promise<Response>,
  query: string,
  use: (browser: Chromium) => Promise<void>,
): Promise<void> {
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, handler);
  await using browser = await Chromium.start(chromium!);
  await browser.open(`http://127.0.0.1:${server.addr.port}/${query}`);
  await use(browser);
  assert.deepEqual(browser.complaints, []);
}

/** Of the cases of these kernels and fused entries, every n-th run. */
const NTH: { readonly [Name in KernelName | FusedName]?: number } = {
  ...{ unary: 8, binary: 10, cast: 10, reduce: 10, matmul: 24 },
  ...{ softmax: 8, crossEntropy: 12, rmsNorm: 8, layerNorm: 8, attention: 36 },
};

/** What a person sees of the example. */
const LOOK = `({
  state: document.body.dataset.state ?? "loading",
  status: document.getElementById("status").textContent,
  adapter: document.getElementById("adapter").textContent,
  memory: document.getElementById("memory").textContent,
  lines: document.querySelectorAll("#plot path.line").length,
  sample: document.getElementById("sample").textContent,
})`;

/** Opens the example without its button, and looks until it has come to an end. */
async function lookAt(script: string, query: string): Promise<Record<string, string>> {
  let look: Record<string, string> = { state: "loading" };
  await withPage(pageHandler(script), query, async (browser) => {
    for (const start = Date.now(); !/done|failed/.test(look.state) && Date.now() - start < 300_000;) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      look = await browser.evaluate(LOOK);
    }
  });
  return look;
}

browserTest("the example page trains in Chromium and draws its loss", async () => {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-" });
  try {
    const script = `${folder}/main.js`;
    await bundle("examples/browser/main.ts", script);
    const look = await lookAt(script, "?auto&steps=8");
    assert.equal(look.state, "done", look.status);
    assert.match(look.adapter, /swiftshader \(software\)$/i);
    const [, first, last] = /loss (\d\.\d+) -> (\d\.\d+) in 8 steps/.exec(look.status) ?? [];
    assert.ok(Number(first) > 5 && Number(last) < Number(first) - 0.7, look.status);
    assert.match(look.memory, /^\d.* [KM]B$/);
    assert.ok(Number(look.lines) >= 2);
    assert.ok(look.sample.length > 100, look.sample);

    const without = `Object.defineProperty(navigator, "gpu", { value: undefined });`;
    await Deno.writeTextFile(script, without + await Deno.readTextFile(script));
    const { state, status } = await lookAt(script, "?auto");
    assert.equal(state, "failed");
    assert.match(status, /^This browser offers no WebGPU adapter, so nothing can be trained here/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

browserTest("kernels and fused entries hold in Chromium", async (t) => {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-" });
  try {
    const script = `${folder}/conformance.js`;
    await bundle("testing/browser_conformance.ts", script, "--import-map", "testing/browser_import_map.json");
    const page = `<!doctype html><link rel="icon" href="data:,"><script type="module" src="script.js"></script>`;
    const handler = async ({ url }: Request) =>
      new URL(url).pathname === "/"
        ? new Response(page, { headers: { "content-type": "text/html" } })
        : new Response(await Deno.readFile(script), { headers: { "content-type": "text/javascript" } });
    await withPage(handler, "", async (browser) => {
      const { kernels, fused, adapter } = await browser.evaluate<Inventory>("inventory()");
      assert.ok(adapter.isSoftware, adapter.name);
      assert.equal(kernels.length, 13);
      assert.equal(fused.length, 10);
      const nth = (name: KernelName | FusedName) => runsAll ? 1 : NTH[name] ?? 1;
      const calls = [
        ...kernels.map((name) => [name, `checkKernel("${name}", ${nth(name)})`]),
        ...fused.map((name) => [`fused ${name}`, `checkEntry("${name}", ${nth(name)})`]),
      ];
      for (const [name, call] of calls) {
        await t.step(name, async () => {
          const { groups, failures } = await browser.evaluate<Outcome>(call);
          assert.deepEqual(failures, []);
          assert.ok(groups > 0);
        });
      }
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
