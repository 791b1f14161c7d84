/** The study: what it chooses, what it prints, how it runs, fails, stops and goes on. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { hashFile } from "../durable.ts";
import { Workspace } from "../testing/workspace.ts";
import { ablationPoints, chooseMethods, CONTROL, shardOf, studyMethods } from "./study_methods.ts";
import { bestRate, ratesOf, ratesToRepeat, readResults, type Result, Results, type Setting } from "./study_results.ts";
import { ablationPlot, ablationTable, mainTable, ratesPlot, ratesTable } from "./study_tables.ts";

const METHODS = studyMethods(128);
const [ADAMW] = METHODS;
const SETTING: Setting = { model: "m", batch: 1, seq: 8, steps: 3, data: "a.txt", sha256: ["0"], device: "cpu" };

function result(method: string, rate: number, seed: number, loss: number | undefined): Result {
  const failure = loss === undefined ? "no | loss" : undefined;
  const measured = { loss, failure, weights: 10, stateBytes: 2_000, tokensPerSecond: 1234.5, tokens: 24 };
  const facts = { seconds: 1, date: "2026-01-01T00:00:00Z", jobs: 1, threads: 1 };
  return { study: "main", method, flags: [], rate, seed, setting: SETTING, ...measured, ...facts };
}

/** AdamW lucky at 0.004 with seed 1 and best at 0.002 over three. */
const RESULTS = [
  ...[2.5, 2.1, 2.0, 2.4, 3].map((loss, i) => result("AdamW", ADAMW.rates[i], 1, loss)),
  ...[2, 3].flatMap((seed) => [2.05, 2.2, 2.4].map((loss, i) => result("AdamW", ADAMW.rates[i + 1], seed, loss))),
  ...[3, 2.9, undefined].map((loss, i) => result(CONTROL, [0.004, 0.008, 0.016][i], 1, loss)),
  result("Muon", 0.005, 1, undefined),
];

Deno.test("studyMethods() has ranks of the hidden size, and grids that ascend", () => {
  const flags = new Map(METHODS.map((method) => [method.name, method.flags.join(" ")]));
  assert.match(
    flags.get("GaLore d/8")!,
    /^--optimizer galore_adamw --rank 16 --update-proj-gap 200 --scale 0.25 --refresh together$/,
  );
  assert.match(flags.get("W = BA d/4")!, /^--method lowrank --optimizer adamw --rank 32$/);
  assert.equal(flags.size, METHODS.length);
  for (const { name, rates, group } of METHODS) {
    assert.deepEqual([...rates].sort((a, b) => a - b), rates, name);
    assert.equal(rates.length, group === "full" ? 5 : 3, name);
  }
  assert.deepEqual(ablationPoints("rank", 128).map(({ name, value }) => [name, value]).flat(), [
    ...["d/16", 8, "d/8", 16, "d/4", 32, "d/2", 64, "d", 128],
  ]);
  assert.ok(ablationPoints("gap", 128).at(-1)!.flags.includes("1000000"));
});

Deno.test("chooseMethods() takes names in any case and lists them when one is unknown", () => {
  assert.deepEqual(chooseMethods(METHODS, ["sgd", " adamw"]).map(({ name }) => name), ["AdamW", "SGD"]);
  assert.equal(chooseMethods(METHODS, []), METHODS);
  assert.throws(() => chooseMethods(METHODS, ["lion"]), /^RangeError: Cannot study lion: the methods are AdamW, 8-bit/);
});

Deno.test("shardOf() gives every method to one shard, and shards about the same number of runs", () => {
  for (const count of [1, 2, 3, 5]) {
    const shards = Array.from({ length: count }, (_, i) => shardOf(METHODS, i + 1, count));
    assert.deepEqual(new Set(shards.flat()), new Set(METHODS));
    assert.equal(shards.flat().length, METHODS.length);
    const loads = shards.map((methods) => methods.reduce((sum, { group }) => sum + (group === "full" ? 11 : 3), 0));
    assert.ok(Math.max(...loads) - Math.min(...loads) <= 11, `${loads}`);
  }
});

