/** `prepare`: text files to a token store, or images to an image store. */
import { loadTokenizer, prepareStore } from "../data/mod.ts";
import { defineVerb, type Flags, type Options, parseVerb, UsageError } from "./arguments.ts";
import { DEFAULTS } from "./options.ts";
import type { Output } from "./log.ts";
import { PhaseProgress } from "./phase_progress.ts";
import { imageFlags, prepareImageStore } from "./prepare_images.ts";
import { untilStopped } from "./signals.ts";
import { kebab } from "./verbs.ts";

const textFlags = {
  input: { type: "strings", value: "FILE", help: "text to tokenise (.txt, .jsonl, .jsonl.gz)", group: "Text" },
  tokenizer: {
    type: "string",
    default: "byte",
    value: "byte|masked-byte|FOLDER",
    help: "how text becomes tokens",
    group: "Text",
  },
  seq: { type: "number", integer: true, min: 1, default: DEFAULTS.seq, help: "tokens to a sequence", group: "Text" },
} as const satisfies Flags;

/** The verb's flags. */
export const prepareVerb = defineVerb({
  name: "prepare",
  summary: "turns text, or images, into a sharded Zarr v3 store",
  example: [
    "deno task prepare --input corpus.jsonl.gz --tokenizer ./gpt2 --seq 256 --out corpus.zarr",
    "deno task prepare --images photos --size 224 --keep-aspect crop --out photos.zarr",
    "deno task prepare --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz --out mnist.zarr",
  ],
  flags: {
    out: { type: "string", required: true, value: "FOLDER", help: "the store to make" },
    holdOut: {
      type: "number",
      min: 0,
      max: 0.5,
      default: DEFAULTS.holdOut,
      help: "part to evaluate on: the end of the text, or some images of each class",
    },
    ...textFlags,
    ...imageFlags,
  },
});

/** Runs the verb. */
export async function prepare(argv: readonly string[], output: Output): Promise<void> {
  const { options, given } = parseVerb(prepareVerb, argv);
  const isImages = options.images !== undefined;
  if (!isImages && options.input.length === 0) {
    throw new UsageError("Cannot prepare without --input or --images: give text to tokenise, or images");
  }
  const stray = Object.keys(isImages ? textFlags : imageFlags).find((key) => given.has(key as keyof typeof options));
  if (stray !== undefined) {
    const [what, other] = isImages ? ["text", "--images"] : ["images", "--input"];
    throw new UsageError(`Cannot use --${kebab(stray)} in prepare: it is for ${what}, got it with ${other}`);
  }
  const work = async (signal: AbortSignal) => {
    if (isImages) await prepareImageStore({ ...options, images: options.images! }, given, { output, signal });
    else await prepareText(options, { output, signal });
  };
  const onStop = (signal: Deno.Signal) => output.err(`${signal}: removing what was written; once more to stop at once`);
  await untilStopped(`prepare ${options.out}`, work, { onStop });
}

async function prepareText(
  options: Options<typeof prepareVerb.flags>,
  { output, signal }: { readonly output: Output; readonly signal: AbortSignal },
): Promise<void> {
  const tokenizer = await loadTokenizer(options.tokenizer);
  using bar = new PhaseProgress(output);
  const info = await prepareStore({
    inputs: options.input,
    tokenizer,
    seq: options.seq,
    out: options.out,
    holdOut: options.holdOut,
    onProgress: ({ phase, done, total }) => bar.update(phase, done, total),
    signal,
  });
  const rows = (split: "train" | "validation") => (info.splits[split]?.rows ?? 0).toLocaleString("en-US");
  output.out(
    `${options.out}: ${info.tokens.toLocaleString("en-US")} tokens, ${
      rows("train")
    } sequences of ${info.seq} to train on, ` +
      `${rows("validation")} held out`,
  );
}
