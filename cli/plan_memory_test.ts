/** Plans beside real steps: the same bytes at the worst moment, and the same states. */
import assert from "node:assert/strict";
import { webgpuTest } from "../backends/webgpu/testing.ts";
import { llamaConfig } from "../models/mod.ts";
import { planMemory } from "./memory_plan.ts";
import { DEFAULTS, type Run } from "./options.ts";
import { checkMemoryOf } from "./testing/memory_check.ts";

/** Three steps, the first and the third with every basis due. */
const STEPS: Run = {
  ...DEFAULTS,
  ...{ model: "llama-9m", vocab: 512, batch: 2, seq: 32, steps: 3 },
  ...{ refresh: "together", updateProjGap: 2, lazyRefresh: false },
};

async function assertAsPlanned(run: Run): Promise<void> {
  const check = await checkMemoryOf(run);
  assert.equal(check.plannedStateBytes, check.stateBytes);
  const share = check.plannedPeakBytes / check.peakBytes;
  assert.ok(Math.abs(share - 1) < 0.005, `planned ${check.plannedPeakBytes}, measured ${check.peakBytes}`);
}

Deno.test.each([
  { optimizer: "adamw" },
  { optimizer: "galore_adamw" },
  { optimizer: "galore_adamw_8bit", perLayer: true, clip: 0 },
] as Partial<Run>[])("planMemory() says what steps take on the CPU with %o", async (options) => {
  await assertAsPlanned({ ...STEPS, device: "cpu", ...options });
});

webgpuTest("planMemory() says what steps take on WebGPU, odd sizes in 16 bits included", async () => {
  await assertAsPlanned({
    ...STEPS,
    device: "webgpu",
    optimizer: "adamw",
    dtype: "bf16",
    vocab: 511,
    batch: 3,
    seq: 33,
  });
});

Deno.test("planMemory() keeps a llama-7b in 8-bit GaLore, layer by layer, below 22 GiB", async () => {
  const plan = await planMemory(llamaConfig("llama-7b"), {
    ...DEFAULTS,
    ...{ policy: "webgpu", dtype: "bf16", optimizer: "galore_adamw_8bit", rank: 1024, batch: 1, seq: 256 },
    ...{ perLayer: true, clip: 0, checkpointActivations: true },
  });
  assert.ok(plan.heldBytes < 22 * 2 ** 30, `${plan.heldBytes}`);
  assert.ok(plan.weightBytes + plan.optimizerBytes + plan.projectorBytes > 0.85 * plan.peakBytes);
});

Deno.test("planMemory() stages one gradient at a time when updates are made per layer", async () => {
  const config = llamaConfig("llama-9m", { vocab_size: 512 });
  const request = { ...DEFAULTS, batch: 1, seq: 16, optimizer: "adamw" as const, clip: 0 };
  const [together, apart] = [
    await planMemory(config, request),
    await planMemory(config, { ...request, perLayer: true }),
  ];
  assert.equal(together.gradientBytes, together.weightBytes);
  assert.equal(apart.gradientBytes, 4 * 512 * 128);
  assert.ok(together.peakBytes - apart.peakBytes > 0.5 * together.weightBytes);
});
