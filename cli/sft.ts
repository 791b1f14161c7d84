/**
 * Supervised fine-tuning of a LLaMA on conversations: a `Subject` from a file of them and a model folder.
 *
 * The loss is the mean over the tokens of answers; what is asked is read and never learned. To train, conversations are
 * packed into rows, once for a run: attention sees the earlier ones of a row and positions run on, since the model masks
 * nothing but the future. To evaluate, each conversation stands alone in its row, so that its loss is what a user would
 * meet. With several micro-batches to a step, each counts alike, however many of its tokens do.
 */
import { createHash } from "node:crypto";
import { fromArray, noGrad, own, type ParamsView, scope, type Tensor } from "../core/mod.ts";
import {
  ChatTemplate,
  encodeChat,
  type EncodedChat,
  hasAnswerWithin,
  loadChatTemplate,
  packChat,
  packedBatches,
  type PackedRows,
  PLAIN_CHAT_TEMPLATE,
  readChat,
  type Tokenizer,
} from "../data/mod.ts";
import { LLAMA_PROJECTED, type LlamaConfig, llamaLoss } from "../models/mod.ts";
import { loadConfig, loadModel } from "./checkpoint.ts";
import { chooseTokenizer } from "./data_source.ts";
import { FileFolder } from "./files.ts";
import { type Finetune, SFT } from "./finetune_options.ts";
import type { Evaluation, LossOptions, Subject, SubjectRows } from "./finetune_subject.ts";
import type { Output } from "./log.ts";
import { checkVocabulary, paddingId } from "./model_source.ts";

/** Tokens of a row where nothing else is said. */
export const USUAL_ROW = 512;

/** Where `transformers` keeps a chat template of its own file. */
const TEMPLATE_FILE = "chat_template.jinja";

/** A batch of rows. */
export interface SftRows extends SubjectRows {
  /** [batch, seq] */
  readonly tokens: Int32Array;
  /** [batch, seq]: the next token where it is part of an answer, else -100. */
  readonly targets: Int32Array;
  /** Targets that count. */
  readonly counted: number;
}

/** Conversations to train on and to evaluate on. */
interface SftData {
  readonly train: PackedRows;
  readonly conversations: number;
  readonly dev: readonly SftRows[];
  readonly held: number;
  /** SHA-256 of ids and of what counts. */
  readonly hash: string;
}

/** Reads what a run over conversations needs before there is a device. */
export async function openSft(run: Finetune, output: Output): Promise<Subject<SftRows>> {
  const folder = new FileFolder(run.model);
  const stored = await loadConfig(folder);
  const tokenizer = await chooseTokenizer({ modelFolder: run.model });
  const template = await openTemplate(run.model, output);
  checkVocabulary(stored.vocab_size, tokenizer, run.model);
  const config = { ...stored, eos_token_id: stored.eos_token_id ?? tokenizer.eosId };
  const positions = config.max_position_embeddings;
  const seq = run.seq ?? Math.min(USUAL_ROW, positions);
  if (seq > positions) {
    throw new RangeError(`Cannot fine-tune on rows of ${seq} tokens: the model has positions for ${positions}`);
  }
  const padId = paddingId(config, tokenizer);
  const data = await openSftData({ ...run, seq }, { tokenizer, template, padId, positions }, output);
  const { train } = data;
  const many = (count: number) => count.toLocaleString("en-US");
  return {
    ...{ task: SFT, modelType: "llama", peftTask: "CAUSAL_LM", modulesToSave: [] },
    ...{ config, projected: LLAMA_PROJECTED, unit: "rows", lossUnit: "loss, nats a token of answers" },
    files: filesWith(tokenizer, template),
    batchesAnEpoch: Math.ceil(train.rows / run.batch),
    selectBy: { name: "perplexity", isHigher: false },
    words: {
      model: `vocabulary ${config.vocab_size}`,
      data: `${many(data.conversations)} conversations in ${many(train.rows)} rows of ${seq}, of whose tokens ` +
        `${(100 * train.counted / (train.rows * seq)).toFixed(0)}% are learned; ${many(data.held)} held out`,
    },
    resolved: { seq },
    identity: { tokenizer: tokenizer.hash, data: data.hash, seq, truncate: run.truncate },
    load: async (backend) => (await loadModel(backend, folder)).params,
    epoch: (epoch, start) => epochOf(train, run, epoch, start),
    loss: (view, rows, options) => answerLoss(view, config, rows, options),
    heldOut: () => data.dev.values(),
    measure: (view) => measureAnswers(view, config, data.dev),
  };
}

