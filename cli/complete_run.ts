/**
 * A completion from its start to its report. Its folder holds `completed.csv`, the predictions; `factors.safetensors` with
 * `labels.json`, to make others from; `metrics.jsonl`, `config.json` and `report.html`. It is a matter of minutes and is not
 * gone on with later; Ctrl-C ends the descent early. Of what it came to, the measure with the least error on held-out
 * entries is kept, so that noise which is learned later on is not handed out; without held-out entries the last.
 */
import { formatBytes, type HostArray, type Params } from "../core/mod.ts";
import { type Completion, completionBytes } from "./complete_check.ts";
import { type Entries, errorOf } from "./complete_data.ts";
import { writeCompleted, writeFactors } from "./complete_files.ts";
import { compressedFactors, Descent, drawFactors, type Form, fullFactors } from "./complete_model.ts";
import { completionFacts, completionHtml, type CompletionRow } from "./complete_report.ts";
import type { Device } from "./device.ts";
import { writeFileDurably } from "./durable.ts";
import { baseName } from "./files.ts";
import { formatDuration, formatNumber, type Output } from "./log.ts";
import { showProgress } from "./progress.ts";
import { createRun, type RunFolder } from "./run_folder.ts";
import { StopWatch } from "./signals.ts";

/** What is completed, and where. */
export interface CompletionParts {
  readonly run: Completion;
  readonly entries: Entries;
  /** Places to predict; without them all that the data lacks. */
  readonly wanted?: readonly (readonly [row: number, column: number])[];
  readonly backend: Device;
}

/** Completes a matrix in every form that is asked for, and leaves a run folder behind. */
export async function runCompletion(parts: CompletionParts, output: Output): Promise<void> {
  const { run, entries } = parts;
  using folder = await createRun(run.out, `complete-${baseName(run.data).replace(/\.\w+$/, "")}`, new Date());
  await folder.writeConfig({ run });
  printEntries(parts, output);
  using stop = new StopWatch({
    onStop: (signal) => output.err(`${signal}: ending the descent here; once more to stop at once`),
  });
  using metrics = await Deno.open(folder.metrics, { append: true, create: true });
  const rows: CompletionRow[] = [];
  const startSeconds = new Map<Form, number>();
  let best: (Reached & { readonly form: Form }) | undefined;
  using kept = new DisposableStack();
  const factors = new Map<string, Params>();
  for (const form of run.forms) {
    if (stop.stopRequested) break;
    const started = performance.now();
    const made = kept.use(startOf(form, parts));
    startSeconds.set(form, (performance.now() - started) / 1000);
    const reached = await descend(form, made, parts, {
      output,
      isStopped: () => stop.stopRequested,
      onRow: (row) => {
        rows.push(row);
        metrics.writeSync(new TextEncoder().encode(JSON.stringify(row) + "\n"));
      },
    });
    factors.set(form, made);
    if (!best || reached.error < best.error) best = { form, ...reached };
  }
  await writeFactors(folder.path, factors, entries);
  const written = await writeCompleted(folder.path, parts, best!.matrix);
  await writeFileDurably(folder.report, reportOf(folder, parts, rows, startSeconds));
  const what = entries.heldOut.length > 0 ? "held-out error" : "error";
  output.out(
    `${what} ${formatNumber(best!.error)} with the ${best!.form} form at step ${best!.step}; ` +
      `${formatNumber(written)} predictions in ${folder.path}/completed.csv, plots in ${folder.path}/report.html`,
  );
}

/** The factors that a form starts from. Both forms of a seed start as one. */
function startOf(form: Form, { run, entries, backend }: CompletionParts): Params {
  const { rows, columns } = entries.observed;
  const start = drawFactors(rows, columns, run);
  return form === "full" ? fullFactors(backend, start, run) : compressedFactors(backend, entries.observed, start, run);
}

interface DescentWatch {
  readonly output: Output;
  readonly isStopped: () => boolean;
  readonly onRow: (row: CompletionRow) => void;
}

/** The measure of a form that is kept. */
interface Reached {
  readonly step: number;
  /** Of what is held out; of what is trained on where nothing is. */
  readonly error: number;
  readonly matrix: ArrayLike<number>;
}

