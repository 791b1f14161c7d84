/** `prepare`: text files to a token store. */
import { loadTokenizer, prepareStore } from "../data/mod.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { DEFAULTS } from "./options.ts";
import type { Output } from "./log.ts";
import { PhaseProgress } from "./phase_progress.ts";

/** The verb's flags. */
export const prepareVerb = defineVerb({
  name: "prepare",
  summary: "turns text into a tokenised, sharded Zarr v3 store",
  example: "deno task prepare --input corpus.jsonl.gz --tokenizer ./gpt2 --seq 256 --out corpus.zarr",
  flags: {
    input: { type: "strings", required: true, value: "FILE", help: "text to tokenise (.txt, .jsonl, .jsonl.gz)" },
    tokenizer: { type: "string", default: "byte", value: "byte|masked-byte|FOLDER", help: "how text becomes tokens" },
    seq: { type: "number", integer: true, min: 1, default: DEFAULTS.seq, help: "tokens to a sequence" },
    out: { type: "string", required: true, value: "FOLDER", help: "the store to make" },
    holdOut: {
      type: "number",
      min: 0,
      max: 0.5,
      default: DEFAULTS.holdOut,
      help: "part of the text, at its end, to evaluate on",
    },
  },
});

/** Runs the verb. */
export async function prepare(argv: readonly string[], output: Output): Promise<void> {
  const { options } = parseVerb(prepareVerb, argv);
  const tokenizer = await loadTokenizer(options.tokenizer);
  using bar = new PhaseProgress(output);
  const info = await prepareStore({
    inputs: options.input,
    tokenizer,
    seq: options.seq,
    out: options.out,
    holdOut: options.holdOut,
    onProgress: ({ phase, done, total }) => bar.update(phase, done, total),
  });
  const rows = (split: "train" | "validation") => (info.splits[split]?.rows ?? 0).toLocaleString("en-US");
  output.out(
    `${options.out}: ${info.tokens.toLocaleString("en-US")} tokens, ${
      rows("train")
    } sequences of ${info.seq} to train on, ` +
      `${rows("validation")} held out`,
  );
}
