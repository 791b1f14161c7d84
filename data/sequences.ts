/**
 * Examples as token ids for RoBERTa, `<s> A </s>` and `<s> A </s></s> B </s>`, cut to a length where they are too long.
 * It pads nothing: `length_batches.ts` does. A pair is cut longest first, at the ends: a sentence that fits beside its half
 * stays whole; where neither does, both are cut to half, the longer keeping an odd one (the second, when they are equally
 * long). Source: `LongestFirst` of the `tokenizers` library, version 0.23. That one cuts very long sentences to the whole
 * length beforehand, which makes them equally long, and transformers' slow tokenizers keep the odd one elsewhere.
 */

import type { Example } from "./examples.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** An example that a model can be given. */
export interface EncodedExample {
  /** With the special tokens, without padding. */
  readonly ids: Int32Array;
  readonly label: number;
  /** Whether tokens were cut off. */
  readonly truncated: boolean;
}

/** How long sequences may be. */
export interface EncodeOptions {
  /** The most tokens that a sequence may have, special tokens included; `positions` without it. */
  readonly maxLength?: number;
  /** The most tokens that the model has positions for: RoBERTa's `max_position_embeddings - pad_token_id - 1`. */
  readonly positions: number;
  /** Whether to cut longer sequences, which is the default, or to refuse them. */
  readonly truncate?: boolean;
}

/**
 * Encodes examples with a tokenizer that has RoBERTa's `<s>` and `</s>`.
 *
 * @throws {RangeError} when `maxLength` is beyond `positions`, or a sequence is too long and `truncate` is false, with its line.
 * @throws {TypeError} when the tokenizer names no token that begins a text.
 */
export function encodeExamples(
  tokenizer: Tokenizer,
  examples: readonly Example[],
  { positions, maxLength = positions, truncate = true }: EncodeOptions,
): EncodedExample[] {
  const { bosId, eosId } = tokenizer;
  if (bosId === undefined) {
    throw new TypeError(
      `Cannot encode examples with the tokenizer "${tokenizer.name}": it names no token to begin with`,
    );
  }
  if (!(maxLength <= positions)) {
    throw new RangeError(`Cannot encode sequences of ${maxLength} tokens: the model has positions for ${positions}`);
  }
  if (!(maxLength >= 5)) throw new RangeError(`Cannot encode sequences: they need at least 5 tokens: got ${maxLength}`);
  return examples.map(({ sentences, label, row }) => {
    const parts = sentences.map((sentence) => tokenizer.encode(sentence));
    const whole = parts.reduce((sum, part) => sum + part.length, 2 * parts.length);
    if (whole > maxLength && !truncate) {
      throw new RangeError(`Cannot encode line ${row}: it has ${whole} tokens, and ${maxLength} are allowed`);
    }
    const kept = truncateLongestFirst(parts.map((part) => part.length), maxLength - 2 * parts.length);
    const ids = frame(parts.map((part, i) => part.subarray(0, kept[i])), bosId, eosId);
    return { ids, label, truncated: whole > maxLength };
  });
}

/** `<s> A </s>`, and `</s> B </s>` after it. */
function frame(parts: readonly Uint32Array[], bosId: number, eosId: number): Int32Array {
  const ids = new Int32Array(parts.reduce((sum, part) => sum + part.length, 2 * parts.length));
  let at = 0;
  for (const [i, part] of parts.entries()) {
    ids[at++] = i === 0 ? bosId : eosId;
    ids.set(part, at);
    at += part.length;
    ids[at++] = eosId;
  }
  return ids;
}

/** How many tokens each of one or two sequences keeps, so that they sum to at most `budget`: see the head. */
export function truncateLongestFirst(lengths: readonly number[], budget: number): number[] {
  const [first, second] = lengths;
  if (lengths.length === 1) return [Math.min(first, budget)];
  if (first + second <= budget) return [first, second];
  const short = Math.min(first, second);
  const half = Math.floor(budget / 2);
  const kept = short <= half ? [short, budget - short] : [half, budget - half];
  return first > second ? [kept[1], kept[0]] : kept;
}
