/** What a report shows of a model on images: some that it knows, some that it does not, and what it takes for what. */
import { type ImageStore, resizeImage } from "../data/mod.ts";
import { pngAddress } from "./png.ts";
import type { ReportData } from "./report.ts";
import type { ImageMeasures, JudgedImage } from "./vision_evaluation.ts";

/** Pictures of each kind. */
const SHOWN = 12;
/** Most pixels of a picture's longer side. */
const SIDE = 112;

/** Pictures of the validation split, and the confusion matrix. */
export async function illustrate(
  store: ImageStore,
  judged: readonly JudgedImage[],
  { confusion, accuracy, classes }: ImageMeasures,
): Promise<Pick<ReportData, "pictures" | "confusion">> {
  const names = classes.map(({ name }) => name);
  const wrong = judged.filter(({ label, prediction }) => label !== prediction).toSorted((a, b) => b.loss - a.loss);
  const right = judged.filter(({ label, prediction }) => label === prediction);
  const count = Math.min(SHOWN, right.length);
  const some = Array.from({ length: count }, (_, i) => right[Math.floor(i * right.length / count)]);
  const groups = [
    { title: "Wrong, the largest losses first", shown: wrong.slice(0, SHOWN), isRight: false },
    { title: "Right, taken from all over the split", shown: some, isRight: true },
  ];
  return {
    pictures: {
      note: `Held-out images at the last evaluation, which knew ${(100 * accuracy).toFixed(2)}% of them.`,
      groups: await Promise.all(
        groups.filter(({ shown }) => shown.length > 0).map(async ({ title, shown, isRight }) => ({
          title,
          pictures: await Promise.all(shown.map(async ({ row, label, prediction, confidence }) => ({
            address: await pictureOf(store, row),
            caption: names[prediction],
            detail: `${(100 * confidence).toFixed(0)}%${isRight ? "" : `, is ${names[label]}`}`,
            isRight,
          }))),
        })),
      ),
    },
    confusion: { classes: names, counts: confusion },
  };
}

async function pictureOf(store: ImageStore, row: number): Promise<string> {
  const { height, width, channels } = store.info;
  const { pixels } = await store.split("validation").gatherRows([row]);
  const image = { pixels, height, width, channels };
  const scale = SIDE / Math.max(height, width);
  if (scale >= 1) return await pngAddress(image);
  const size = { height: Math.max(1, Math.round(scale * height)), width: Math.max(1, Math.round(scale * width)) };
  return await pngAddress(resizeImage(image, size));
}
