/** `generate`: text from a model, as it goes on from a prompt or as it answers one. */
import { encodeChatPrompt, type Tokenizer } from "../data/mod.ts";
import { openAdapted } from "./adapted.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { loadModel } from "./checkpoint.ts";
import { chooseTokenizer } from "./data_source.ts";
import { openDevice } from "./device.ts";
import { FileFolder } from "./files.ts";
import { deviceFlags } from "./flags.ts";
import type { Output } from "./log.ts";
import { checkVocabulary } from "./model_source.ts";
import { findModel } from "./resume.ts";
import { generateTokens } from "./sampling.ts";
import { openTemplate } from "./sft.ts";

/** The verb's flags. */
export const generateVerb = defineVerb({
  name: "generate",
  summary: "continues a prompt, or answers it",
  example: [
    'deno task generate --model runs/NAME --prompt "export function " --tokens 200 --temperature 0.7',
    'deno task generate --model ./llama --adapter runs/NAME/best-adapter --chat --prompt "What is GaLore?" --temperature 0',
  ],
  flags: {
    model: { type: "string", required: true, value: "FOLDER", help: "a Hugging Face folder or a run folder" },
    prompt: { type: "string", required: true, value: "TEXT", help: "what to continue, or what to answer" },
    adapter: { type: "string", value: "FOLDER", help: "an adapter in PEFT's files, on the model" },
    chat: { type: "boolean", help: "put the prompt into the folder's chat template, and print the answer alone" },
    tokens: { type: "number", integer: true, min: 1, default: 200, help: "most tokens to add" },
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
  const folder = await findModel(options.model);
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder });
  using backend = await openDevice(options, output);
  const { params, config } = await loadModel(backend, new FileFolder(folder));
  using model = await openAdapted(params, options.adapter, "llama");
  checkVocabulary(config.vocab_size, tokenizer, options.model);
  const prompt = options.chat
    ? await chatPrompt(folder, tokenizer, options.prompt, output)
    : tokenizer.encode(options.prompt);
  const stop = [config.eos_token_id ?? [], options.chat ? tokenizer.eosId : []].flat();
  const ids: number[] = [...prompt];
  let shown = options.chat ? tokenizer.decode(ids) : "";
  for await (const token of generateTokens(backend, model.view, config, prompt, { ...options, stop })) {
    ids.push(token);
    // a multi-byte character may be complete only with the next token
    const text = tokenizer.decode(ids).replace(/\uFFFD+$/, "");
    output.write(text.slice(shown.length));
    shown = text;
  }
  const text = tokenizer.decode(ids);
  output.out(text.slice(shown.length));
}

/** A question as the folder's chat template puts it. */
async function chatPrompt(folder: string, tokenizer: Tokenizer, content: string, output: Output): Promise<Int32Array> {
  return encodeChatPrompt(tokenizer, await openTemplate(folder, output), [{ role: "user", content }]);
}
