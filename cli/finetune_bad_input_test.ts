/** Bad input to `finetune`: one clear line, and nothing written. */
import { loopsBackend } from "../backends/cpu/mod.ts";
import { Params } from "../core/mod.ts";
import { initLora, initRoberta, type LoraConfig, savePeft } from "../models/mod.ts";
import { writeFolderDurably } from "./durable.ts";
import { editJson, testBadInputs } from "./testing/bad_input.ts";
import { tinyRobertaConfig, writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");

/** A command line for the toy task with more flags, into the folder `run`. */
function finetune(...flags: readonly string[]): string[] {
  return ["finetune", "--model", "base", "--task", "sst2", "--data", "task", "--out", "run", ...DEVICE, ...flags];
}

async function makeToy(): Promise<void> {
  await writeTinyRoberta("base");
  await writeToyTask("task");
}

/** The toy task with other training lines. */
async function makeLines(header: string, ...lines: readonly string[]): Promise<void> {
  await makeToy();
  await Deno.writeTextFile("task/train.tsv", [header, ...lines].join("\n") + "\n");
}

/** An adapter on `query` and `value` in `adapter`, under other names or with another first number. */
async function makeAdapter(rename: (name: string) => string, first?: number): Promise<void> {
  await makeToy();
  const config = tinyRobertaConfig();
  using base = initRoberta(loopsBackend(), config, { seed: 1, head: "classification" });
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["query", "value"], modulesToSave: ["classifier"] };
  using drawn = initLora(base, lora, { seed: 1 });
  using adapter = new Params(base.backend);
  for (const [name, tensor] of drawn.entries()) adapter.set(rename(name), tensor.retained());
  if (first !== undefined) {
    const [name] = adapter.names();
    adapter.get(name).write((await adapter.get(name).read()).map((value, i) => i === 0 ? first : Number(value)));
  }
  await writeFolderDurably(
    ".",
    "adapter",
    (writer) => savePeft(writer, adapter, { lora, taskType: "SEQ_CLS" }, base.entries()),
  );
}

