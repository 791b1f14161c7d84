/** `eval`: loss and perplexity of a model on data. */
import { onlyAdapter, openAdapted, parseAdapters } from "./adapted.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { loadModel } from "./checkpoint.ts";
import { chooseTokenizer, openData } from "./data_source.ts";
import { openDevice } from "./device.ts";
import { evaluate, splitBatches } from "./evaluation.ts";
import { FileFolder } from "./files.ts";
import { evaluateOnChat } from "./eval_chat.ts";
import { evaluateOnImages } from "./eval_images.ts";
import { evaluateMasked } from "./eval_masked.ts";
import { evaluateOnTask } from "./eval_task.ts";
import { OWN_TASK } from "./finetune_data.ts";
import { ownTaskFlags, SFT } from "./finetune_options.ts";
import { checkUses } from "./flag_uses.ts";
import { dataFlags, deviceFlags } from "./flags.ts";
import { formatNumber, type Output } from "./log.ts";
import { checkVocabulary, isMaskedModel } from "./model_source.ts";
import { DEFAULTS } from "./options.ts";
import { findModel } from "./resume.ts";
import { evaluateShift } from "./shift.ts";
import { isShift, shiftFlags } from "./shift_options.ts";
import { imageFlags, IMAGES } from "./vision_options.ts";

/** The verb's flags. */
export const evalVerb = defineVerb({
  name: "eval",
  summary: "loss and perplexity of a model on held-out text, or the measures of a task",
  example: [
    "deno task eval --model runs/NAME --data corpus.txt --json",
    "deno task eval --model runs/roberta-base-sst2-lora --task sst2 --data glue",
    "deno task eval --model ./roberta-base --adapter ./lora-sst2 --task sst2 --data glue/SST-2/dev.tsv",
    "deno task eval --model ./llama --adapter law=./lora-law --adapter code=./lora-code --task sft --data mixed.jsonl",
    "deno task eval --model ./vit --adapter runs/NAME/best-adapter --task images --data flowers.zarr",
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
      help:
        "a task of GLUE, such as sst2, or own: for a RoBERTa; sft: the answers of conversations; or images: for a ViT",
    },
    crop: imageFlags.crop,
    ...ownTaskFlags,
    maxLength: { type: "number", integer: true, min: 5, help: "task: tokens of an example before it is cut" },
    adapter: {
      type: "strings",
      value: "[NAME=]FOLDER",
      help: "an adapter in PEFT's files, on the model; by name, for the examples of a task that name it",
    },
    adapterColumn: {
      type: "string",
      value: "COLUMN",
      help: "task: the column that names each example's adapter, empty or null for none",
      defaultHelp: "adapter",
    },
    json: { type: "boolean", help: "print one JSON object" },
    ...shiftFlags,
    ...deviceFlags,
  },
});

const TEXT = "text";
const OWN = `--task ${OWN_TASK}`;
const GLUE = "tasks of GLUE";
const CHAT = `--task ${SFT}`;
const PICTURES = `--task ${IMAGES}`;

/** What flags are for, where it is not every evaluation. */
const USES: Readonly<Partial<Record<keyof typeof evalVerb.flags, readonly string[]>>> = {
  ...{ tokenizer: [TEXT, CHAT], holdOut: [TEXT], seq: [TEXT], split: [TEXT, PICTURES], batches: [TEXT, PICTURES] },
  ...{ sentence: [OWN], sentence2: [OWN], label: [OWN], labels: [OWN], maxLength: [OWN, GLUE] },
  ...{ crop: [PICTURES], adapterColumn: [OWN, GLUE, CHAT] },
};

function kindOf(task: string | undefined): string {
  if (task === undefined) return TEXT;
  return [OWN_TASK, SFT, IMAGES].includes(task) ? `--task ${task}` : GLUE;
}

/** Runs the verb. */
export async function evaluateVerb(argv: readonly string[], output: Output): Promise<void> {
  if (isShift(argv)) return await evaluateShift(argv, output);
  const { options, given } = parseVerb(evalVerb, argv);
  const { task } = options;
  const kind = kindOf(task);
  checkUses(given, USES, (use) => use === kind, task === undefined ? "without --task" : `with --task ${task}`);
  if (task === IMAGES) return await evaluateOnImages(options, output);
  if (task === SFT) return await evaluateOnChat(options, output);
  if (task !== undefined) return await evaluateOnTask({ ...options, task }, output);
  const adapter = onlyAdapter(parseAdapters(options.adapter), "text names none: give --task");
  const folder = await findModel(options.model);
  if (await isMaskedModel(folder)) {
    if (adapter !== undefined) throw new RangeError("Cannot evaluate an adapter of a RoBERTa on text: give --task");
    return await evaluateMasked(folder, options, output);
  }
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder });
  const data = await openData({ ...options, holdOut: options.holdOut ?? DEFAULTS.holdOut }, tokenizer);
  using backend = await openDevice(options, output);
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using model = await openAdapted(params, adapter, "llama");
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