/** The chat template of a model's folder, or a plain one, which is said. */
export async function openTemplate(model: string, output: Pick<Output, "err">): Promise<ChatTemplate> {
  const own = await loadChatTemplate(model);
  if (!own) output.err(`note: ${model} has no chat template: a plain one is used, with each role on a line of its own`);
  return own ?? new ChatTemplate(PLAIN_CHAT_TEMPLATE);
}

/** The tokenizer's files, and one that says the template where they did not. */
function filesWith({ files }: Tokenizer, { source }: ChatTemplate): ReadonlyMap<string, Uint8Array> {
  if (source !== PLAIN_CHAT_TEMPLATE || files.has(TEMPLATE_FILE)) return files;
  return new Map([...files, [TEMPLATE_FILE, new TextEncoder().encode(source)]]);
}

/** What conversations become rows by. */
interface DataParts {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly padId: number;
  readonly positions: number;
}

async function openSftData(
  run: Finetune & { readonly seq: number },
  { tokenizer, template, padId, positions }: DataParts,
  output: Pick<Output, "err">,
): Promise<SftData> {
  const { seq, truncate, batch } = run;
  const chats = [];
  for (const file of pathsOf(run)) {
    const encoded = encodeChat(tokenizer, template, await readChat(file));
    if (!truncate) checkLengths(file, encoded, seq, positions);
    chats.push(encoded);
  }
  const parts = chats.length === 2 ? { train: chats[0], held: chats[1] } : holdOut(chats[0], run, output);
  const [train, held] = [parts.train, parts.held].map((chats) => truncate ? withAnswers(chats, seq) : chats);
  const packed = packChat(train, { seq, padId, truncate });
  if (packed.truncated > 0) output.err(`note: ${packed.truncated} conversations are cut to ${seq} tokens`);
  const leftOut = parts.train.length + parts.held.length - train.length - held.length;
  if (leftOut > 0) {
    output.err(`note: ${leftOut} conversations are left out: no answer is within their first ${seq} tokens`);
  }
  const hash = createHash("sha256");
  for (const { ids, counted } of [...parts.train, ...parts.held]) {
    hash.update(Int32Array.of(ids.length)).update(ids).update(counted);
  }
  return {
    ...{ train: packed, conversations: train.length, held: held.length, hash: hash.digest("hex") },
    dev: [...aloneInRows(held, { batch, seq, padId })],
  };
}

/** Conversations of which something is left to learn once they are cut. @throws RangeError where none is left */
function withAnswers(chats: readonly EncodedChat[], seq: number): readonly EncodedChat[] {
  const kept = chats.filter((chat) => chat.ids.length <= seq || hasAnswerWithin(chat, seq));
  if (kept.length > 0) return kept;
  throw new RangeError(
    `Cannot cut conversations to ${seq} tokens: an answer must lie within those of one: got none in ${chats.length}`,
  );
}

function pathsOf({ data }: Finetune): readonly string[] {
  if (data.length === 1 || data.length === 2) return data;
  throw new RangeError(
    `Cannot fine-tune on ${data.length} files: give --data FILE.jsonl, and a second one to evaluate on`,
  );
}

