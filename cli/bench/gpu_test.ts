/** The GPU bench at small sizes: it must run wherever there is an adapter. */
import assert from "node:assert/strict";
import { webgpuTest } from "../../backends/webgpu/testing.ts";

webgpuTest("bench:gpu measures kernels and a training step", async () => {
  const file = new URL("gpu.ts", import.meta.url).pathname;
  const args = ["run", "-A", "--no-lock", file, "--small", "--peak-gbs", "100", "--peak-tflops", "1"];
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  const result = JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").pop()!);
  assert.ok(result.products.length > 0 && result.products.every(({ gflops }: { gflops: number }) => gflops > 0));
  const streams = result.streams.map(({ name }: { name: string }) => name);
  for (const name of ["rmsNorm backward", "attention backward", "AdamW update"]) {
    assert.ok(streams.includes(name), name);
  }
  const [training] = result.trainings;
  assert.ok(training.tokensPerSecond > 0 && training.dispatches > 0 && Number.isFinite(training.loss));
});
