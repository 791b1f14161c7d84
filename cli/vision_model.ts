/**
 * From `--model` to a ViT for the images of a store: a built-in name takes their size and channels and draws its
 * weights, a folder's model is kept, save that its positions are resampled for images of another size.
 *
 * The head of a folder goes on only where it is for the store's classes; for others a new one is drawn.
 */
import type { Backend, Params } from "../core/mod.ts";
import type { ImageStoreInfo } from "../data/mod.ts";
import {
  imageSides,
  type ImageSize,
  initVit,
  isVitConfig,
  loadVit,
  loadVitConfig,
  makeVitConfig,
  openWeights,
  VIT_NAMES,
  type VitConfig,
  vitConfig,
  withVitLabels,
} from "../models/mod.ts";
import { exists, FileFolder, readJsonFile } from "./files.ts";
import { type Output, shorten } from "./log.ts";
import { type Normalization, readNormalization } from "./vision_data.ts";

/** A ViT before its weights are there. */
export interface VisionModel {
  /** For the store's images and classes. */
  readonly config: VitConfig;
  readonly normalization: Normalization;
  /** Puts the weights on a backend; says what became of head and positions. */
  load(backend: Backend, output: Pick<Output, "err">): Promise<Params>;
}

/** What a model is for. */
export type StoredImages = Pick<ImageStoreInfo, "height" | "width" | "channels" | "classes">;

/** Whether a model is a ViT by name, whose weights are drawn. */
export function isVitName(model: string): boolean {
  return VIT_NAMES.includes(model);
}

/** Whether a model is a ViT: by name, if it is one that there is not, or in a folder, be it a run's. */
export async function isVitModel(model: string): Promise<boolean> {
  if (isVitName(model)) return true;
  if (!await exists(model)) return model.startsWith("vit-");
  if (!await exists(`${model}/config.json`)) return false;
  const json = await readJsonFile(`${model}/config.json`).catch(() => undefined);
  const isVit = (value: unknown) => typeof value === "object" && value !== null && isVitConfig(value);
  return isVit(json) || isVit((json as { readonly model?: unknown } | undefined)?.model);
}

/** What a run asks of its model. */
export interface VisionModelOptions {
  readonly model: string;
  readonly seed: number;
  /** Of what is cut out of the images. Default: their own size. */
  readonly crop?: number;
}

/**
 * Reads what can be known before there is a device.
 *
 * @throws RangeError for patches that do not fill the images, or images with other channels than the model's
 * @throws SyntaxError for a folder that is no ViT's
 */
export async function openVisionModel(
  { model, seed, crop }: VisionModelOptions,
  images: StoredImages,
): Promise<VisionModel> {
  const size = crop ?? sizeOf(images);
  if (isVitName(model)) {
    const made = vitConfig(model, { image_size: size, num_channels: images.channels });
    const config = withVitLabels(made, images.classes);
    const load = (backend: Backend) => Promise.resolve(initVit(backend, config, { seed }));
    return { config, normalization: { mean: 0.5, std: 0.5 }, load };
  }
  const folder = new FileFolder(model);
  const stored = await loadVitConfig(folder);
  checkChannels(model, stored, images);
  const isOther = String(imageSides(stored.image_size)) !== String(imageSides(size));
  const imageSize = isOther ? size : undefined;
  const sized = isOther ? makeVitConfig(stored, { image_size: size }) : stored;
  return {
    config: withVitLabels(sized, images.classes),
    normalization: await readNormalization(folder),
    load: async (backend, output) => {
      const isOwn = isHeadFor(stored, images.classes);
      const config = withVitLabels(stored, images.classes);
      const head = isOwn ? "stored" : "new";
      const loaded = await loadVit(backend, folder, { config, head, headSeed: seed, imageSize });
      for (const note of await notesOf({ model, seed, stored, images, size, folder })) output.err(`note: ${note}`);
      return loaded.params;
    },
  };
}

/** What is told of a folder's model. */
interface Told {
  readonly model: string;
  readonly seed: number;
  readonly stored: VitConfig;
  readonly images: StoredImages;
  readonly size: ImageSize;
  readonly folder: FileFolder;
}

/** What became of positions and head. */
async function notesOf({ model, seed, stored, images: { classes }, size, folder }: Told): Promise<string[]> {
  const notes = sizeNotes(model, stored, size);
  const drawn = `one for ${classes.length} classes is drawn from seed ${seed}`;
  await using weights = await openWeights(folder);
  if (!weights.has("classifier.weight")) return [...notes, `${model} has no head: ${drawn}`];
  const labels = Object.values(stored.id2label);
  if (isHeadFor(stored, classes)) return notes;
  return [...notes, `the head of ${model}, for ${shorten(labels)}, is left aside: ${drawn}`];
}

/** What becomes of positions for images of another size. */
export function sizeNotes(model: string, { image_size }: VitConfig, size: ImageSize): string[] {
  const [before, now] = [image_size, size].map((one) => imageSides(one).join(" x "));
  return before === now ? [] : [`the positions of ${model}, for images of ${before}, are resampled for ${now}`];
}

/** The size of a store's images, one number where they are square. */
export function sizeOf({ height, width }: StoredImages): ImageSize {
  return height === width ? height : [height, width];
}

/** @throws RangeError for images with other channels than a model's */
export function checkChannels(model: string, { num_channels }: VitConfig, { channels }: StoredImages): void {
  if (num_channels === channels) return;
  throw new RangeError(
    `Cannot use ${model} on images of ${channels} channel${channels === 1 ? "" : "s"}: it takes ${num_channels}; ` +
      `prepare --channels ${num_channels} makes such a store`,
  );
}

/** Whether a head is for these classes: by their names, or by their number where its labels have none. */
export function isHeadFor({ id2label }: VitConfig, classes: readonly string[]): boolean {
  const labels = Object.values(id2label);
  return labels.length === classes.length &&
    labels.every((label, i) => label === classes[i] || label === `LABEL_${i}`);
}
