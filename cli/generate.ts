/** `generate`: text from a model, as it goes on from a prompt or as it answers one; or from a file of prompts. */
import { encodeChatPrompt } from "../data/mod.ts";
import { onlyAdapter, openAdapters, parseAdapters } from "./adapted.ts";
import { defineVerb, parseVerb, UsageError } from "./arguments.ts";
import { loadModel } from "./checkpoint.ts";
import { chooseTokenizer } from "./data_source.ts";
import { openDevice } from "./device.ts";
import { FileFolder } from "./files.ts";
import { deviceFlags } from "./flags.ts";
import { type BatchParts, continuePrompts, readPrompts } from "./generate_batch.ts";
import type { Output } from "./log.ts";
import { checkVocabulary } from "./model_source.ts";
import { findModel } from "./resume.ts";
import { generateTokens, type SamplingOptions } from "./sampling.ts";
import { openTemplate } from "./sft.ts";

/** The verb's flags. */
export const generateVerb = defineVerb({
  name: "generate",
  summary: "continues a prompt, or answers it",
  example: [
    'deno task generate --model runs/NAME --prompt "export function " --tokens 200 --temperature 0.7',
    'deno task generate --model ./llama --adapter runs/NAME/best-adapter --chat --prompt "What is GaLore?" --temperature 0',
    "deno task generate --model ./llama --adapter law=./lora-law --adapter code=./lora-code --batch prompts.jsonl",
  ],
  flags: {
    model: { type: "string", required: true, value: "FOLDER", help: "a Hugging Face folder or a run folder" },
    prompt: { type: "string", value: "TEXT", help: "what to continue, or what to answer" },
    batch: {
      type: "string",
      value: "FILE.jsonl",
      help: 'or many prompts, {"prompt": TEXT, "adapter": NAME or null} a line; prints a JSON object for each',
    },
    rows: { type: "number", integer: true, min: 1, default: 16, help: "most prompts of a batch to a forward pass" },
    adapter: {
      type: "strings",
      value: "[NAME=]FOLDER",
      help: "an adapter in PEFT's files, on the model; several by name, for the lines of a batch",
    },
    chat: { type: "boolean", help: "put the prompt into the folder's chat template, and print the answer alone" },
    tokens: { type: "number", integer: true, min: 1, default: 200, help: "most tokens to add to a prompt" },
    temperature: { type: "number", min: 0, default: 0.8, help: "0 takes the likeliest token" },
    topK: { type: "number", integer: true, min: 0, default: 0, help: "draw from the k likeliest; 0: all" },
    seed: { type: "number", integer: true, min: 0, default: 1, help: "of the draws" },
    tokenizer: {
      type: "string",
      value: "byte|FOLDER",
      help: "how text becomes tokens",
      defaultHelp: "the model folder's",
    },
    ...deviceFlags,
  },
});

/** Runs the verb. */
export async function generate(argv: readonly string[], output: Output): Promise<void> {
  const { options } = parseVerb(generateVerb, argv);
  const { prompt, batch } = options;
  if ((prompt === undefined) === (batch === undefined)) {
    const given = batch === undefined ? "without --prompt or --batch" : "with --prompt and --batch at once";
    throw new UsageError(`Cannot generate ${given}: give a TEXT, or a FILE.jsonl of them`);
  }
  const adapters = parseAdapters(options.adapter);
  if (prompt !== undefined) onlyAdapter(adapters, "--prompt takes one; the lines of a --batch file name theirs");
  const lines = batch === undefined ? undefined : await readPrompts(batch, adapters);
  const folder = await findModel(options.model);
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder });
  const template = options.chat ? await openTemplate(folder, output) : undefined;
  const encode = (content: string) =>
    template ? encodeChatPrompt(tokenizer, template, [{ role: "user", content }]) : tokenizer.encode(content);
  using backend = await openDevice(options, output);
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using model = await openAdapters(params, adapters, { modelType: "llama", onNote: (line) => output.err(line) });
  checkVocabulary(config.vocab_size, tokenizer, options.model);
  const stop = [config.eos_token_id ?? [], options.chat ? tokenizer.eosId : []].flat();
  const parts = { backend, config, model, adapters, tokenizer, encode };
  if (lines) await continuePrompts(lines, parts, { ...options, stop }, output);
  else await continuePrompt(prompt!, parts, { ...options, stop }, output);
}

/** Continues one prompt and prints it as it grows: the whole text, or in a chat the answer alone. */
async function continuePrompt(
  text: string,
  { backend, config, model, adapters, tokenizer, encode }: BatchParts,
  options: SamplingOptions & { readonly chat: boolean },
  output: Output,
): Promise<void> {
  const prompt = encode(text);
  const ids = Array.from(prompt);
  const view = model.view([adapters.length - 1]);
  let shown = options.chat ? tokenizer.decode(ids) : "";
  for await (const token of generateTokens(backend, view, config, prompt, options)) {
    ids.push(token);
    // a multi-byte character may be complete only with the next token
    const now = tokenizer.decode(ids).replace(/\uFFFD+$/, "");
    output.write(now.slice(shown.length));
    shown = now;
  }
  output.out(tokenizer.decode(ids).slice(shown.length));
}
