import assert from "node:assert/strict";
import { defineVerb, formatHelp, givenOptions, parseVerb, UsageError, wantsHelp } from "./arguments.ts";
import { findVerb, nearest, verbsHelp } from "./verbs.ts";

const TRAIN = defineVerb({
  name: "train",
  summary: "trains a model",
  example: "deno task train --data book.txt --steps 200",
  flags: {
    model: { type: "string", default: "llama-9m", value: "NAME", help: "A built-in name or a folder", group: "Model" },
    data: { type: "strings", value: "PATH", help: "Text files", group: "Model" },
    optimizer: { type: "string", choices: ["galore_adamw", "adamw"], default: "galore_adamw", help: "Which" },
    learningRate: { type: "number", above: 0, aliases: ["lr"], help: "Peak" },
    updateProjGap: { type: "number", integer: true, min: 1, default: 200, help: "Steps between bases" },
    holdOut: { type: "number", min: 0, max: 0.5, default: 0.05, help: "Held-out part" },
    memoryLimit: { type: "bytes", help: "Most bytes" },
    resume: { type: "string", bare: "latest", value: "RUN", help: "Go on with a run" },
    prompt: { type: "string", help: "Start of the sample" },
    overfitBatch: { type: "boolean", help: "One batch only" },
    save: { type: "boolean", default: true, help: "No checkpoints" },
  },
});

const parse = (...argv: string[]) => parseVerb(TRAIN, argv);

function refused(argv: string[], message: string) {
  assert.throws(() => parse(...argv), (error: Error) => {
    assert.ok(error instanceof UsageError);
    assert.equal(error.message, message);
    return true;
  });
}

Deno.test("parseVerb() gives defaults when nothing is given", () => {
  const { options, given, positional } = parse();
  assert.deepEqual({ ...options }, {
    model: "llama-9m",
    data: [],
    optimizer: "galore_adamw",
    learningRate: undefined,
    updateProjGap: 200,
    holdOut: 0.05,
    memoryLimit: undefined,
    resume: undefined,
    prompt: undefined,
    overfitBatch: false,
    save: true,
  });
  assert.equal(given.size, 0);
  assert.deepEqual(positional, []);
});

Deno.test("parseVerb() has types that follow from the declaration", () => {
  const { options } = parse("--optimizer", "adamw");
  const optimizer: "galore_adamw" | "adamw" = options.optimizer;
  const gap: number = options.updateProjGap;
  const rate: number | undefined = options.learningRate;
  const data: readonly string[] = options.data;
  // @ts-expect-error: no default, so that it may be undefined
  const _limit: number = options.memoryLimit;
  // @ts-expect-error: no such flag
  const _none = options.nothing;
  assert.deepEqual([optimizer, gap, rate, data], ["adamw", 200, undefined, []]);
});

Deno.test("parseVerb() reads kebab-case, underscores, aliases and = alike", () => {
  for (const argv of [["--update-proj-gap", "7"], ["--update_proj_gap=7"], ["--updateProjGap", "7"]]) {
    assert.equal(parse(...argv).options.updateProjGap, 7);
  }
  assert.equal(parse("--lr", "1e-2").options.learningRate, 0.01);
  assert.deepEqual([...parse("--lr=.5").given], ["learningRate"]);
});

Deno.test("parseVerb() keeps values as they were written", () => {
  assert.equal(parse("--prompt", "007").options.prompt, "007");
  assert.equal(parse("--prompt", "-5 degrees").options.prompt, "-5 degrees");
  assert.equal(parse("--prompt", "-- x").options.prompt, "-- x");
  assert.equal(parse("--prompt=--model").options.prompt, "--model");
  assert.equal(parse("--prompt=").options.prompt, "");
  assert.equal(parse("--prompt", "a=b\nc").options.prompt, "a=b\nc");
  assert.deepEqual(parse("--data", "a", "--data=b").options.data, ["a", "b"]);
});

Deno.test("parseVerb() takes the last value when a flag is repeated", () => {
  assert.equal(parse("--lr", "1", "--lr", "2").options.learningRate, 2);
});

Deno.test.each([["8GB", 8e9], ["512MiB", 512 * 2 ** 20], ["1.5k", 1500], ["100", 100], ["2 gib", 2 ** 31]] as const)(
  "parseVerb() reads %s as a size",
  (text, bytes) => assert.equal(parse("--memory-limit", text).options.memoryLimit, bytes),
);

Deno.test("parseVerb() lets a bare flag stand alone", () => {
  assert.equal(parse("--resume").options.resume, "latest");
  assert.equal(parse("--resume", "--lr", "1").options.resume, "latest");
  assert.equal(parse("--resume", "runs/x").options.resume, "runs/x");
});

Deno.test("parseVerb() switches booleans on and off", () => {
  assert.equal(parse("--overfit-batch").options.overfitBatch, true);
  assert.equal(parse("--no-save").options.save, false);
  assert.equal(parse("--save=false").options.save, false);
});

