/** `eval --group`: figures by hand from the models' own scores, limits that are known, and what is written. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/mod.ts";
import { fromArray, noGrad, own, scope } from "../core/mod.ts";
import { initLlama, initLora, llama, type LoraConfig, mergeLora, savePeft } from "../models/mod.ts";
import { klDivergence, logSoftmax } from "../data/mod.ts";
import { loadModel, saveModel } from "./checkpoint.ts";
import { writeFolderDurably } from "./durable.ts";
import { FileFolder } from "./files.ts";
import { findMeasure, type MeasuredValue } from "./shift_measures.ts";
import type { ShiftResult } from "./shift_result.ts";
import { editJson } from "./testing/bad_input.ts";
import { addNoise, tinyProbes, tinyShiftConfig, writeProbes, writeShifted } from "./testing/tiny_shift.ts";
import { toyRows, writeTinyRoberta, writeToyTask } from "./testing/tiny_roberta.ts";
import { type Outcome, Workspace } from "./testing/workspace.ts";

const DEVICE = "--device cpu --threads 1 --blas off".split(" ");

async function compare(workspace: Workspace, flags: string): Promise<Outcome> {
  const outcome = await workspace.run("eval", "--group", "group", ...flags.split(" "), ...DEVICE);
  assert.equal(outcome.code, 0, outcome.err);
  return outcome;
}

async function resultOf(workspace: Workspace, flags: string): Promise<ShiftResult> {
  return JSON.parse((await compare(workspace, `${flags} --json`)).out);
}

function valueOf(result: ShiftResult, model: string, measure: string, group: string | null = null) {
  return found(result, model, measure, group).value;
}

function found(result: ShiftResult, model: string, measure: string, group: string | null = null): MeasuredValue {
  const one = findMeasure(result.models.find(({ name }) => name === model)!.measures, measure, group);
  assert.ok(one, `${model} has no ${measure} of ${group}`);
  return one;
}

function near(actual: unknown, expected: number, slack = 1e-5): void {
  assert.ok(typeof actual === "number" && Math.abs(actual - expected) <= slack, `${actual} is not ${expected}`);
}

/** A base, a reference that differs by noise, and something half way. */
async function openToy(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeShifted("base");
  await writeShifted("full", (params) => addNoise(params, 0.05));
  await writeShifted("half", (params) => addNoise(params, 0.05, 0.5));
  await writeProbes("probes.jsonl", tinyProbes());
  return workspace;
}

const THREE = "--base base --reference full --candidate same=full --candidate none=base --candidate half=half";

Deno.test("evaluateShift() gives the base 0 of the shift, the reference 1, and half a change something between", async () => {
  await using workspace = await openToy();
  const result = await resultOf(workspace, `${THREE} --data probes.jsonl --bootstrap 60`);
  assert.deepEqual(result.models.map(({ name }) => name), ["base", "reference", "same", "none", "half"]);
  assert.deepEqual(result.groups, [{ name: "a", n: 40 }, { name: "b", n: 32 }]);
  for (const group of [null, "a", "b"]) {
    for (const name of ["same", "reference"]) near(valueOf(result, name, "shiftCapture", group), 1, 1e-9);
    for (const name of ["none", "base"]) near(valueOf(result, name, "shiftCapture", group), 0, 1e-9);
    const half = found(result, "half", "shiftCapture", group);
    assert.ok(Number(half.value) > 0.4 && Number(half.value) < 0.95, `${half.value}`);
    assert.ok(half.low! <= Number(half.value) && Number(half.value) <= half.high! && half.low! < half.high!);
  }
  near(valueOf(result, "same", "excessLoss"), 0, 1e-12);
  near(valueOf(result, "same", "likeReference"), 1);
  near(valueOf(result, "none", "likeBase"), 1);
  near(valueOf(result, "none", "retained"), 1);
  near(valueOf(result, "same", "retained"), 0);
  near(valueOf(result, "same", "newHarms"), 0);
  const last = result.models[4].lens.filter(({ group }) => group === null).at(-1)!;
  assert.equal(last.layer, 2);
  near(last.bitsToReference, Number(valueOf(result, "half", "bitsToReference")));
  const [same, none, half] = result.models.slice(2).map(({ explanation }) => explanation!);
  for (const [explanation, missing] of [[same, 0], [none, 1], [half, 0.25]] as const) {
    near(explanation.missing, missing, 1e-4);
    assert.equal(explanation.maps.length, 14);
  }
  near(half.overlap, 1, 1e-4);
  near(half.predictedExcess[0] / none.predictedExcess[0], 0.25, 1e-4);
  near(same.predictedExcess[1], 0, 1e-9);
});