Deno.test("bestRate() is the lowest mean of three seeds, over the best of seed 1 and its neighbours", () => {
  assert.deepEqual(ratesToRepeat(RESULTS, ADAMW), [0.002, 0.004, 0.008]);
  const edge = RESULTS.filter(({ rate }) => rate <= 0.002);
  assert.deepEqual(ratesToRepeat(edge, ADAMW), [0.001, 0.002, 0.004]);
  assert.deepEqual(ratesToRepeat(RESULTS, METHODS[1]), []);
  const best = bestRate(RESULTS, "main", "AdamW")!;
  assert.deepEqual([best.rate, best.losses], [0.002, [2.1, 2.05, 2.05]]);
  assert.equal(bestRate(RESULTS, "main", CONTROL)!.rate, 0.008);
  assert.equal(bestRate(RESULTS, "main", "Muon"), undefined);
  assert.equal(ratesOf(RESULTS, "main", "AdamW").length, 5);
});

Deno.test("the tables say means, the way from frozen to AdamW, edges and failures", () => {
  const shown = METHODS.filter(({ name }) => ["AdamW", CONTROL, "Muon", "SGD"].includes(name));
  const table = mainTable(RESULTS, shown, "main").split("\n");
  assert.equal(
    table[2],
    "| AdamW | 0.002 | 2.1000, 2.0500, 2.0500 | 2.0667 | 7.898 | 100.0 % | 10 | 2 KB | 1,235 |",
  );
  assert.match(table[3], /^\| Muon \| {2}\| failed: no \\\| loss \|/);
  assert.match(table[4], /^\| SGD \| {2}\| not run \|/);
  assert.match(table[5], /^\| projected frozen \| 0.008 \| 2.9000 \| 2.9000 \| 18.174 \| 0.0 % \|/);
  const rates = ratesTable(RESULTS, shown);
  assert.match(rates, /\| AdamW \| 0.001: 2.5000, 0.002: 2.0667 \(3\), 0.004: 2.1333 \(3\), .*0.016: 3.0000 \|/);
  assert.match(rates, /\| projected frozen \| 0.004: 3.0000, 0.008: 2.9000, 0.016: failed \|/);
  const onlyFirst = RESULTS.filter(({ rate }) => rate === 0.001);
  assert.match(mainTable(onlyFirst, [ADAMW], "main"), /\| AdamW \| 0.001\* \| 2.5000 \|/);
  assert.match(ratesPlot(RESULTS, shown), /^<svg .*>projected frozen 2\.90<.*>AdamW 2\.07</s);
  const points = ablationPoints("gap", 128);
  const gaps = points.map(({ name }, i) => ({ ...result(name, 0.02, 1, 2 + i / 10), study: "gap" as const }));
  assert.match(ablationTable(gaps, "gap", points), /\| T = infinite \| 2.5000 \| 12.182 \| 2 KB \| 0.02 \|/);
  assert.match(ablationPlot(gaps, "gap", points), />infinite</);
});

Deno.test("Results keeps one setting to a folder, later lines over earlier ones, and leaves a torn line out", async () => {
  await using _ = await Workspace.open();
  const results = await Results.open("out", SETTING);
  results.add(result("AdamW", 0.1, 1, undefined));
  results.add(result("AdamW", 0.1, 1, 2));
  results.add(result("AdamW", 0.1, 2, 3));
  await Deno.writeTextFile("out/results-2-of-2.jsonl", JSON.stringify(result("SGD", 1, 1, 4)) + '\n{"study":"ma');
  const again = await Results.open("out", SETTING);
  assert.deepEqual(again.all().map(({ method, loss }) => [method, loss]), [["SGD", 4], ["AdamW", 2], ["AdamW", 3]]);
  const twin = { study: "gap" as const, method: "T = 200", flags: [], rate: 0.1, seed: 2 };
  assert.deepEqual([again.find(twin)?.loss, again.find(twin)?.method], [3, "T = 200"]);
  assert.equal(again.find({ ...twin, flags: ["--rank", "1"] }), undefined);
  await assert.rejects(
    Results.open("out", { ...SETTING, steps: 4 }),
    /^RangeError: Cannot go on with out: its runs are of .*"steps":3.*: got .*"steps":4/,
  );
});

const STUDY = fileURLToPath(new URL("study.ts", import.meta.url));
const TINY = "--model tiny --batch 2 --seq 16 --threads 1 --blas off --data corpus.txt".split(" ");

