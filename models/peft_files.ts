/**
 * The two files of an adapter of any kind: its configuration as JSON, and its tensors, each checked against the model.
 *
 * PEFT loads what it recognises and says nothing of the rest; here a tensor that is missing, or that fits nothing, is
 * an error with its name. It does no I/O: whoever holds the folder implements `Folder` or `FolderWriter`. Pickled
 * adapters (`adapter_model.bin`) are never read. Keys are "base_model.model." and the model's own names; an adapter's
 * name is not among them.
 */
import { describe, fromArray, isHalf, own, Params, sameShape, type Shape, type Tensor } from "../core/mod.ts";
import { checkWeights, type Folder } from "./checkpoint_folder.ts";
import { PEFT_CONFIG_FILE } from "./peft_fields.ts";
import { type FloatDType, fromFloat32, toFloat32 } from "./safetensors_convert.ts";
import { formatTensor, openSafetensors, type SafetensorsFile } from "./safetensors.ts";
import { quote, unreadable } from "./safetensors_json.ts";
import type { FolderWriter } from "./safetensors_shards.ts";
import { type TensorEntry, writeSafetensors } from "./safetensors_write.ts";

/** The tensors' file in an adapter's folder. */
export const PEFT_WEIGHTS_FILE = "adapter_model.safetensors";

const PREFIX = "base_model.model.";
const MAX_CONFIG_BYTES = 2 ** 22;
const STORED = { f32: "F32", bf16: "BF16", f16: "F16", f64: "F64" } as const;

/** A tensor of an adapter, as a reader sees it. */
export interface AdapterTensorSpec {
  readonly shape: Shape;
  readonly what: string;
  /** How it began: a "copy" of a module's weight has that weight's dtype. */
  readonly start: string;
  /** The name of the model's weight that it changes or replaces. */
  readonly weight: string;
}

/**
 * Reads an adapter's tensors: f32 (f64 beside an f64 base), and copies of whole modules as the base has them.
 *
 * @param tensors what the adapter has, by the names in its file without the prefix
 * @throws SyntaxError for a file that is missing or unreadable
 * @throws RangeError when tensors are missing or extra, or hold a number that is not finite
 * @throws TypeError for a tensor of another shape or dtype
 */
export async function readAdapter(
  folder: Folder,
  base: Params,
  tensors: ReadonlyMap<string, AdapterTensorSpec>,
): Promise<Params> {
  const expected = new Map([...tensors].map(([name, spec]) => [PREFIX + name, spec]));
  if (!await folder.has(PEFT_WEIGHTS_FILE)) {
    const hint = await folder.has("adapter_model.bin")
      ? "only adapter_model.bin, which is pickled; convert it"
      : "none";
    throw unreadable(folder.name, `an adapter must have ${PEFT_WEIGHTS_FILE}`, hint);
  }
  await using source = await folder.open(PEFT_WEIGHTS_FILE);
  const file = await openSafetensors(source);
  const names = [...file.tensors.keys()];
  const info = (name: string) => file.tensors.get(name)!;
  const listed = { name: `adapter ${folder.name}`, names, has: (name: string) => file.tensors.has(name), info };
  const copied = new Map(names.filter((name) => !expected.has(name)).map((name) => [name, copyOf(name, base)]));
  checkWeights(listed, expected, { optional: (name) => copied.get(name) !== undefined });
  for (const [key, name] of copied) await checkCopy(file, key, base.get(name!));
  const params = new Params(base.backend);
  try {
    for (const [key, { shape, weight, start }] of expected) {
      const values = toFloat32(await file.bytes(key), info(key).dtype);
      const odd = values.findIndex((value) => !Number.isFinite(value));
      if (odd >= 0) {
        throw new RangeError(`Cannot load ${quote(key)}: every number must be finite: got ${values[odd]} at ${odd}`);
      }
      const like = base.get(weight).dtype;
      const dtype = start === "copy" || like === "f64" ? like : "f32";
      const stored = isHalf(dtype) ? new Uint16Array(fromFloat32(values, STORED[dtype]).buffer) : values;
      params.set(key.slice(PREFIX.length), own(fromArray(base.backend, stored, shape, dtype)));
    }
  } catch (error) {
    params.dispose();
    throw error;
  }
  return params;
}