/** Log-probabilities at every place of a sequence, in doubles. */
async function saidBy(folder: string, ids: readonly number[]): Promise<Float64Array[]> {
  using backend = loopsBackend();
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using logits = (() => {
    using forward = scope("by hand");
    const tokens = fromArray(backend, Int32Array.from(ids), [1, ids.length]);
    return own(forward.keep(noGrad(() => llama(params, config, tokens))));
  })();
  const values = await logits.read() as Float32Array;
  params.dispose();
  return ids.map((_, t) => logSoftmax(values.subarray(t * config.vocab_size, (t + 1) * config.vocab_size)));
}

/** The plain template's words for a prompt and an answer, and where the answer's tokens and the end after it begin. */
function byHand(prompt: string, answer: string): { ids: number[]; from: number } {
  const bytes = (text: string) => [...new TextEncoder().encode(text)];
  const asked = [...bytes(`user:\n${prompt}`), 256, ...bytes("assistant:\n")];
  return { ids: [...asked, ...bytes(answer), 256], from: asked.length };
}

Deno.test("evaluateShift() compares at the tokens of what is wanted, and chooses by whole completions", async () => {
  await using workspace = await openToy();
  const probes = [...tinyProbes({ a: 2, b: 1 })];
  await writeProbes("few.jsonl", probes);
  const result = await resultOf(workspace, `${THREE} --data few.jsonl --bootstrap 0 --batch 2`);
  let [toHalf, toBase, loss, places, bad] = [0, 0, 0, 0, 0];
  for (const { prompt, completion, bad: unwanted } of probes) {
    const surprise = [0, 0];
    for (const [i, answer] of [completion, unwanted].entries()) {
      const { ids, from } = byHand(prompt, answer);
      const [base, full, half] = await Promise.all(["base", "full", "half"].map((folder) => saidBy(folder, ids)));
      for (let t = from - 1; t < ids.length - 1; t++) {
        surprise[i] -= half[t][ids[t + 1]];
        if (i === 1) continue;
        toHalf += klDivergence(full[t], half[t]);
        toBase += klDivergence(full[t], base[t]);
        places++;
      }
    }
    loss += surprise[0];
    bad += Number(surprise[1] < surprise[0]);
  }
  near(valueOf(result, "half", "shiftCapture"), 1 - toHalf / toBase, 1e-4);
  near(valueOf(result, "half", "bitsToReference"), toHalf / places / Math.LN2);
  near(valueOf(result, "half", "loss"), loss / places);
  near(valueOf(result, "half", "accuracy"), 1 - bad / 3);
  near(valueOf(result, "half", "positiveRate"), bad / 3);
});

