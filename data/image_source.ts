/**
 * Labelled images before they are a store: what `prepareImages` reads from, whatever they lie in. A source knows how many
 * images there are and of which class, and reads each on its own, in any order. Here: the source over IDX files.
 */

import type { Image, ImageChannels } from "./images.ts";
import { openIdx } from "./idx.ts";
import { type Fit, fitImage, type ImageSize } from "./resize.ts";

/** Labelled images. Dispose it. */
export interface ImageSource extends Disposable {
  /** For messages. */
  readonly name: string;
  /** The classes, in the order of their labels. */
  readonly classes: readonly string[];
  /** The class of each image. */
  readonly labels: Int32Array;
  /** The images' own size, where they have one. */
  readonly size?: ImageSize;
  /** Reads that may be under way at the same time. */
  readonly parallel: number;
  /**
   * One image, of the size and channels asked for.
   *
   * @throws {SyntaxError} when it cannot be decoded.
   */
  read(index: number, shape: ImageShape): Promise<Image>;
}

/** What images become. */
export interface ImageShape {
  readonly size: ImageSize;
  readonly channels: ImageChannels;
  readonly fit: Fit;
}

/**
 * Images and labels in two IDX files. Classes are "0", "1", ... up to the largest label.
 *
 * @param spools two paths for temporary files, used when the files are in gzip.
 * @throws {RangeError} when there are not as many labels as images; whatever `openIdx` throws.
 */
export async function openIdxSource(
  imagesPath: string,
  labelsPath: string,
  spools: readonly [string, string],
): Promise<ImageSource> {
  const images = await openIdx(imagesPath, { dimensions: 3, spool: spools[0] });
  try {
    using file = await openIdx(labelsPath, { dimensions: 1, spool: spools[1] });
    const [count, height, width] = images.shape;
    if (file.shape[0] !== count) {
      throw new RangeError(
        `Cannot use labels "${labelsPath}" with images "${imagesPath}": there must be one label to an image, ` +
          `got ${file.shape[0]} labels, ${count} images`,
      );
    }
    const labels = Int32Array.from(file.read(0, count));
    const classes = Array.from(
      { length: labels.reduce((most, label) => Math.max(most, label), 0) + 1 },
      (_, i) => `${i}`,
    );
    return {
      name: imagesPath,
      classes,
      labels,
      size: { height, width },
      parallel: 1,
      read: (index, { size, channels, fit }) => {
        const image = fitImage({ pixels: images.read(index, 1), height, width, channels: 1 }, size, fit);
        return Promise.resolve(channels === 1 ? image : repeatGrey(image));
      },
      [Symbol.dispose]: () => images[Symbol.dispose](),
    };
  } catch (error) {
    images[Symbol.dispose]();
    throw error;
  }
}

function repeatGrey({ pixels, height, width }: Image): Image {
  const colour = new Uint8Array(3 * pixels.length);
  pixels.forEach((value, i) => colour.fill(value, 3 * i, 3 * i + 3));
  return { pixels: colour, height, width, channels: 3 };
}
