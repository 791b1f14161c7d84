/**
 * Visual Prompt Tuning: learned tokens in a frozen vision transformer's sequence, and a head; nothing else is trained.
 *
 * Jia et al. 2022 (arXiv 2203.12119). Prompts stand behind the class token and before the patches, and have no
 * positions. Shallow: they enter the first layer and run through all. Deep: every layer gets prompts of its own, and
 * what the layer before made of the earlier ones is dropped. `vitLogits(base, config, pixels, { prompts })` puts them in.
 *
 * A task is `Params` of its own that hold only what is trained: the optimizer gets those, and the base is frozen
 * (`base.freeze(base.names())`), so that it costs neither gradients nor states. No prompts at all is a linear probe.
 *
 *     B batch, P prompts, D model, E width of the prompts, N layers, C labels
 */
import {
  type Backend,
  broadcastTo,
  cast,
  concat,
  dropout,
  foldIn,
  type Key,
  keyOf,
  normal,
  Params,
  type ParamsView,
  scope,
  sizeOf,
  slice,
  type Tensor,
  uniform,
} from "../core/mod.ts";
import type { WeightSpec } from "./llama_config.ts";
import { type StoredDType, storedTensor } from "./stored_params.ts";
import type { VitConfig } from "./vit_config.ts";

/** Settings of prompts. */
export interface VisualPromptConfig {
  /** Whether every layer gets prompts of its own, rather than the first alone. */
  readonly deep: boolean;
  /** How many prompts stand in the sequence, P. */
  readonly numTokens: number;
  /** Share of the prompts' numbers that is dropped in training, drawn for each image. Default 0, the paper's. */
  readonly dropout?: number;
  /** Width of prompts that one linear map, shared by all layers, takes to the model's. Default: none, and no map. */
  readonly project?: number;
}

/** Prompts and a head: the tensors, and how they are meant. */
export interface VisualPrompts {
  readonly params: ParamsView;
  readonly config: VisualPromptConfig;
}

/**
 * First values of the head, a linear map of the class token in either case. `hugging-face`: N(0, initializer_range) and
 * biases 0. `vpt`, the paper's code: N(0, 2 / C), which is kaiming-normal over the outputs, and biases of -log 99, by
 * which each label begins with a share of 0.01.
 */
export type VisualPromptHead = "hugging-face" | "vpt";

/** How new prompts and their head are drawn. */
export interface InitVisualPromptsOptions {
  readonly seed: number;
  /** Default `hugging-face`. */
  readonly head?: VisualPromptHead;
  /** Default f32, beside a base of any dtype. */
  readonly dtype?: StoredDType;
}

/**
 * Every tensor of a task, in the order of its file: prompts, the map of their projection if there is one, and the head.
 *
 * @param model with the task's labels (`withVitLabels`)
 * @throws RangeError for a setting out of its range
 */
export function visualPromptWeights(model: VitConfig, config: VisualPromptConfig): Map<string, WeightSpec> {
  checkVisualPrompts(config);
  const { hidden_size: D, num_hidden_layers: N, num_labels: C } = model;
  const { deep, numTokens: P, project: E } = config;
  const width = E === undefined ? "hidden_size" : "project";
  const weights = new Map<string, WeightSpec>();
  if (P > 0) {
    weights.set("prompt_embeddings", { shape: [1, P, E ?? D], what: `1, num_tokens, ${width}` });
    if (deep && N > 1) {
      weights.set("deep_prompt_embeddings", { shape: [N - 1, P, E ?? D], what: `layers - 1, num_tokens, ${width}` });
    }
    if (E !== undefined) {
      weights.set("prompt_proj.weight", { shape: [D, E], what: "hidden_size, project" });
      weights.set("prompt_proj.bias", { shape: [D], what: "hidden_size" });
    }
  }
  weights.set("classifier.weight", { shape: [C, D], what: "num_labels, hidden_size" });
  weights.set("classifier.bias", { shape: [C], what: "num_labels" });
  return weights;
}

/** @throws RangeError for a setting out of its range */
function checkVisualPrompts({ numTokens, dropout: rate = 0, project }: VisualPromptConfig): void {
  const fail = (rule: string, got: unknown) => new RangeError(`Cannot make prompts: ${rule}: got ${got}`);
  if (!Number.isSafeInteger(numTokens) || numTokens < 0) {
    throw fail("numTokens must be a whole number from 0", numTokens);
  }
  if (!(rate >= 0 && rate < 1)) throw fail("dropout must be in [0, 1)", rate);
  if (project !== undefined && !(Number.isSafeInteger(project) && project > 0)) {
    throw fail("project must be a whole number from 1", project);
  }
}

