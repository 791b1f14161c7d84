/**
 * A model with adapters of PEFT's files on it, as `eval` and `generate` see it: one for everything, or several by name, each
 * for the examples of a batch that ask for it.
 */
import type { Params, ParamsView } from "../core/mod.ts";
import {
  type LoadedHira,
  type LoadedPeft,
  loadHira,
  loadPeft,
  PEFT_CONFIG_FILE,
  withFlora,
  withLoraBatch,
} from "../models/mod.ts";
import { FileFolder } from "./files.ts";

/** A model's weights as they are seen. */
export interface AdaptedModel extends Disposable {
  readonly view: ParamsView;
}

/**
 * The weights, with the adapter of a folder on them where one is named. Takes over the weights.
 *
 * @throws as `loadPeft`: for an adapter of another model, or one with a number that is not finite
 */
export async function openAdapted(
  params: Params,
  adapter: string | undefined,
  modelType: "roberta" | "llama" | "vit",
): Promise<AdaptedModel> {
  const adapters = adapter === undefined ? [] : [{ folder: adapter }];
  const model = await openAdapters(params, adapters, { modelType });
  return { view: model.view([adapters.length - 1]), [Symbol.dispose]: () => model[Symbol.dispose]() };
}

/** An adapter as the flag names it. */
export interface AdapterFlag {
  /** Undefined where a folder was given alone: it is then the only adapter. */
  readonly name?: string;
  readonly folder: string;
}

/**
 * Reads `--adapter FOLDER`, or `--adapter NAME=FOLDER` as often as there are adapters. What stands before a `=` is a name
 * unless it has a slash, so that `./a=b` is a folder.
 *
 * @throws RangeError for a name that is empty or given twice, a folder that is missing, and several without names
 */
export function parseAdapters(flags: readonly string[]): AdapterFlag[] {
  const adapters = flags.map((flag): AdapterFlag => {
    const [, name, folder] = /^([^=/\\]*)=([^]*)$/.exec(flag) ?? [];
    if (name === undefined) return { folder: flag };
    const part = name === "" ? "name" : folder === "" ? "folder" : undefined;
    if (part) throw new RangeError(`Cannot use --adapter ${flag}: write NAME=FOLDER: its ${part} is empty`);
    return { name, folder };
  });
  const nameless = adapters.find(({ name }) => name === undefined);
  if (nameless && adapters.length > 1) {
    throw new RangeError(
      `Cannot use ${adapters.length} adapters: each needs a name, --adapter NAME=FOLDER: got ${nameless.folder}`,
    );
  }
  const twice = adapters.find(({ name }, i) => adapters.findIndex((other) => other.name === name) < i);
  if (twice) throw new RangeError(`Cannot use two adapters by one name: got "${twice.name}" twice`);
  return adapters;
}

/** The folder of the one adapter that everything is seen through, if there is one. @throws RangeError for several */
export function onlyAdapter(adapters: readonly AdapterFlag[], hint: string): string | undefined {
  if (adapters.length > 1) throw new RangeError(`Cannot choose among ${adapters.length} adapters: ${hint}`);
  return adapters[0]?.folder;
}

/** No adapter: the model alone. */
export const NO_ADAPTER = -1;

/**
 * The place of the adapter that a record of a file asks for by name, or `NO_ADAPTER` for null or nothing written. A record
 * without the field is for the one adapter that has no name, or for none where there are no adapters.
 *
 * @param where begins the message of an error: the file and the line
 * @throws RangeError for a name that no flag gave, or a record that does not say
 * @throws SyntaxError for a value that is no text
 */
export function placeOfAdapter(adapters: readonly AdapterFlag[], asked: unknown, where: string): number {
  const names = adapters.map(({ name }) => name).filter((name) => name !== undefined);
  const known = names.length > 0 ? `the names are ${names.map((name) => `"${name}"`).join(", ")}` : "no flag gives one";
  if (asked === undefined) {
    if (names.length === 0) return adapters.length - 1;
    throw new RangeError(`${where} names no adapter, nor null for none: ${known}`);
  }
  if (asked === null || asked === "") return NO_ADAPTER;
  if (typeof asked !== "string") {
    throw new SyntaxError(`${where}: an adapter's name must be text, got ${JSON.stringify(asked)}`);
  }
  const place = adapters.findIndex(({ name }) => name === asked);
  if (place < 0) throw new RangeError(`${where} asks for an unknown adapter, "${asked}": ${known}`);
  return place;
}

