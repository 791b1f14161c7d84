/** Bad input to `eval --group`: one clear line each, and nothing written. */
import { testBadInputs } from "./testing/bad_input.ts";
import { addNoise, tinyProbes, tinyShiftConfig, writeProbes, writeShifted } from "./testing/tiny_shift.ts";
import { writeTinyRoberta } from "./testing/tiny_roberta.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");

/** A command line over the toy probes with more flags; those given here win. */
function compare(...flags: readonly string[]): string[] {
  const usual = "--group group --base base --reference full --candidate half=full --data probes.jsonl --out told";
  return ["eval", ...usual.split(" "), ...DEVICE, ...flags];
}

/** The toy models with other records. */
function make(records: readonly unknown[] = tinyProbes()): () => Promise<void> {
  return async () => {
    await writeShifted("base");
    await writeShifted("full", (params) => addNoise(params, 0.05));
    await writeProbes("probes.jsonl", records);
  };
}

const [FIRST, ...OTHERS] = tinyProbes();

testBadInputs([
  {
    when: "the group column is missing",
    make: make(),
    argv: compare("--group", "race"),
    message:
      /^Cannot read "probes\.jsonl": it has no group column "race": its columns are "prompt", "completion", "bad", "group"$/,
  },
  {
    when: "the group column is constant",
    make: make(tinyProbes({ a: 40 })),
    argv: compare(),
    message: /^Cannot compare groups of "probes\.jsonl": "group" must have two values or more: got "a" on every line$/,
  },
  {
    when: "a probe names no group",
    make: make([FIRST, { ...OTHERS[0], group: " " }, OTHERS[1]]),
    argv: compare(),
    message: /^Cannot read "probes\.jsonl": line 2 names no group: it has no "group"$/,
  },
  {
    when: "the file of completions is empty",
    make: async () => {
      await make()();
      await Deno.writeTextFile("probes.jsonl", "\n\n");
    },
    argv: compare(),
    message: /^Cannot read "probes\.jsonl": the file is empty$/,
  },
  {
    when: "a completion is empty",
    make: make([FIRST, ...OTHERS.slice(0, 50), { ...OTHERS[50], completion: "  " }]),
    argv: compare(),
    message: /^Cannot read "probes\.jsonl": line 52 must have a "completion" that is text: got " {2}"$/,
  },
  {
    when: "an unwanted completion is missing on a line",
    make: make([FIRST, { ...OTHERS[60], bad: undefined }]),
    argv: compare(),
    message: /^Cannot read "probes\.jsonl": line 2 must have a "bad" that is text: got none$/,
  },
  {
    when: "the wanted completion is the unwanted one",
    make: make([FIRST, { ...OTHERS[60], bad: OTHERS[60].completion }]),
    argv: compare(),
    message: /^Cannot read "probes\.jsonl": line 2 has one text as "completion" and as "bad"$/,
  },
  {
    when: "a probe is longer than the model's positions",
    make: make([{ ...FIRST, prompt: "why ".repeat(40) }, ...OTHERS]),
    argv: compare(),
    message: /^Cannot use "probes\.jsonl": line 1 has \d+ tokens, and the model has positions for 96$/,
  },
  {
    when: "a candidate is not there",
    make: make(),
    argv: compare("--candidate", "lora=runs/lora"),
    message: /^Cannot compare lora: there is no folder runs\/lora$/,
  },
  {
    when: "a candidate has no name",
    make: make(),
    argv: compare("--candidate", "full"),
    code: 2,
    message: /^Cannot use --candidate in eval: expected NAME=FOLDER, got "full"$/,
  },
  {
    when: "two candidates have one name",
    make: make(),
    argv: compare("--candidate", "half=base"),
    code: 2,
    message: /^Cannot use --candidate in eval: expected names of their own, got "half" again$/,
  },
  {
    when: "there is nothing to judge",
    make: make(),
    argv: ["eval", "--group", "group", "--base", "base", "--reference", "full", "--data", "probes.jsonl", ...DEVICE],
    code: 2,
    message: /^Cannot eval by groups without --candidate NAME=FOLDER$/,
  },
  {
    when: "models are to be compared without a group column",
    make: make(),
    argv: ["eval", "--base", "base", "--reference", "full", "--candidate", "half=full", ...DEVICE],
    code: 2,
    message: /^Cannot eval without --group: /,
  },
  {
    when: "a candidate is another model",
    make: async () => {
      await make()();
      await writeShifted("wide", () => {}, tinyShiftConfig({ intermediate_size: 64 }));
    },
    argv: compare("--candidate", "wide=wide"),
    message: /^Cannot compare wide with the base: they must be of one model: intermediate_size is 64, the base's 48$/,
  },
  {
    when: "a candidate says what is no number",
    make: async () => {
      await make()();
      await writeShifted("broken", (params) => {
        const norm = params.get("model.norm.weight");
        norm.write(new Float32Array(norm.size).fill(NaN));
      });
    },
    argv: compare("--candidate", "broken=broken"),
    message: /^Cannot compare broken: its scores must be finite, and some are not$/,
  },
  {
    when: "there are several files of probes",
    make: make(),
    argv: compare("--data", "corpus.txt"),
    message: /^Cannot compare groups on 2 files: give --data FILE, one of \.tsv, /,
  },
  {
    when: "a LLaMA is compared on a task of sentences",
    make: make(),
    argv: compare("--task", "sst2"),
    message: /^Cannot compare LLaMAs on the task sst2: they have completions, --task sft$/,
  },
  {
    when: "RoBERTas are compared without a task",
    make: async () => {
      await make()();
      await writeTinyRoberta("roberta", { head: "classification" });
    },
    argv: compare("--base", "roberta", "--reference", "roberta"),
    message: /^Cannot compare RoBERTas without a task: give --task own --sentence COLUMN --label COLUMN$/,
  },
  {
    when: "the positive class is none of the task's",
    make: async () => {
      await make()();
      await writeTinyRoberta("roberta", { head: "classification" });
      await writeProbes("rows.jsonl", ["a", "b"].map((group, i) => ({ text: "the film", label: `LABEL_${i}`, group })));
    },
    argv: [
      ...compare("--base", "roberta", "--reference", "roberta", "--positive", "up"),
      ..."--task own --sentence text --label label".split(" "),
    ].map((word) => word === "probes.jsonl" ? "rows.jsonl" : word),
    message: /^Cannot use --positive up: the classes are LABEL_0, LABEL_1$/,
  },
]);
