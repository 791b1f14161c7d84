/** The models of a comparison: from a folder, a run folder or an adapter's folder to weights as they are seen. */
import type { Backend, ParamsView } from "../core/mod.ts";
import { openSafetensors, openWeights, PEFT_CONFIG_FILE, PEFT_WEIGHTS_FILE } from "../models/mod.ts";
import { openAdapted } from "./adapted.ts";
import { exists, FileFolder, join } from "./files.ts";
import { isMaskedModel } from "./model_source.ts";
import type { Output } from "./log.ts";
import { findModel } from "./resume.ts";
import { configOfRun } from "./run_folder.ts";
import { openCompletions } from "./shift_completions.ts";
import { type NamedFolder, REFERENCE, type ShiftOptions } from "./shift_options.ts";
import { openSentences } from "./shift_sentences.ts";
import type { ShiftSubject } from "./shift_subject.ts";

/** Where a model's weights lie. */
export interface ModelPlace extends NamedFolder {
  /** Of the whole weights. */
  readonly weights: string;
  /** Of an adapter on them. */
  readonly adapter?: string;
  /** Numbers that were trained: as many as the run says, else an adapter's, else all. */
  readonly size: number;
}

/** Finds a model. @throws RangeError when there is none, SyntaxError for one that cannot be read */
export async function placeModel({ name, folder }: NamedFolder, base: string): Promise<ModelPlace> {
  if (!await exists(folder)) throw new RangeError(`Cannot compare ${name}: there is no folder ${folder}`);
  const kept = join(folder, "best-adapter");
  const adapter = await exists(join(folder, PEFT_CONFIG_FILE)) ? folder : await exists(kept) ? kept : undefined;
  // a run that keeps its merged model as well is read there: its adapter says its size
  const isMerged = adapter === kept && await exists(join(folder, "best"));
  const weights = adapter !== undefined && !isMerged ? await findModel(base) : await findModel(folder);
  const trained = (await configOfRun(folder))?.trained;
  const sizeOfFiles = () => adapter === undefined ? sizeOfModel(weights) : sizeOfAdapter(adapter);
  const size = typeof trained === "number" ? trained : await sizeOfFiles();
  return { name, folder, weights, size, ...isMerged ? {} : { adapter } };
}

async function sizeOfModel(path: string): Promise<number> {
  await using weights = await openWeights(new FileFolder(path));
  return sizeOf(weights.names.map((name) => weights.info(name)));
}

async function sizeOfAdapter(path: string): Promise<number> {
  await using source = await new FileFolder(path).open(PEFT_WEIGHTS_FILE);
  return sizeOf((await openSafetensors(source)).tensors.values());
}

function sizeOf(tensors: Iterable<{ readonly shape: readonly number[] }>): number {
  let size = 0;
  for (const { shape } of tensors) size += shape.reduce((product, length) => product * length, 1);
  return size;
}

/** What models are compared on: completions for a LLaMA, sentences for a RoBERTa. */
export async function openSubject(options: ShiftOptions, output: Pick<Output, "err">): Promise<ShiftSubject> {
  if (!await exists(options.base)) throw new RangeError(`Cannot compare with ${options.base}: there is no such folder`);
  const base = await findModel(options.base);
  if (!await isMaskedModel(base)) return await openCompletions(options, output);
  return await openSentences(options, await placeModel({ name: REFERENCE, folder: options.reference }, options.base));
}

/** A model's weights, opened. */
export interface OpenModel extends Disposable {
  readonly view: ParamsView;
}

/** Loads a model. Dispose it. */
export async function openModel(
  backend: Backend,
  place: ModelPlace,
  subject: ShiftSubject,
  output: Pick<Output, "err">,
): Promise<OpenModel> {
  const params = await subject.load(backend, place.weights, output);
  const opened = await openAdapted(params, place.adapter, subject.modelType);
  try {
    const view = await subject.inOrder(opened.view, place, output);
    return { view, [Symbol.dispose]: () => opened[Symbol.dispose]() };
  } catch (error) {
    opened[Symbol.dispose]();
    throw error;
  }
}