/** Runs the study as a process, and interrupts it when its messages match. */
async function study(
  flags: readonly string[],
  interruptAt?: RegExp,
): Promise<{ code: number; out: string; err: string }> {
  const args = ["run", "-A", "--no-check", STUDY, ...TINY, ...flags];
  await using child = new Deno.Command(Deno.execPath(), { args, stdout: "piped", stderr: "piped" }).spawn();
  const out = new Response(child.stdout).text();
  let err = "";
  let isSent = false;
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    err += text;
    if (!interruptAt?.test(err) || isSent) continue;
    child.kill("SIGINT");
    isSent = true;
  }
  return { code: (await child.status).code, out: await out, err };
}

Deno.test("study runs rates, seeds and what fails, prints tables, and does nothing twice", async () => {
  await using _ = await Workspace.open();
  const flags = ["--out", "s", "--steps", "3", "--only", "AdamW,W = BA d/4", "--jobs", "2"];
  const first = await study(flags);
  assert.equal(first.code, 0, first.err);
  const results = await readResults("s");
  const adamW = results.filter(({ method }) => method === "AdamW");
  const best = bestRate(results, "main", "AdamW")!;
  assert.ok(best.losses.length === 3 && [9, 11].includes(adamW.length), `${adamW.length} runs`);
  for (const one of adamW) {
    assert.ok(one.loss! > 3 && one.loss! < 6 && Math.abs(one.perplexity! - Math.exp(one.loss!)) < 1e-9);
    assert.deepEqual([one.tokens, one.threads, one.jobs, one.setting.data], [96, 1, 2, "corpus.txt"]);
    assert.ok(one.stateBytes! >= 8 * one.weights! && one.tokensPerSecond! > 0 && one.kernelPath && one.device);
  }
  // factors start from scratch, and the model of this test is a folder's
  const factors = results.filter(({ method }) => method === "W = BA d/4");
  assert.equal(factors.length, 5);
  for (const { failure, loss } of factors) assert.ok(/starts from scratch/.test(failure!) && loss === undefined);
  assert.match(first.out, /\| AdamW \| 0\.\d+\*? \| \d\.\d{4}, \d\.\d{4}, \d\.\d{4} \|/);
  assert.equal(await Deno.readTextFile("s/study.md"), first.out.trimEnd() + "\n");
  assert.match(await Deno.readTextFile("s/study.svg"), /^<svg/);

  const before = await hashFile("s/results.jsonl");
  const again = await study(flags);
  assert.deepEqual([again.code, again.out, again.err], [0, first.out, ""]);
  assert.equal(await hashFile("s/results.jsonl"), before);

  const ablation = ["--out", "s", "--steps", "3", "--ablation", "rank", "--jobs", "2"];
  const unknown = await study(ablation);
  assert.deepEqual(unknown.code, 1);
  assert.match(unknown.err, /^Cannot run an ablation: s has no result of GaLore d\/4: give --rate$/m);
  const ranks = await study([...ablation, "--rate", "0.02"]);
  assert.equal(ranks.code, 0, ranks.err);
  assert.match(ranks.out, /\| d\/4 \| \d\.\d{4} \| [\d.]+ \|/);
  assert.match(await Deno.readTextFile("s/ablation-rank.svg"), /^<svg/);

  const other = ["--out", "b", "--steps", "2", "--best-of", "s"];
  const repeated = await study(other);
  assert.equal(repeated.code, 0, repeated.err);
  assert.deepEqual((await readResults("b")).map(({ study, rate }) => [study, rate]), [["best-of", best.rate]]);
});

const ignore = Deno.build.os === "windows";

Deno.test({ name: "study goes on to the same results after SIGINT", ignore }, async () => {
  await using _ = await Workspace.open();
  const flags = ["--steps", "120", "--only", "SGD", "--jobs", "2"];
  const stopped = await study([...flags, "--out", "part"], /\[1\/3\]/);
  assert.equal(stopped.code, 130, stopped.err);
  assert.match(stopped.err, /^stopping: the runs save what they have/m);
  const done = (await readResults("part")).length;
  assert.ok(done >= 1 && done < 3, `${done} runs`);
  const resumed = await study([...flags, "--out", "part"]);
  assert.equal(resumed.code, 0, resumed.err);
  const whole = await study([...flags, "--out", "whole"]);
  assert.equal(whole.code, 0, whole.err);
  const losses = async (folder: string) =>
    (await readResults(folder)).map(({ rate, loss }): [number, number] => [rate, loss ?? NaN]).sort();
  const expected = await losses("whole");
  assert.ok(expected.length === 3 && expected.every(([, loss]) => loss > 0), whole.err);
  assert.deepEqual(await losses("part"), expected);
});
