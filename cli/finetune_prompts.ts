/**
 * Visual Prompt Tuning as a way to fine-tune a ViT: learned tokens and a head, nothing else. For use, and in checkpoints, they
 * are the small files of a task, which plug into the backbone; they cannot be folded into it.
 */
import { concat, noGrad, own, type Params, scope } from "../core/mod.ts";
import {
  initVisualPrompts,
  loadVisualPrompts,
  saveVisualPrompts,
  type VisualPromptConfig,
  type VitConfig,
} from "../models/mod.ts";
import type { FinetuneMethod, MethodContext } from "./finetune_method.ts";
import type { Finetune } from "./finetune_options.ts";

/** Trains prompts and a head that begins as the model's own. @throws RangeError for a setting out of its range */
export function vptMethod({ base, run, subject, modelFolder }: MethodContext): FinetuneMethod {
  const model = subject.config as VitConfig;
  const config = promptConfigOf(run);
  const trained = initVisualPrompts(base.backend, model, config, { seed: run.seed });
  copyHead(base, trained);
  base.freeze(base.names());
  const file = { prompts: config, labels: Object.values(model.id2label), baseModel: modelFolder };
  return {
    ...{ trained, projected: /^prompt_proj\.weight$/, hasAdapter: true, prompts: { params: trained, config } },
    view: () => base,
    saveState: (writer) => saveVisualPrompts(writer, trained, file),
    saveAdapter: (writer) => saveVisualPrompts(writer, trained, file),
    restoreState: async (folder) => {
      using saved = await loadVisualPrompts(base.backend, folder, model);
      for (const [name, tensor] of trained.entries()) tensor.write(await saved.params.get(name).read());
    },
    [Symbol.dispose]: () => trained.dispose(),
  };
}

/** The settings of a run's prompts. */
function promptConfigOf({ method, prompts, promptDropout, promptProject }: Finetune): VisualPromptConfig {
  return {
    ...{ deep: method === "vpt-deep", numTokens: prompts, dropout: promptDropout },
    ...promptProject !== undefined && { project: promptProject },
  };
}

/** A head that the model has for these labels goes on; one that was drawn is every method's first. */
function copyHead(base: Params, task: Params): void {
  for (const name of task.names().filter((name) => base.has(name))) {
    using inner = scope("head");
    task.replace(name, own(inner.keep(noGrad(() => concat([base.get(name)], 0)))));
  }
}
