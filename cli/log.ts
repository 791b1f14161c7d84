/**
 * Everything that the command line writes goes through here: lines on stdout and stderr, tables, numbers for people, and
 * the one line that stands for an error. Refuses to be a logging framework: no levels, no colours, no time stamps.
 *
 * Results go to stdout, everything about the work to stderr, so that `lowrank eval --json > file` holds only the result.
 */
import { formatBytes } from "../core/mod.ts";

export { formatBytes };

/** Where a command writes. Lines come without their newline. */
export interface Output {
  /** A line of the result, on stdout. */
  out(line: string): void;
  /** A line about the work, on stderr. */
  err(line: string): void;
  /** Text of the result as it comes, on stdout, no newline added. */
  write(text: string): void;
  /** The screen behind stderr; columns are 0 where it is none. */
  readonly screen: Screen;
}

/** A terminal that can redraw its last line. */
export interface Screen {
  /** Characters a line holds; 0: not a terminal, or one that does not tell. */
  readonly columns: number;
  /** Writes control sequences and text. */
  draw(text: string): void;
  /** What must be taken off the last line before anything else is written, and put back after. */
  overlay: Overlay | undefined;
}

/** A status line that gives way to log lines. */
export interface Overlay {
  hide(): void;
  show(): void;
}

/** The `Output` over this process's stdout and stderr. */
export function consoleOutput(): Output {
  const screen: Screen = {
    columns: columnsOfStderr(),
    draw: (text) => writeAll(Deno.stderr, text),
    overlay: undefined,
  };
  const around = (action: () => void) => {
    screen.overlay?.hide();
    action();
    screen.overlay?.show();
  };
  return {
    screen,
    out: (line) => around(() => writeAll(Deno.stdout, line + "\n")),
    err: (line) => around(() => writeAll(Deno.stderr, line + "\n")),
    write: (text) => writeAll(Deno.stdout, text),
  };
}

/** An `Output` that keeps what is written: for tests, and for a command that runs inside another. */
export function memoryOutput(columns = 0): Output & { readonly outText: string; readonly errText: string } {
  const kept = { out: "", err: "" };
  const screen: Screen = { columns, draw: (text) => void (kept.err += text), overlay: undefined };
  return {
    screen,
    out: (line) => void (kept.out += line + "\n"),
    err: (line) => {
      screen.overlay?.hide();
      kept.err += line + "\n";
      screen.overlay?.show();
    },
    write: (text) => void (kept.out += text),
    get outText() {
      return kept.out;
    },
    get errText() {
      return kept.err;
    },
  };
}

function columnsOfStderr(): number {
  if (!Deno.stderr.isTerminal()) return 0;
  try {
    return Deno.consoleSize().columns; // 0 in some pseudo-terminals, which must not be drawn on
  } catch {
    return 0;
  }
}

function writeAll(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let at = 0; at < bytes.length;) at += stream.writeSync(bytes.subarray(at));
  } catch (error) {
    // The reader has left, as `| head` does: training goes on, there is nobody to tell.
    if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
  }
}

/** What a speed is told in. */
export interface SpeedUnit {
  /** Tokens of one of what is counted. */
  readonly tokens: number;
  /** What it is called in a line. */
  readonly short: string;
  /** What it is called above a plot. */
  readonly long: string;
}

/** What speeds are in where nothing else is said. */
export const TOKENS: SpeedUnit = { tokens: 1, short: "tok/s", long: "Tokens a second" };

/** A speed in its unit: a whole number, or two digits where it is slow. */
export function speedIn({ tokens }: SpeedUnit, tokensPerSecond: number): number {
  const speed = tokensPerSecond / tokens;
  return speed < 10 ? Number(speed.toPrecision(2)) : Math.round(speed);
}

