/** `complete`: from a file of entries to predictions, plots and factors, on both devices, and every kind of bad input. */
import assert from "node:assert/strict";
import { noWebgpu } from "../backends/webgpu/testing.ts";
import { registerTest } from "../core/testing/register.ts";
import { readTriples } from "../data/mod.ts";
import { openSafetensors } from "../models/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { parseVerb } from "./arguments.ts";
import { complete, completeVerb } from "./complete.ts";
import { prepareEntries } from "./complete_data.ts";
import { compressedFactors, Descent, drawFactors, type Form, fullFactors } from "./complete_model.ts";
import type { CompletionRow } from "./complete_report.ts";
import { type Completion, completionBytes } from "./complete_check.ts";
import { ratings } from "./examples/ratings.ts";
import { FileSource } from "./files.ts";
import { explainError, formatNumber, memoryOutput } from "./log.ts";
import { fingerprint, Workspace } from "./testing/workspace.ts";

const RATINGS = new URL("examples/ratings.csv", import.meta.url);
const CPU = "--device cpu --threads 1 --blas off".split(" ");

/** Runs the verb in a folder of its own that holds the example file; what it said. */
async function run(...argv: readonly string[]): Promise<{ out: string; err: string }> {
  const output = memoryOutput();
  await complete(argv, output);
  return { out: output.outText, err: output.errText };
}

async function openRatings(): Promise<Workspace> {
  const workspace = await Workspace.open();
  await Deno.copyFile(RATINGS, "ratings.csv");
  return workspace;
}

async function rowsOf(folder: string): Promise<CompletionRow[]> {
  return (await Deno.readTextFile(`${folder}/metrics.jsonl`)).trim().split("\n").map((line) => JSON.parse(line));
}

Deno.test("ratings.csv is what its program writes", async () => {
  assert.equal(await Deno.readTextFile(RATINGS), [...ratings()].join("\n") + "\n");
});

Deno.test("complete() predicts what it has not seen in both forms, and leaves predictions, plots and factors", async () => {
  await using _ = await openRatings();
  const flags = "--data ratings.csv --rank 5 --form both --gamma 3 --steps 1000 --log-every 200 --out run".split(" ");
  const { out, err } = await run(...flags, ...CPU);
  assert.match(
    err,
    /745 of 60 x 45 entries \(27\.6%\); \d{3} to train on, \d\d held out\nmemory {4}full .* KB, compressed/,
  );
  const rows = await rowsOf("run");
  assert.deepEqual(rows.map(({ form, step }) => `${form} ${step}`), [
    ...[0, 200, 400, 600, 800, 1000].map((step) => `full ${step}`),
    ...[0, 200, 400, 600, 800, 1000].map((step) => `compressed ${step}`),
  ]);
  for (const form of ["full", "compressed"]) {
    const own = rows.filter((row) => row.form === form);
    assert.ok(own[0].heldOutError! > 0.8 && own[5].heldOutError! < 0.25, JSON.stringify(own));
    assert.ok(own.every(({ seconds }, i) => i === 0 ? seconds === 0 : seconds > own[i - 1].seconds));
  }
  assert.match(
    out,
    /^held-out error 0\.\d+ with the (full|compressed) form at step 1?[02468]00; 1,955 predictions in run\/completed\.csv/,
  );
  // predictions: all that was unknown, under the file's own names, and right where the truth is known
  const [known, predicted] = [await readTriples("ratings.csv"), await readTriples("run/completed.csv")];
  assert.deepEqual(predicted.fields, ["person", "film", "rating"]);
  assert.equal(known.value.length + predicted.value.length, 60 * 45);
  const page = await Deno.readTextFile("run/report.html");
  for (const title of ["Error over iterations", "Error over time"]) assert.ok(page.includes(`<h2>${title}</h2>`));
  assert.doesNotMatch(page, /https?:\/\/(?!www\.w3\.org)/);
  await using source = await FileSource.open("run/factors.safetensors");
  const { tensors } = await openSafetensors(source);
  assert.deepEqual(tensors.get("full.factor_3.weight")!.shape, [60, 60]);
  assert.deepEqual(tensors.get("compressed.left.weight")!.shape, [60, 10]);
  assert.equal(JSON.parse(await Deno.readTextFile("run/labels.json")).rows.length, 60);
});

