import assert from "node:assert/strict";
import { readSources, sourceHash } from "./build.ts";
import { SOURCE_HASH } from "./kernels.wasm.ts";
import { compileKernels, hasRelaxedSimd } from "./load.ts";

Deno.test("kernels.wasm.ts was built from the sources beside it (else run deno task build:wasm)", () => {
  assert.equal(SOURCE_HASH, sourceHash(readSources()));
});

Deno.test("both builds compile, export the same kernels and import nothing but memory, scratch and abort", async () => {
  const builds = hasRelaxedSimd() ? ["relaxed", "plain"] as const : ["plain"] as const;
  const modules = await Promise.all(builds.map((choice) => compileKernels(choice)));
  const names = modules.map(({ module }) =>
    WebAssembly.Module.exports(module).map(({ name, kind }) => `${kind} ${name}`)
  );
  for (const list of names) {
    assert.deepEqual(list, names[0]);
    assert.ok(list.every((entry) => entry.startsWith("function ")));
  }
  const allowed = new Set(["memory", "scratch", "abort"]);
  for (const { module } of modules) {
    for (const { module: from, name } of WebAssembly.Module.imports(module)) {
      assert.ok(from === "env" && allowed.has(name), `${from}.${name}`);
    }
  }
});