const TABLES = /^base_model\.model\.(.*(?:embed_tokens|lm_head|_embeddings))(?:\.base_layer)?\.weight$/;

/** The model's table that a key is a copy of: PEFT writes those beside an adapter that changes them. */
function copyOf(key: string, base: Params): string | undefined {
  const name = `${TABLES.exec(key)?.[1]}.weight`;
  return base.has(name) ? name : undefined;
}

/** Demands that a copied table is the model's own: an adapter of a changed vocabulary fits no other model. */
async function checkCopy(file: SafetensorsFile, key: string, table: Tensor): Promise<void> {
  const fail = (got: string) =>
    new RangeError(`Cannot load ${quote(key)}: the copied table must be the model's own: got ${got}`);
  const { shape, dtype } = file.tensors.get(key)!;
  if (!sameShape(shape, table.shape)) throw fail(`${formatTensor(dtype, shape)} for ${describe(table)}`);
  const { buffer, byteOffset, byteLength } = await table.read();
  const own = toFloat32(new Uint8Array(buffer, byteOffset, byteLength), storedType(table));
  const values = toFloat32(await file.bytes(key), dtype);
  const odd = values.findIndex((value, i) => value !== own[i]);
  if (odd >= 0) throw fail(`${values[odd]} for ${own[odd]} at ${odd}`);
}

/** An adapter's tensors under PEFT's keys, to be written. */
export function peftTensors(adapter: Params): TensorEntry[] {
  return [...adapter.entries()].map(([name, tensor]) => ({
    name: PREFIX + name,
    dtype: storedType(tensor),
    shape: tensor.shape,
    bytes: async () => {
      const { buffer, byteOffset, byteLength } = await tensor.read();
      return new Uint8Array(buffer, byteOffset, byteLength);
    },
  }));
}

/** Writes an adapter as PEFT does: the tensors, then the configuration. Call outside every scope. */
export async function writeAdapter(
  folder: FolderWriter,
  adapter: Params,
  json: Readonly<Record<string, unknown>>,
): Promise<void> {
  {
    await using sink = await folder.create(PEFT_WEIGHTS_FILE);
    await writeSafetensors(sink, peftTensors(adapter), { format: "pt" });
  }
  await using sink = await folder.create(PEFT_CONFIG_FILE);
  await sink.write(new TextEncoder().encode(JSON.stringify(json, undefined, 2) + "\n"));
}

function storedType({ dtype }: Tensor): FloatDType {
  const stored = (STORED as Record<string, FloatDType | undefined>)[dtype];
  if (!stored) throw new TypeError(`Cannot write an adapter: its tensors must be floats: got ${dtype}`);
  return stored;
}

/** What an adapter's configuration file holds. @throws SyntaxError when it is missing, too long or no JSON */
export async function readAdapterJson(folder: Folder): Promise<unknown> {
  if (!await folder.has(PEFT_CONFIG_FILE)) {
    throw unreadable(folder.name, `an adapter must have ${PEFT_CONFIG_FILE}`, "none");
  }
  await using source = await folder.open(PEFT_CONFIG_FILE);
  if (source.size > MAX_CONFIG_BYTES) {
    throw unreadable(PEFT_CONFIG_FILE, `it must be at most ${MAX_CONFIG_BYTES} bytes`, `${source.size} bytes`);
  }
  const text = new TextDecoder().decode(await source.read(0, source.size));
  try {
    return JSON.parse(text);
  } catch {
    throw unreadable(PEFT_CONFIG_FILE, "it must be JSON", quote(text));
  }
}
