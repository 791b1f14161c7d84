/** `eval`: loss and perplexity of a model on data. */
import { openAdapted } from "./adapted.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { loadModel } from "./checkpoint.ts";
import { chooseTokenizer, openData } from "./data_source.ts";
import { openDevice } from "./device.ts";
import { evaluate, splitBatches } from "./evaluation.ts";
import { FileFolder } from "./files.ts";
import { evaluateOnChat } from "./eval_chat.ts";
import { evaluateMasked } from "./eval_masked.ts";
import { evaluateOnTask } from "./eval_task.ts";
import { ownTaskFlags, SFT } from "./finetune_options.ts";
import { dataFlags, deviceFlags } from "./flags.ts";
import { formatNumber, type Output } from "./log.ts";
import { checkVocabulary, isMaskedModel } from "./model_source.ts";
import { DEFAULTS } from "./options.ts";
import { findModel } from "./resume.ts";

/** The verb's flags. */
export const evalVerb = defineVerb({
  name: "eval",
  summary: "loss and perplexity of a model on held-out text, or the measures of a task",
  example: [
    "deno task eval --model runs/NAME --data corpus.txt --json",
    "deno task eval --model runs/roberta-base-sst2-lora --task sst2 --data glue",
    "deno task eval --model ./roberta-base --adapter ./lora-sst2 --task sst2 --data glue/SST-2/dev.tsv",
  ],
  flags: {
    model: { type: "string", required: true, value: "FOLDER", help: "a Hugging Face folder or a run folder" },
    ...dataFlags,
    seq: { type: "number", integer: true, min: 1, default: DEFAULTS.seq, help: "tokens to a sequence" },
    batch: { type: "number", integer: true, min: 1, default: DEFAULTS.batch, help: "sequences to a batch" },
    batches: { type: "number", integer: true, min: 0, default: 0, help: "most batches; 0: all" },
    split: { type: "string", choices: ["train", "validation"], default: "validation", help: "part of the data" },
    task: {
      type: "string",
      value: "NAME",
      help: "a task of GLUE, such as sst2, or own: for a RoBERTa; or sft: the answers of conversations",
    },
    ...ownTaskFlags,
    maxLength: { type: "number", integer: true, min: 5, help: "task: tokens of an example before it is cut" },
    adapter: { type: "string", value: "FOLDER", help: "an adapter in PEFT's files, on the model" },
    json: { type: "boolean", help: "print one JSON object" },
    ...deviceFlags,
  },
});

/** Runs the verb. */
export async function evaluateVerb(argv: readonly string[], output: Output): Promise<void> {
  const { options } = parseVerb(evalVerb, argv);
  const { task } = options;
  if (task === SFT) return await evaluateOnChat(options, output);
  if (task !== undefined) return await evaluateOnTask({ ...options, task }, output);
  const folder = await findModel(options.model);
  if (await isMaskedModel(folder)) return await evaluateMasked(folder, options, output);
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder });
  const data = await openData({ ...options, holdOut: options.holdOut ?? DEFAULTS.holdOut }, tokenizer);
  using backend = await openDevice(options, output);
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using model = await openAdapted(params, options.adapter, "llama");
  checkVocabulary(config.vocab_size, data.tokenizer, options.model);
  const rows = splitBatches(data.path, data.store.split(options.split).rows, options);
  const { loss, tokens } = await evaluate(backend, model.view, config, rows);
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