/** A model's weights with several adapters beside them. */
export interface AdapterSet extends Disposable {
  /** The weights for a batch whose examples have these adapters, by their places in the list; `NO_ADAPTER`: none. */
  view(places: readonly number[]): ParamsView;
}

/** What adapters meet. */
export interface AdaptedBase {
  readonly modelType: "roberta" | "llama" | "vit";
  /** Names of weights that the model had not got and that mean nothing: each adapter must bring its own. */
  readonly drawn?: readonly string[];
  /** Is told when adapters fit the model but say that they were made for different ones, which nothing else shows. */
  readonly onNote?: (line: string) => void;
}

/**
 * Opens adapters of one model, all LoRA (with DoRA) or all FLoRA. Takes over the weights.
 *
 * @throws RangeError that names the adapter when it does not fit the model, cannot be read, is of another kind than the
 * first, or lacks a head that the model lacks too
 */
export async function openAdapters(
  params: Params,
  adapters: readonly AdapterFlag[],
  { modelType, drawn = [], onNote }: AdaptedBase,
): Promise<AdapterSet> {
  const parts = new DisposableStack();
  parts.use(params);
  const opened: OpenedAdapter[] = [];
  try {
    for (const adapter of adapters) {
      const one = parts.use(await openNamed(adapter, params, modelType));
      opened.push(one);
      const refused = (rule: string) =>
        new RangeError(`Cannot use the adapter ${flagOf(adapter)} on this model: ${rule}`);
      const missing = drawn.find((weight) => !one.params.has(weight));
      if (missing !== undefined) throw refused(`one of them must have the head: got no "${missing}"`);
      if (kindOf(one) !== kindOf(opened[0])) {
        throw refused(`adapters of one batch must be of one kind: got ${kindOf(opened[0])} and ${kindOf(one)}`);
      }
    }
  } catch (error) {
    parts.dispose();
    throw error;
  }
  const bases = [...new Set(opened.map(({ baseModel }) => baseModel).filter((base) => base !== undefined))];
  if (bases.length > 1) {
    onNote?.(`note: the adapters say that they were made for different models: ${bases.join(", ")}`);
  }
  return { view: (places) => viewOf(params, opened, places), [Symbol.dispose]: () => parts.dispose() };
}

type OpenedAdapter = LoadedPeft | LoadedHira;

/** As PEFT's files call it. */
function kindOf(adapter: OpenedAdapter): "LORA" | "HIRA" {
  return "lora" in adapter ? "LORA" : "HIRA";
}

function viewOf(params: Params, adapters: readonly OpenedAdapter[], places: readonly number[]): ParamsView {
  const loras = adapters.flatMap((one) => "lora" in one ? [{ params: one.params, config: one.lora }] : []);
  const floras = adapters.flatMap((one) => "flora" in one ? [{ params: one.params, config: one.flora }] : []);
  return floras.length > 0 ? withFlora(params, floras, places) : withLoraBatch(params, loras, places);
}

async function openNamed(adapter: AdapterFlag, params: Params, modelType: string): Promise<OpenedAdapter> {
  const folder = new FileFolder(adapter.folder);
  try {
    return await (await isHira(folder) ? loadHira : loadPeft)(folder, params, { modelType });
  } catch (error) {
    if (adapter.name === undefined || !(error instanceof Error)) throw error;
    throw new RangeError(`Cannot use the adapter ${flagOf(adapter)} on this model: ${error.message}`, { cause: error });
  }
}

/** Whether the folder says that it holds what PEFT calls HiRA. What is wrong with other folders, their reader says. */
async function isHira(folder: FileFolder): Promise<boolean> {
  if (!await folder.has(PEFT_CONFIG_FILE)) return false;
  const text = await folder.text(PEFT_CONFIG_FILE);
  try {
    return (JSON.parse(text) as { readonly peft_type?: unknown } | null)?.peft_type === "HIRA";
  } catch {
    return false;
  }
}

function flagOf({ name, folder }: AdapterFlag): string {
  return name === undefined ? folder : `${name}=${folder}`;
}
