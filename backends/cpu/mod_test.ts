/** The CPU backend as a whole: conformance of every build and thread count, and what it says of itself. */
import assert from "node:assert/strict";
import { UnsupportedError } from "../../core/errors.ts";
import { conformance } from "../conformance.ts";
import { cpuBackend } from "./mod.ts";
import { hasRelaxedSimd } from "./wasm/load.ts";

await conformance("cpu, 1 thread", () => cpuBackend({ threads: 1, blas: "off" }));
await conformance("cpu, 2 threads", () => cpuBackend({ threads: 2, blas: "off" }));
await conformance("cpu, plain SIMD", () => cpuBackend({ threads: 2, blas: "off", wasm: "plain" }));
await conformance("cpu with a native BLAS", async () => {
  const backend = await cpuBackend({ threads: 2 });
  if (backend.blas.found) return backend;
  backend[Symbol.dispose]();
  return { ignored: backend.blas.reason };
});

Deno.test("cpuBackend() says what it runs on", async () => {
  using backend = await cpuBackend({ threads: 2, blas: "off" });
  assert.equal(backend.name, "cpu");
  assert.equal(backend.threads, 2);
  assert.equal(backend.problem, undefined);
  assert.equal(backend.kernelPath, hasRelaxedSimd() ? "wasm-relaxed" : "wasm-plain");
  assert.deepEqual(backend.blas, { found: false, reason: "switched off" });
});

Deno.test("cpuBackend() names the library and its version in kernelPath when it has a native BLAS", async () => {
  using backend = await cpuBackend({ threads: 1 });
  if (backend.blas.found) assert.match(backend.kernelPath, new RegExp(`\\+${backend.blas.name}`));
  else assert.ok(backend.blas.reason.length > 0);
});

Deno.test("cpuBackend() refuses threads that are no positive integer", async () => {
  for (const threads of [0, -1, 1.5, NaN, 1000]) await assert.rejects(cpuBackend({ threads }), RangeError);
});

Deno.test({
  name: "cpuBackend() runs without FFI, and says why, when the permission is missing",
  permissions: { read: true, ffi: false },
  async fn() {
    using backend = await cpuBackend({ threads: 1 });
    assert.deepEqual(backend.blas, { found: false, reason: "no permission (--allow-ffi)" });
    await assert.rejects(cpuBackend({ blas: "require" }), UnsupportedError);
  },
});

Deno.test("cpuBackend() frees its threads when disposed, and refuses work afterwards", async () => {
  const backend = await cpuBackend({ threads: 2, blas: "off" });
  const buffer = backend.alloc(16);
  const x = { buffer, offset: 0, shape: [2, 2], strides: [2, 1], dtype: "f32" as const };
  backend[Symbol.dispose]();
  backend[Symbol.dispose]();
  assert.throws(() => backend.kernels.matmul(x, x, x, { transposeA: false, transposeB: false }), /disposed/);
});
