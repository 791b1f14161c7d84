/**
 * Checkpoints: a folder that Hugging Face loads (`model.safetensors`, `config.json`, tokenizer files), with the
 * optimizer's whole state beside it (`optimizer.safetensors`, `state.json`), so that a resumed run takes the same next
 * step, bit for bit. Written durably by `durable.ts`. Of a run with factors W = B A, the model is the merged one, for use,
 * and `factors.safetensors` holds B and A, which cannot be had back from their product.
 */
import {
  type Backend,
  type DType,
  empty,
  type HostArray,
  hostArray,
  own,
  Params,
  type Shape,
  type Tensor,
} from "../core/mod.ts";
import {
  checkWeights,
  type FloatDType,
  type Folder,
  type FolderWriter,
  fromFloat32,
  type LlamaConfig,
  llamaConfigJson,
  llamaWeights,
  LOW_RANK_FACTORS,
  type MergedWeight,
  mergedWeights,
  openSafetensors,
  openWeights,
  parseLlamaConfig,
  type RobertaConfig,
  robertaConfigJson,
  type VitConfig,
  vitConfigJson,
  type Weights,
  writeSafetensors,
  writeWeights,
} from "../models/mod.ts";
import { flattenState, type LeafSnapshot, type Optimizer, type Plain, unflattenState } from "../optimizers/mod.ts";

/** What a training run remembers beside weights and optimizer. */
export interface TrainingState {
  readonly step: number;
  /** Sequences consumed: where the data goes on. */
  readonly sequences: number;
  readonly tokens: number;
  /** How numbers were computed; bits may differ on another path. */
  readonly kernelPath: string;
  /** Everything that must be the same for the run to be the same. */
  readonly identity: Readonly<Record<string, unknown>>;
}

interface StateFile extends TrainingState {
  readonly optimizer: { readonly step: number; readonly leaves: Record<string, LeafFile> };
}

interface LeafFile {
  readonly values: Record<string, Plain>;
  readonly count: number;
}

/** Beside a model that is merged: the factors it was merged from. */
const FACTORS_FILE = "factors.safetensors";

/** Separates parameter name and state path in `optimizer.safetensors`. */
const SEPARATOR = "::";

/** Beside the state: what is held between `stage` and `commit` (in a checkpoint amid a step), and a master copy. */
const HELD = ["staged", "square", "master"] as const;

/**
 * Writes weights, config and what stands beside them, such as a tokenizer: a folder for Hugging Face. Factors are written as the matrices they stand for, or
 * what is to be written is made one weight at a time.
 */
export async function saveModel(
  writer: FolderWriter,
  params: Params | readonly MergedWeight[],
  config: LlamaConfig | RobertaConfig | VitConfig,
  files: ReadonlyMap<string, Uint8Array>,
): Promise<void> {
  const weights = params instanceof Params ? mergedWeights(params) : params;
  await writeWeights(writer, weights.map(({ make, ...spec }) => entryOf(spec, make)));
  const torch_dtype = TORCH_DTYPES[weights[0].dtype as keyof typeof TORCH_DTYPES];
  const isClassifier = weights.some(({ name }) => /^classifier\.(out_proj\.)?weight$/.test(name));
  const json = { ...configJson(config, isClassifier), torch_dtype };
  await writeText(writer, "config.json", JSON.stringify(json, null, 2) + "\n");
  for (const [file, bytes] of files) {
    await using sink = await writer.create(file);
    await sink.write(bytes);
  }
}

/** The `config.json` of a model. Which head it has, its weights say. */
function configJson(config: LlamaConfig | RobertaConfig | VitConfig, isClassifier: boolean): Record<string, unknown> {
  if (!("model_type" in config)) return llamaConfigJson(config);
  if (config.model_type === "vit") return vitConfigJson(config, { isBackbone: !isClassifier });
  return robertaConfigJson(config, isClassifier ? "classification" : "masked-lm");
}