/** @throws RangeError for a conversation that is longer than a row */
export function checkLengths(file: string, chats: readonly EncodedChat[], seq: number, positions: number): void {
  const long = chats.find(({ ids }) => ids.length > seq);
  if (!long) return;
  const { line, ids: { length } } = long;
  throw new RangeError(
    `Cannot use "${file}": line ${line} has ${length} tokens, and ` +
      (length > positions
        ? `the model has positions for ${positions}`
        : `a row has ${seq}; use --seq ${length}, or cut it with --truncate`),
  );
}

/** Every tenth conversation of a file, to evaluate on. */
function holdOut(all: readonly EncodedChat[], { data: [file] }: Finetune, output: Pick<Output, "err">) {
  if (all.length < 10) {
    throw new RangeError(`Cannot hold out a tenth of ${file}: it must have 10 conversations: got ${all.length}`);
  }
  output.err(`note: every tenth conversation of ${file} is held out; a second --data FILE is evaluated on instead`);
  const isHeld = (_: EncodedChat, i: number) => i % 10 === 9;
  return { train: all.filter((chat, i) => !isHeld(chat, i)), held: all.filter(isHeld) };
}

function* epochOf(train: PackedRows, { batch, seed }: Finetune, epoch: number, start: number): Generator<SftRows> {
  for (const { tokens, targets, segments, size, counted } of packedBatches(train, { batch, seed, epoch, start })) {
    const count = segments.reduce((sum, segment) => sum + (segment > 0 ? 1 : 0), 0);
    yield { tokens, targets, counted, count, batch: size, seq: train.seq, index: 0 };
  }
}

/** How conversations that are evaluated on stand in rows. */
interface AloneOptions {
  readonly batch: number;
  /** Most tokens of a row; what is longer is cut. */
  readonly seq: number;
  readonly padId: number;
}

/** Batches of similar length with one conversation to a row, padded behind, where causal attention does not look. */
export function* aloneInRows(chats: readonly EncodedChat[], { batch, seq: most, padId }: AloneOptions) {
  const sorted = [...chats].sort((a, b) => a.ids.length - b.ids.length);
  for (let first = 0; first < sorted.length; first += batch) {
    const part = sorted.slice(first, first + batch);
    const seq = Math.min(most, part[part.length - 1].ids.length);
    const rows = part.map((chat) => packChat([chat], { seq, padId, truncate: true }));
    const joined = (of: (row: PackedRows) => Int32Array) => Int32Array.from(rows.flatMap((row) => [...of(row)]));
    const counted = rows.reduce((sum, row) => sum + row.counted, 0);
    const [tokens, targets] = [joined((row) => row.tokens), joined((row) => row.targets)];
    yield { tokens, targets, counted, batch: part.length, seq, index: 0 } satisfies SftRows;
  }
}

/** Mean loss over a batch's tokens of answers, in nats. */
export function answerLoss(
  view: ParamsView,
  config: LlamaConfig,
  { tokens, targets, batch, seq }: SftRows,
  { recompute }: LossOptions = {},
): Tensor {
  const [ids, next] = [tokens, targets].map((values) => fromArray(view.backend, values, [batch, seq]));
  return llamaLoss(view, config, ids, next, { recompute });
}

/** The exact mean over all tokens of answers. */
export async function measureAnswers(
  view: ParamsView,
  config: LlamaConfig,
  dev: readonly SftRows[],
): Promise<Evaluation> {
  let total = 0;
  let count = 0;
  for (const rows of dev) {
    using loss = heldOutLoss(view, config, rows);
    total += rows.counted * Number((await loss.read())[0]);
    count += rows.counted;
  }
  return { loss: total / count, scores: { perplexity: Math.exp(total / count) } };
}

function heldOutLoss(view: ParamsView, config: LlamaConfig, rows: SftRows): Tensor {
  using evaluation = scope("evaluate");
  return own(evaluation.keep(noGrad(() => answerLoss(view, config, rows))));
}