/** The bound of the prompts' first values, sqrt(6 / (channels * patch^2 + E)): Xavier's, as if they were patches. */
export function visualPromptBound(model: VitConfig, { project = model.hidden_size }: VisualPromptConfig): number {
  return Math.sqrt(6 / (model.num_channels * model.patch_size ** 2 + project));
}

/**
 * New prompts and a head: the only weights that are trained, each a function of the seed and its name. Prompts are
 * uniform within `visualPromptBound`; the map of the projection is N(0, 2 / D), which is kaiming-normal over the outputs,
 * and its bias uniform within 1 / sqrt(E), as PyTorch's.
 *
 * @param model with the task's labels (`withVitLabels`)
 * @throws RangeError for a setting out of its range
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * import { loopsBackend } from "../backends/cpu/loops/mod.ts";
 * import { backward, fromArray, scope } from "../core/mod.ts";
 * import { initVit, vitLoss } from "./vit.ts";
 * import { vitConfig, withVitLabels } from "./vit_config.ts";
 * using backend = loopsBackend();
 * const model = withVitLabels(vitConfig("vit-0.2m"), ["odd", "even"]);
 * using base = initVit(backend, model, { seed: 1 });
 * base.freeze(base.names());
 * const config: VisualPromptConfig = { deep: true, numTokens: 5 };
 * using task = initVisualPrompts(backend, model, config, { seed: 2 });
 * using _ = scope("step");
 * const pixels = fromArray(backend, new Float32Array(28 * 28).fill(0.5), [1, 1, 28, 28]);
 * const targets = fromArray(backend, Int32Array.of(1), [1]);
 * const trained: string[] = [];
 * const loss = vitLoss(base, model, pixels, { targets, prompts: { params: task, config } });
 * backward(loss, (name) => trained.push(name));
 * assert.deepEqual(trained.sort(), task.names().sort());
 * ```
 */
export function initVisualPrompts(
  backend: Backend,
  model: VitConfig,
  config: VisualPromptConfig,
  { seed, head = "hugging-face", dtype = "f32" }: InitVisualPromptsOptions,
): Params {
  const params = new Params(backend);
  for (const [name, { shape }] of visualPromptWeights(model, config)) {
    const values = firstValues(name, sizeOf(shape), foldIn(keyOf(seed), "new task", name), { model, config, head });
    params.set(name, storedTensor(backend, values, shape, dtype));
  }
  return params;
}

/** What first values depend on. */
interface Start {
  readonly model: VitConfig;
  readonly config: VisualPromptConfig;
  readonly head: VisualPromptHead;
}

function firstValues(name: string, size: number, key: Key, { model, config, head }: Start): Float32Array<ArrayBuffer> {
  const within = (bound: number) => uniform(key, size).map((value) => bound * (2 * value - 1));
  const { hidden_size: D, num_labels: C, initializer_range } = model;
  if (name === "prompt_proj.weight") return normal(key, size, 0, Math.sqrt(2 / D));
  if (name === "prompt_proj.bias") return within(1 / Math.sqrt(config.project!));
  if (name === "classifier.weight") return normal(key, size, 0, head === "vpt" ? Math.sqrt(2 / C) : initializer_range);
  if (name === "classifier.bias") return new Float32Array(size).fill(head === "vpt" ? -Math.log(99) : 0);
  return within(visualPromptBound(model, config));
}

/** Whether prompts enter the sequence before layer `index`. */
function enters({ deep, numTokens }: VisualPromptConfig, index: number): boolean {
  return numTokens > 0 && (index === 0 || deep);
}

/**
 * The token sequence as layer `index` gets it: with prompts behind the class token, before the first layer in addition
 * and before later ones in place of those that stand there. The sequence itself where none enter.
 *
 * @param x [B, T, D]; behind the first layer with the P prompts
 * @param key drops the prompts' numbers as the configuration says; without it none is dropped
 * @returns [B, T + P, D] before the first layer, [B, T, D] before others, of x's dtype
 */
export function insertPrompts(x: Tensor, index: number, { params, config }: VisualPrompts, key?: Key): Tensor {
  if (!enters(config, index)) return x;
  using inner = scope("prompts");
  const { numTokens: P, dropout: rate = 0, project } = config;
  const [B, , D] = x.shape;
  const stored = index === 0
    ? params.get("prompt_embeddings")
    : slice(params.get("deep_prompt_embeddings"), [{ start: index - 1, end: index }]); // [1, P, E]
  const wide = project === undefined ? stored : params.linear("prompt_proj", stored);
  const spread = broadcastTo(cast(wide, x.dtype), [B, P, D]);
  const kept = key && rate > 0 ? dropout(spread, rate, foldIn(key, "prompts", index)) : spread;
  const first = slice(x, [undefined, { end: 1 }]);
  const rest = slice(x, [undefined, { start: index === 0 ? 1 : 1 + P }]);
  return inner.keep(concat([first, kept, rest], 1));
}
