/**
 * FLoRA adapters in the files of Hugging Face's PEFT, where they are called HiRA: `MODULE.hira_A` [r, in] and `MODULE.hira_B`
 * [out, r], for W + W o B A (Huang et al. 2025). What is checked: `peft_files.ts`.
 *
 * A product W o B A of rank r is written as one of rank r + 1, with -1 by 1 for its last part, and can be read back without
 * it, to the bit. A mean over the parts is written into B.
 */
import { contiguous, noGrad, own, Params, scope, slice, type Tensor } from "../core/mod.ts";
import type { Folder } from "./checkpoint_folder.ts";
import { FLORA_TENSORS, type FloraConfig, floraNames, floraWeights } from "./flora_config.ts";
import { asResidual, floraFactors } from "./flora_product.ts";
import { type HiraConfig, readHiraConfig, writeHiraConfig } from "./hira_config.ts";
import { matchingConfig, type NamedShapes } from "./lora_config.ts";
import { readAdapter, readAdapterJson, writeAdapter } from "./peft_files.ts";
import { quote } from "./safetensors_json.ts";
import type { FolderWriter } from "./safetensors_shards.ts";

export { type HiraConfig, readHiraConfig, writeHiraConfig } from "./hira_config.ts";

/** An adapter that was read. Owns its tensors. */
export interface LoadedHira extends HiraConfig, Disposable {
  readonly params: Params;
}

/** How an adapter is read. */
export interface LoadHiraOptions {
  /** The model's `model_type`, for files that leave their targets to it. */
  readonly modelType?: string;
  /** `product`: as W o B A, one rank lower; for files whose last part is -1 by 1. Default residual. */
  readonly form?: "residual" | "product";
}

/**
 * Reads an adapter and checks every tensor against the model.
 *
 * @throws SyntaxError for files that are missing, unreadable or ask for something that is not offered
 * @throws RangeError when the adapter is for another model: no module matches, tensors are missing or extra; when a tensor
 * holds a number that is not finite; or when a product is asked for and it is none
 * @throws TypeError for a tensor of another shape or dtype, or a target that is no linear map
 */
export async function loadHira(
  folder: Folder,
  base: Params,
  { modelType, form = "residual" }: LoadHiraOptions = {},
): Promise<LoadedHira> {
  const config = readHiraConfig(await readAdapterJson(folder), modelType);
  const { r } = config.flora;
  const { targets, modulesToSave } = matchingConfig(base.entries(), { ...config.flora, alpha: r });
  const flora: FloraConfig = { ...config.flora, targets, modulesToSave };
  const expected = [...floraWeights(base.entries(), flora)].map(([name, spec]) => [theirName(name), spec] as const);
  using read = await readAdapter(folder, base, new Map(expected));
  const params = new Params(base.backend);
  for (const [name, tensor] of read.entries()) params.set(ourName(name), tensor.retained());
  const loaded = { ...config, flora, params, [Symbol.dispose]: () => params.dispose() };
  return form === "residual" ? loaded : await asProduct(loaded);
}

/** The adapter one rank lower. Takes it over. */
async function asProduct(loaded: LoadedHira): Promise<LoadedHira> {
  using given = loaded.params;
  for (const [name, tensor] of given.entries()) await checkLastPart(name, tensor);
  const params = new Params(given.backend);
  const r = loaded.flora.r - 1;
  for (const [name, tensor] of given.entries()) {
    using inner = scope("product form");
    const ranges = FLORA_TENSORS.test(name) && (name.endsWith("_A") ? [{ end: r }] : [undefined, { end: r }]);
    params.set(name, ranges ? own(inner.keep(noGrad(() => contiguous(slice(tensor, ranges))))) : tensor.retained());
  }
  const flora: FloraConfig = { ...loaded.flora, r, form: "product" };
  return { ...loaded, flora, params, [Symbol.dispose]: () => params.dispose() };
}

/** Demands a last row of ones in A and a last column of -1 in B, and a part before them. */
async function checkLastPart(name: string, tensor: Tensor): Promise<void> {
  if (!FLORA_TENSORS.test(name)) return;
  const values = await tensor.read();
  const [isA, [rows, columns]] = [name.endsWith("_A"), tensor.shape];
  const last = isA ? values.subarray((rows - 1) * columns) : values.filter((_, i) => i % columns === columns - 1);
  const odd = last.findIndex((value) => value !== (isA ? 1 : -1));
  if (odd < 0 && (isA ? rows : columns) > 1) return;
  const got = odd < 0 ? "no part but that" : `${last[odd]} at ${odd}`;
  throw new RangeError(
    `Cannot read ${quote(theirName(name))} as a product: its last part must be ${isA ? 1 : -1} throughout: got ${got}`,
  );
}

/**
 * Writes an adapter as PEFT does: the tensors, then the configuration. Call outside every scope.
 *
 * @param base the model's weights, for the names that "all-linear" stands for
 */
export async function saveHira(
  folder: FolderWriter,
  adapter: Params,
  { flora, ...use }: HiraConfig,
  base: NamedShapes,
): Promise<void> {
  using params = hiraTensors(adapter, flora);
  const r = flora.form === "product" ? flora.r + 1 : flora.r;
  await writeAdapter(folder, params, writeHiraConfig({ ...use, flora: { ...flora, r } }, base));
}

/** An adapter's tensors as PEFT names and means them. The caller disposes them. */
export function hiraTensors(adapter: Params, config: FloraConfig): Params {
  const params = new Params(adapter.backend);
  for (const [name, tensor] of adapter.entries()) {
    if (!FLORA_TENSORS.test(name)) {
      params.set(name, tensor.retained());
      continue;
    }
    const module = name.replace(FLORA_TENSORS, "");
    using inner = scope("residual form");
    const made = noGrad(() => {
      const { A, B } = asResidual(floraFactors({ params: adapter, config }, module)!);
      return name === floraNames(module).A ? A : B;
    });
    params.set(theirName(name), made.owner === inner ? own(made) : made.retained());
  }
  return params;
}

function theirName(name: string): string {
  return name.replace(/\.flora_([AB])$/, ".hira_$1");
}

function ourName(name: string): string {
  return name.replace(/\.hira_([AB])$/, ".flora_$1");
}
