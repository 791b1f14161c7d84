/** `eval`: loss and perplexity of a model on data. */
import { defineVerb, parseVerb } from "./arguments.ts";
import { loadModel } from "./checkpoint.ts";
import { chooseTokenizer, openData } from "./data_source.ts";
import { openDevice } from "./device.ts";
import { evaluate, splitBatches } from "./evaluation.ts";
import { FileFolder } from "./files.ts";
import { dataFlags, deviceFlags } from "./flags.ts";
import { formatNumber, type Output } from "./log.ts";
import { checkVocabulary } from "./model_source.ts";
import { DEFAULTS } from "./options.ts";
import { findModel } from "./resume.ts";

/** The verb's flags. */
export const evalVerb = defineVerb({
  name: "eval",
  summary: "loss and perplexity of a model on held-out text",
  example: "deno task eval --model runs/NAME --data corpus.txt --json",
  flags: {
    model: { type: "string", required: true, value: "FOLDER", help: "a Hugging Face folder or a run folder" },
    ...dataFlags,
    seq: { type: "number", integer: true, min: 1, default: DEFAULTS.seq, help: "tokens to a sequence" },
    batch: { type: "number", integer: true, min: 1, default: DEFAULTS.batch, help: "sequences to a batch" },
    batches: { type: "number", integer: true, min: 0, default: 0, help: "most batches; 0: all" },
    split: { type: "string", choices: ["train", "validation"], default: "validation", help: "part of the data" },
    json: { type: "boolean", help: "print one JSON object" },
    ...deviceFlags,
  },
});

/** Runs the verb. */
export async function evaluateVerb(argv: readonly string[], output: Output): Promise<void> {
  const { options } = parseVerb(evalVerb, argv);
  const folder = await findModel(options.model);
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder });
  const data = await openData({ ...options, holdOut: options.holdOut ?? DEFAULTS.holdOut }, tokenizer);
  using backend = await openDevice(options, output);
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using _ = params;
  checkVocabulary(config.vocab_size, data.tokenizer, options.model);
  const rows = splitBatches(data.path, data.store.split(options.split).rows, options);
  const { loss, tokens } = await evaluate(backend, params, config, rows);
  const perplexity = Math.exp(loss);
  if (options.json) output.out(JSON.stringify({ model: folder, split: options.split, loss, perplexity, tokens }));
  else {
    const unit = data.tokenizer.name === "byte" ? "nats a byte" : "nats a token";
    output.out(
      `loss ${loss.toFixed(4)} ${unit}, perplexity ${formatNumber(perplexity)}, over ${
        tokens.toLocaleString("en-US")
      } tokens`,
    );
  }
}
