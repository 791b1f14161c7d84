/** The architecture's invariants, held by the module graph itself (`deno info --json`). See ARCHITECTURE.md. */
import assert from "node:assert/strict";

const ROOT = new URL("../", import.meta.url);

interface Dependency {
  readonly specifier: string;
  readonly code?: { readonly specifier?: string };
  readonly type?: { readonly specifier?: string };
}

/** Specifiers as written and resolved, of every source file of a package (tests and benches left out). */
async function imports(folder: string): Promise<{ file: string; written: string; resolved: string }[]> {
  const found: { file: string; written: string; resolved: string }[] = [];
  for (const file of sources(folder)) {
    const command = new Deno.Command(Deno.execPath(), { args: ["info", "--json", file], cwd: ROOT });
    const { stdout } = await command.output();
    const info = JSON.parse(new TextDecoder().decode(stdout));
    const module = info.modules.find((candidate: { local?: string; specifier: string }) =>
      candidate.specifier === new URL(file, ROOT).href
    );
    assert.ok(module, `deno info does not tell of ${file}`);
    for (const { specifier, code, type } of (module.dependencies ?? []) as Dependency[]) {
      found.push({ file, written: specifier, resolved: code?.specifier ?? type?.specifier ?? specifier });
    }
  }
  return found;
}

function sources(folder: string): string[] {
  const files: string[] = [];
  for (const entry of Deno.readDirSync(new URL(folder + "/", ROOT))) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory && !/testdata|testing|assembly|examples|recipes|bench$/.test(entry.name)) {
      files.push(...sources(path));
    }
    const skipped =
      /_test\.ts$|_bench\.ts$|conformance(\/check|\/blockwise(_adam|_operands)?)?\.ts$|wasm\/build\.ts$|\/testing\.ts$|_check_large|large_store/;
    if (entry.isFile && entry.name.endsWith(".ts") && !skipped.test(path)) files.push(path);
  }
  return files.sort();
}

/** The top-level folder that a resolved module lies in, or its scheme. */
function home(resolved: string): string {
  if (!resolved.startsWith(ROOT.href)) return resolved.split(":")[0];
  return resolved.slice(ROOT.href.length);
}

Deno.test("core imports only itself and npm:ml-matrix in linalg.ts", async () => {
  for (const { file, resolved, written } of await imports("core")) {
    const ok = home(resolved).startsWith("core/") ||
      (file === "core/linalg.ts" && written.startsWith("npm:ml-matrix@"));
    assert.ok(ok, `${file} imports ${written}`);
  }
});

Deno.test("backends see the seam and shapes, never tensors, autograd, models or optimizers", async () => {
  const allowed = /^core\/(backend|shape|dtype|errors|random|codebook)\.ts$/;
  for (const { file, resolved, written } of await imports("backends")) {
    const where = home(resolved);
    // the CPU backend starts threads, so it may use the runtime; the others run anywhere
    const runtime = file.startsWith("backends/cpu/") && written.startsWith("node:");
    assert.ok(runtime || where.startsWith("backends/") || allowed.test(where), `${file} imports ${written}`);
  }
});

for (const folder of ["optimizers", "models"]) {
  Deno.test(`${folder} import only core/mod.ts`, async () => {
    for (const { file, resolved, written } of await imports(folder)) {
      const where = home(resolved);
      assert.ok(where.startsWith(`${folder}/`) || where === "core/mod.ts", `${file} imports ${written}`);
    }
  });
}

Deno.test("data imports nothing of ours", async () => {
  for (const { file, resolved, written } of await imports("data")) {
    const where = home(resolved);
    const ok = where.startsWith("data/") || written.startsWith("node:") || /^npm:@?[\w/-]+@\d+\.\d+\.\d+/.test(written);
    assert.ok(ok, `${file} imports ${written}`);
  }
});

Deno.test("packages meet through each other's mod.ts, and only the cli imports them all", async () => {
  for (const { file, resolved, written } of await imports("cli")) {
    const where = home(resolved);
    const ours = /^(core|backends\/\w+|optimizers|models|data)\//.exec(where);
    if (ours) assert.equal(where, `${ours[1]}/mod.ts`, `${file} imports ${written}`);
    assert.match(written, /^(\.{1,2}\/|node:|npm:@?[\w/-]+@\d+\.\d+\.\d+)/, `${file} imports ${written}`);
  }
});

Deno.test("runtime-neutral packages use no Deno.*, node: or console", () => {
  const neutral = ["core", "optimizers", "models", "backends/dry", "backends/webgpu"].flatMap(sources);
  for (const file of neutral) {
    const text = Deno.readTextFileSync(new URL(file, ROOT)).replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    assert.doesNotMatch(text, /\bDeno\.|from "node:|\bconsole\.|\bprocess\./, file);
  }
});

Deno.test("only the optimizer driver adds into a parameter", () => {
  for (const file of [...sources("core"), ...sources("optimizers"), ...sources("models"), ...sources("cli")]) {
    const text = Deno.readTextFileSync(new URL(file, ROOT));
    // rounding.ts adds into zeros of its own
    const allowed = ["optimizers/optimizer.ts", "core/ops/rounding.ts"];
    if (/kernels\.addInto\(/.test(text)) assert.ok(allowed.includes(file), file);
  }
});
