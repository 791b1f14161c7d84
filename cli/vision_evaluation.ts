/** What a vision transformer says of images, beside what they are: accuracy and loss, by class, and what is confused. */
import { type Backend, fromArray, noGrad, type ParamsView, scope, type Tensor } from "../core/mod.ts";
import { type VisualPrompts, type VitConfig, vitLogits } from "../models/mod.ts";
import type { ImageRows } from "./vision_data.ts";

/** A ViT with a head. */
export interface ImageClassifier {
  readonly backend: Backend;
  readonly view: ParamsView;
  readonly config: VitConfig;
  /** Learned tokens, whose head is used where they have one. */
  readonly prompts?: VisualPrompts;
}

/** What a model says of one image. */
export interface JudgedImage {
  /** Which image of the split. */
  readonly row: number;
  readonly label: number;
  readonly prediction: number;
  /** The share of the prediction among all classes. */
  readonly confidence: number;
  /** Cross-entropy, in nats. */
  readonly loss: number;
}

/** What a model says of the images of a class. */
export interface ClassShare {
  readonly name: string;
  readonly images: number;
  /** Share of them that it knows; NaN where there are none. */
  readonly accuracy: number;
}

/** How well a model tells images. */
export interface ImageMeasures {
  readonly images: number;
  readonly loss: number;
  readonly accuracy: number;
  readonly classes: readonly ClassShare[];
  /** How many images of a class (row) are taken for which (column). */
  readonly confusion: readonly (readonly number[])[];
}

/** Pixels of a batch on the device, [B, C, H, W]. */
export function pixelsOf(backend: Backend, { pixels, shape }: ImageRows): Tensor {
  return fromArray(backend, pixels, [...shape]);
}

/** What a model says of every image. */
export async function judgeImages(
  model: ImageClassifier,
  batches: AsyncIterable<ImageRows>,
): Promise<JudgedImage[]> {
  const judged: JudgedImage[] = [];
  for await (const rows of batches) {
    using logits = logitsOf(model, rows);
    const values = await logits.read() as Float32Array;
    const width = values.length / rows.batch;
    for (let i = 0; i < rows.batch; i++) {
      judged.push({ row: rows.rows[i], ...judge(values.subarray(i * width, (i + 1) * width), rows.labels[i]) });
    }
  }
  return judged;
}

function logitsOf({ backend, view, config, prompts }: ImageClassifier, rows: ImageRows): Tensor {
  using evaluation = scope("evaluate");
  return evaluation.keep(noGrad(() => vitLogits(view, config, pixelsOf(backend, rows), { prompts })));
}

function judge(scores: Float32Array, label: number): Omit<JudgedImage, "row"> {
  let prediction = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[prediction]) prediction = i;
  const largest = scores[prediction];
  const rest = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
  return { label, prediction, confidence: 1 / rest, loss: largest + Math.log(rest) - scores[label] };
}

/** The measures over images of these classes. @throws RangeError when there is no image */
export function measureImages(judged: readonly JudgedImage[], classes: readonly string[]): ImageMeasures {
  if (judged.length === 0) throw new RangeError("Cannot measure a model: there is no image");
  const confusion = classes.map(() => classes.map(() => 0));
  for (const { label, prediction } of judged) confusion[label][prediction]++;
  const shares = classes.map((name, i) => {
    const images = confusion[i].reduce((sum, count) => sum + count, 0);
    return { name, images, accuracy: confusion[i][i] / images };
  });
  const right = confusion.reduce((sum, row, i) => sum + row[i], 0);
  return {
    images: judged.length,
    loss: judged.reduce((sum, { loss }) => sum + loss, 0) / judged.length,
    accuracy: right / judged.length,
    classes: shares,
    confusion,
  };
}