/** What one step's log line says. Figures left out are not shown. */
export interface StepLine {
  readonly step: number;
  readonly steps: number;
  readonly loss: number;
  readonly gradNorm?: number;
  readonly lr: number;
  readonly stepMs: number;
  readonly tokensPerSecond: number;
  /** Default: tokens. */
  readonly speedUnit?: SpeedUnit;
  /** Model FLOPs utilisation, 0 to 1; only where the peak is known. */
  readonly mfu?: number;
}

/** llm.c's line: `step   40/1000 | loss 2.3456 | norm 0.8123 | lr 1.00e-02 | 123.4 ms | 8312 tok/s | 12.3% mfu`. */
export function formatStep(line: StepLine): string {
  const { speedUnit = TOKENS } = line;
  const width = Math.max(4, String(line.steps).length);
  const parts = [`step ${String(line.step).padStart(width)}/${line.steps}`, `loss ${line.loss.toFixed(4)}`];
  if (line.gradNorm !== undefined) parts.push(`norm ${line.gradNorm.toFixed(4)}`);
  parts.push(`lr ${line.lr.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2")}`);
  parts.push(`${line.stepMs.toFixed(1)} ms`, `${speedIn(speedUnit, line.tokensPerSecond)} ${speedUnit.short}`);
  if (line.mfu !== undefined) parts.push(`${(100 * line.mfu).toFixed(1)}% mfu`);
  return parts.join(" | ");
}

/** A number for people: integers with thousands separators, others with `digits` significant digits. */
export function formatNumber(value: number, digits = 4): string {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e15) return value.toExponential(Math.max(0, digits - 1));
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en-US", { maximumFractionDigits: Math.min(20, decimals) });
}

/** Names for a line of text. */
export function shorten(names: readonly string[], most = 8): string {
  return names.length <= most ? names.join(", ") : `${names.slice(0, most).join(", ")} and ${names.length - most} more`;
}

/** A share for people, in percent: two significant digits where it is small. */
export function formatShare(share: number): string {
  return `${Number(share < 0.1 ? (100 * share).toPrecision(2) : (100 * share).toFixed(1))}%`;
}

/** A stretch of time for people: `123 ms`, `12.3 s`, `3 min 05 s`, `1 h 02 min`. */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms) || ms < 0) return "?";
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const pad = (value: number) => String(value).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${pad(seconds % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} min`;
}

/** Rows as aligned columns, two spaces between. `align` has one letter a column, `l` or `r`; default all `l`. */
export function formatTable(rows: readonly (readonly string[])[], align = ""): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, cell.length));
  }
  return rows.map((row) =>
    row.map((cell, i) => align[i] === "r" ? cell.padStart(widths[i]) : cell.padEnd(widths[i])).join("  ").trimEnd()
  );
}

/** The one line that tells a user what went wrong; for a missing permission, the flag to add. */
export function explainError(error: unknown): string {
  if (!(error instanceof Error)) return `Cannot go on: ${String(error)}`;
  if (error instanceof Deno.errors.NotCapable) return explainPermission(error.message);
  if (error instanceof SuppressedError) return explainError(error.suppressed);
  if (error instanceof AggregateError && error.errors.length > 0) {
    const more = error.errors.length > 1 ? ` (and ${error.errors.length - 1} more)` : "";
    return explainError(error.errors[0]) + more;
  }
  if ((error as { code?: unknown }).code === "ENOSPC") return `Cannot write: the disk is full (${oneLine(error)})`;
  return oneLine(error);
}

function explainPermission(message: string): string {
  const [, kind, wanted] = /^Requires ([\w-]+) access(?: to "?(.*?)"?)?(?:, (?:run|specify)|$)/.exec(message) ?? [];
  if (!kind) return message;
  const scope = wanted && !wanted.startsWith("<") && kind !== "all" ? `=${wanted}` : "";
  const target = wanted ? ` to ${wanted}` : "";
  return `Cannot go on without ${kind} access${target}: add --allow-${kind}${scope} to the deno command`;
}

function oneLine(error: Error): string {
  return error.message.trim().split("\n")[0] || error.name;
}
