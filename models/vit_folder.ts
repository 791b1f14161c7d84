/**
 * Reads and writes a Hugging Face ViT folder: strict names, shapes and dtypes.
 *
 * Names without `vit.`, as ViTModel saves them, are taken for those with it. Left aside are the pooler and the token of
 * masked patches, which classification has no use for. It does no I/O: whoever holds the folder implements `Folder` or
 * `FolderWriter`.
 */
import { type Backend, noGrad, own, Params, scope, type Tensor } from "../core/mod.ts";
import {
  checkWeights,
  type Folder,
  type FolderWriter,
  openWeights,
  withPrefix,
  writeWeights,
} from "./checkpoint_folder.ts";
import { paramEntries, type StoredDType, storedTensor } from "./stored_params.ts";
import { initVitHead } from "./vit.ts";
import {
  type ImageSize,
  makeVitConfig,
  parseVitConfig,
  patchGrid,
  type VitConfig,
  vitConfigJson,
  vitWeights,
} from "./vit_config.ts";
import { resizePositions } from "./vit_positions.ts";

const POSITIONS = "vit.embeddings.position_embeddings";
const TORCH_DTYPES = { f32: "float32", bf16: "bfloat16", f16: "float16" } as const;

/** In some files; nothing of it decides scores. */
const ASIDE = /^vit\.(pooler\.|embeddings\.mask_token$)/;

/** The configuration of a ViT folder. @throws SyntaxError when it is not a ViT that is implemented */
export async function loadVitConfig(folder: Folder): Promise<VitConfig> {
  if (!await folder.has("config.json")) throw new SyntaxError(`Cannot load ${folder.name}: it has no config.json`);
  const text = await folder.text("config.json");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`Cannot read ${folder.name}/config.json: ${(error as Error).message}`);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new SyntaxError(`Cannot read ${folder.name}/config.json: expected an object`);
  }
  return parseVitConfig(json as Record<string, unknown>);
}

/** How a folder is read. */
export interface VitLoading {
  /** In which the weights lie on the backend. Default f32. */
  readonly dtype?: StoredDType;
  /** With other labels than the folder's (`withVitLabels`), say. Default: the folder's. */
  readonly config?: VitConfig;
  /**
   * `stored`, the default, takes the folder's head, or draws one where the folder has none and there is a `headSeed`;
   * `new` draws one and leaves the folder's aside; `none` is a backbone alone, for prompts that bring their heads.
   */
  readonly head?: "stored" | "new" | "none";
  /** Draws the head's weights. */
  readonly headSeed?: number;
  /** Makes it a model for images of this size, with positions in between. Default: the size that is stored. */
  readonly imageSize?: ImageSize;
}

/** A model that was read. */
export interface LoadedVit {
  readonly params: Params;
  readonly config: VitConfig;
  /** Names of the weights that were drawn: the head's, or none. */
  readonly drawn: readonly string[];
}

/**
 * Reads a folder's weights onto a backend, as f32 or rounded to a 16-bit dtype.
 *
 * @throws SyntaxError for files that are missing or unreadable
 * @throws RangeError when weights are missing or extra, or a head is to be drawn without a seed
 * @throws TypeError for a weight of another shape or dtype
 */
export async function loadVit(
  backend: Backend,
  folder: Folder,
  { dtype = "f32", config: given, head = "stored", headSeed, imageSize }: VitLoading = {},
): Promise<LoadedVit> {
  const stored = given ?? await loadVitConfig(folder);
  await using weights = withPrefix(await openWeights(folder), "vit.", (name) => name.startsWith("classifier."));
  const isDrawn = head === "new" || (head === "stored" && headSeed !== undefined && !weights.has("classifier.weight"));
  if (isDrawn && headSeed === undefined) {
    throw new RangeError(`Cannot load ${folder.name}: a new head needs a headSeed: got none`);
  }
  const isRead = (name: string) => name.startsWith("vit.") || (head === "stored" && !isDrawn);
  const expected = new Map([...vitWeights(stored)].filter(([name]) => isRead(name)));
  const isAside = (name: string) => ASIDE.test(name) || (head !== "stored" && name.startsWith("classifier."));
  checkWeights(weights, expected, { optional: (name) => !expected.has(name) && isAside(name) });
  const config = imageSize === undefined ? stored : makeVitConfig(stored, { image_size: imageSize });
  const params = new Params(backend);
  try {
    for (const [name, { shape }] of expected) {
      const tensor = storedTensor(backend, await weights.float32(name), shape, dtype);
      params.set(name, name === POSITIONS ? resized(tensor, stored, config) : tensor);
    }
    if (!isDrawn) return { params, config, drawn: [] };
    using drawn = initVitHead(backend, config, { seed: headSeed!, dtype });
    for (const [name, tensor] of drawn.entries()) params.set(name, tensor.retained());
    return { params, config, drawn: drawn.names() };
  } catch (error) {
    params.dispose();
    throw error;
  }
}

/** The table of positions for another size of images; takes the one that is given. */
function resized(table: Tensor, from: VitConfig, to: VitConfig): Tensor {
  using inner = scope("image size");
  const other = noGrad(() => resizePositions(table, patchGrid(from), patchGrid(to)));
  if (other === table) return table;
  table.dispose();
  return own(inner.keep(other));
}

/**
 * Writes a folder that Hugging Face loads: weights, then `config.json`, then `files` as they are (a
 * `preprocessor_config.json`). A model without a head is written as a ViTModel. Call outside every scope.
 */
export async function saveVit(
  writer: FolderWriter,
  params: Params,
  config: VitConfig,
  files: ReadonlyMap<string, Uint8Array> = new Map(),
): Promise<void> {
  await writeWeights(writer, paramEntries(params));
  const isBackbone = !params.has("classifier.weight");
  const torch_dtype = TORCH_DTYPES[[...params.entries()][0][1].dtype as StoredDType];
  const json = { ...vitConfigJson(config, { isBackbone }), torch_dtype };
  const text = new TextEncoder().encode(JSON.stringify(json, null, 2) + "\n");
  for (const [file, bytes] of [["config.json", text] as const, ...files]) {
    await using sink = await writer.create(file);
    await sink.write(bytes);
  }
}
