/** `eval --task sft`: how well a LLaMA, or one with an adapter on it, knows the answers of conversations. */
import { encodeChat, readChat } from "../data/mod.ts";
import { openAdapted } from "./adapted.ts";
import { loadModel } from "./checkpoint.ts";
import { chooseTokenizer } from "./data_source.ts";
import { type DeviceRequest, openDevice } from "./device.ts";
import { FileFolder } from "./files.ts";
import type { Output } from "./log.ts";
import { checkVocabulary } from "./model_source.ts";
import { findModel } from "./resume.ts";
import { aloneInRows, checkLengths, measureAnswers, openTemplate } from "./sft.ts";

/** What is evaluated on what. */
export interface ChatEvaluation extends DeviceRequest {
  readonly model: string;
  readonly adapter?: string;
  readonly tokenizer?: string;
  readonly data: readonly string[];
  readonly batch: number;
  readonly json: boolean;
}

/** Evaluates a model on files of conversations and prints a line a file. */
export async function evaluateOnChat(options: ChatEvaluation, output: Output): Promise<void> {
  if (options.data.length === 0) throw new RangeError("Cannot evaluate without data: give --data FILE.jsonl");
  const folder = await findModel(options.model);
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder });
  const template = await openTemplate(folder, output);
  using backend = await openDevice(options, output);
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using model = await openAdapted(params, options.adapter, "llama");
  checkVocabulary(config.vocab_size, tokenizer, options.model);
  const seq = config.max_position_embeddings;
  for (const file of options.data) {
    const chats = encodeChat(tokenizer, template, await readChat(file));
    checkLengths(file, chats, seq, seq);
    const rows = [...aloneInRows(chats, { batch: options.batch, seq, padId: tokenizer.eosId })];
    const { loss, scores: { perplexity } } = await measureAnswers(model.view, config, rows);
    const tokens = rows.reduce((sum, { counted }) => sum + counted, 0);
    output.out(
      options.json
        ? JSON.stringify({ model: folder, task: "sft", data: file, loss, perplexity, tokens })
        : `loss ${loss.toFixed(4)} nats a token, perplexity ${perplexity.toFixed(4)}, ` +
          `over ${tokens.toLocaleString("en-US")} tokens of ${chats.length.toLocaleString("en-US")} answers of ${file}`,
    );
  }
}
