/** What a run over labelled images may be told, in `finetune` and in `train`: options, their defaults and flags. */
import type { Flags } from "./arguments.ts";

/** The task of telling what images show. */
export const IMAGES = "images";

/** How training images are varied. */
export interface ImageOptions {
  /** Side of a square that is cut out of each image, in training anywhere. Default: the stored size. */
  readonly crop?: number;
  /** Black pixels around a training image before it is cut, so that it moves by as many. */
  readonly cropPadding: number;
  /** Mirrors every second training image, left to right. */
  readonly flip: boolean;
}

/** Images as they are stored. */
export const IMAGE_DEFAULTS: ImageOptions = { cropPadding: 0, flip: false };

const group = "Images";

/** The flags. */
export const imageFlags = {
  crop: {
    ...{ type: "number", integer: true, min: 1, group },
    help: "side of a square cut out of each image: anywhere in training, else at the centre",
    defaultHelp: "the stored size; eval: as in training",
  },
  cropPadding: {
    ...{ type: "number", integer: true, min: 0, group },
    help: "black pixels around a training image before it is cut, so that it moves",
    defaultHelp: String(IMAGE_DEFAULTS.cropPadding),
  },
  flip: { type: "boolean", help: "mirror every second training image, left to right", group },
} as const satisfies Flags;
