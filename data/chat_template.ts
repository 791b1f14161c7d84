/**
 * A model's chat template, through `npm:@huggingface/jinja`, the one file that imports it: a conversation as text, and as token
 * ids of which only the answers count. The ids are those of the whole text, so that training sees what Hugging Face's
 * `apply_chat_template` gives; no special token is added that the template does not write.
 *
 * Where an answer lies is found by rendering the conversation's beginnings: up to the answer, as for generation, and with
 * it. A token that stands astride the border where an answer begins is the answer's; one astride its end is not. Templates that
 * render a beginning otherwise than the whole (some drop earlier reasoning) are refused with the line.
 */

import { Template } from "npm:@huggingface/jinja@0.5.11";
import { ANSWERS, type ChatMessage, type ChatRecord } from "./chat.ts";
import { decodeStrictly } from "./utf8.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A template for models that come without one: the role on a line of its own, an end after every message. */
export const PLAIN_CHAT_TEMPLATE: string = "{% for message in messages %}" +
  "{{ message['role'] + ':\\n' + message['content'] | trim + eos_token }}" +
  "{% endfor %}" +
  "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}";

/** A conversation as token ids. */
export interface EncodedChat {
  readonly ids: Int32Array;
  /** 1 at the tokens of answers, which count in the loss; 0 elsewhere. As long as `ids`. */
  readonly counted: Uint8Array;
  /** Its line in the file. */
  readonly line: number;
}

/** A compiled chat template. */
export class ChatTemplate {
  /** The template's own text, for a checkpoint's folder. */
  readonly source: string;
  readonly #template: Template;

  /** @throws {SyntaxError} when the text is not a Jinja template. */
  constructor(source: string) {
    this.source = source;
    try {
      this.#template = new Template(source);
    } catch (error) {
      throw new SyntaxError(`Cannot read the chat template: ${(error as Error).message}`);
    }
  }

  /**
   * A conversation as text; with `forGeneration`, what an answer follows.
   *
   * @throws {SyntaxError} when the template refuses the conversation or cannot be run.
   */
  render(tokenizer: Tokenizer, messages: readonly ChatMessage[], forGeneration = false): string {
    const text = (id: number | undefined): string => id === undefined ? "" : tokenizer.decode([id]);
    try {
      return this.#template.render({
        messages,
        add_generation_prompt: forGeneration,
        bos_token: text(tokenizer.bosId),
        eos_token: text(tokenizer.eosId),
        pad_token: text(tokenizer.padId),
        unk_token: text(tokenizer.unkId),
      });
    } catch (error) {
      throw new SyntaxError(`Cannot render a conversation: the chat template says: ${(error as Error).message}`);
    }
  }
}

/**
 * The chat template of a model's folder: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json` (the one
 * named `default` where there are several); undefined when it has none.
 *
 * @throws {SyntaxError} when a file is not what its name says, or the template is no template.
 */
export async function loadChatTemplate(folder: string): Promise<ChatTemplate | undefined> {
  const own = await readIfThere(`${folder}/chat_template.jinja`);
  if (own !== undefined) return new ChatTemplate(own);
  const file = `${folder}/tokenizer_config.json`;
  const text = await readIfThere(file);
  if (text === undefined) return undefined;
  let found: unknown;
  try {
    found = (JSON.parse(text) as { chat_template?: unknown } | null)?.chat_template;
  } catch (error) {
    throw new SyntaxError(`Cannot read "${file}": it is not JSON (${(error as Error).message})`);
  }
  const listed = Array.isArray(found)
    ? (found as { name?: unknown; template?: unknown }[]).find(({ name }) => name === "default")?.template
    : found;
  return typeof listed === "string" ? new ChatTemplate(listed) : undefined;
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return decodeStrictly(await Deno.readFile(file), file, 0);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
    throw error;
  }
}

/**
 * Conversations as token ids, with their answers marked.
 *
 * @throws {SyntaxError} when the template refuses a conversation or does not render its beginnings as such, with the line.
 */
export function encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  records: readonly ChatRecord[],
): EncodedChat[] {
  return records.map(({ messages, line }) => {
    try {
      const ids = encodeRendered(tokenizer, template.render(tokenizer, messages));
      return { ids, counted: markAnswers(tokenizer, template, messages, ids), line };
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new SyntaxError(`${error.message} (the conversation on line ${line})`);
    }
  });
}

/** A prompt as token ids, up to where the answer begins: what `generate` is given. */
export function encodeChatPrompt(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
): Int32Array {
  return encodeRendered(tokenizer, template.render(tokenizer, messages, true));
}

function markAnswers(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  messages: readonly ChatMessage[],
  ids: Int32Array,
): Uint8Array {
  const whole = template.render(tokenizer, messages);
  const counted = new Uint8Array(ids.length);
  for (const [i, { role }] of messages.entries()) {
    if (role !== ANSWERS) continue;
    const before = template.render(tokenizer, messages.slice(0, i), true);
    const after = template.render(tokenizer, messages.slice(0, i + 1));
    if (!after.startsWith(before) || !whole.startsWith(after)) {
      throw new SyntaxError(
        `Cannot mark answer ${i + 1}: the chat template must render a conversation's beginning as it begins the whole`,
      );
    }
    const start = sharedStart(ids, encodeRendered(tokenizer, before));
    const end = sharedStart(ids, encodeRendered(tokenizer, after));
    counted.fill(1, start, end);
  }
  return counted;
}

function sharedStart(a: Int32Array, b: Int32Array): number {
  const most = Math.min(a.length, b.length);
  for (let i = 0; i < most; i++) if (a[i] !== b[i]) return i;
  return most;
}

/**
 * The ids of rendered text. To a tokenizer that takes the name of its end for mere text, as the byte tokenizer does, the end is put
 * in where the template wrote it.
 */
function encodeRendered(tokenizer: Tokenizer, text: string): Int32Array {
  const end = tokenizer.decode([tokenizer.eosId]);
  const known = tokenizer.encode(end);
  if (known.length === 1 && known[0] === tokenizer.eosId) return Int32Array.from(tokenizer.encode(text));
  const ids = text.split(end).flatMap((part, i) => [...(i === 0 ? [] : [tokenizer.eosId]), ...tokenizer.encode(part)]);
  return Int32Array.from(ids);
}
