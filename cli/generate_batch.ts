/**
 * `generate --batch`: the prompts of a file, each continued or answered with the adapter that its line names. Prompts of
 * different lengths and adapters share each forward pass; what a prompt becomes does not depend on its company, apart from
 * rounding.
 */
import { type Backend, foldIn, type Key, keyOf } from "../core/mod.ts";
import { jsonRecords, type Tokenizer } from "../data/mod.ts";
import type { LlamaConfig } from "../models/mod.ts";
import { type AdapterFlag, type AdapterSet, placeOfAdapter } from "./adapted.ts";
import type { Output } from "./log.ts";
import { type ChoiceOptions, generateBatch } from "./sampling.ts";

/** A line of the file. */
export interface PromptLine {
  readonly prompt: string;
  /** The place of its adapter among the flags; `NO_ADAPTER`: none. */
  readonly adapter: number;
  /** Its line, from 1. */
  readonly line: number;
}

/**
 * Reads the prompts of a file: `{"prompt": TEXT, "adapter": NAME}` a line, where null stands for no adapter. Other fields are
 * left aside.
 *
 * @throws SyntaxError for a file without prompts, or a line that is not JSON or has no prompt, with the line
 * @throws RangeError as `placeOfAdapter`
 */
export async function readPrompts(file: string, adapters: readonly AdapterFlag[]): Promise<PromptLine[]> {
  const lines: PromptLine[] = [];
  for (const { line, record } of jsonRecords(file, await readText(file))) {
    const where = `Cannot read "${file}": line ${line}`;
    const { prompt } = record;
    if (typeof prompt !== "string" || prompt === "") {
      throw new SyntaxError(`${where} needs a "prompt", a text: got ${JSON.stringify(prompt) ?? "none"}`);
    }
    lines.push({ prompt, adapter: placeOfAdapter(adapters, record.adapter, where), line });
  }
  if (lines.length === 0) throw new SyntaxError(`Cannot read "${file}": the file holds no prompts`);
  return lines;
}

async function readText(file: string): Promise<string> {
  try {
    return (await Deno.readTextFile(file)).replace(/^\ufeff/, "");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`Cannot read "${file}": there is no such file`);
  }
}

/** What prompts are continued by. */
export interface BatchParts {
  readonly backend: Backend;
  readonly config: LlamaConfig;
  readonly model: AdapterSet;
  readonly adapters: readonly AdapterFlag[];
  readonly tokenizer: Tokenizer;
  /** A prompt as the model is given it. */
  readonly encode: (prompt: string) => ArrayLike<number>;
}

/** How prompts are continued. */
export interface BatchOptions extends ChoiceOptions {
  readonly seed: number;
  /** Most prompts to a forward pass. */
  readonly rows: number;
}

/** Continues every prompt and prints a JSON object for each, in the order of the file. */
export async function continuePrompts(
  lines: readonly PromptLine[],
  parts: BatchParts,
  options: BatchOptions,
  output: Pick<Output, "out">,
): Promise<void> {
  const keyed = withKeys(lines, parts.adapters, options.seed);
  for (let first = 0; first < keyed.length; first += options.rows) {
    const together = keyed.slice(first, first + options.rows);
    const completions = await continueTogether(together, parts, options);
    for (const [i, { prompt, adapter }] of together.entries()) {
      const completion = completions[i];
      output.out(JSON.stringify({ adapter: labelOf(parts.adapters[adapter]) ?? null, prompt, completion }));
    }
  }
}

/** What an adapter is called in the answers. */
function labelOf(adapter: AdapterFlag | undefined): string | undefined {
  return adapter?.name ?? adapter?.folder;
}

interface KeyedLine extends PromptLine {
  readonly key: Key;
}

/** The lines with the keys of their draws: by what a line says, and how many before it say the same, wherever it stands. */
function withKeys(lines: readonly PromptLine[], adapters: readonly AdapterFlag[], seed: number): KeyedLine[] {
  const counts = new Map<string, number>();
  return lines.map((line) => {
    const content = [line.prompt, labelOf(adapters[line.adapter]) ?? []].flat();
    const before = counts.get(JSON.stringify(content)) ?? 0;
    counts.set(JSON.stringify(content), before + 1);
    return { ...line, key: foldIn(keyOf(seed), "prompt", ...content, before) };
  });
}

async function continueTogether(
  lines: readonly KeyedLine[],
  { backend, config, model, tokenizer, encode }: BatchParts,
  options: BatchOptions,
): Promise<string[]> {
  const prompts = lines.map(({ prompt, key }) => ({ ids: encode(prompt), key }));
  const texts = prompts.map(({ ids }) => Array.from(ids));
  const view = (places: readonly number[]) => model.view(places.map((place) => lines[place].adapter));
  for await (const { prompt, token } of generateBatch({ backend, config, view }, prompts, options)) {
    texts[prompt].push(token);
  }
  return texts.map((ids, i) => tokenizer.decode(ids).slice(tokenizer.decode(Array.from(prompts[i].ids)).length));
}
