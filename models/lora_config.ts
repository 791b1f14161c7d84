/**
 * What a LoRA adapter is: its settings, the modules that it changes, and its tensors by name, for any model's weights.
 *
 * Hu et al. 2021 (arXiv 2106.09685), rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024); names, matching of modules
 * and defaults are those of Hugging Face's PEFT, so that files interchange. It knows no layers: a module is what a
 * weight's name says, and an embedding table is known by its name. Ranks that differ by module are not offered.
 *
 *     R rank, [out, in] of a linear map's weight, V rows and D columns of an embedding table
 */
import type { Shape } from "../core/mod.ts";
import { quote } from "./safetensors_json.ts";

/** Settings of an adapter. Defaults are PEFT's. */
export interface LoraConfig {
  /** Rows of A and columns of B. */
  readonly r: number;
  /** The product is scaled by alpha / r, or alpha / sqrt(r) with `rslora`. */
  readonly alpha: number;
  /** Share of the input that the adapter does not see, in training. Default 0. */
  readonly dropout?: number;
  /**
   * Which modules: names, each a whole name or the end of one after a dot; an expression that a whole name must match;
   * or every linear map except the heads. Embedding tables are named like linear maps, never by "all-linear".
   */
  readonly targets: readonly string[] | RegExp | "all-linear";
  /** Scales by alpha / sqrt(r), which keeps the size of the change at high ranks. Default false. */
  readonly rslora?: boolean;
  /** Learns the rows' norms apart from their directions. Default false. */
  readonly dora?: boolean;
  /** Modules trained whole, as copies: names as in `targets`, such as "classifier". Default none. */
  readonly modulesToSave?: readonly string[];
}

/** How a tensor of an adapter begins. */
export type LoraStart = "uniform" | "normal" | "zero" | "norms" | "copy";

/** A tensor of an adapter. */
export interface LoraWeightSpec {
  readonly shape: Shape;
  readonly what: string;
  readonly start: LoraStart;
  /** The name of the model's weight that it changes or replaces. */
  readonly weight: string;
}

/** The model's weights as far as an adapter cares: `Params.entries()`, or a map of specs. */
export type NamedShapes = Iterable<readonly [string, { readonly shape: Shape }]>;

/** Names of an adapter's tensors for `module`, without PEFT's "base_model.model.". */
export function loraNames(module: string): Record<"A" | "B" | "magnitude" | "embeddingA" | "embeddingB", string> {
  return {
    A: `${module}.lora_A.weight`,
    B: `${module}.lora_B.weight`,
    magnitude: `${module}.lora_magnitude_vector`,
    embeddingA: `${module}.lora_embedding_A`,
    embeddingB: `${module}.lora_embedding_B`,
  };
}

/** Names of all adapter tensors but whole copies of modules. */
export const LORA_TENSORS: RegExp = /\.(lora_[AB]\.weight|lora_magnitude_vector|lora_embedding_[AB])$/;

/** What the product B A is multiplied by. */
export function loraScale({ alpha, r, rslora = false }: LoraConfig): number {
  return rslora ? alpha / Math.sqrt(r) : alpha / r;
}

/**
 * Every tensor of an adapter for a model with these weights: A, B and, with DoRA, the norms of each target, then the
 * copies of whole modules.
 *
 * @throws RangeError for a setting out of its range, or an entry of `targets` or `modulesToSave` that matches no module
 * @throws TypeError for a target that is neither a linear map nor an embedding table, or a table, adapted or whole, that
 * is the output matrix as well: PEFT would change one and not the other
 */
export function loraWeights(weights: NamedShapes, config: LoraConfig): Map<string, LoraWeightSpec> {
  checkLoraConfig(config);
  const shapes = new Map([...weights].map(([name, { shape }]) => [name, shape]));
  const modules = [...shapes.keys()].filter((name) => name.endsWith(".weight")).map((name) => name.slice(0, -7));
  const { modulesToSave = [] } = config;
  const isSaved = (name: string) => modulesToSave.some((module) => isInside(name, module));
  const targets = modules.filter((module) => !isSaved(`${module}.weight`))
    .filter((module) => isTarget(module, shapes.get(`${module}.weight`)!, config.targets));
  checkMatches(modules, [...shapes.keys()], config, targets.length);
  const adapter = new Map<string, LoraWeightSpec>();
  for (const module of targets) addTarget(adapter, module, shapes, config);
  for (const [name, shape] of shapes) {
    if (!isSaved(name)) continue;
    const module = name.replace(/\.weight$/, "");
    if (isOutput(module, shapes)) throw misfit(module, shape, NOT_THE_OUTPUT);
    adapter.set(name, { shape, what: "the whole module", start: "copy", weight: name });
  }
  return adapter;
}

/** The settings whose names are among a model's modules: PEFT's lists may name those of other models too. */
export function matchingConfig(weights: NamedShapes, config: LoraConfig): LoraConfig {
  const names = [...weights].map(([name]) => name);
  const modulesToSave = config.modulesToSave?.filter((module) => names.some((name) => isInside(name, module)));
  const { targets } = config;
  if (typeof targets === "string" || targets instanceof RegExp) return { ...config, modulesToSave };
  const found = targets.filter((target) => names.some((name) => isNamed(name.replace(/\.weight$/, ""), target)));
  return { ...config, modulesToSave, targets: found.length > 0 ? found : targets };
}