testBadInputs([
  {
    when: "there is no such task",
    make: makeToy,
    argv: finetune("--task", "sst3"),
    message: /^Cannot find the task "sst3": expected one of cola, sst2, /,
  },
  {
    when: "fine-tuning gets no model",
    argv: ["finetune", "--task", "sst2", "--data", "task"],
    message: /^Cannot fine-tune without a model: give --model FOLDER$/,
  },
  {
    when: "the model to fine-tune is not there",
    make: makeToy,
    argv: finetune("--model", "nowhere"),
    message: /^Cannot fine-tune nowhere: there is no such folder$/,
  },
  {
    when: "the model to fine-tune is a LLaMA",
    make: makeToy,
    argv: finetune("--model", "tiny"),
    message: /^Cannot load config\.json: expected model_type "roberta", got "llama"$/,
  },
  {
    when: "fine-tuning gets no data",
    make: makeToy,
    argv: ["finetune", "--model", "base", "--task", "sst2", ...DEVICE],
    message: /^Cannot fine-tune without data: give --data FOLDER, or --data FILE$/,
  },
  {
    when: "a label is outside the task's set",
    make: () => makeLines("sentence\tlabel", " fine\t1", " dull\t2"),
    argv: finetune(),
    message:
      /^Cannot read "task\/train\.tsv": line 3: the label must be one of 0 \(negative\), 1 \(positive\): got "2"$/,
  },
  {
    when: "the column of sentences is missing",
    make: () => makeLines("words\tlabel", " fine\t1", " dull\t0"),
    argv: finetune(),
    message: /^Cannot read "task\/train\.tsv" for sst2: it needs a column "sentence" or "text": its columns are /,
  },
  {
    when: "a task over pairs is given single sentences",
    make: makeToy,
    argv: finetune("--task", "rte"),
    message: /^Cannot read "task\/train\.tsv" for rte: it takes pairs, .*: got single sentences/,
  },
  {
    when: "a class has no example",
    make: () => makeLines("sentence\tlabel", " fine\t1", " warm\t1"),
    argv: finetune(),
    message: /^Cannot train on "task" for sst2: every class needs an example: "negative" has none among 2 examples$/,
  },
  {
    when: "sequences may be longer than the model's positions",
    make: makeToy,
    argv: finetune("--max-length", "64"),
    message: /^Cannot encode sequences of 64 tokens: the model has positions for 32$/,
  },
  {
    when: "a LoRA target is no module of the model",
    make: makeToy,
    argv: finetune("--method", "lora", "--targets", "q_proj"),
    message: /^Cannot fit the adapter to the model: every named module must be there: got "q_proj", the model has /,
  },
  {
    when: "an expression for LoRA targets cannot be read",
    make: makeToy,
    argv: finetune("--method", "lora", "--targets", "/(query/"),
    message: /^Cannot use --targets \/\(query\/: it must be an expression: Invalid regular expression: .*$/,
  },
  {
    when: "an expression for LoRA targets stands beside a name",
    make: makeToy,
    argv: finetune("--method", "lora", "--targets", "/.*query/", "--targets", "key"),
    message: /^Cannot use --targets \/\.\*query\/: an expression must be alone: got 2 targets$/,
  },
  {
    when: "an expression for LoRA targets matches no whole name",
    make: makeToy,
    argv: finetune("--method", "lora", "--targets", "/query/"),
    message: /^Cannot fit the adapter to the model: targets must match a module: got "\/query\/u", the model has /,
  },
  {
    when: "GaLore is asked of an optimizer that does not project",
    make: makeToy,
    argv: finetune("--method", "galore", "--optimizer", "adamw"),
    message: /^Cannot fine-tune with --method galore: its optimizer must be one that projects, .*: got adamw$/,
  },
  {
    when: "the head that is there has another number of labels than its configuration",
    make: async () => {
      await makeToy();
      await writeTinyRoberta("base", { head: "classification", config: tinyRobertaConfig({ num_labels: 3 }) });
      await editJson("base/config.json", (json) => json.id2label = { 0: "no", 1: "yes" });
    },
    argv: finetune(),
    message: /^Cannot load "classifier\.out_proj\.(weight|bias)": expected .*\[2.* got .*\[3/,
  },
  {
    when: "a weight of the encoder is missing",
    make: async () => {
      await makeToy();
      await editJson("base/config.json", (json) => json.num_hidden_layers = 3);
    },
    argv: finetune(),
    message: /^Cannot load weights of base: expected \d+ tensors: got 16 missing /,
  },
  {
    when: "a task of one's own names no columns",
    make: makeToy,
    argv: finetune("--task", "own"),
    message: /^Cannot fine-tune on a task of your own: give --sentence COLUMN and --label COLUMN$/,
  },
  {
    when: "the GLUE recipe is asked for a rank that the paper has not",
    make: makeToy,
    argv: finetune("--config", new URL("recipes/glue.ts", import.meta.url).href, "--rank", "5"),
    message: /^Cannot use the paper's GLUE recipe: it has rank 4 and 8 for .*: got rank 5 for "sst2"$/,
  },
  ...[
    ["full --rank 77", "--rank", /galore, lowrank, lora, dora, relora, flora, deep-lora, an optimizer that projects/],
    ["full --targets query", "--targets", /lora, dora, relora, flora, deep-lora/],
    ["full --lora-dropout .5", "--lora-dropout", /lora, dora, relora, flora, deep-lora/],
    ["full --modules-to-save x", "--modules-to-save", /lora, dora, relora, flora, deep-lora/],
    ["flora --alpha 3", "--alpha", /lora, dora, relora/],
    ["lora --prompts 4", "--prompts", /vpt-shallow, vpt-deep/],
    ["lora --relora-every 3", "--relora-every", /relora/],
    ["linear --rank 4", "--rank", /galore, .*/],
    ["lora --deep-compress", "--deep-compress", /deep-lora/],
  ].map(([flags, flag, uses]) => ({
    when: `fine-tuning is told ${flags}`,
    argv: finetune("--method", ...`${flags}`.split(" ")),
    message: new RegExp(
      `^Cannot use ${flag} with --method ${`${flags}`.split(" ")[0]}: it is for ${(uses as RegExp).source}$`,
    ),
  })),
  ...["--sentence foo", "--label bar", "--labels x"].map((flags) => ({
    when: `a task of GLUE is told ${flags}`,
    argv: finetune(...flags.split(" ")),
    message: new RegExp(`^Cannot use ${flags.split(" ")[0]} with --task sst2: it is for --task own$`),
  })),
  {
    when: "the run to go on with trains from scratch",
    make: async () => {
      await Deno.mkdir("other");
      await Deno.writeTextFile("other/config.json", JSON.stringify({ run: { model: "tiny" } }));
      await Deno.writeTextFile("other/.lock", "");
    },
    argv: ["finetune", "--resume", "other"],
    message: /^Cannot resume other: it is no fine-tuning run; deno task train --resume goes on with it$/,
  },
  {
    when: "the model to evaluate has another number of labels than the task",
    make: async () => {
      await makeToy();
      await writeTinyRoberta("base", { head: "classification" });
      await Deno.writeTextFile("task/dev.tsv", "premise\thypothesis\tlabel\n fine\t warm\tneutral\n");
    },
    argv: ["eval", "--model", "base", "--task", "mnli", "--data", "task/dev.tsv", ...DEVICE],
    message: /^Cannot evaluate base on mnli: the task has 3 labels, the model 2$/,
  },
  {
    when: "an adapter to evaluate is for another model",
    make: () => makeAdapter((name) => name.replace("layer.1.", "layer.7.")),
    argv: ["eval", "--model", "base", "--adapter", "adapter", "--task", "sst2", "--data", "task", ...DEVICE],
    message: /^Cannot load weights of adapter adapter: expected \d+ tensors: got 4 missing .* and 4 extra /,
  },
  {
    when: "an adapter to evaluate holds a NaN",
    make: () => makeAdapter((name) => name, NaN),
    argv: ["eval", "--model", "base", "--adapter", "adapter", "--task", "sst2", "--data", "task", ...DEVICE],
    message: /^Cannot load ".*lora_A\.weight": every number must be finite: got NaN at 0$/,
  },
]);