Deno.test("parseVerb() refuses with one line when a word is wrong", () => {
  refused(
    ["--lerning-rate", "1"],
    "Cannot use --lerning-rate in train: no such flag; did you mean --learning-rate?",
  );
  refused(["--zzzzzz"], "Cannot use --zzzzzz in train: no such flag; see train --help");
  refused(["-x"], "Cannot use -x in train: no such flag; see train --help");
  refused(["--no-prompt"], "Cannot use --no-prompt in train: no such flag; did you mean --prompt?");
  refused(["--lr", "abc"], 'Cannot use --lr in train: expected a number above 0, got "abc"');
  refused(["--lr", "0"], 'Cannot use --lr in train: expected a number above 0, got "0"');
  refused(["--lr", "0x10"], 'Cannot use --lr in train: expected a number above 0, got "0x10"');
  refused(["--lr", "1e999"], 'Cannot use --lr in train: expected a number above 0, got "1e999"');
  refused(["--lr", "NaN"], 'Cannot use --lr in train: expected a number above 0, got "NaN"');
  refused(["--lr"], "Cannot use --lr in train: expected a number above 0, got nothing");
  refused(["--lr="], "Cannot use --lr in train: expected a number above 0, got nothing");
  refused(
    ["--update-proj-gap", "1.5"],
    'Cannot use --update-proj-gap in train: expected a whole number of at least 1, got "1.5"',
  );
  refused(["--hold-out", "0.6"], 'Cannot use --hold-out in train: expected a number from 0 to 0.5, got "0.6"');
  refused(
    ["--optimizer", "galore_adam"],
    'Cannot use --optimizer in train: expected one of galore_adamw, adamw, got "galore_adam"; ' +
      "did you mean galore_adamw?",
  );
  refused(
    ["--memory-limit", "8XB"],
    'Cannot use --memory-limit in train: expected a size such as 8GB or 512MiB, got "8XB"',
  );
  refused(
    ["--prompt", "--steps"],
    "Cannot use --prompt in train: it needs a value, got --steps; " +
      "for a value that begins with --, write --prompt=--steps",
  );
  refused(["--overfit-batch=3"], 'Cannot use --overfit-batch in train: expected no value, it is on or off, got "3"');
  refused(["book.txt"], 'Cannot use "book.txt" in train: one word too many; it takes flags only');
});

Deno.test("parseVerb() never takes an inherited property for a flag", () => {
  for (const name of ["constructor", "to-string", "__proto__", "has-own-property"]) {
    assert.throws(() => parse(`--${name}`, "1"), UsageError);
  }
});

Deno.test("parseVerb() asks for required flags and words", () => {
  const verb = defineVerb({
    name: "verify",
    summary: "checks a store",
    example: "deno task verify store",
    flags: { kind: { type: "string", required: true, help: "what it is" } },
    positional: { name: "FOLDER", help: "what to check", min: 1, max: 2 },
  });
  assert.throws(() => parseVerb(verb, ["a"]), { message: "Cannot verify without --kind: what it is" });
  assert.throws(() => parseVerb(verb, ["--kind", "x"]), { message: "Cannot verify without FOLDER: what to check" });
  assert.deepEqual(parseVerb(verb, ["a", "--kind", "x", "--", "-b"]).positional, ["a", "-b"]);
  assert.throws(() => parseVerb(verb, ["a", "b", "c", "--kind=x"]), {
    message: 'Cannot use "c" in verify: one word too many',
  });
  const kind: string = parseVerb(verb, ["a", "--kind", "x"]).options.kind;
  assert.equal(kind, "x");
});

Deno.test("givenOptions() leaves defaults out", () => {
  assert.deepEqual(givenOptions(parse("--lr", "1", "--data", "x")), { learningRate: 1, data: ["x"] });
});

Deno.test("wantsHelp() looks before -- only", () => {
  assert.ok(wantsHelp(["--lr", "1", "--help"]));
  assert.ok(wantsHelp(["-h"]));
  assert.ok(!wantsHelp(["--", "--help"]));
});

Deno.test("formatHelp() groups flags, shows the example, and fits its columns", () => {
  const help = formatHelp(TRAIN, 80);
  assert.match(
    help,
    /^train: trains a model\n\nUsage\n {2}deno task train \[flags\]\n\nExample\n {2}deno task train --data/,
  );
  assert.match(help, /\nModel\n {2}--model NAME +A built-in name or a folder \(default llama-9m\)\n/);
  assert.match(help, /\n {2}--data PATH +Text files \(may be repeated\)\n/);
  assert.match(help, /\nFlags\n {2}--optimizer galore_adamw\|adamw +Which \(default galore_adamw\)\n/);
  assert.match(help, /\n {2}--resume \[RUN\] +Go on with a run\n/);
  assert.match(help, /\n {2}--no-save +No checkpoints/);
  for (const line of help.split("\n")) assert.ok(line.length <= 80, line);
});

Deno.test("findVerb() suggests the nearest verb", () => {
  const verbs = [{ name: "train", summary: "trains" }, { name: "eval", summary: "measures" }];
  assert.equal(findVerb(verbs, "eval"), verbs[1]);
  assert.throws(() => findVerb(verbs, "trian"), { message: 'Cannot run "trian": no such verb; did you mean train?' });
  assert.throws(() => findVerb(verbs, "xyzzy"), { message: 'Cannot run "xyzzy": no such verb; there are train, eval' });
  assert.match(verbsHelp(verbs), /\n {2}train {2}trains\n {2}eval {3}measures\n/);
});

Deno.test("nearest() gives nothing when no name is close", () => {
  assert.equal(nearest("lr", ["steps", "rank"]), undefined);
  assert.equal(nearest("stesp", ["steps", "seq"]), "steps");
});