function checkLoraConfig({ r, alpha, dropout = 0 }: LoraConfig): void {
  const fail = (rule: string, got: unknown) => new RangeError(`Cannot make an adapter: ${rule}: got ${got}`);
  if (!Number.isSafeInteger(r) || r < 1) throw fail("r must be a whole number from 1", r);
  if (!Number.isFinite(alpha) || alpha <= 0) throw fail("alpha must be a number above 0", alpha);
  if (!(dropout >= 0 && dropout < 1)) throw fail("dropout must be in [0, 1)", dropout);
}

const EMBEDDINGS = /(^|\.)(embed_tokens|wte|wpe|(word|position|token_type)_embeddings)$/;
/** Those of tokens, which are the output matrix as well where a model has no other. */
const TOKENS = /(^|\.)(embed_tokens|wte|word_embeddings)$/;
const NOT_THE_OUTPUT = "an adapted table must not be the output matrix as well";
const HEADS = /(^|\.)(lm_head|score|classifier)(\.|$)/;
/** An output matrix that is no embedding table. RoBERTa's "lm_head.decoder" always is one. */
const OWN_OUTPUT = /(^|\.)(lm_head|score|classifier(\.\w+)?)\.weight$/;

/** Whether a module, by its name, is an embedding table. */
function isEmbedding(module: string): boolean {
  return EMBEDDINGS.test(module);
}

/** Whether a module is the table of tokens of a model that has no output matrix beside it. */
function isOutput(module: string, shapes: ReadonlyMap<string, Shape>): boolean {
  return TOKENS.test(module) && ![...shapes.keys()].some((name) => OWN_OUTPUT.test(name));
}

function isNamed(module: string, name: string): boolean {
  return module === name || module.endsWith(`.${name}`);
}

/** Whether a weight lies inside a module that is called `name` or ends so. */
function isInside(weight: string, name: string): boolean {
  const parts = weight.split(".");
  return parts.some((_, i) => i > 0 && isNamed(parts.slice(0, i).join("."), name));
}

function isTarget(module: string, shape: Shape, targets: LoraConfig["targets"]): boolean {
  if (targets === "all-linear") return shape.length === 2 && !isEmbedding(module) && !HEADS.test(module);
  if (targets instanceof RegExp) return new RegExp(`^(?:${targets.source})$`, targets.flags).test(module);
  return targets.some((target) => isNamed(module, target));
}

function checkMatches(modules: string[], names: string[], config: LoraConfig, numTargets: number): void {
  const { targets, modulesToSave = [] } = config;
  const lost = [
    ...Array.isArray(targets) ? targets.filter((target) => !modules.some((module) => isNamed(module, target))) : [],
    ...modulesToSave.filter((module) => !names.some((name) => isInside(name, module))),
  ];
  if (lost.length > 0) {
    throw new RangeError(
      `Cannot fit the adapter to the model: every named module must be there: got ${lost.map(quote).join(", ")}` +
        `, the model has ${examples(modules)}`,
    );
  }
  if (numTargets > 0) return;
  const asked = Array.isArray(targets) ? targets.map(quote).join(", ") : quote(`${targets}`);
  throw new RangeError(
    `Cannot fit the adapter to the model: targets must match a module: got ${asked || "no name"}` +
      `, the model has ${examples(modules)}`,
  );
}

function examples(modules: readonly string[]): string {
  const kinds = [...new Set(modules.map((module) => module.replaceAll(/\d+/g, "N")))];
  return kinds.slice(0, 10).map(quote).join(", ") + (kinds.length > 10 ? ", ..." : "");
}

function addTarget(
  adapter: Map<string, LoraWeightSpec>,
  module: string,
  shapes: ReadonlyMap<string, Shape>,
  { r, dora = false }: LoraConfig,
): void {
  const weight = `${module}.weight`;
  const shape = shapes.get(weight)!;
  const names = loraNames(module);
  if (shape.length !== 2) throw misfit(module, shape, "a target must be a linear map or an embedding table");
  const [rows, columns] = shape;
  if (!isEmbedding(module)) {
    adapter.set(names.A, { shape: [r, columns], what: "r, input", start: "uniform", weight });
    adapter.set(names.B, { shape: [rows, r], what: "output, r", start: "zero", weight });
    if (dora) adapter.set(names.magnitude, { shape: [rows], what: "output", start: "norms", weight });
    return;
  }
  if (dora) throw misfit(module, shape, "DoRA is offered for linear maps only");
  if (isOutput(module, shapes)) throw misfit(module, shape, NOT_THE_OUTPUT);
  adapter.set(names.embeddingA, { shape: [r, rows], what: "r, table rows", start: "zero", weight });
  adapter.set(names.embeddingB, { shape: [columns, r], what: "table columns, r", start: "normal", weight });
}

function misfit(module: string, shape: Shape, rule: string): TypeError {
  return new TypeError(`Cannot adapt ${quote(module)}: ${rule}: got shape [${shape}]`);
}
