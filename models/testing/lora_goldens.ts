/**
 * LoRA against PyTorch: an adapter in PEFT's files over a frozen LLaMA, with logits, loss and the adapter's gradients.
 * Any backend's test can register it.
 */
import assert from "node:assert/strict";
import { type Backend, backward, own, scope, type Tensor } from "../../core/mod.ts";
import { assertRms, type GoldenTensor, readGolden, readJson, rms } from "../../core/testing/golden.ts";
import { takeHost } from "../../core/testing/inputs.ts";
import { registerTest } from "../../core/testing/register.ts";
import { llama, llamaLoss } from "../llama.ts";
import { withLora } from "../lora.ts";
import { loadPeft, PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE } from "../peft.ts";
import { MemoryFolder } from "../safetensors_memory.ts";
import { llamaBatch, llamaParams, readLlama } from "./llama_goldens.ts";

const FOLDER = new URL("../testdata/adapters/lora_llama/", import.meta.url);

/** The stored adapter's folder, as PEFT wrote it. */
export function goldenAdapter(): MemoryFolder {
  const files = [PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE];
  return new MemoryFolder("lora_llama", files.map((file) => [file, Deno.readFileSync(new URL(file, FOLDER))]));
}

/** The stored numbers and how closely they must be met. */
export function goldenNumbers(): {
  readonly golden: ReadonlyMap<string, GoldenTensor>;
  readonly within: Readonly<Record<"logits" | "loss" | "grad", number>>;
} {
  const json = readJson<{ recommended_tolerance: Record<"logits" | "loss" | "grad", number> }>(
    new URL("golden.json", FOLDER),
  );
  return { golden: readGolden(new URL("golden.safetensors", FOLDER)), within: json.recommended_tolerance };
}

/** Registers the test. The tolerances are the fixture's times `slack`. */
export function loraGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { dtype = "f32" as "f32" | "f64", slack = 1, ignore = undefined as string | undefined } = {},
): void {
  registerTest(`${name}: withLora() gives PyTorch's logits, loss and gradients in ${dtype}`, async () => {
    using backend = await makeBackend();
    const { golden, within } = goldenNumbers();
    const model = { ...readLlama("mha"), golden };
    {
      using base = llamaParams(backend, model, dtype);
      base.freeze(base.names());
      using adapter = await loadPeft(goldenAdapter(), base);
      const held = new Map<string, Tensor>();
      const [logits, loss] = (() => {
        using step = scope("golden step");
        const { tokens, targets } = llamaBatch(backend, model);
        const view = withLora(base, [{ params: adapter.params, config: adapter.lora }]);
        const mean = llamaLoss(view, model.config, tokens, targets, { recompute: true });
        backward(mean, (leaf, gradient) => held.set(leaf, gradient.retained()));
        return [own(step.keep(llama(view, model.config, tokens))), own(step.keep(mean))];
      })();
      assertRms("logits", await takeHost(logits), golden.get("logits")!.data, { tolerance: slack * within.logits });
      assertRms("loss", await takeHost(loss), golden.get("loss")!.data, { tolerance: slack * within.loss });
      assert.deepEqual([...held.keys()].sort(), adapter.params.names().sort());
      const expected = [...held.keys()].map((leaf) => golden.get(`grad.base_model.model.${leaf}`)!.data);
      const floor = 0.01 * Math.max(...expected.map(rms));
      for (const [i, [leaf, gradient]] of [...held].entries()) {
        assertRms(leaf, await takeHost(gradient), expected[i], { tolerance: slack * within.grad, floor });
      }
    }
    assert.equal(backend.memory().live, 0);
  }, ignore);
}