/** Runs a form to the end or to a signal, and leaves its factors at the measure that is kept. */
async function descend(
  form: Form,
  factors: Params,
  { run, entries }: CompletionParts,
  { output, isStopped, onRow }: DescentWatch,
): Promise<Reached> {
  using descent = new Descent(factors, entries.observed, { learningRate: run.lr, gamma: run.gamma });
  using progress = showProgress(output, { label: form, total: run.steps, plain: false });
  let seconds = 0;
  let matrix: ArrayLike<number> = await descent.matrix();
  let kept: Reached | undefined;
  let keptFactors: ReadonlyMap<string, HostArray> = new Map();
  for (let step = 0;;) {
    const row: CompletionRow = {
      ...{ form, step, loss: descent.lossOf(matrix), error: errorOf(entries, matrix, entries.train) },
      ...entries.heldOut.length > 0 ? { heldOutError: errorOf(entries, matrix, entries.heldOut) } : {},
      seconds,
    };
    if (!Number.isFinite(row.loss)) {
      throw new RangeError(
        `Cannot complete in the ${form} form: the error grew without bound before step ${step}; lower --lr: got ${run.lr}`,
      );
    }
    onRow(row);
    output.err(formatRow(row, run.steps));
    progress.update(step, { note: `error ${formatNumber(row.heldOutError ?? row.error)}` });
    const isEnd = step === run.steps || isStopped();
    const { heldOutError, error } = row;
    if (heldOutError === undefined ? isEnd : !kept || heldOutError < kept.error) {
      kept = { step, error: heldOutError ?? error, matrix };
      keptFactors = await valuesOf(factors);
    }
    if (isEnd) {
      if (kept!.step < step) output.err(`${form} at step ${kept!.step} had the least held-out error and is kept`);
      for (const [name, values] of keptFactors) factors.get(name).write(values);
      return kept!;
    }
    const started = performance.now();
    const next = Math.min(run.steps, step + run.logEvery);
    for (; step < next && !isStopped(); step++) {
      descent.advance();
      if (step % 16 === 0) await new Promise((resolve) => setTimeout(resolve)); // signals arrive between macrotasks
    }
    matrix = await descent.matrix(); // waits for the device
    seconds += (performance.now() - started) / 1000;
  }
}

/** Copies of the factors on the host, by name. */
async function valuesOf(factors: Params): Promise<Map<string, HostArray>> {
  const values = new Map<string, HostArray>();
  for (const [name, factor] of factors.entries()) values.set(name, await factor.read());
  return values;
}

function formatRow({ form, step, error, heldOutError, seconds }: CompletionRow, steps: number): string {
  const held = heldOutError === undefined ? "" : ` | held out ${formatNumber(heldOutError)}`;
  const place = String(step).padStart(String(steps).length);
  return `${form.padEnd(10)} step ${place}/${steps} | error ${formatNumber(error)}${held} | ${
    formatDuration(1000 * seconds)
  }`;
}

function printEntries({ run, entries, backend }: CompletionParts, output: Output): void {
  const { triples, observed: { rows, columns }, train, heldOut } = entries;
  const cells = rows * columns;
  output.err(`device    ${backend.summary}`);
  output.err(
    `data      ${run.data}: ${formatNumber(triples.value.length)} of ${formatNumber(rows)} x ${
      formatNumber(columns)
    } ` +
      `entries (${(100 * triples.value.length / cells).toFixed(1)}%); ${formatNumber(train.length)} to train on, ` +
      `${formatNumber(heldOut.length)} held out`,
  );
  const needs = run.forms.map((form) =>
    `${form} ${formatBytes(completionBytes(form, { rows, columns }, run, backend.kind))}`
  );
  output.err(`memory    ${needs.join(", ")} of tensors`);
}

function reportOf(
  folder: RunFolder,
  { run, entries, backend }: CompletionParts,
  rows: readonly CompletionRow[],
  startSeconds: ReadonlyMap<Form, number>,
): string {
  const { observed, triples } = entries;
  const share = (100 * triples.value.length / (observed.rows * observed.columns)).toFixed(1);
  return completionHtml({
    title: folder.name,
    subtitle:
      `${baseName(run.data)}: ${share}% of ${observed.rows} x ${observed.columns} entries; depth ${run.depth}, ` +
      `rank ${run.rank}, epsilon ${run.epsilon}, rate ${run.lr}, gamma ${run.gamma}`,
    ...{ rows, facts: completionFacts(rows, startSeconds), config: { run } },
    footer: `Made by Lowrank with ${backend.summary}, ${new Date().toISOString().slice(0, 10)}. ` +
      "Time is that of the steps; the start, which both forms need once, is given beside it.",
  });
}