/** Writes the optimizer's state and the run's, and the factors of a run that trains those. */
export async function saveTraining(writer: FolderWriter, optimizer: Optimizer, state: TrainingState): Promise<void> {
  const snapshot = optimizer.snapshot();
  const entries: ReturnType<typeof entryOf>[] = [];
  const leaves: Record<string, LeafFile> = {};
  for (const [name, leaf] of snapshot.leaves) {
    const { tensors, values } = flattenState(leaf.state);
    for (const [path, tensor] of tensors) entries.push(tensorEntry(name + SEPARATOR + path, tensor));
    for (const held of HELD) {
      const tensor = leaf[held];
      if (tensor) entries.push(tensorEntry(name + SEPARATOR + held, tensor));
    }
    leaves[name] = { values, count: leaf.count };
  }
  await writeTensors(writer, "optimizer.safetensors", entries);
  const factors = [...optimizer.params.entries()].filter(([name]) => LOW_RANK_FACTORS.test(name));
  if (factors.length > 0) {
    await writeTensors(
      writer,
      FACTORS_FILE,
      factors.map(([name, one]) => tensorEntry(name, one)),
    );
  }
  const file: StateFile = { ...state, optimizer: { step: snapshot.step, leaves } };
  await writeText(writer, "state.json", JSON.stringify(file, null, 1) + "\n");
}

async function writeTensors(writer: FolderWriter, file: string, entries: readonly ReturnType<typeof entryOf>[]) {
  await using sink = await writer.create(file);
  await writeSafetensors(sink, entries);
}

async function writeText(writer: FolderWriter, name: string, text: string): Promise<void> {
  await using sink = await writer.create(name);
  await sink.write(new TextEncoder().encode(text));
}

function tensorEntry(name: string, tensor: Tensor) {
  return entryOf({ name, dtype: tensor.dtype, shape: tensor.shape }, () => tensor.retained());
}

/** A tensor of a file, made when its turn comes. */
function entryOf({ name, dtype, shape }: { name: string; dtype: DType; shape: Shape }, make: () => Tensor) {
  const bytes = async () => {
    using tensor = make();
    const data = await tensor.read();
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  };
  return { name, dtype: DTYPES[dtype as keyof typeof DTYPES], shape, bytes };
}

const TORCH_DTYPES = { f32: "float32", bf16: "bfloat16", f16: "float16" } as const;
const DTYPES = { f32: "F32", bf16: "BF16", f16: "F16", i32: "I32", u32: "U32", u8: "U8", f64: "F64" } as const;
const FROM_DTYPES = new Map(Object.entries(DTYPES).map(([ours, theirs]) => [theirs as string, ours as DType]));

/** Reads a Hugging Face LLaMA folder onto a backend, as f32 or rounded to bf16: strict names, shapes and dtypes. */
export async function loadModel(
  backend: Backend,
  folder: Folder,
  dtype: "f32" | "bf16" = "f32",
): Promise<{ params: Params; config: LlamaConfig }> {
  const config = await loadConfig(folder);
  await using weights = await openWeights(folder);
  const expected = llamaWeights(config);
  checkWeights(weights, expected);
  const params = new Params(backend);
  await readParams(params, weights, { expected, dtype });
  return { params, config };
}

/** What `readParams` reads. */
interface ReadOptions {
  readonly expected: ReadonlyMap<string, { readonly shape: Shape }>;
  readonly dtype: DType;
}

/** Adds the expected weights to `params`, as f32 or rounded to a 16-bit dtype. Disposes `params` where that fails. */
export async function readParams(params: Params, weights: Weights, { expected, dtype }: ReadOptions): Promise<void> {
  try {
    for (const [name, { shape }] of expected) {
      const data = await readWeight(weights, name, dtype);
      const tensor = own(empty(params.backend, shape, dtype, name));
      tensor.write(data);
      params.set(name, tensor);
    }
  } catch (error) {
    params.dispose();
    throw error;
  }
}

