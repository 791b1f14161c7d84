/**
 * What a training step may cost on WebGPU, on any adapter: dispatches, bytes moved against the least possible, and in the
 * steady state no readback, no new buffer and no new bind group. The budgets are committed: a change that raises a
 * figure must raise it here, and say why.
 */
import assert from "node:assert/strict";
import { type WebgpuBackend, webgpuBackend } from "../backends/webgpu/mod.ts";
import { webgpuTest } from "../backends/webgpu/testing.ts";
import { backward, fromArray, type Params, scope } from "../core/mod.ts";
import { initLlama, LLAMA_PROJECTED, type LlamaConfig, llamaConfig, llamaLoss } from "../models/mod.ts";
import { adamWPreset, galoreAdamW, Optimizer, polarBasis } from "../optimizers/mod.ts";

const [BATCH, SEQ] = [4, 64];

interface Budget {
  readonly model: string;
  readonly optimizer: "adamw" | "galore_adamw";
  /** Layers, when fewer than the model's. */
  readonly layers?: number;
  readonly recompute?: boolean;
  readonly dispatches: number;
  /** Bytes moved, as a multiple of `leastBytes`. */
  readonly bytes: number;
}

const BUDGETS: readonly Budget[] = [
  { model: "llama-9m", optimizer: "adamw", dispatches: 360, bytes: 1.4 },
  { model: "llama-9m", optimizer: "galore_adamw", dispatches: 475, bytes: 1.4 },
  { model: "llama-9m", optimizer: "adamw", recompute: true, dispatches: 420, bytes: 1.75 },
  { model: "llama-60m", optimizer: "galore_adamw", layers: 1, dispatches: 150, bytes: 1.1 },
];

/**
 * Bytes of f32 that no step can do without. Each weight is read by forward and by backward, its gradient written, read for
 * the norm and by the optimizer, and moments and weight read and written. A token's saved activations are 8 D + 3 F to a
 * layer: each is written, read by what follows and by backward, and its gradient written and read; the logits alike.
 */
function leastBytes(params: Params, config: LlamaConfig): number {
  const { hidden_size: D, intermediate_size: F, num_hidden_layers: L, vocab_size: V } = config;
  const tokens = BATCH * SEQ;
  return 4 * (params.size * (2 + 3 + 6) + 5 * tokens * (L * (8 * D + 3 * F) + V));
}

class Steps implements Disposable {
  readonly params: Params;
  readonly optimizer: Optimizer;
  readonly config: LlamaConfig;

  constructor(readonly backend: WebgpuBackend, readonly budget: Budget) {
    const config = llamaConfig(budget.model, { vocab_size: 257 });
    this.config = { ...config, num_hidden_layers: budget.layers ?? config.num_hidden_layers };
    this.params = initLlama(backend, this.config, 1);
    const galore = { rank: 32, updateProjGap: 200, scale: 0.25, basis: polarBasis({ iterations: 1 }) };
    const rule = budget.optimizer === "adamw"
      ? adamWPreset({ learningRate: 1e-3 })
      : galoreAdamW({ learningRate: 1e-3, projected: LLAMA_PROJECTED, galore });
    this.optimizer = new Optimizer(this.params, rule, { clip: 1, guard: true });
  }

  async step(): Promise<void> {
    const loss = this.#forwardBackward();
    if (this.optimizer.refreshDue) await this.optimizer.refresh();
    this.optimizer.commit([loss]);
    loss.dispose();
  }

  #forwardBackward() {
    using step = scope("train step");
    const ids = Int32Array.from({ length: BATCH * SEQ }, (_, i) => i % 257);
    const tokens = fromArray(this.backend, ids, [BATCH, SEQ]);
    const loss = llamaLoss(this.params, this.config, tokens, tokens, { recompute: this.budget.recompute });
    backward(loss, this.optimizer.stage);
    return step.keep(loss);
  }

  [Symbol.dispose](): void {
    this.optimizer.dispose();
    this.params.dispose();
  }
}

for (const budget of BUDGETS) {
  const { model, optimizer, layers, recompute } = budget;
  const what = [model, layers && `of ${layers} layers`, optimizer, recompute && "recomputed"].filter(Boolean).join(" ");
  webgpuTest(`a step of ${what} keeps to its budget on webgpu`, async () => {
    using backend = await webgpuBackend();
    using steps = new Steps(backend, budget);
    for (let i = 0; i < 3; i++) await steps.step();
    await steps.params.get("model.norm.weight").read();
    const before = backend.counters();
    const live = backend.memory();
    const count = 3;
    for (let i = 0; i < count; i++) await steps.step();
    const after = backend.counters();
    const dispatches = (after.dispatches - before.dispatches) / count;
    const ratio = (after.workBytes - before.workBytes) / count / leastBytes(steps.params, steps.config);
    const cost = `${dispatches} dispatches and ${ratio.toFixed(3)} times the least bytes`;
    assert.ok(dispatches <= budget.dispatches && ratio <= budget.bytes, `${cost}: over budget`);
    // another adapter may split products otherwise
    if (backend.adapter.isSoftware) assert.ok(dispatches > 0.95 * budget.dispatches, `${cost}: tighten the budget`);
    for (const key of ["readbacks", "buffersCreated", "groupsCreated", "kernelsCompiled"] as const) {
      assert.equal(after[key], before[key], key);
    }
    assert.deepEqual([backend.memory().inUse, backend.memory().live], [live.inUse, live.live]);
  });
}
