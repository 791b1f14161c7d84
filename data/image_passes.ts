/**
 * From chosen images to the files of both splits, in one pass over each source: images are decoded ahead, several at a time, and
 * written in the order drawn, whatever their decoding took.
 */

import type { ImageChoice } from "./image_choice.ts";
import type { ImageShape, ImageSource } from "./image_source.ts";
import { ImageSplitWriter } from "./image_split_writer.ts";
import type { ImageSplitInfo, ImageStoreInfo } from "./image_zarr.ts";
import type { Image } from "./images.ts";
import type { SplitName } from "./zarr.ts";

/** A source, and what is taken of it. */
export interface ImagePass {
  readonly source: ImageSource;
  readonly choice: ImageChoice;
}

/** How far a preparation is. */
export interface PrepareImagesProgress {
  /** Images read so far, those left out included. */
  readonly done: number;
  /** Images to read, at most. */
  readonly total: number;
}

/** How images are written, besides which. */
export interface WriteImagesOptions {
  /** Leaves out images that cannot be read, and counts them, instead of stopping. Default false. */
  readonly skipBroken?: boolean;
  /** Images of an inner chunk, the unit of reading. Default: what 1 MiB holds, at most 1024. */
  readonly rowsPerChunk?: number;
  /** Inner chunks of a shard, the unit of storage. Default: what 64 MiB holds, at most 4096. */
  readonly chunksPerShard?: number;
  /** Is called after each image. */
  readonly onProgress?: (progress: PrepareImagesProgress) => void;
  /** Stops the work; what was written is removed. */
  readonly signal?: AbortSignal;
}

/**
 * Reads what was chosen, image by image, and writes both splits side by side. A split takes an image while it lacks images of
 * that class; one that cannot be read is replaced by the next of its class.
 *
 * @throws {RangeError} when a class has too few images that can be read.
 * @throws {SyntaxError} naming the file, when an image cannot be read and `skipBroken` is not set.
 */
export async function writeImageSplits(
  folder: string,
  shape: ImageShape,
  passes: readonly ImagePass[],
  options: WriteImagesOptions & { readonly perClass?: number },
): Promise<Pick<ImageStoreInfo, "splits" | "skipped">> {
  const { rowsPerChunk, chunksPerShard, perClass, skipBroken = false, onProgress, signal } = options;
  const { classes } = passes[0].choice;
  const mostRows = passes.reduce((sum, { source }) => sum + source.labels.length, 0);
  const begin = (split: SplitName): ImageSplitWriter => {
    const rows = Math.min(mostRows, mostOf(passes, split));
    return new ImageSplitWriter({
      ...{ folder, split, shape, classes: classes.length, mostRows: Math.max(1, rows), rowsPerChunk, chunksPerShard },
    });
  };
  using train = begin("train");
  using validation = begin("validation");
  const writers = { train, validation };
  const total = Math.min(mostRows, mostOf(passes, "train") + mostOf(passes, "validation"));
  let done = 0;
  let skipped = 0;
  for (const { source, choice } of passes) {
    /** Where the next image of a class goes; nowhere once it has enough. */
    const place = (label: number): ImageSplitWriter | undefined => {
      const split = choice.splits.find((name) => writers[name].perClass[label] < choice.quotas[label][name]);
      return split && writers[split];
    };
    for await (const { image, label, error } of readInOrder(source, choice, shape, place)) {
      signal?.throwIfAborted();
      const writer = place(label);
      // read ahead for a class that has filled since: how many are depends on the threads, so none may count
      if (!writer) continue;
      if (image) {
        await writer.append(image, label);
      } else {
        if (!skipBroken || !(error instanceof SyntaxError)) throw error;
        skipped++;
      }
      onProgress?.({ done: ++done, total: Math.max(total, done) });
    }
  }
  requireImages(train.perClass, classes, perClass ?? 1, passes[0].source);
  const splits: Partial<Record<SplitName, ImageSplitInfo>> = { train: await train.finish() };
  const held = await validation.finish();
  return { splits: held ? { ...splits, validation: held } : splits, skipped };
}

/** Images that a split can have at most. */
function mostOf(passes: readonly ImagePass[], split: SplitName): number {
  let most = 0;
  for (const { source, choice } of passes) {
    if (!choice.splits.includes(split)) continue;
    most += Math.min(source.labels.length, choice.quotas.reduce((sum, quota) => sum + quota[split], 0));
  }
  return most;
}

/** An image, or why there is none. */
interface Read {
  readonly label: number;
  readonly image?: Image;
  readonly error?: unknown;
}

/** Images in the order of the candidates, read ahead as far as the source wants; of full classes no more are begun. */
async function* readInOrder(
  source: ImageSource,
  choice: ImageChoice,
  shape: ImageShape,
  place: (label: number) => unknown,
): AsyncGenerator<Read> {
  const ahead: Promise<Read>[] = [];
  for (const { index, label } of choice.candidates()) {
    if (!place(label)) continue;
    ahead.push(source.read(index, shape).then((image) => ({ image, label }), (error) => ({ error, label })));
    if (ahead.length >= source.parallel) yield await ahead.shift()!;
  }
  for (const read of ahead) yield await read;
}

function requireImages(
  counts: readonly number[],
  classes: readonly string[],
  least: number,
  source: ImageSource,
): void {
  const short = counts.findIndex((count) => count < least);
  if (short < 0) return;
  throw new RangeError(
    `Cannot prepare images of "${source.name}": class "${classes[short]}" must have ${least} readable image${
      least > 1 ? "s" : ""
    } to train on, got ${counts[short]}`,
  );
}