Deno.test("complete() gives the same predictions for the same seed, whatever other form runs beside", async () => {
  await using _ = await openRatings();
  const flags = "--data ratings.csv --rank 4 --steps 40".split(" ");
  await run(...flags, ...CPU, "--out", "one");
  await run(...flags, ...CPU, "--threads", "2", "--out", "two");
  await run(...flags, ...CPU, "--form", "both", "--out", "both");
  await run(...flags, ...CPU, "--seed", "2", "--out", "other");
  assert.equal(await Deno.readTextFile("two/completed.csv"), await Deno.readTextFile("one/completed.csv"));
  assert.notEqual(await Deno.readTextFile("other/completed.csv"), await Deno.readTextFile("one/completed.csv"));
  const errors = async (folder: string) =>
    (await rowsOf(folder)).filter(({ form }) => form === "compressed").map(({ heldOutError }) => heldOutError);
  assert.deepEqual(await errors("both"), await errors("one"));
});

Deno.test("complete() keeps what it had come to before it learned the noise, in both forms, and says which step", async () => {
  await using _ = await Workspace.open();
  const noisy = Array.from({ length: 24 * 18 }, (_, at): [number, number, number] => {
    const [i, j] = [Math.floor(at / 18), at % 18];
    return [i, j, Math.sin(i + 1) * Math.cos(2 * j) + 0.8 * Math.sin(7919 * at * at)];
  });
  const lines = noisy.filter((_, at) => (at * 0.6180339887) % 1 < 0.45).map((entry) => entry.join(",") + "\n");
  await Deno.writeTextFile("data.csv", "row,column,value\n" + lines.join(""));
  for (const [form, rank] of [["full", ""], ["compressed", " --rank 4"]]) {
    const flags = `--data data.csv --hold-out 0.2 --lr 0.8 --log-every 20 --form ${form}${rank}`.split(" ");
    const { out, err } = await run(...flags, ...CPU, "--steps", "160", "--out", form);
    const rows = await rowsOf(form);
    const least = Math.min(...rows.map(({ heldOutError }) => heldOutError!));
    const { step } = rows.find(({ heldOutError }) => heldOutError === least)!;
    assert.ok(
      step > 0 && rows[8].heldOutError! > 1.1 * least,
      `${step}: ${least}, at the end ${rows[8].heldOutError}`,
    );
    assert.ok(err.endsWith(`\n${form} at step ${step} had the least held-out error and is kept\n`), err);
    assert.ok(out.startsWith(`held-out error ${formatNumber(least)} with the ${form} form at step ${step}; `), out);
    const short = `${form}-short`;
    await run(...flags, ...CPU, "--steps", String(step), "--out", short);
    assert.ok((await Deno.readTextFile(`${form}/report.html`)).includes(`Held-out error at step ${step}, ${form}`));
    for (const file of ["completed.csv", "factors.safetensors", "labels.json"]) {
      assert.deepEqual(await Deno.readFile(`${form}/${file}`), await Deno.readFile(`${short}/${file}`), file);
    }
  }
});

Deno.test("complete() predicts the entries of a list, in its order, with labels that need quotes", async () => {
  await using _ = await Workspace.open();
  await Deno.writeTextFile("data.csv", 'who,"what, if",n\na,x,1\nb,x,2\na,"y, z",2\nb,"y, z",4\n"c ""d""",x,3\n');
  await Deno.writeTextFile("wanted.csv", '"c ""d""","y, z"\na,x\n');
  const { out } = await run(
    ..."--data data.csv --predict wanted.csv --rank 1 --hold-out 0 --steps 1500 --no-center --out run".split(" "),
    ...CPU,
  );
  assert.match(out, /^error 0?\.?\d.* with the compressed form at step 1500; 2 predictions/);
  const [head, first, second] = (await Deno.readTextFile("run/completed.csv")).trim().split("\n");
  assert.equal(head, 'who,"what, if",n');
  assert.match(first, /^"c ""d""","y, z",/);
  assert.match(second, /^a,x,/);
  // rank 1 through 1, 2; 2, 4; 3, ?
  assert.ok(Math.abs(Number(first.split(",").at(-1)) - 6) < 0.3, first);
});

registerTest("webgpu: complete() follows the CPU's errors", async () => {
  await using _ = await openRatings();
  const flags = "--data ratings.csv --rank 3 --form both --steps 20 --log-every 10".split(" ");
  await run(...flags, ...CPU, "--out", "cpu");
  await run(...flags, "--device", "webgpu", "--autotune", "off", "--out", "gpu");
  const [cpu, gpu] = [await rowsOf("cpu"), await rowsOf("gpu")];
  assert.equal(gpu.length, 6);
  for (const [i, { error, heldOutError }] of cpu.entries()) {
    assert.ok(Math.abs(gpu[i].error / error - 1) < 1e-4, `${gpu[i].error} for ${error}`);
    assert.ok(Math.abs(gpu[i].heldOutError! / heldOutError! - 1) < 1e-4);
  }
}, noWebgpu);

