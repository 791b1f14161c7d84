/** From `--method` to what is trained and how the model sees it: every weight, or adapters beside a frozen base. */
import { type Key, Params, type ParamsView } from "../core/mod.ts";
import { initLora, type LoraConfig, mergeLora, withLora } from "../models/mod.ts";
import { type Finetune, hasAdapters } from "./finetune_options.ts";
import type { Subject } from "./finetune_subject.ts";

/** A way to fine-tune a model. */
export interface FinetuneMethod extends Disposable {
  /** What the optimizer trains. */
  readonly trained: Params;
  /** Names of the matrices among it that an optimizer may project. */
  readonly projected: RegExp;
  /** How the adapter is made, where there is one. */
  readonly lora?: LoraConfig;
  /** The weights as the model sees them; with the key of a step's dropout while training. */
  view(dropoutKey?: Key): ParamsView;
  /** The plain weights of the model, for a folder. Dispose it. */
  merged(): Params;
}

/**
 * What a run trains of `base`, which stays the caller's.
 *
 * @throws RangeError for targets that are not among the model's modules
 */
export function finetuneMethod(
  base: Params,
  { method, rank, alpha, rslora, loraDropout, targets, seed }: Finetune,
  { projected, modulesToSave }: Pick<Subject, "projected" | "modulesToSave">,
): FinetuneMethod {
  if (!hasAdapters(method)) {
    return {
      trained: base,
      projected,
      view: () => base,
      merged: () => shared(base),
      [Symbol.dispose]: () => {},
    };
  }
  const lora: LoraConfig = {
    r: rank,
    alpha,
    rslora,
    dropout: loraDropout,
    dora: method === "dora",
    targets: targets.length === 1 && targets[0] === "all-linear" ? "all-linear" : targets,
    modulesToSave,
  };
  const trained = initLora(base, lora, { seed });
  base.freeze(base.names());
  return {
    trained,
    projected: /\.lora_[AB]\.weight$/,
    lora,
    view: (dropoutKey) => withLora(base, [{ params: trained, config: lora }], { dropoutKey }),
    merged: () => mergeLora(base, trained, lora),
    [Symbol.dispose]: () => trained.dispose(),
  };
}

/** The same tensors, held once more. */
function shared(params: Params): Params {
  const held = new Params(params.backend);
  for (const [name, tensor] of params.entries()) held.set(name, tensor.retained());
  return held;
}
