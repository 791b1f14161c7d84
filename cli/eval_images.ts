/**
 * `eval --task images`: how well a vision transformer tells the images of a store, in all, by class, and what it takes
 * for what. An adapter is a task's prompts and head, or PEFT's files.
 */
import type { Backend, ParamsView } from "../core/mod.ts";
import {
  loadVisualPrompts,
  loadVit,
  loadVitConfig,
  makeVitConfig,
  VISUAL_PROMPTS_CONFIG_FILE,
  type VisualPrompts,
  type VitConfig,
  withVitLabels,
} from "../models/mod.ts";
import { onlyAdapter, openAdapted, parseAdapters } from "./adapted.ts";
import { type DeviceRequest, openDevice } from "./device.ts";
import { FileFolder } from "./files.ts";
import { formatTable, type Output } from "./log.ts";
import { findModel } from "./resume.ts";
import { tokensOf } from "./vision.ts";
import { imagesInOrder, openImages, readNormalization, requireSplit } from "./vision_data.ts";
import { type ImageMeasures, judgeImages, measureImages } from "./vision_evaluation.ts";
import { checkChannels, isHeadFor, shorten, sizeNotes, sizeOf } from "./vision_model.ts";
import { IMAGES } from "./vision_options.ts";

/** What is evaluated on what. */
export interface ImageEvaluation extends DeviceRequest {
  readonly model: string;
  readonly data: readonly string[];
  readonly split: string;
  readonly adapter: readonly string[];
  readonly adapterColumn?: string;
  readonly batch: number;
  readonly crop?: number;
  readonly json: boolean;
}

/** Evaluates a model on a split and prints its measures. */
export async function evaluateOnImages(options: ImageEvaluation, output: Output): Promise<void> {
  if (options.adapterColumn !== undefined) throw new RangeError("Cannot use --adapter-column on images");
  const adapter = onlyAdapter(parseAdapters(options.adapter), "images name none: give one");
  const path = await findModel(options.model);
  const folder = new FileFolder(path);
  const stored = await loadVitConfig(folder);
  const store = await openImages(options.data, "evaluate on");
  const { info } = store;
  checkChannels(path, stored, info);
  const split = requireSplit(store, options.split as "train" | "validation").name;
  const size = options.crop ?? sizeOf(info);
  const sized = makeVitConfig(stored, { image_size: size });
  for (const note of sizeNotes(path, stored, size)) output.err(`note: ${note}`);
  const normalization = await readNormalization(folder);
  using backend = await openDevice(options, output);
  using model = await openModel(backend, folder, { stored, sized, adapter, classes: info.classes });
  checkClasses(adapter ?? path, model.config, store.name, info.classes);
  const { batch, crop } = options;
  const images = imagesInOrder(store, split, { ...normalization, batch, crop, tokens: tokensOf(sized) });
  const measures = measureImages(await judgeImages({ backend, ...model }, images), info.classes);
  if (options.json) {
    return output.out(JSON.stringify({ model: path, adapter, task: IMAGES, data: store.name, split, ...measures }));
  }
  for (const line of linesOf(measures, split)) output.out(line);
}

/** A model ready to be asked. */
interface OpenedModel extends Disposable {
  readonly view: ParamsView;
  readonly config: VitConfig;
  readonly prompts?: VisualPrompts;
}

interface Opening {
  readonly stored: VitConfig;
  /** For images of the store's size. */
  readonly sized: VitConfig;
  readonly adapter: string | undefined;
  readonly classes: readonly string[];
}

async function openModel(
  backend: Backend,
  folder: FileFolder,
  { stored, sized, adapter, classes }: Opening,
): Promise<OpenedModel> {
  const imageSize = sized.image_size;
  const parts = new DisposableStack();
  const dispose = () => parts.dispose();
  try {
    if (adapter === undefined) {
      const { params } = await loadVit(backend, folder, { config: stored, imageSize });
      return { view: parts.use(params), config: sized, [Symbol.dispose]: dispose };
    }
    const task = new FileFolder(adapter);
    if (await task.has(VISUAL_PROMPTS_CONFIG_FILE)) {
      const base = parts.use((await loadVit(backend, folder, { config: stored, imageSize, head: "none" })).params);
      const { params, prompts, config } = parts.use(await loadVisualPrompts(backend, task, sized));
      return { view: base, config, prompts: { params, config: prompts }, [Symbol.dispose]: dispose };
    }
    // its own head takes the place of one that is drawn
    const config = isHeadFor(stored, classes) ? stored : withVitLabels(stored, classes);
    const head = config === stored ? "stored" : "new";
    const { params } = await loadVit(backend, folder, { config, imageSize, head, headSeed: 0 });
    const { view } = parts.use(await openAdapted(params, adapter, "vit"));
    return { view, config: withVitLabels(sized, Object.values(config.id2label)), [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** @throws RangeError for a head of other classes than the store's */
function checkClasses(model: string, config: VitConfig, store: string, classes: readonly string[]): void {
  if (isHeadFor(config, classes)) return;
  const labels = Object.values(config.id2label);
  throw new RangeError(
    `Cannot evaluate ${model} on the images of ${store}: its labels are ${shorten(labels)}, ` +
      `the images' classes ${shorten(classes)}`,
  );
}

/** The measures in lines of text: a summary, a row a class, the confusion matrix. */
function linesOf({ images, loss, accuracy, classes, confusion }: ImageMeasures, split: string): string[] {
  const names = classes.map(({ name }) => name);
  const percent = (share: number) => Number.isNaN(share) ? "" : `${(100 * share).toFixed(2)}%`;
  const head = ["is \\ taken for", ...names, "images", "accuracy"];
  const rows = confusion.map((
    row,
    i,
  ) => [names[i], ...row.map(String), `${classes[i].images}`, percent(classes[i].accuracy)]);
  const isNarrow = names.length <= 20;
  const table = isNarrow ? [head, ...rows] : [head, ...rows].map((row) => [row[0], ...row.slice(-2)]);
  return [
    `loss ${loss.toFixed(4)}, accuracy ${accuracy.toFixed(4)}, over ${
      images.toLocaleString("en-US")
    } images of ${split}`,
    "",
    ...formatTable(table, `l${"r".repeat(table[0].length - 1)}`),
    ...isNarrow ? [] : ["", `--json prints the confusion matrix of the ${names.length} classes`],
  ];
}