Deno.test("completionBytes() is what a descent takes on the CPU, to the byte", async () => {
  await using _ = await openRatings();
  const entries = prepareEntries(await readTriples("ratings.csv"), { holdOut: 0.1, isCentred: true, seed: 1 });
  const { observed } = entries;
  const { options } = parseVerb(completeVerb, ["--data", "ratings.csv"]);
  for (const form of ["full", "compressed"] satisfies Form[]) {
    const asked: Completion = { ...options, forms: [form], rank: 4, logEvery: 1 };
    using backend = await cpuBackend({ threads: 1, blas: "off" });
    const start = drawFactors(observed.rows, observed.columns, asked);
    using factors = form === "full"
      ? fullFactors(backend, start, asked)
      : compressedFactors(backend, observed, start, asked);
    using descent = new Descent(factors, observed, { learningRate: asked.lr, gamma: asked.gamma });
    descent.advance();
    assert.equal(completionBytes(form, observed, asked, "cpu"), backend.memory().peak, form);
  }
});

const WIDE = Array.from({ length: 3000 }, (_, i) => `r${i},c${i},${i % 7}\n`).join("");

const BAD: readonly (readonly [when: string, file: string, argv: string, message: RegExp])[] = [
  ["the file is not there", "a,b,1\n", "--data other.csv", /^Cannot read "other\.csv": there is no such file$/],
  ["the file is empty", "", "", /^Cannot read "data\.csv": the file is empty$/],
  ["a value is a word", "a,b,1\na,c,x\n", "", /line 2: value must be a finite number: got "x"$/],
  ["a value is not a number", "a,b,1\na,c,NaN\n", "", /line 2: value must be a finite number: got "NaN"$/],
  ["an entry has two values", "a,b,1\na,b,2\n", "", /line 2: it is a second value for "a", "b", after line 1$/],
  [
    "the full form is given a rank",
    "a,b,1\n",
    "--form full --rank 40",
    /^Cannot use --rank with --form full: it is for --form compressed, --form both$/,
  ],
  [
    "the full form is given a rate of its outer factors",
    "a,b,1\n",
    "--form full --gamma 5",
    /^Cannot use --gamma with /,
  ],
  [
    "the rank is too large",
    "a,b,1\nc,b,2\na,d,3\n",
    "--rank 2",
    /--rank must be at most half the smaller side, 1: got 2$/,
  ],
  ["the matrix is a line", "a,b,1\na,c,2\n", "", /--rank must be at most half the smaller side, 0: got 1$/],
  ["columns are not three", "a,b,1\n", "--columns a,b", /^Cannot use --columns a,b: it must name three fields/],
  ["a column is not there", "a,b,c\n1,2,3\n", "--columns a,b,z", /must name "z": got "a", "b", "c"$/],
  [
    "memory does not suffice",
    WIDE,
    "--memory-limit 60MB",
    /its tensors take \d+ MB, and 60 MB may be used; see --memory-limit$/,
  ],
  ["the full form is too large", WIDE, "--memory-limit 300MB --form full", /in the full form: its tensors take \d+ MB/],
  [
    "a wanted label is unknown",
    "a,b,1\nc,d,2\n",
    "--predict data2.csv",
    /^Cannot predict for row "q" of data2\.csv: the data has no such row$/,
  ],
  [
    "the rate is too high",
    "a,b,1\nc,b,-2\na,d,3\nc,d,5\n",
    "--lr 1000",
    /^Cannot complete in the compressed form: the error grew without bound .* lower --lr: got 1000$/,
  ],
  [
    "a run is there",
    "a,b,1\nc,b,2\na,d,3\n",
    "--out used",
    /^Cannot complete into used: it has metrics\.jsonl; choose another --out$/,
  ],
];

for (const [when, file, argv, message] of BAD) {
  Deno.test(`complete() fails in one line when ${when}`, async () => {
    await using _ = await Workspace.open();
    await Deno.writeTextFile("data.csv", file);
    await Deno.writeTextFile("data2.csv", "q,b\n");
    await Deno.mkdir("used");
    await Deno.writeTextFile("used/metrics.jsonl", "{}\n");
    const before = await fingerprint();
    const words = argv.split(" ").filter(Boolean);
    const data = words.includes("--data") ? [] : ["--data", "data.csv"];
    const out = words.includes("--out") ? [] : ["--out", "run"];
    const error = await run(...data, ...words, ...out, ...CPU).then(() => undefined, (error) => error);
    assert.match(explainError(error), message);
    assert.doesNotMatch(error.message, /\n/);
    const after = await fingerprint();
    if (!when.includes("rate")) assert.deepEqual(after, before);
  });
}
