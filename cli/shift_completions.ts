/**
 * Completions with groups, for LLaMAs: a `ShiftSubject`.
 *
 * A record is `{"prompt", "completion", "bad"}` and the group's column: `completion` is what is wanted, and `bad`, which may be left out
 * of the whole file, what is not. Both are read as an assistant's answer to the prompt in the base's chat template, as
 * `finetune --task sft` trains them. A model's behaviour is bad where all of `bad`, its end included, is likelier to it than
 * all of `completion`. Distributions are compared at the tokens of `completion`.
 */
import { fromArray, scope } from "../core/mod.ts";
import { ANSWERS, type ChatTemplate, encodeChat, type EncodedChat, readTable, type Tokenizer } from "../data/mod.ts";
import { LLAMA_PROJECTED, type LlamaConfig, llamaLens } from "../models/mod.ts";
import { loadConfig, loadModel } from "./checkpoint.ts";
import { chooseTokenizer } from "./data_source.ts";
import { FileFolder } from "./files.ts";
import { SFT } from "./finetune_options.ts";
import type { Output } from "./log.ts";
import { checkVocabulary, paddingId } from "./model_source.ts";
import { findModel } from "./resume.ts";
import { checkLengths, openTemplate } from "./sft.ts";
import type { ShiftOptions } from "./shift_options.ts";
import { checkAlike, type ProbeBatch, probesFile, readGroups, type ShiftSubject } from "./shift_subject.ts";

/** Reads the probes. */
export async function openCompletions(options: ShiftOptions, output: Pick<Output, "err">): Promise<ShiftSubject> {
  if (options.task !== undefined && options.task !== SFT) {
    throw new RangeError(`Cannot compare LLaMAs on the task ${options.task}: they have completions, --task ${SFT}`);
  }
  if (options.positive !== undefined) {
    throw new RangeError("Cannot use --positive with completions: the rates are those of the unwanted ones");
  }
  const file = probesFile(options.data);
  const groups = await readGroups(file, options.group);
  const base = await findModel(options.base);
  const config = await loadConfig(new FileFolder(base));
  const tokenizer = await chooseTokenizer({ modelFolder: base });
  checkVocabulary(config.vocab_size, tokenizer, options.base);
  const records = await readCompletions(file);
  const template = await openTemplate(base, output);
  const sequences = encodeAll(file, records, { tokenizer, template, config });
  const hasBad = records[0].bad !== undefined;
  const padId = paddingId(config, tokenizer);
  return {
    ...{ task: SFT, modelType: "llama", config, projected: LLAMA_PROJECTED, isClassifier: false, unit: "token" },
    probes: {
      groupNames: groups.names,
      groups: Int32Array.from(records, ({ line }) => groups.of.get(line)!),
      choices: hasBad ? ["wanted", "unwanted"] : [],
      labels: new Int32Array(hasBad ? records.length : 0),
      positive: 1,
    },
    batches: batchesOf(sequences, options.batch, padId, config),
    load: async (backend, folder) => {
      checkAlike(folder, await loadConfig(new FileFolder(folder)), config);
      return (await loadModel(backend, new FileFolder(folder))).params;
    },
    inOrder: (view) => Promise.resolve(view),
  };
}

interface CompletionRecord {
  readonly prompt: string;
  readonly completion: string;
  readonly bad?: string;
  readonly line: number;
}

/** @throws SyntaxError for a missing field, an empty completion, or an unwanted one that is on some lines alone */
async function readCompletions(file: string): Promise<CompletionRecord[]> {
  const { columns, rows } = await readTable(file);
  const hasBad = columns.includes("bad");
  const records: CompletionRecord[] = [];
  for (const { line, fields } of rows) {
    const read = (name: string): string => {
      const value = fields[columns.indexOf(name)];
      if (typeof value === "string" && (name === "prompt" || value.trim() !== "")) return value;
      const got = value === undefined || value === null ? "none" : JSON.stringify(value);
      throw new SyntaxError(`Cannot read "${file}": line ${line} must have a "${name}" that is text: got ${got}`);
    };
    const record = { prompt: read("prompt"), completion: read("completion"), line };
    const bad = hasBad ? read("bad") : undefined;
    if (bad?.trim() === record.completion.trim()) {
      throw new SyntaxError(`Cannot read "${file}": line ${line} has one text as "completion" and as "bad"`);
    }
    records.push({ ...record, bad });
  }
  return records;
}

interface Sequence extends EncodedChat {
  readonly item: number;
  readonly isWanted: boolean;
}

interface Encoding {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly config: LlamaConfig;
}

function encodeAll(
  file: string,
  records: readonly CompletionRecord[],
  { tokenizer, template, config }: Encoding,
): Sequence[] {
  const encode = (isWanted: boolean) => {
    const chats = records.flatMap(({ prompt, completion, bad, line }) => {
      const answer = isWanted ? completion : bad;
      if (answer === undefined) return [];
      return [{ line, messages: [{ role: "user", content: prompt }, { role: ANSWERS, content: answer }] }];
    });
    const encoded = encodeChat(tokenizer, template, chats);
    checkLengths(file, encoded, config.max_position_embeddings, config.max_position_embeddings);
    return encoded.map((chat, item): Sequence => ({ ...chat, item, isWanted }));
  };
  return [...encode(true), ...encode(false)];
}

/** Batches of similar lengths, padded behind, where causal attention does not look. */
function batchesOf(all: readonly Sequence[], size: number, padId: number, config: LlamaConfig): ProbeBatch[] {
  const sorted = [...all].sort((a, b) => a.ids.length - b.ids.length);
  const count = Math.ceil(sorted.length / size);
  return Array.from(
    { length: count },
    (_, i) => batchOf(sorted.slice(i * size, (i + 1) * size), padId, config),
  );
}

function batchOf(part: readonly Sequence[], padId: number, config: LlamaConfig): ProbeBatch {
  const length = part[part.length - 1].ids.length;
  const tokens = new Int32Array(part.length * length).fill(padId);
  const owners = new Int32Array(part.length * length).fill(-1);
  const rows = [];
  const places: number[] = [];
  for (const [row, { ids, counted, item, isWanted }] of part.entries()) {
    tokens.set(ids, row * length);
    if (isWanted) owners.fill(item, row * length, row * length + ids.length);
    for (let t = 1; t < ids.length; t++) {
      if (counted[t] === 0) continue;
      places.push(row * length + t - 1); // where the token is foretold
      rows.push({ item, target: ids[t], isWanted });
    }
  }
  return {
    ...{ rows, owners },
    lens: (view) => {
      using _ = scope("completions");
      const { backend } = view;
      const at = fromArray(backend, Int32Array.from(places), [places.length]);
      return llamaLens(view, config, fromArray(backend, tokens, [part.length, length]), at);
    },
  };
}
