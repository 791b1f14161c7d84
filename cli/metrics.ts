/**
 * `metrics.jsonl`: one JSON object a line, a line a step, and a line an evaluation. Refuses to aggregate: readers do.
 *
 * JSON has no NaN; numbers that are not finite are written as the strings "NaN", "Infinity" and "-Infinity", and read
 * back as numbers. A resumed run drops the rows after its checkpoint, so that a step is there once.
 */
import { writeFileDurably } from "./durable.ts";
import { exists, readTextFile } from "./files.ts";

/** One optimizer step. */
export interface StepRow {
  /** Steps done, counted from 1. */
  readonly step: number;
  /** Mean loss of the step's tokens, in nats. */
  readonly loss: number;
  readonly lr: number;
  /** Global gradient norm before clipping. */
  readonly gradNorm?: number;
  /** Tokens seen since the run began. */
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly stepMs: number;
  /** Peak bytes that tensors took. */
  readonly memoryBytes?: number;
}

/** One evaluation on held-out text. */
export interface EvaluationRow {
  readonly step: number;
  /** Mean loss, in what the training loss is in. */
  readonly validationLoss: number;
  /** A task's measures by name. */
  readonly scores?: Readonly<Record<string, number>>;
}

/** A line of `metrics.jsonl`. */
export type MetricsRow = StepRow | EvaluationRow;

/** Whether a row is a step's. */
export function isStepRow(row: MetricsRow): row is StepRow {
  return "loss" in row;
}

/** Appends rows. Each is handed to the system before `append` returns, and so outlives this process. */
export class MetricsWriter implements Disposable {
  readonly #file: Deno.FsFile;

  private constructor(file: Deno.FsFile) {
    this.#file = file;
  }

  /**
   * Opens a file for appending. With `resumeAfterStep`, rows after that step and a torn last line are dropped first.
   *
   * @throws SyntaxError when a line before the last is unreadable
   */
  static async open(path: string, { resumeAfterStep }: { resumeAfterStep?: number } = {}): Promise<MetricsWriter> {
    if (resumeAfterStep !== undefined && await exists(path)) {
      const kept = (await readMetrics(path)).filter(({ step }) => step <= resumeAfterStep);
      await writeFileDurably(path, kept.map(formatRow).join(""));
    }
    return new MetricsWriter(await Deno.open(path, { append: true, create: true }));
  }

  /** Appends one line. */
  append(row: MetricsRow): void {
    const bytes = new TextEncoder().encode(formatRow(row));
    for (let at = 0; at < bytes.length;) at += this.#file.writeSync(bytes.subarray(at));
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function formatRow(row: MetricsRow): string {
  const value = (_: string, field: unknown) =>
    typeof field === "number" && !Number.isFinite(field) ? String(field) : field;
  return JSON.stringify(row, value) + "\n";
}

/** Rows of a file, in order. A torn last line, as a killed writer leaves it, is left out. @throws SyntaxError */
export async function readMetrics(path: string): Promise<MetricsRow[]> {
  const lines = (await readTextFile(path)).split("\n");
  const rows: MetricsRow[] = [];
  lines.forEach((line, i) => {
    if (line === "") return;
    const row = parseRow(line);
    if (row) rows.push(row);
    else if (i < lines.length - 1) throw new SyntaxError(`Cannot read ${path}: line ${i + 1} is not a row of metrics`);
  });
  return rows;
}

const NOT_FINITE: Readonly<Record<string, number>> = { NaN, Infinity, "-Infinity": -Infinity };

function parseRow(line: string): MetricsRow | undefined {
  try {
    const value = (_: string, field: unknown) => typeof field === "string" ? NOT_FINITE[field] ?? field : field;
    const row = JSON.parse(line, value) as Partial<StepRow & EvaluationRow> | null;
    const measured = row?.loss ?? row?.validationLoss;
    return typeof row?.step === "number" && typeof measured === "number" ? row as MetricsRow : undefined;
  } catch {
    return undefined;
  }
}
