/**
 * Progress of a long job: a bar on the last line of a terminal, by npm:cli-progress; plain lines now and then where
 * stderr is none. A log line takes the bar off the screen and puts it back below.
 *
 * The package's own terminal is not used: it saves the cursor's place and goes back to it at the end, which overwrites
 * lines that were logged meanwhile.
 */
import cliProgress from "npm:cli-progress@3.12.0";
import { formatDuration, formatNumber, type Output, type Screen, speedIn, type SpeedUnit, TOKENS } from "./log.ts";

/** How progress is shown. */
export interface ProgressOptions {
  readonly label: string;
  readonly total: number;
  /** Units done before this job began: a resumed run's. They count for the bar, not for the speed. */
  readonly start?: number;
  /** A plain line after so many seconds ... */
  readonly everySeconds?: number;
  /** ... or so many percent, whichever comes first. */
  readonly everyPercent?: number;
  /** Whether to write plain lines where there is no terminal. */
  readonly plain?: boolean;
  /** Milliseconds, monotonic. */
  readonly clock?: () => number;
}

/** What an update may say beside the count. */
export interface ProgressNote {
  readonly tokensPerSecond?: number;
  /** Default: tokens. */
  readonly speedUnit?: SpeedUnit;
  /** A few words, such as the loss. */
  readonly note?: string;
}

/** A job under way. Disposing takes the bar off the screen. */
export interface Progress extends Disposable {
  update(done: number, note?: ProgressNote): void;
}

/** Starts showing a job. */
export function showProgress(output: Output, options: ProgressOptions): Progress {
  // Some pseudo-terminals have no columns: a bar drawn there never ends.
  return output.screen.columns > 0 ? new BarProgress(output.screen, options) : new PlainProgress(output, options);
}

/** Time left from what this job has done so far. */
function timeLeft({ start = 0, total }: ProgressOptions, done: number, elapsedMs: number): number | undefined {
  return done > start ? elapsedMs / (done - start) * (total - done) : undefined;
}

function describe(options: ProgressOptions, done: number, elapsedMs: number, note: ProgressNote = {}): string {
  const left = timeLeft(options, done, elapsedMs);
  const parts = [`${formatNumber(done)}/${formatNumber(options.total)}`];
  if (note.note) parts.push(note.note);
  const { tokensPerSecond, speedUnit = TOKENS } = note;
  if (tokensPerSecond !== undefined) {
    parts.push(`${formatNumber(speedIn(speedUnit, tokensPerSecond))} ${speedUnit.short}`);
  }
  if (done < options.total && left !== undefined) parts.push(`${formatDuration(1000 * Math.ceil(left / 1000))} left`);
  if (done >= options.total) parts.push(`took ${formatDuration(elapsedMs)}`);
  return parts.join(" | ");
}

/** The part of npm:cli-progress that is used; the package has no types. */
interface Bar {
  start(total: number, done: number, payload: { text: string }): void;
  update(done: number, payload: { text: string }): void;
  stop(): void;
}

class BarProgress implements Progress {
  readonly #bar: Bar;
  readonly #began: number;
  readonly #clock: () => number;
  #open = true;

  constructor(readonly screen: Screen, readonly options: ProgressOptions) {
    const { label, total, start = 0, clock = () => performance.now() } = options;
    const terminal = new BarTerminal(screen);
    const barsize = Math.max(8, Math.min(32, screen.columns - label.length - 62));
    const format = `${label} {bar} {percentage}% | {text}`;
    const bar = { barsize, format, barCompleteChar: "━", barIncompleteChar: "╌" };
    this.#bar = new cliProgress.SingleBar({ ...bar, terminal, clearOnComplete: true, gracefulExit: false }) as Bar;
    this.#clock = clock;
    this.#began = clock();
    screen.overlay = { hide: () => terminal.hide(), show: () => terminal.show() };
    this.#bar.start(total, start, { text: describe(options, start, 0) });
  }

  update(done: number, note?: ProgressNote): void {
    if (this.#open) this.#bar.update(done, { text: describe(this.options, done, this.#clock() - this.#began, note) });
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    this.#bar.stop();
    this.screen.overlay = undefined;
  }
}

/** What npm:cli-progress asks of a terminal, kept to one line that can be taken away and put back. */
class BarTerminal {
  #line = "";

  constructor(readonly screen: Screen) {}

  hide(): void {
    this.screen.draw("\r\x1b[K");
  }
  show(): void {
    this.screen.draw(this.#line);
  }
  write(text: string): void {
    this.#line = [...text].slice(0, this.getWidth()).join("");
    this.screen.draw(this.#line);
  }
  cursor(): void {} // never hidden: a killed process could not show it again
  cursorTo(): void {
    this.screen.draw("\r");
  }
  clearRight(): void {
    this.screen.draw("\x1b[K");
  }
  clearLine(): void {
    this.screen.draw("\x1b[2K");
  }
  getWidth(): number {
    return this.screen.columns - 1; // the last column would wrap in some terminals
  }
  isTTY(): boolean {
    return true;
  }
  cursorSave(): void {}
  cursorRestore(): void {}
  lineWrapping(): void {}
  newline(): void {}
}

class PlainProgress implements Progress {
  readonly #clock: () => number;
  readonly #began: number;
  #saidAt: number;
  #saidPercent: number;

  constructor(readonly output: Output, readonly options: ProgressOptions) {
    this.#clock = options.clock ?? (() => performance.now());
    this.#began = this.#saidAt = this.#clock();
    this.#saidPercent = percent(options, options.start ?? 0);
  }

  update(done: number, note?: ProgressNote): void {
    const { label, total, everySeconds = 10, everyPercent = 10, plain = true } = this.options;
    const now = this.#clock();
    const part = percent(this.options, done);
    const isDue = now - this.#saidAt >= everySeconds * 1000 || part - this.#saidPercent >= everyPercent;
    if (!plain || !(isDue || (done >= total && this.#saidPercent < 100))) return;
    this.#saidAt = now;
    this.#saidPercent = part;
    const share = String(Math.floor(part)).padStart(3);
    this.output.err(`${label} ${share}% | ${describe(this.options, done, now - this.#began, note)}`);
  }

  [Symbol.dispose](): void {}
}

function percent({ total }: ProgressOptions, done: number): number {
  return total > 0 ? 100 * Math.min(1, done / total) : 100;
}
