/**
 * Training of a vision transformer on labelled images: a `Subject` from a store of images and a model, by name or in a
 * folder.
 *
 * The loss is the cross-entropy of the class; the validation split is what the model is measured on. Images are
 * normalised as the model's folder says. What is written beside the weights is what Hugging Face needs to do the same.
 */
import { fromArray, type ParamsView, type Tensor } from "../core/mod.ts";
import type { ImageStore } from "../data/mod.ts";
import { imageSides, patchGrid, VIT_PROJECTED, type VitConfig, vitLoss } from "../models/mod.ts";
import type { Finetune } from "./finetune_options.ts";
import type { Evaluation, LossOptions, Subject } from "./finetune_subject.ts";
import {
  type ImageBatching,
  type ImageRows,
  imagesInOrder,
  type OpenedImages,
  openImages,
  PREPROCESSOR_FILE,
  preprocessorFile,
  requireSplit,
  TrainingImages,
} from "./vision_data.ts";
import { judgeImages, measureImages, pixelsOf } from "./vision_evaluation.ts";
import { openVisionModel } from "./vision_model.ts";
import { IMAGES } from "./vision_options.ts";
import { illustrate } from "./vision_report.ts";

/** Head of a classifier: trained whole beside adapters, since it starts from nothing. */
const HEAD = "classifier";

/** Reads what a run over images needs before there is a device. */
export async function openVision(run: Finetune): Promise<Subject<ImageRows>> {
  const images = await openImages(run.data, "train on");
  const { store, store: { info } } = images;
  const held = requireSplit(store, "validation");
  const { config, normalization, load } = await openVisionModel(run, info);
  const { batch, seed, crop, cropPadding, flip } = run;
  const tokens = tokensOf(config);
  const batching: ImageBatching = { ...normalization, batch, seed, crop, cropPadding, flip, tokens };
  const training = new TrainingImages(images, batching);
  const file = preprocessorFile(normalization, { ...info, crop });
  return {
    ...{ task: IMAGES, modelType: "vit", peftTask: undefined, modulesToSave: [HEAD] },
    ...{ config, files: new Map([[PREPROCESSOR_FILE, file]]), projected: VIT_PROJECTED },
    ...{ unit: "images", lossUnit: "cross-entropy, nats an image", isIllustrated: true },
    speedUnit: { tokens, short: "img/s", long: "Images a second" },
    batchesAnEpoch: training.batchesAnEpoch,
    selectBy: { name: "accuracy", isHigher: true },
    words: { model: `${config.num_labels} labels`, data: describe(store) },
    resolved: {},
    identity: { data: store.hash, crop: crop ?? null, cropPadding, flip, ...normalization },
    load: async (backend, output) => {
      const params = await load(backend, output);
      if (info.fit !== "stretch") output.err(`note: ${fitNote(store)}`);
      return params;
    },
    epoch: (epoch, start) => training.epoch(epoch, start),
    loss: (view, rows, options) => imageLoss(view, config, rows, options),
    heldOut: () => [blankImages(config, Math.min(batch, held.rows))].values(),
    measure: (view, options) => measure(view, { config, images, batching }, options),
    close: () => training[Symbol.dispose](),
  };
}

/** Tokens that a model makes of an image, the class token among them. */
export function tokensOf(config: VitConfig): number {
  const [rows, columns] = patchGrid(config);
  return 1 + rows * columns;
}

function describe({ name, info }: ImageStore): string {
  const { train, validation } = info.splits;
  const many = (count = 0) => count.toLocaleString("en-US");
  return `${name}: ${
    many(train?.rows)
  } images of ${info.height} x ${info.width} in ${info.classes.length} classes to ` +
    `train on, ${many(validation?.rows)} held out`;
}

/** What the file beside the weights leaves out of how images were made to have one size. */
function fitNote({ name, info: { fit } }: ImageStore): string {
  return `the images of ${name} keep their aspect (--keep-aspect ${fit}), which ${PREPROCESSOR_FILE} cannot say: ` +
    "Hugging Face would stretch others";
}

/** A batch of so many images with nothing on them: memory is planned by it. */
export function blankImages(config: VitConfig, batch: number): ImageRows {
  const [height, width] = imageSides(config.image_size);
  const shape = [batch, config.num_channels, height, width] as const;
  const pixels = new Float32Array(batch * config.num_channels * height * width);
  const [labels, rows] = [new Int32Array(batch), new Int32Array(batch)];
  return { pixels, labels, rows, shape, batch, seq: tokensOf(config), index: 0 };
}

/** The mean cross-entropy of a batch. */
export function imageLoss(
  view: ParamsView,
  config: VitConfig,
  rows: ImageRows,
  { dropoutKey, recompute, prompts }: LossOptions = {},
): Tensor {
  const targets = fromArray(view.backend, rows.labels, [rows.batch]);
  return vitLoss(view, config, pixelsOf(view.backend, rows), { targets, dropoutKey, recompute, prompts });
}

/** What is measured on. */
interface Measured {
  readonly config: VitConfig;
  readonly images: OpenedImages;
  readonly batching: ImageBatching;
}

async function measure(
  view: ParamsView,
  { config, images, batching }: Measured,
  { prompts }: LossOptions = {},
): Promise<Evaluation> {
  const model = { backend: view.backend, view, config, prompts };
  const judged = await judgeImages(model, imagesInOrder(images, "validation", batching));
  const { store } = images;
  const measures = measureImages(judged, store.info.classes);
  return {
    loss: measures.loss,
    scores: { accuracy: measures.accuracy },
    illustrate: () => illustrate(store, judged, measures),
  };
}
