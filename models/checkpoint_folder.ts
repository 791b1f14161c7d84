/**
 * The weights of a Hugging Face folder: one `model.safetensors`, or shards with an index; read and checked.
 * `safetensors_shards.ts` writes them.
 *
 * It does no I/O: whoever holds the folder implements `Folder`, and refuses links out of it. Names,
 * shapes and dtypes are checked strictly: a checkpoint that fits in part is an error. Pickled weights
 * (`pytorch_model.bin`) are never read. Where both forms lie in a folder, the single file wins, as in Hugging Face's loader.
 */
import { INDEX_FILE, parseWeightIndex, WEIGHTS_FILE } from "./safetensors_index.ts";
import { decodeUtf8, quote, unreadable } from "./safetensors_json.ts";
import {
  type ByteSource,
  formatTensor,
  openSafetensors,
  type SafetensorsFile,
  type TensorInfo,
  toFloat32,
} from "./safetensors.ts";

export { type FolderWriter, writeWeights } from "./safetensors_shards.ts";

/** A folder open for reading, whoever holds it. File names are plain: no folder in them. */
export interface Folder {
  /** The folder's name, for messages. */
  readonly name: string;
  /** Whether there is such a file. */
  has(file: string): Promise<boolean>;
  /** Opens a file, which the caller disposes. */
  open(file: string): Promise<ByteSource & AsyncDisposable>;
  /** A whole file as text. */
  text(file: string): Promise<string>;
}

/** The open weights of a folder. Owns its files: dispose it, or `await using`. */
export interface Weights extends AsyncDisposable {
  /** The folder's name. */
  readonly name: string;
  /** Every tensor, in the order in which the files hold them. */
  readonly names: readonly string[];
  /** Bytes of all tensors. */
  readonly totalBytes: number;
  /** Whether there is such a tensor. */
  has(name: string): boolean;
  /** What a tensor is. @throws RangeError when there is no such tensor */
  info(name: string): TensorInfo;
  /** A tensor's bytes as they lie in the file. @throws RangeError when there is no such tensor */
  bytes(name: string): Promise<Uint8Array>;
  /** A tensor as float32. @throws RangeError when there is no such tensor, TypeError when it is no float */
  float32(name: string): Promise<Float32Array>;
}

/** The largest index that is read: room for 65,536 names of 512 bytes with their shards. */
const MAX_INDEX_BYTES = 64 * 2 ** 20;

/**
 * Opens the weights of a folder: every header is read and checked, no tensor is.
 *
 * @throws SyntaxError when there are no weights, a file is unreadable, or the shards are not what the index says
 */
export async function openWeights(folder: Folder): Promise<Weights> {
  const isSingle = await folder.has(WEIGHTS_FILE);
  if (!isSingle && !await folder.has(INDEX_FILE)) {
    const hint = await folder.has("pytorch_model.bin")
      ? "only pytorch_model.bin, which is pickled; convert it"
      : "neither";
    throw new SyntaxError(
      `Cannot open weights in ${folder.name}: expected ${WEIGHTS_FILE} or ${INDEX_FILE}: got ${hint}`,
    );
  }
  const index = isSingle ? undefined : parseWeightIndex(await readIndex(folder), INDEX_FILE);
  const sources: AsyncDisposable[] = [];
  try {
    const holders = new Map<string, SafetensorsFile>();
    for (const shard of index?.shards ?? [WEIGHTS_FILE]) {
      if (index && !await folder.has(shard)) {
        throw unreadable(INDEX_FILE, `the folder must hold ${quote(shard)}`, "no file");
      }
      const source = await folder.open(shard);
      sources.push(source);
      const file = await openSafetensors(source);
      for (const name of file.tensors.keys()) {
        const mapped = index ? index.weightMap.get(name) : shard;
        if (mapped !== shard) {
          const where = mapped === undefined ? "nowhere" : `to ${quote(mapped)}`;
          throw unreadable(shard, `the index must map every tensor of a shard to it`, `${quote(name)} mapped ${where}`);
        }
        holders.set(name, file);
      }
    }
    for (const [name, shard] of index?.weightMap ?? []) {
      if (!holders.has(name)) throw unreadable(shard, `the index maps ${quote(name)} to this file`, "no such tensor");
    }
    const weights = new OpenWeights(folder.name, holders, sources);
    if (index?.totalSize !== undefined && index.totalSize !== weights.totalBytes) {
      throw unreadable(
        INDEX_FILE,
        `total_size must be the ${weights.totalBytes} bytes of all tensors`,
        `${index.totalSize}`,
      );
    }
    return weights;
  } catch (error) {
    for (const source of sources) await source[Symbol.asyncDispose]();
    throw error;
  }
}

