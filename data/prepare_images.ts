/**
 * Images to a store: class sub-folders or IDX files, decoded, made to have one size, and written in an order drawn from a seed,
 * so that neighbours in the store are images of any class (readers shuffle windows, not the whole). Memory stays constant:
 * a chunk of each split and the images being decoded. Everything happens in a folder beside `out` that is renamed to it at
 * the end: `out` either is whole or does not exist.
 */

import { checkChoice, chooseImages, type ImageChoice, type ImageChoiceOptions } from "./image_choice.ts";
import { openFolderSource } from "./image_folder.ts";
import { type ImagePass, type WriteImagesOptions, writeImageSplits } from "./image_passes.ts";
import { type ImageShape, type ImageSource, openIdxSource } from "./image_source.ts";
import { imageGroupMetadata, type ImageStoreInfo } from "./image_zarr.ts";
import type { ImageChannels } from "./images.ts";
import { inNewFolder } from "./new_folder.ts";
import type { Fit, ImageSize } from "./resize.ts";
import { writeDurably } from "./shards.ts";

/** Where images come from. */
export interface ImageInputs {
  /** A folder of class sub-folders; or a file of IDX images, with `labels`. */
  readonly images: string;
  /** A file of IDX labels. */
  readonly labels?: string;
}

/** What `prepareImages` is given. */
export interface PrepareImagesOptions extends ImageChoiceOptions, WriteImagesOptions {
  readonly inputs: ImageInputs;
  /** Images for the validation split, all of them or `validationPerClass`; nothing of `inputs` is held out then. */
  readonly validation?: ImageInputs;
  /** The store's folder, which must not exist. */
  readonly out: string;
  /** Height and width, or both in one number, in pixels. Default: that of IDX images; folders need one. */
  readonly size?: number | ImageSize;
  /** How images of another shape are made to fit. Default `stretch`. */
  readonly fit?: Fit;
  /** 1 stores grey, 3 colour. Default: 1 of IDX files, 3 of folders. */
  readonly channels?: ImageChannels;
  /** Threads that decode; 0 decodes on this one. Default: up to 4 where there are 200 files or more. */
  readonly workers?: number;
}

const WRITER = "lowrank/data 1";

/**
 * Writes images into a new store, in constant memory.
 *
 * @throws {Deno.errors.AlreadyExists} when `out` exists.
 * @throws {RangeError} when an option is out of range, a class has too few images, or `validation` has a class that
 * `inputs` lack and `classes` are not given.
 * @throws {SyntaxError} naming the file, when an image or an IDX file cannot be read.
 * @throws {Deno.errors.NotFound} when an input does not exist.
 */
export async function prepareImages(options: PrepareImagesOptions): Promise<ImageStoreInfo> {
  checkOptions(options);
  return await inNewFolder(options.out, (folder) => writeInto(folder, options));
}

function checkOptions(options: PrepareImagesOptions): void {
  checkChoice(options);
  const { out, rowsPerChunk = 1, chunksPerShard = 1, workers = 1, size = 1 } = options;
  const sides = typeof size === "number" ? { size } : { height: size.height, width: size.width };
  for (const [name, value] of Object.entries({ rowsPerChunk, chunksPerShard, ...sides, workers: workers + 1 })) {
    if (Number.isSafeInteger(value) && value >= 1) continue;
    const got = name === "workers" ? workers : value;
    throw new RangeError(
      `Cannot prepare images: ${name} must be a whole number from ${name === "workers" ? 0 : 1}, got ${got}`,
    );
  }
  if (out === "") throw new RangeError("Cannot prepare images: out must name a folder");
}

async function writeInto(folder: string, options: PrepareImagesOptions): Promise<ImageStoreInfo> {
  const { inputs, validation, seed = 0 } = options;
  using source = await openInputs(inputs, `${folder}/spool`, options.workers);
  const choice = chooseImages(source, validation ? { ...options, holdOut: 0 } : options);
  const shape = chooseShape(source, options);
  using held = validation && await openInputs(validation, `${folder}/held`, options.workers);
  const passes: ImagePass[] = [{ source, choice }];
  if (held) passes.push({ source: held, choice: validationChoice(held, choice.classes, options) });
  const { splits, skipped } = await writeImageSplits(folder, shape, passes, options);
  for await (const { name } of Deno.readDir(folder)) {
    if (/^(spool|held)\./.test(name)) await Deno.remove(`${folder}/${name}`);
  }
  const paths = [inputs.images, inputs.labels, validation?.images, validation?.labels];
  const info: ImageStoreInfo = {
    ...{ format: "lowrank-images", formatVersion: 1, writer: WRITER },
    ...{ ...shape.size, channels: shape.channels, fit: shape.fit, classes: choice.classes, seed, splits, skipped },
    sources: paths.filter((path) => path !== undefined).map((path) =>
      path.split(/[/\\]/).filter(Boolean).at(-1) ?? path
    ),
  };
  await writeDurably(`${folder}/zarr.json`, imageGroupMetadata(info));
  return info;
}

async function openInputs({ images, labels }: ImageInputs, spool: string, workers?: number): Promise<ImageSource> {
  if (labels !== undefined) return await openIdxSource(images, labels, [`${spool}.images`, `${spool}.labels`]);
  return await openFolderSource(images, workers);
}

function chooseShape(source: ImageSource, options: PrepareImagesOptions): ImageShape {
  const { fit = "stretch", channels = source.size ? 1 : 3 } = options;
  const size = typeof options.size === "number"
    ? { height: options.size, width: options.size }
    : options.size ?? source.size;
  if (size) return { size: { height: size.height, width: size.width }, channels, fit };
  throw new RangeError(
    `Cannot prepare images of "${source.name}": files have sizes of their own, so size must be given`,
  );
}

/** Images of a class that nothing was trained on would be lost without a word. */
function refuseOtherClasses({ name, classes, labels }: ImageSource, known: readonly string[]): void {
  const other = labels.find((label) => !known.includes(classes[label]));
  if (other === undefined) return;
  throw new RangeError(
    `Cannot prepare images of "${name}" to evaluate on: class "${classes[other]}" is not among those to train on`,
  );
}

/** Everything of a source of its own, or `validationPerClass`, for the validation split. */
function validationChoice(
  source: ImageSource,
  classes: readonly string[],
  { classes: chosen, validationPerClass = Infinity, seed }: PrepareImagesOptions,
): ImageChoice {
  const choice = chooseImages(source, { classes, holdOut: 0, seed });
  if (chosen === undefined) refuseOtherClasses(source, classes);
  return {
    ...choice,
    splits: ["validation"],
    quotas: classes.map(() => ({ train: 0, validation: validationPerClass })),
  };
}