/** Reads a checkpoint's weights into those of a run, factors as they were trained. */
export async function loadParams(folder: Folder, params: Params): Promise<void> {
  await using weights = await openWeights(folder);
  const names = params.names().filter((name) => LOW_RANK_FACTORS.test(name));
  await using source = names.length > 0 ? await folder.open(FACTORS_FILE) : undefined;
  const factors = source && await openSafetensors(source);
  for (const [name, tensor] of params.entries()) {
    const data = LOW_RANK_FACTORS.test(name)
      ? hostArray(tensor.dtype, (await factors!.bytes(name)).slice().buffer, 0, tensor.size)
      : await readWeight(weights, name, tensor.dtype);
    tensor.write(data);
  }
}

/** A weight in a dtype: its bits where it is stored so, converted by way of f32 where it is not. */
export async function readWeight(weights: Weights, name: string, dtype: DType): Promise<HostArray> {
  if (dtype === "f32") return await weights.float32(name);
  const stored = DTYPES[dtype] as FloatDType;
  const bytes = weights.info(name).dtype === stored
    ? (await weights.bytes(name)).slice() // a buffer of its own begins at a whole word
    : fromFloat32(await weights.float32(name), stored);
  const size = weights.info(name).shape.reduce((product, extent) => product * extent, 1);
  return hostArray(dtype, bytes.buffer, 0, size);
}

/** The model configuration of a Hugging Face folder. @throws SyntaxError when it is not a LLaMA that is implemented. */
export async function loadConfig(folder: Folder): Promise<LlamaConfig> {
  if (!await folder.has("config.json")) throw new SyntaxError(`Cannot load ${folder.name}: it has no config.json`);
  return parseLlamaConfig(parseJson(await folder.text("config.json"), `${folder.name}/config.json`));
}

/** A file's text as JSON. @throws SyntaxError that names the file */
export function parseJson(text: string, what: string): Record<string, unknown> {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`Cannot read ${what}: ${(error as Error).message}`);
  }
}

/** The run's state of a checkpoint. */
export async function loadTrainingState(folder: Folder): Promise<TrainingState> {
  return parseJson(await folder.text("state.json"), `${folder.name}/state.json`) as unknown as StateFile;
}

/** Puts a checkpoint's optimizer state into an optimizer made for the same parameters and rules. */
export async function loadOptimizer(folder: Folder, optimizer: Optimizer, backend: Backend): Promise<void> {
  const file = parseJson(await folder.text("state.json"), `${folder.name}/state.json`) as unknown as StateFile;
  await using source = await folder.open("optimizer.safetensors");
  const stored = await openSafetensors(source);
  const grouped = new Map<string, Map<string, Tensor>>();
  for (const [full, { dtype, shape }] of stored.tensors) {
    const [name, path] = full.split(SEPARATOR);
    const kept = FROM_DTYPES.get(dtype);
    if (!kept) throw new SyntaxError(`Cannot load optimizer.safetensors: ${full} has dtype ${dtype}`);
    const tensor = own(empty(backend, shape, kept, full));
    backend.write(tensor.buffer, 0, await stored.bytes(full));
    if (!grouped.has(name)) grouped.set(name, new Map());
    grouped.get(name)!.set(path, tensor);
  }
  const leaves = new Map<string, LeafSnapshot>();
  for (const [name, leaf] of optimizer.snapshot().leaves) {
    const saved = file.optimizer.leaves[name];
    const tensors = grouped.get(name) ?? new Map<string, Tensor>();
    if (!saved) continue;
    const [staged, square, master] = HELD.map((held) => tensors.get(held));
    for (const held of HELD) tensors.delete(held);
    const state = unflattenState(leaf.state, tensors, saved.values);
    leaves.set(name, { state, staged, square, master, count: saved.count });
  }
  optimizer.restore({ step: file.optimizer.step, leaves });
}
