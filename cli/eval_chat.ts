/** `eval --task sft`: how well a LLaMA, or one with adapters on it, knows the answers of conversations. */
import {
  crossEntropy,
  fromArray,
  noGrad,
  own,
  type ParamsView,
  reshape,
  scope,
  slice,
  stack,
  type Tensor,
} from "../core/mod.ts";
import { encodeChat, type EncodedChat, readChat } from "../data/mod.ts";
import { llama, type LlamaConfig } from "../models/mod.ts";
import { type AdapterSet, openAdapters } from "./adapted.ts";
import { loadModel } from "./checkpoint.ts";
import { chooseTokenizer } from "./data_source.ts";
import { type DeviceRequest, openDevice } from "./device.ts";
import { type AdapterFlags, byAdapter, calledInText, chooseAdapters } from "./eval_adapters.ts";
import { FileFolder } from "./files.ts";
import type { Output } from "./log.ts";
import { checkVocabulary } from "./model_source.ts";
import { findModel } from "./resume.ts";
import { aloneInRows, checkLengths, openTemplate, type SftRows } from "./sft.ts";

/** What is evaluated on what. */
export interface ChatEvaluation extends AdapterFlags, DeviceRequest {
  readonly model: string;
  readonly tokenizer?: string;
  readonly data: readonly string[];
  readonly batch: number;
  readonly json: boolean;
}

/** Evaluates a model on files of conversations and prints a line a file, and a line for each adapter that has a name. */
export async function evaluateOnChat(options: ChatEvaluation, output: Output): Promise<void> {
  if (options.data.length === 0) throw new RangeError("Cannot evaluate without data: give --data FILE.jsonl");
  const choice = chooseAdapters(options);
  const folder = await findModel(options.model);
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder });
  const template = await openTemplate(folder, output);
  const files = [];
  for (const file of options.data) {
    const chats = encodeChat(tokenizer, template, await readChat(file));
    const places = await choice.placesOf(file, chats.map(({ line }) => line));
    files.push({ file, chats: chats.map((chat, i) => ({ ...chat, adapter: places[i] })) });
  }
  using backend = await openDevice(options, output);
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using model = await openAdapters(params, choice.adapters, { modelType: "llama", onNote: (line) => output.err(line) });
  checkVocabulary(config.vocab_size, tokenizer, options.model);
  const seq = config.max_position_embeddings;
  for (const { file, chats } of files) {
    checkLengths(file, chats, seq, seq);
    const judged = await judge(model, config, { chats, batch: options.batch, padId: tokenizer.eosId });
    const all = measure(judged);
    const shares = byAdapter(choice, judged, measure);
    if (options.json) {
      const adapters = shares.map(({ adapter, measured }) => ({ adapter, ...measured }));
      const said = { model: folder, task: "sft", data: file, ...all };
      output.out(JSON.stringify(choice.byName ? { ...said, adapters } : said));
      continue;
    }
    output.out(`${inText(all)} of ${chats.length.toLocaleString("en-US")} answers of ${file}`);
    for (const { adapter, measured } of shares) output.out(`  ${calledInText(adapter)}: ${inText(measured)}`);
  }
}

/** A conversation's answers as the model knows them. */
interface JudgedChat {
  readonly adapter: number;
  /** Mean nats a token. */
  readonly loss: number;
  readonly tokens: number;
}

interface Measured {
  readonly loss: number;
  readonly perplexity: number;
  readonly tokens: number;
}

function measure(judged: readonly JudgedChat[]): Measured {
  const tokens = judged.reduce((sum, chat) => sum + chat.tokens, 0);
  const loss = judged.reduce((sum, chat) => sum + chat.loss * chat.tokens, 0) / tokens;
  return { loss, perplexity: Math.exp(loss), tokens };
}

function inText({ loss, perplexity, tokens }: Measured): string {
  return `loss ${loss.toFixed(4)} nats a token, perplexity ${perplexity.toFixed(4)}, ` +
    `over ${tokens.toLocaleString("en-US")} tokens`;
}

interface Judging {
  readonly chats: readonly (EncodedChat & { readonly adapter: number })[];
  readonly batch: number;
  readonly padId: number;
}

/** Each conversation's loss, in batches of about one length and any mixture of adapters. */
async function judge(
  model: AdapterSet,
  config: LlamaConfig,
  { chats, batch, padId }: Judging,
): Promise<JudgedChat[]> {
  // as aloneInRows sorts them
  const sorted = [...chats].sort((a, b) => a.ids.length - b.ids.length);
  const judged: JudgedChat[] = [];
  for (const rows of aloneInRows(sorted, { batch, seq: config.max_position_embeddings, padId })) {
    const places = sorted.slice(judged.length, judged.length + rows.batch).map(({ adapter }) => adapter);
    using losses = lossesOf(model.view(places), config, rows);
    const values = await losses.read();
    for (const [i, adapter] of places.entries()) {
      const targets = rows.targets.subarray(i * rows.seq, (i + 1) * rows.seq);
      judged.push({ adapter, loss: Number(values[i]), tokens: targets.filter((target) => target >= 0).length });
    }
  }
  return judged;
}

/** The mean loss of each row of a batch, [B]. */
function lossesOf(view: ParamsView, config: LlamaConfig, { tokens, targets, batch, seq }: SftRows): Tensor {
  using evaluation = scope("evaluate");
  const losses = noGrad(() => {
    const [ids, next] = [tokens, targets].map((values) => fromArray(view.backend, values, [batch, seq]));
    const logits = llama(view, config, ids);
    const lossOf = (i: number) => {
      const [scores, expected] = [logits, next].map((all) => slice(all, [{ start: i, end: i + 1 }]));
      return crossEntropy(reshape(scores, [seq, config.vocab_size]), reshape(expected, [seq]));
    };
    return stack(Array.from({ length: batch }, (_, i) => lossOf(i)), 0);
  });
  return own(evaluation.keep(losses));
}
