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
import type { ImageStoreInfo } from "../data/mod.ts";
import { onlyAdapter, openAdapters, parseAdapters } from "./adapted.ts";
import { type DeviceRequest, openDevice } from "./device.ts";
import { adapterHeads, unlabelledNote } from "./eval_labels.ts";
import { FileFolder } from "./files.ts";
import { formatTable, type Output, shorten } from "./log.ts";
import { findModel } from "./resume.ts";
import { tokensOf } from "./vision.ts";
import {
  imagesInOrder,
  openImages,
  PREPROCESSOR_FILE,
  readCrop,
  readNormalization,
  requireSplit,
} from "./vision_data.ts";
import { type ImageMeasures, judgeImages, measureImages } from "./vision_evaluation.ts";
import { checkChannels, isHeadFor, sizeNotes, sizeOf } from "./vision_model.ts";
import { IMAGES } from "./vision_options.ts";

/** What is evaluated on what. */
export interface ImageEvaluation extends DeviceRequest {
  readonly model: string;
  readonly data: readonly string[];
  readonly split: string;
  readonly adapter: readonly string[];
  readonly batch: number;
  /** Most batches; 0: all. */
  readonly batches: number;
  readonly crop?: number;
  readonly json: boolean;
}

/** Evaluates a model on a split and prints its measures. */
export async function evaluateOnImages(options: ImageEvaluation, output: Output): Promise<void> {
  const adapter = onlyAdapter(parseAdapters(options.adapter), "images name none: give one");
  const path = await findModel(options.model);
  const folder = new FileFolder(path);
  const stored = await loadVitConfig(folder);
  const opened = await openImages(options.data, "evaluate on");
  const { store } = opened;
  const { info } = store;
  checkChannels(path, stored, info);
  const split = requireSplit(store, options.split as "train" | "validation").name;
  const crop = options.crop ?? await cropOf(folder, adapter, info, output);
  const size = crop ?? sizeOf(info);
  const sized = makeVitConfig(stored, { image_size: size });
  for (const note of sizeNotes(path, stored, size)) output.err(`note: ${note}`);
  const normalization = await readNormalization(folder);
  using backend = await openDevice(options, output);
  using model = await openModel(backend, folder, { stored, sized, adapter, classes: info.classes, output });
  checkClasses(adapter ?? path, model.config, store.name, info.classes);
  const { batch, batches } = options;
  const images = imagesInOrder(opened, split, { ...normalization, batch, crop, tokens: tokensOf(sized) });
  const measures = measureImages(await judgeImages({ backend, ...model }, atMost(images, batches)), info.classes);
  if (options.json) {
    return output.out(JSON.stringify({ model: path, adapter, task: IMAGES, data: store.name, split, ...measures }));
  }
  for (const line of linesOf(measures, split)) output.out(line);
}

/** What is cut out of each image where no flag says it: as in training, of which the adapter knows more than its model. */
async function cropOf(
  model: FileFolder,
  adapter: string | undefined,
  info: ImageStoreInfo,
  output: Output,
): Promise<number | undefined> {
  const task = adapter === undefined ? model : new FileFolder(adapter);
  const folder = await task.has(PREPROCESSOR_FILE) ? task : model;
  const crop = await readCrop(folder, info);
  if (crop !== undefined) {
    output.err(
      `note: images are cut to ${crop} x ${crop} at their centre, as ${folder.name}/${PREPROCESSOR_FILE} says`,
    );
  }
  return crop;
}

/** The first so many; 0: all. */
async function* atMost<Batch>(batches: AsyncIterable<Batch>, most: number): AsyncGenerator<Batch, void> {
  let taken = 0;
  for await (const batch of batches) {
    yield batch;
    if (++taken === most) return;
  }
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
  readonly output: Pick<Output, "err">;
}

async function openModel(
  backend: Backend,
  folder: FileFolder,
  { stored, sized, adapter, classes, output }: Opening,
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
    const [{ labels }] = await adapterHeads([{ folder: adapter }]);
    if (labels === undefined) output.err(unlabelledNote(adapter, classes));
    const names = labels === undefined ? classes : [labels].flat();
    const config = isHeadFor(stored, names) ? stored : withVitLabels(stored, names);
    const head = config === stored ? "stored" : "new";
    const { params, drawn } = await loadVit(backend, folder, { config, imageSize, head, headSeed: 0 });
    const adapted = parts.use(await openAdapters(params, [{ folder: adapter }], { modelType: "vit", drawn }));
    return {
      view: adapted.view([0]),
      config: withVitLabels(sized, Object.values(config.id2label)),
      [Symbol.dispose]: dispose,
    };
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
