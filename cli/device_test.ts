/** Which device a run gets, and what is said of it. */
import assert from "node:assert/strict";
import { UnsupportedError } from "../core/mod.ts";
import { findGpu, openDevice } from "./device.ts";
import { memoryOutput } from "./log.ts";
import { resolveBasis } from "./optimizer_family.ts";

const found = await findGpu();

Deno.test("openDevice() opens the CPU when it is asked for, and says nothing", async () => {
  const output = memoryOutput();
  using device = await openDevice({ device: "cpu", threads: 1, blas: "off" }, output);
  assert.deepEqual([device.kind, device.threads, output.errText], ["cpu", 1, ""]);
  assert.match(device.summary, /^wasm-\w+, 1 threads$/);
  assert.ok(device.readSync);
});

Deno.test({
  name: `openDevice() takes the CPU without a word when there is no real GPU (here: ${found?.name ?? "none"})`,
  ignore: found !== undefined && !found.isSoftware,
  fn: async () => {
    const output = memoryOutput();
    using device = await openDevice({ threads: 1, blas: "off" }, output);
    assert.deepEqual([device.kind, output.errText], ["cpu", ""]);
  },
});

Deno.test({
  name: "openDevice() refuses webgpu where no adapter answers",
  ignore: found !== undefined,
  fn: async () => {
    await assert.rejects(openDevice({ device: "webgpu" }), (error: Error) => {
      assert.ok(error instanceof UnsupportedError);
      return /^Cannot start the webgpu backend: .*; --device cpu needs none$/.test(error.message);
    });
  },
});

Deno.test("resolveBasis() takes the polar basis on a GPU unless another is named", () => {
  assert.deepEqual([
    resolveBasis({ basis: "auto", optimizer: "galore_adamw" }, "webgpu"),
    resolveBasis({ basis: "auto", optimizer: "galore_adamw" }, "cpu"),
  ], ["polar", "subspace"]);
  assert.deepEqual([
    resolveBasis({ basis: "gram", optimizer: "galore_adamw" }, "webgpu"),
    resolveBasis({ basis: "polar", optimizer: "galore_adamw" }, "cpu"),
  ], ["gram", "polar"]);
});