async function readIndex(folder: Folder): Promise<string> {
  await using source = await folder.open(INDEX_FILE);
  if (source.size > MAX_INDEX_BYTES) {
    throw unreadable(INDEX_FILE, `an index must be at most ${MAX_INDEX_BYTES} bytes`, `${source.size} bytes`);
  }
  return decodeUtf8(await source.read(0, source.size), INDEX_FILE);
}

class OpenWeights implements Weights {
  readonly names: readonly string[];
  readonly totalBytes: number;
  readonly #holders: ReadonlyMap<string, SafetensorsFile>;
  readonly #sources: AsyncDisposable[];

  constructor(readonly name: string, holders: ReadonlyMap<string, SafetensorsFile>, sources: AsyncDisposable[]) {
    this.#holders = holders;
    this.#sources = sources;
    this.names = [...holders.keys()];
    this.totalBytes = this.names.map((name) => this.info(name)).reduce((sum, { begin, end }) => sum + end - begin, 0);
  }

  has(name: string): boolean {
    return this.#holders.has(name);
  }

  info(name: string): TensorInfo {
    return this.#holder(name).tensors.get(name)!;
  }

  bytes(name: string): Promise<Uint8Array> {
    return this.#holder(name).bytes(name);
  }

  async float32(name: string): Promise<Float32Array> {
    return toFloat32(await this.bytes(name), this.info(name).dtype);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const source of this.#sources.splice(0)) await source[Symbol.asyncDispose]();
  }

  #holder(name: string): SafetensorsFile {
    const holder = this.#holders.get(name);
    if (!holder) throw new RangeError(`Cannot read tensor ${quote(name)}: ${this.name} has no such tensor`);
    return holder;
  }
}

/** The weights under other names, `rename` of their own; as they are where two would have one name. */
export function withNames(weights: Weights, rename: (name: string) => string): Weights {
  const stored = new Map(weights.names.map((name) => [rename(name), name]));
  if (stored.size !== weights.names.length) return weights;
  const nameOf = (name: string) => stored.get(name) ?? name;
  return {
    name: weights.name,
    names: [...stored.keys()],
    totalBytes: weights.totalBytes,
    has: (name) => stored.has(name),
    info: (name) => weights.info(nameOf(name)),
    bytes: (name) => weights.bytes(nameOf(name)),
    float32: (name) => weights.float32(nameOf(name)),
    [Symbol.asyncDispose]: () => weights[Symbol.asyncDispose](),
  };
}

/** The weights of a bare encoder under the names that a model with a head has: `prefix` and their own. */
export function withPrefix(weights: Weights, prefix: string, isHead: (name: string) => boolean): Weights {
  if (weights.names.some((name) => name.startsWith(prefix))) return weights;
  return withNames(weights, (name) => isHead(name) ? name : prefix + name);
}

/** What a weight must be: its shape, and the config keys that the sizes come from, for messages. */
export interface ExpectedWeight {
  readonly shape: readonly number[];
  readonly what?: string;
}

const LOADED = ["F32", "BF16", "F16"];
const LISTED = 10;

/**
 * Checks that the weights are exactly those expected.
 *
 * @param options `optional`: names that may be missing, or be there without being expected (a tied head, a buffer of an
 * old release); where one is both there and expected, it is checked as the others are
 * @throws RangeError when names are missing or extra
 * @throws TypeError for a shape that differs, or a dtype other than F32, BF16 and F16
 */
export function checkWeights(
  weights: Pick<Weights, "name" | "names" | "has" | "info">,
  expected: ReadonlyMap<string, ExpectedWeight>,
  { optional = () => false }: { readonly optional?: (name: string) => boolean } = {},
): void {
  const missing = [...expected.keys()].filter((name) => !weights.has(name) && !optional(name));
  const extra = weights.names.filter((name) => !expected.has(name) && !optional(name));
  if (missing.length + extra.length > 0) {
    throw new RangeError(
      `Cannot load weights of ${weights.name}: expected ${expected.size} tensors: got ` +
        [listNames("missing", missing), listNames("extra", extra)].filter(Boolean).join(" and "),
    );
  }
  for (const [name, { shape, what }] of expected) {
    if (!weights.has(name)) continue;
    const info = weights.info(name);
    if (!LOADED.includes(info.dtype)) {
      throw new TypeError(
        `Cannot load ${quote(name)}: the dtype must be one of ${LOADED.join(", ")}: got ${info.dtype}`,
      );
    }
    if (shape.length !== info.shape.length || shape.some((size, axis) => size !== info.shape[axis])) {
      throw new TypeError(
        `Cannot load ${quote(name)}: expected ${formatTensor(info.dtype, shape)}${what ? ` (${what})` : ""}, ` +
          `got ${formatTensor(info.dtype, info.shape)}`,
      );
    }
  }
}

function listNames(what: string, names: readonly string[]): string {
  if (names.length === 0) return "";
  const more = names.length > LISTED ? `, ...` : "";
  return `${names.length} ${what} (${names.slice(0, LISTED).map(quote).join(", ")}${more})`;
}
