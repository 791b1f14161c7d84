/**
 * Which images of a source go into which split: classes chosen and numbered anew, an order drawn from a seed, and how many of each
 * class a split takes. The order is a pure function of (number of images, seed), so a choice can be made again.
 */

import type { ImageSource } from "./image_source.ts";
import { foldKey, Permutation } from "./shuffle.ts";
import type { SplitName } from "./zarr.ts";

/** How images are chosen. */
export interface ImageChoiceOptions {
  /** Classes to take, numbered in this order; others are left out. Default: all, in the source's order. */
  readonly classes?: readonly string[];
  /** Images of each class to train on; the rest that is not held out is left out. Default: all. */
  readonly perClass?: number;
  /** The fraction of each class for the validation split; "rest" takes all that `perClass` leaves. Default 0.05. */
  readonly holdOut?: number | "rest";
  /** At most so many images of each class in the validation split. */
  readonly validationPerClass?: number;
  /** Draws the order, and so the choice. Default 0. */
  readonly seed?: number;
}

/** Counts of one class, by split. */
export type Quota = Readonly<Record<SplitName, number>>;

/** What was chosen. */
export interface ImageChoice {
  readonly classes: readonly string[];
  /** How many images of each class a split takes. */
  readonly quotas: readonly Quota[];
  /** Which split takes first: the one whose number was asked for. */
  readonly splits: readonly SplitName[];
  /** Images of the chosen classes in the order drawn, with their new labels. */
  candidates(): Generator<{ readonly index: number; readonly label: number }>;
}

/**
 * @throws {RangeError} when an option is out of range.
 */
export function checkChoice(
  { classes, perClass, holdOut = 0, validationPerClass, seed = 0 }: ImageChoiceOptions,
): void {
  for (
    const [name, value, least] of [["perClass", perClass, 1], ["validationPerClass", validationPerClass, 1]] as const
  ) {
    if (value === undefined || Number.isSafeInteger(value) && value >= least) continue;
    throw new RangeError(`Cannot prepare images: ${name} must be a whole number from ${least}, got ${value}`);
  }
  if (!Number.isSafeInteger(seed) || seed < 0) {
    throw new RangeError(`Cannot prepare images: seed must be a whole number from 0, got ${seed}`);
  }
  if (holdOut === "rest" ? perClass === undefined : !(holdOut >= 0 && holdOut < 1)) {
    const rule = holdOut === "rest" ? '"rest" needs perClass' : "it must be from 0 to below 1";
    throw new RangeError(`Cannot prepare images: holdOut: ${rule}, got ${perClass ?? holdOut}`);
  }
  if (classes && (classes.length === 0 || new Set(classes).size < classes.length)) {
    throw new RangeError(`Cannot prepare images: classes must be named once each, got ${classes.join(", ") || "none"}`);
  }
}

/**
 * Chooses images of a source.
 *
 * @throws {RangeError} when a chosen class is not there, has no images, or fewer than `perClass`.
 */
export function chooseImages(source: ImageSource, options: ImageChoiceOptions): ImageChoice {
  checkChoice(options);
  const { classes = source.classes, perClass, holdOut = 0.05, validationPerClass = Infinity, seed = 0 } = options;
  const newLabels = relabel(source, classes);
  const counts = new Array<number>(classes.length).fill(0);
  for (const label of source.labels) if (newLabels[label] >= 0) counts[newLabels[label]]++;
  const quotas = counts.map((count, label): Quota => {
    if (count === 0) {
      throw new RangeError(`Cannot prepare images of "${source.name}": class "${classes[label]}" has no images`);
    }
    if (count < (perClass ?? 0)) {
      throw new RangeError(
        `Cannot prepare ${perClass} images a class of "${source.name}": class "${classes[label]}" has only ${count}`,
      );
    }
    const left = count - (perClass ?? 1); // one at least to train on
    const held = holdOut === "rest" ? left : holdOut === 0 ? 0 : Math.max(1, Math.round(count * holdOut));
    return { train: perClass ?? Infinity, validation: Math.min(left, held, validationPerClass) };
  });
  return {
    classes,
    quotas,
    splits: perClass === undefined ? ["validation", "train"] : ["train", "validation"],
    *candidates() {
      const order = new Permutation(source.labels.length, foldKey(seed, 6));
      for (let i = 0; i < source.labels.length; i++) {
        const index = order.at(i);
        const label = newLabels[source.labels[index]];
        if (label >= 0) yield { index, label };
      }
    },
  };
}

/** For each of the source's labels the new one, or -1. */
function relabel({ name, classes }: ImageSource, wanted: readonly string[]): Int32Array {
  const labels = new Int32Array(classes.length).fill(-1);
  for (const [label, chosen] of wanted.entries()) {
    const old = classes.indexOf(chosen);
    if (old < 0) {
      const shown = classes.slice(0, 12).join(", ") + (classes.length > 12 ? ", ..." : "");
      throw new RangeError(`Cannot prepare images of "${name}": there is no class "${chosen}", only ${shown}`);
    }
    labels[old] = label;
  }
  return labels;
}
