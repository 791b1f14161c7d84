/**
 * What the runs of a study came to: `results*.jsonl` in its folder, one object a run, appended as they end. A run that is
 * there is never run again, which is how a study goes on where it stopped; of two lines for one run the later counts.
 *
 * A folder holds one setting (model, batch, steps, text, device): anything else is refused, not mixed in. Several shards
 * write a file each; copied into one folder they are one study.
 */
import { namesIn } from "../durable.ts";
import { join, readTextFile } from "../files.ts";
import type { Method } from "./study_methods.ts";

/** Which part of a study a run belongs to. */
export type StudyName = "main" | "best-of" | "gap" | "rank";

/** What must be the same for runs to be comparable. */
export interface Setting {
  readonly model: string;
  readonly batch: number;
  readonly seq: number;
  readonly steps: number;
  /** The text's name, and the SHA-256 of each file. */
  readonly data: string;
  readonly sha256: readonly string[];
  readonly device: string;
}

/** One run to do. */
export interface Job {
  readonly study: StudyName;
  /** A method's name, or an ablation's point. */
  readonly method: string;
  readonly flags: readonly string[];
  readonly rate: number;
  readonly seed: number;
}

/** A run that ended, well or not. */
export interface Result extends Job {
  readonly setting: Setting;
  /** Why it failed; everything measured is left out then. */
  readonly failure?: string;
  /** Held-out loss in nats a token. */
  readonly loss?: number;
  readonly perplexity?: number;
  /** Weights that are trained or held, factors as such. */
  readonly weights?: number;
  /** Bytes of the optimizer's tensors, bases included. */
  readonly stateBytes?: number;
  /** Of the median step, beside the other jobs. */
  readonly tokensPerSecond?: number;
  readonly tokens?: number;
  readonly seconds: number;
  readonly date: string;
  readonly device?: string;
  readonly kernelPath?: string;
  readonly jobs: number;
  readonly threads: number;
}

/** The results of a study's folder. */
export class Results {
  readonly #byLabel = new Map<string, Result>();
  readonly #file: string;

  private constructor(readonly folder: string, file: string, readonly setting: Setting) {
    this.#file = join(folder, file);
  }

  /**
   * Opens a folder to go on with, and makes it if need be. `file` is what this process appends to.
   *
   * @throws RangeError when its runs had another setting
   */
  static async open(folder: string, setting: Setting, file = "results.jsonl"): Promise<Results> {
    await Deno.mkdir(folder, { recursive: true });
    const results = new Results(folder, file, setting);
    for (const result of await readResults(folder)) {
      const [had, got] = [JSON.stringify(result.setting), JSON.stringify(setting)];
      if (had !== got) throw new RangeError(`Cannot go on with ${folder}: its runs are of ${had}: got ${got}`);
      results.#byLabel.set(labelOf(result), result);
    }
    return results;
  }

  /** The result of a job, under its own name or another's with the same flags, rate and seed. */
  find(job: Job): Result | undefined {
    const own = this.#byLabel.get(labelOf(job));
    if (own) return own;
    const same = (one: Result) =>
      one.rate === job.rate && one.seed === job.seed && one.flags.join("\n") === job.flags.join("\n");
    const other = this.all().find(same);
    return other && { ...other, ...job };
  }

  /** Adds a result, on disk before it returns. */
  add(result: Result): void {
    this.#byLabel.set(labelOf(result), result);
    Deno.writeTextFileSync(this.#file, JSON.stringify(result) + "\n", { append: true });
  }

  all(): readonly Result[] {
    return [...this.#byLabel.values()];
  }
}

function labelOf({ study, method, rate, seed, flags }: Job): string {
  return JSON.stringify([study, method, rate, seed, flags]);
}

/** Every result in a folder, in order of files and lines. A torn last line is left out. @throws SyntaxError */
export async function readResults(folder: string): Promise<Result[]> {
  const results: Result[] = [];
  for (const name of (await namesIn(folder)).filter((name) => /^results.*\.jsonl$/.test(name))) {
    const lines = (await readTextFile(join(folder, name))).split("\n");
    for (const [index, line] of lines.entries()) {
      if (line === "") continue;
      try {
        results.push(JSON.parse(line));
      } catch {
        if (index < lines.length - 1) {
          throw new SyntaxError(`Cannot read ${folder}/${name}: line ${index + 1} is no JSON`);
        }
      }
    }
  }
  return results;
}

/** What a rate of a method came to over its seeds. */
export interface RateSummary {
  readonly rate: number;
  /** Losses by seed, ascending. */
  readonly losses: readonly number[];
  readonly mean: number;
  readonly results: readonly Result[];
}

/** The rates of a method in a part of a study, ascending, those without a successful run left out. */
export function ratesOf(results: readonly Result[], study: StudyName, method: string): RateSummary[] {
  const done = results.filter((one) => one.study === study && one.method === method && one.loss !== undefined);
  const rates = [...new Set(done.map(({ rate }) => rate))].sort((a, b) => a - b);
  return rates.map((rate) => {
    const mine = done.filter((one) => one.rate === rate).sort((a, b) => a.seed - b.seed);
    const losses = mine.map(({ loss }) => loss!);
    return { rate, losses, mean: losses.reduce((sum, loss) => sum + loss, 0) / losses.length, results: mine };
  });
}

/**
 * The best rate of a method: the lowest mean among the rates with the most seeds. Rates with one seed alone do not
 * compete with the mean of three.
 */
export function bestRate(results: readonly Result[], study: StudyName, method: string): RateSummary | undefined {
  const rates = ratesOf(results, study, method);
  const seeds = Math.max(0, ...rates.map(({ losses }) => losses.length));
  return rates.filter(({ losses }) => losses.length === seeds)
    .reduce<RateSummary | undefined>((best, one) => best && best.mean <= one.mean ? best : one, undefined);
}

/** The rates that get more seeds: the one that is best at seed 1, and its neighbours in the grid. */
export function ratesToRepeat(results: readonly Result[], { name, rates }: Method): readonly number[] {
  const first = ratesOf(results.filter(({ seed }) => seed === 1), "main", name);
  if (first.length === 0) return [];
  const top = first.reduce((best, one) => one.mean < best.mean ? one : best).rate;
  const at = rates.indexOf(top);
  return rates.slice(Math.max(0, at - 1), at + 2);
}
