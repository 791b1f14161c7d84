/** Training Deep LoRA: a rank that is far too large costs next to nothing, and every kind of rule over its factors. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { backward, foldIn, fromArray, keyOf, own, scope } from "../core/mod.ts";
import { random } from "../core/testing/gradcheck.ts";
import { takeHost } from "../core/testing/inputs.ts";
import {
  adafactorPreset,
  adamWPreset,
  blockwise8bit,
  finish,
  galoreAdamW,
  muonPreset,
  Optimizer,
  type Routing,
  type Rule,
  scaleByAdam,
  storeAs,
} from "../optimizers/mod.ts";
import { DEEP_LORA_TENSORS, type DeepLoraConfig, initDeepLora, withDeepLora } from "./deep_lora.ts";
import { initLlama, llamaLoss } from "./llama.ts";
import { initLora, withLora } from "./lora.ts";
import { completeWith, completionTask, emptyMap } from "./testing/completion_task.ts";
import { tiny } from "./testing/tiny_lora.ts";

Deno.test("Deep LoRA of rank 2, 16 and 32 completes a matrix of rank 2 with rank 2; LoRA of rank 32 does not", async () => {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  const task = completionTask(1);
  const steps = 3000;
  for (const [r, most] of [[2, 2e-4], [16, 0.01], [32, 0.01]]) {
    using base = emptyMap(backend, task);
    const config: DeepLoraConfig = { r, targets: ["map"] };
    using adapter = initDeepLora(base, config, { seed: 1 });
    const { error, numericalRank } = completeWith(task, adapter, withDeepLora(base, [{ params: adapter, config }]), {
      steps,
    });
    assert.ok(error < most, `r ${r}: ${error}`);
    assert.equal(numericalRank, 2, `r ${r}`);
  }
  using base = emptyMap(backend, task);
  const config = { r: 32, alpha: 32, targets: ["map"] };
  using adapter = initLora(base, config, { seed: 1 });
  const { error, numericalRank } = completeWith(task, adapter, withLora(base, [{ params: adapter, config }]), {
    steps,
  });
  assert.ok(error > 0.3, `${error}`);
  assert.equal(numericalRank, 32);
});

const RATE = 1e-2;
const RULES: Readonly<Record<string, Rule | Routing>> = {
  adamw: adamWPreset({ learningRate: RATE }),
  "adamw with 8-bit states": finish(storeAs(blockwise8bit(), scaleByAdam(), { minSize: 64 }), { learningRate: RATE }),
  "galore_adamw of a higher rank": galoreAdamW({
    learningRate: RATE,
    projected: DEEP_LORA_TENSORS,
    galore: { rank: 8, scale: 1, updateProjGap: 2 },
  }),
  adafactor: adafactorPreset({ learningRate: RATE }),
  muon: muonPreset({ learningRate: RATE, hidden: DEEP_LORA_TENSORS }),
};

for (const [name, rule] of Object.entries(RULES)) {
  for (const compress of [false, true]) {
    Deno.test(`Deep LoRA${compress ? ", compressed," : ""} learns under ${name}, and the base keeps its bits`, async () => {
      using backend = loopsBackend();
      using base = initLlama(backend, tiny, 1);
      base.freeze(base.names());
      const before = base.names().map((weight) => base.get(weight).readSync());
      const config: DeepLoraConfig = {
        r: 4,
        epsilon: 0.1,
        compress,
        targets: "all-linear",
        dropout: 0.1,
        modulesToSave: ["lm_head"],
      };
      const gradients = new Map([...base.entries()].map(([key, { size }]) => [key, random(key, size)]));
      using adapter = initDeepLora(base, config, { seed: 1, gradients });
      using optimizer = new Optimizer(adapter, rule, { clip: 1 });
      const losses: number[] = [];
      for (let step = 0; step < 8; step++) {
        const loss = (() => {
          using inner = scope("step");
          const [tokens, targets] = [0, 1].map((shift) =>
            fromArray(backend, Int32Array.from({ length: 14 }, (_, i) => ((i + shift) ** 2 + 1) % 40), [2, 7])
          );
          const view = withDeepLora(base, [{ params: adapter, config }], { dropoutKey: foldIn(keyOf(7), step) });
          const mean = llamaLoss(view, tiny, tokens, targets, { recompute: true });
          backward(mean, optimizer.stage);
          return own(inner.keep(mean));
        })();
        if (optimizer.refreshDue) await optimizer.refresh();
        optimizer.commit();
        losses.push((await takeHost(loss))[0]);
      }
      assert.ok(losses[7] < losses[0] - 0.05, losses.join(" "));
      base.names().forEach((weight, i) => assert.deepEqual(base.get(weight).readSync(), before[i], weight));
    });
  }
}
