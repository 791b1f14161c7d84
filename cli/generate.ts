/** `generate`: text from a model. */
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

/** The verb's flags. */
export const generateVerb = defineVerb({
  name: "generate",
  summary: "continues a prompt",
  example: 'deno task generate --model runs/NAME --prompt "export function " --tokens 200 --temperature 0.7',
  flags: {
    model: { type: "string", required: true, value: "FOLDER", help: "a Hugging Face folder or a run folder" },
    prompt: { type: "string", required: true, value: "TEXT", help: "what to continue" },
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
  using _ = params;
  checkVocabulary(config.vocab_size, tokenizer, options.model);
  const prompt = tokenizer.encode(options.prompt);
  const stop = [config.eos_token_id ?? []].flat();
  const ids: number[] = [...prompt];
  let shown = "";
  for await (const token of generateTokens(backend, params, config, prompt, { ...options, stop })) {
    ids.push(token);
    // a multi-byte character may be complete only with the next token
    const text = tokenizer.decode(ids).replace(/\uFFFD+$/, "");
    output.write(text.slice(shown.length));
    shown = text;
  }
  const text = tokenizer.decode(ids);
  output.out(text.slice(shown.length));
}
