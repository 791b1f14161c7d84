/** A few questions with short answers, and a tiny LLaMA that learns them in a second. Only tests import this. */
import type { LlamaConfig } from "../../models/mod.ts";
import { tinyConfig, writeTinyModel } from "./workspace.ts";

/** What is asked, and the answer that is trained. */
export const TINY_CHAT: readonly (readonly [question: string, answer: string])[] = [
  ["What is rank?", "Vectors."],
  ["What is a tape?", "Steps."],
  ["Who is Ada?", "A poet."],
  ["Is it low?", "Yes, it is."],
];

/** A configuration with enough spread in its first weights for frozen layers to tell bytes apart. */
export function tinyChatConfig(overrides: Partial<LlamaConfig> = {}): LlamaConfig {
  return tinyConfig({ max_position_embeddings: 96, initializer_range: 0.1, eos_token_id: null, ...overrides });
}

/** Writes the model folder `base` and the conversations `chat.jsonl`, in both forms of records. */
export async function writeTinyChat(overrides: Partial<LlamaConfig> = {}): Promise<void> {
  await writeTinyModel("base", { config: tinyChatConfig(overrides) });
  const records = TINY_CHAT.map(([question, answer], i) =>
    i % 2 === 0
      ? { prompt: question, completion: answer }
      : { messages: [{ role: "user", content: question }, { role: "assistant", content: answer }] }
  );
  await Deno.writeTextFile("chat.jsonl", records.map((record) => JSON.stringify(record) + "\n").join(""));
}
