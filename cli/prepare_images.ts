/** The images' half of `prepare`: its flags, and from them to a store. */
import { type ImageStoreInfo, prepareImages } from "../data/mod.ts";
import { type Flags, type Options, UsageError } from "./arguments.ts";
import { namesIn } from "./durable.ts";
import type { Output } from "./log.ts";
import { PhaseProgress } from "./phase_progress.ts";

const group = "Images";

/** Flags that need `--images`. */
export const imageFlags = {
  images: {
    type: "string",
    value: "FOLDER|IDX",
    help: "a folder with a sub-folder a class (PNG, JPEG, WebP), or a file of IDX images",
    group,
  },
  labels: { type: "string", value: "IDX", help: "labels of IDX images", group },
  size: {
    type: "string",
    value: "N|HxW",
    help: "height and width in pixels; resized with a filter against aliasing",
    defaultHelp: "that of IDX images",
    group,
  },
  keepAspect: {
    type: "string",
    choices: ["crop", "pad"],
    help: "cut, or surround with black, what has another shape",
    defaultHelp: "stretch it",
    group,
  },
  channels: {
    type: "string",
    choices: ["1", "3"],
    help: "1 stores grey, 3 colour",
    defaultHelp: "1 of IDX images, 3 of folders",
    group,
  },
  skipBroken: { type: "boolean", help: "leave out images that cannot be read, and count them", group },
  classes: {
    type: "strings",
    value: "A,B,...",
    help: "take these classes only, labelled in this order; give it again for each name with a comma",
    group,
  },
  perClass: {
    type: "number",
    integer: true,
    min: 1,
    help: "images of each class to train on",
    defaultHelp: "all that are not held out",
    group,
  },
  holdOutRest: { type: "boolean", help: "hold out all images that --per-class leaves", group },
  validationImages: { type: "string", value: "FOLDER|IDX", help: "other images to evaluate on, not held out", group },
  validationLabels: { type: "string", value: "IDX", help: "their labels, when they are IDX", group },
  validationPerClass: {
    type: "number",
    integer: true,
    min: 1,
    help: "most images of each class to evaluate on",
    defaultHelp: "no limit",
    group,
  },
  seed: { type: "number", integer: true, min: 0, default: 0, help: "draws the images and their order", group },
} as const satisfies Flags;

/** What the flags said. */
export interface PrepareImagesFlags extends Options<typeof imageFlags> {
  readonly images: string;
  readonly out: string;
  readonly holdOut: number;
}

/** Makes an image store. */
export async function prepareImageStore(
  options: PrepareImagesFlags,
  given: ReadonlySet<string>,
  { output, signal }: { readonly output: Output; readonly signal: AbortSignal },
): Promise<void> {
  checkFlags(options, given);
  const { out, perClass, skipBroken, seed, validationPerClass, keepAspect, channels, holdOutRest } = options;
  const classes = await parseClasses(options.classes, options.images);
  using bar = new PhaseProgress(output);
  const { validationImages } = options;
  try {
    const info = await prepareImages({
      inputs: { images: options.images, labels: options.labels },
      validation: validationImages === undefined
        ? undefined
        : { images: validationImages, labels: options.validationLabels },
      ...{ out, perClass, skipBroken, seed, validationPerClass },
      classes: classes.length === 0 ? undefined : classes,
      size: parseSize(options.size),
      fit: keepAspect as "crop" | "pad" | undefined,
      channels: channels === undefined ? undefined : Number(channels) as 1 | 3,
      holdOut: holdOutRest ? "rest" : options.holdOut,
      onProgress: ({ done, total }) => bar.update("images", done, total),
      signal,
    });
    output.out(`${out}: ${describe(info)}`);
  } catch (error) {
    throw withHint(error);
  }
}

/** Flags that need another, or say the same thing twice. */
function checkFlags(
  { perClass, holdOutRest, validationImages, validationLabels }: PrepareImagesFlags,
  given: ReadonlySet<string>,
): void {
  if (holdOutRest && perClass === undefined) {
    throw new UsageError("Cannot use --hold-out-rest in prepare: it needs --per-class, which leaves a rest");
  }
  if (validationLabels !== undefined && validationImages === undefined) {
    throw new UsageError("Cannot use --validation-labels in prepare: it needs --validation-images");
  }
  const chosen = [
    ["--hold-out", given.has("holdOut")],
    ["--hold-out-rest", holdOutRest],
    ["--validation-images", validationImages !== undefined],
  ].filter(([, isGiven]) => isGiven);
  if (chosen.length < 2) return;
  throw new UsageError(
    `Cannot use ${chosen[0][0]} in prepare: what is held out must be said once, got ${chosen[1][0]} as well`,
  );
}

/** A value is a class where the images have one of just that name, with its commas; else names between commas. */
async function parseClasses(values: readonly string[], images: string): Promise<string[]> {
  const known: readonly string[] = await namesIn(images).catch(() => []); // what is wrong there is told when images are listed
  return values.flatMap((value) => known.includes(value) ? [value] : value.split(",").map((name) => name.trim()));
}

function parseSize(text: string | undefined): { height: number; width: number } | undefined {
  if (text === undefined) return undefined;
  const [, height, width = height] = /^([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?$/i.exec(text) ?? [];
  if (height !== undefined) return { height: Number(height), width: Number(width) };
  throw new UsageError(
    `Cannot use --size in prepare: expected pixels, such as 28 or 224x192 (height x width), got ${
      JSON.stringify(text)
    }`,
  );
}

function describe({ splits, height, width, channels, classes, skipped }: ImageStoreInfo): string {
  const many = (count = 0): string => count.toLocaleString("en-US");
  const kind = channels === 1 ? "grey" : "colour";
  const left = skipped > 0 ? `, ${many(skipped)} that could not be read left out` : "";
  return `${
    many(splits.train?.rows)
  } ${kind} images of ${height} x ${width} in ${classes.length} classes to train on, ` +
    `${many(splits.validation?.rows)} held out${left}`;
}

/** Data knows no flags: which one helps is said here. */
function withHint(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const hint = /^Cannot read image "/.test(error.message)
    ? "--skip-broken leaves such images out"
    : /so size must be given$/.test(error.message)
    ? "use --size"
    : /IDX images need labels$/.test(error.message)
    ? "use --labels"
    : /is not among those to train on$/.test(error.message)
    ? "--classes says which to take"
    : undefined;
  if (hint !== undefined) error.message += `; ${hint}`;
  return error;
}