Deno.test("evaluateShift() refuses gaps between groups of fewer than 30, on the terminal and in every file", async () => {
  await using workspace = await openToy();
  await writeProbes("small.jsonl", tinyProbes({ a: 40, b: 29 }));
  const { out, err } = await compare(workspace, `${THREE} --data small.jsonl --bootstrap 20 --out told --csv told.csv`);
  assert.match(err, /note: group b has 29 probes: no gap counts it/);
  assert.match(err, /^decomposing 14 maps of reference\nmeasuring base on 20 bootstrap samples$/m);
  assert.match(err, /^measuring half on 20 bootstrap samples\ndecomposing 14 maps of half\ncompared half$/m);
  assert.match(out.split("\n")[0], /^model +trained +shift captured +of a +of b +retained .*dem\. parity/);
  const half = out.split("\n").find((line) => line.startsWith("half"))!;
  assert.equal(half.match(/n < 30/g)?.length, 3, half); // parity, calibration, excess loss
  const csv = await Deno.readTextFile("told.csv");
  assert.equal(await Deno.readTextFile("told/shift.csv"), csv);
  const lines = csv.trimEnd().split("\n").map((line) => line.split(","));
  assert.deepEqual(lines[0], ["model", "measure", "group", "n", "value", "low", "high"]);
  for (const gap of ["shiftCaptureGap", "accuracyGap", "demographicParity", "retainedGap"]) {
    assert.deepEqual(lines.find(([model, measure]) => model === "half" && measure === gap)?.slice(4), [
      "n < 30",
      "",
      "",
    ]);
  }
  const json = JSON.parse(await Deno.readTextFile("told/shift.json")) as ShiftResult;
  assert.equal(valueOf(json, "half", "accuracyGap"), "n < 30");
  assert.equal(lines.length - 1, json.models.reduce((sum, { measures }) => sum + measures.length, 0));
  const html = await Deno.readTextFile("told/report.html");
  assert.match(html, /n &#60; 30/);
  assert.ok(html.includes("arXiv 2405.18572") && html.includes("arXiv 2405.17512"));
  assert.equal(html.match(/<script/g)?.length, 1);
  assert.doesNotMatch(html.replaceAll("http://www.w3.org/2000/svg", ""), /https?:|NaN|undefined|<img/);
});

Deno.test("evaluateShift() says where there is no shift to capture, and gives no share of it", async () => {
  await using workspace = await openToy();
  await writeShifted("still", (params) => addNoise(params, 1e-8));
  await writeProbes("few.jsonl", tinyProbes({ a: 2, b: 2 }));
  const flags = "--base base --reference still --candidate half=half --data few.jsonl --bootstrap 0 --out told";
  const { err } = await compare(workspace, flags);
  assert.match(
    err,
    /^note: the reference says what the base says, within 1e-9 nats a token: there is no shift to capture$/m,
  );
  const result = JSON.parse(await Deno.readTextFile("told/shift.json")) as ShiftResult;
  for (const group of [null, "a"]) assert.equal(valueOf(result, "half", "shiftCapture", group), null);
  assert.deepEqual([result.energy, result.models[2].explanation!.missing], [[], null]);
  const html = await Deno.readTextFile("told/report.html");
  assert.ok(html.includes("A dash: the reference lies within 1e-9 nats a token of the base, and no shift is there."));
  // what was computed is told though no map of the reference has moved
  assert.ok(html.includes("Why: the shift in the weights") && !html.includes("Energy of the shift"));
});

Deno.test("evaluateShift() escapes names in its report and quotes them in CSV", async () => {
  await using workspace = await openToy();
  const evil = `<b>"x",\n'`;
  await writeProbes("evil.jsonl", tinyProbes().map((probe) => ({ ...probe, group: probe.group === "a" ? evil : "b" })));
  const argv = ["--candidate", `${evil}=half`, "--data", "evil.jsonl", "--bootstrap", "0", "--out", "told"];
  const flags = ["eval", "--group", "group", "--base", "base", "--reference", "full", ...argv, ...DEVICE];
  assert.equal((await workspace.run(...flags)).code, 0);
  assert.doesNotMatch(await Deno.readTextFile("told/report.html"), /<b>"x"/);
  assert.match(await Deno.readTextFile("told/shift.csv"), /^"<b>""x"",\n'",loss,"<b>""x"",\n'",40,/m);
});

Deno.test("evaluateShift() sees an adapter on the base, and a run that keeps one, as its merged model", async () => {
  await using workspace = await openToy();
  const config = tinyShiftConfig();
  const lora: LoraConfig = { r: 2, alpha: 4, targets: ["q_proj", "v_proj"] };
  using base = initLlama(loopsBackend(), config, 1);
  using adapter = initLora(base, lora, { seed: 1 });
  addNoise(adapter, 0.1);
  await writeFolderDurably(".", "lora", (writer) => {
    return savePeft(writer, adapter, { lora, taskType: "CAUSAL_LM" }, base.entries());
  });
  using merged = mergeLora(base, adapter, lora);
  await writeFolderDurably(".", "merged", (writer) => saveModel(writer, merged, config, new Map()));
  await Deno.mkdir("run");
  await Deno.rename("lora", "run/best-adapter");
  const flags =
    "--base base --reference full --candidate one=run/best-adapter --candidate two=merged --candidate three=run";
  const result = await resultOf(workspace, `${flags} --data probes.jsonl --bootstrap 0`);
  const sizes = result.models.slice(2).map(({ size }) => size);
  assert.deepEqual(sizes, [adapter.size, merged.size, adapter.size]);
  for (const measure of ["shiftCapture", "loss", "bitsFromBase"]) {
    for (const name of ["one", "three"]) {
      near(valueOf(result, name, measure), Number(valueOf(result, "two", measure)), 1e-4);
    }
  }
  const [one, two] = result.models.slice(2).map(({ explanation }) => explanation!);
  assert.deepEqual([one.rank, two.rank], [2, 2]);
  near(one.missing, two.missing!, 1e-4);
  assert.equal(one.maps.filter(({ rank }) => rank === 2).length, 4);
});

/** Sentences of two groups for a RoBERTa. */
async function openSentences(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await writeTinyRoberta("base", { head: "classification" });
  await writeToyTask("task");
  const rows = toyRows(90, 4).map((row, i) => ({ ...row, label: row.label ? "up" : "down", group: i % 3 ? "x" : "y" }));
  await Deno.writeTextFile("task/probes.jsonl", rows.map((row) => JSON.stringify(row) + "\n").join(""));
  const own = "--task own --sentence sentence --label label --labels down --labels up";
  const train = await Deno.readTextFile("task/train.tsv");
  await Deno.writeTextFile("train.tsv", train.replace(/\t(\d)$/gm, (_, label) => `\t${label === "1" ? "up" : "down"}`));
  for (const [run, flags] of [["full", "--method full --lr 0.004"], ["lora", "--method lora --rank 4 --lr 0.01"]]) {
    const argv =
      `finetune --model base ${own} --data train.tsv --data task/probes.jsonl ${flags} --epochs 3 --out ${run}`;
    const { code, err } = await workspace.run(...argv.split(" "), ...DEVICE);
    assert.equal(code, 0, err);
  }
  return workspace;
}

/** Copies a folder's files. */
async function copyFolder(from: string, to: string): Promise<void> {
  await Deno.mkdir(to);
  for await (const { name, isFile } of Deno.readDir(from)) {
    if (isFile) await Deno.copyFile(`${from}/${name}`, `${to}/${name}`);
  }
}

Deno.test("evaluateShift() compares classifiers, whose accuracy is that of eval, by groups of an own task", async () => {
  await using workspace = await openSentences();
  const own = "--task own --sentence sentence --label label --data task/probes.jsonl";
  // the same heads, whose numbers are said to stand for the other class
  await copyFolder("full/best", "flipped");
  await editJson("flipped/config.json", (config) => config.id2label = { 0: "up", 1: "down" });
  await copyFolder("lora/best-adapter", "turned");
  await editJson("turned/labels.json", (file) => file.labels = ["up", "down"]);
  await editJson("lora/config.json", (config) => config.trained = 123);
  const flags = `${own} --base base --reference full --candidate lora=lora --bootstrap 40`;
  const result = await resultOf(workspace, `${flags} --candidate flipped=flipped --candidate turned=turned`);
  for (const [name, as] of [["flipped", "reference"], ["turned", "lora"]] as const) {
    near(valueOf(result, name, "accuracy"), 1 - Number(valueOf(result, as, "accuracy")), 1e-9);
  }
  const { trained } = JSON.parse(await Deno.readTextFile("full/config.json"));
  assert.deepEqual(result.models.slice(1, 3).map(({ size }) => size), [trained, 123]);
  const classes = "--labels down --labels up".split(" ");
  assert.deepEqual([result.unit, result.positive, result.groups.map(({ n }) => n)], ["example", "up", [60, 30]]);
  for (const model of ["full", "lora", "base"]) {
    const { code, out, err } = await workspace.run(
      "eval",
      "--model",
      model,
      ...own.split(" "),
      ...classes,
      "--json",
      ...DEVICE,
    );
    assert.equal(code, 0, err);
    const said = JSON.parse(out);
    const name = model === "full" ? "reference" : model;
    near(valueOf(result, name, "accuracy"), said.accuracy, 1e-9);
    near(valueOf(result, name, "loss"), said.loss, 1e-5);
  }
  const captured = found(result, "lora", "shiftCapture");
  assert.ok(
    Number(captured.value) > 0 && Number(captured.value) < 1 && captured.low! < captured.high!,
    `${captured.value}`,
  );
  assert.ok(Number(valueOf(result, "lora", "demographicParity")) >= 0);
  const both = (["x", "y"] as const).map((group) => Number(valueOf(result, "lora", "accuracy", group)));
  near(valueOf(result, "lora", "accuracyGap"), Math.abs(both[0] - both[1]), 1e-9);
  near(valueOf(result, "lora", "worstAccuracy"), Math.min(...both), 1e-9);
  const down = await resultOf(workspace, `${flags} --positive down --out told`);
  const html = await Deno.readTextFile("told/report.html");
  assert.ok(html.includes("equal opp.") && html.includes("nats an example"));
  near(valueOf(down, "lora", "positiveRate"), 1 - Number(valueOf(result, "lora", "positiveRate")), 1e-9);
  near(valueOf(down, "lora", "demographicParity"), Number(valueOf(result, "lora", "demographicParity")), 1e-9);
});
