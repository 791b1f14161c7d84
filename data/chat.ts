/**
 * Conversations from JSONL: `{"messages": [{"role", "content"}, ...]}`, or `{"prompt", "completion"}`, which is a user's message and
 * an assistant's. It knows no template and no tokenizer. Content is text; pictures and tool calls are refused.
 * Source: the two record forms that TRL's SFTTrainer reads.
 */

import { type JsonRecord, jsonRecords } from "./table.ts";
import { decodeStrictly } from "./utf8.ts";

/** One turn. */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, or whatever else the template knows. */
  readonly role: string;
  readonly content: string;
}

/** One conversation, with at least one answer. */
export interface ChatRecord {
  readonly messages: readonly ChatMessage[];
  /** Its line in the file, from 1. */
  readonly line: number;
}

/** The role whose turns are learned. */
export const ANSWERS = "assistant";

/**
 * Reads the conversations of a file.
 *
 * @throws {SyntaxError} when the file is empty, a line is not JSON or of neither form, or a conversation has no answer; with
 * the line.
 */
export async function readChat(file: string): Promise<ChatRecord[]> {
  const text = decodeStrictly(await readBytes(file), file, 0).replace(/^\ufeff/, "");
  const records: ChatRecord[] = [];
  for (const json of jsonRecords(file, text)) records.push(readRecord(file, json));
  if (records.length === 0) throw new SyntaxError(`Cannot read "${file}": the file holds no conversations`);
  return records;
}

async function readBytes(file: string): Promise<Uint8Array> {
  try {
    return await Deno.readFile(file);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`Cannot read "${file}": there is no such file`);
  }
}

function readRecord(file: string, { line, record }: JsonRecord): ChatRecord {
  const where = `Cannot read "${file}": line ${line}`;
  const messages = "messages" in record ? readMessages(where, record.messages) : readPair(where, record);
  const answers = messages.filter(({ role }) => role === ANSWERS);
  if (answers.length === 0) throw new SyntaxError(`${where} has no answer: no message has the role "${ANSWERS}"`);
  if (answers.some(({ content }) => content.trim() === "")) throw new SyntaxError(`${where} has an empty answer`);
  return { messages, line };
}

function readPair(where: string, record: JsonRecord["record"]): ChatMessage[] {
  const { prompt, completion } = record;
  if (prompt === undefined) {
    const keys = Object.keys(record).map((key) => `"${key}"`).join(", ") || "none";
    throw new SyntaxError(`${where} must have "messages", or "prompt" and "completion": its keys are ${keys}`);
  }
  if (completion === undefined || completion === null) {
    throw new SyntaxError(`${where} has no answer: it needs a "completion"`);
  }
  if (Array.isArray(prompt) && Array.isArray(completion)) {
    return [...readMessages(where, prompt), ...readMessages(where, completion)];
  }
  if (typeof prompt !== "string" || typeof completion !== "string") {
    throw new SyntaxError(`${where}: "prompt" and "completion" must both be text, or both lists of messages`);
  }
  return [{ role: "user", content: prompt }, { role: ANSWERS, content: completion }];
}

function readMessages(where: string, value: unknown): ChatMessage[] {
  if (!Array.isArray(value)) throw new SyntaxError(`${where}: "messages" must be a list`);
  return value.map((message: { role?: unknown; content?: unknown } | null, i) => {
    if (typeof message?.role !== "string" || typeof message.content !== "string") {
      throw new SyntaxError(`${where}: message ${i + 1} must have a "role" and a "content", both text`);
    }
    return { role: message.role, content: message.content };
  });
}
