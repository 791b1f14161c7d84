/**
 * What the SST-2 study makes of words: a word-level tokenizer in Hugging Face's terms, and logistic regression on bags
 * of words, which a model that has read them in order must beat.
 */
import { ROBERTA_SPECIAL } from "../../data/masked_byte_tokenizer.ts";

/** Lower-cased words and punctuation, as SST-2 separates them. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/\p{L}+(?=n't)|n't|'\p{L}+|[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
}

/** How often each word occurs. */
export function countWords(texts: readonly (readonly string[])[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const words of texts) for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}

/** `tokenizer.json` and `tokenizer_config.json` of a vocabulary of words between white space. */
export function wordTokenizerFiles(words: readonly string[]): Record<string, string> {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const tokenizer = {
    ...{ version: "1.0", truncation: null, padding: null, decoder: null },
    added_tokens: ROBERTA_SPECIAL.map((content, id) => ({ id, content, ...flags })),
    normalizer: { type: "Lowercase" },
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: {
      ...{ type: "RobertaProcessing", sep: ["</s>", 2], cls: ["<s>", 0], trim_offsets: false },
      add_prefix_space: false,
    },
    model: {
      ...{ type: "WordLevel", unk_token: "<unk>" },
      vocab: Object.fromEntries([...ROBERTA_SPECIAL, ...words].map((word, id) => [word, id])),
    },
  };
  const config = {
    ...{ tokenizer_class: "PreTrainedTokenizerFast", bos_token: "<s>", cls_token: "<s>", eos_token: "</s>" },
    ...{ sep_token: "</s>", pad_token: "<pad>", unk_token: "<unk>", mask_token: "<mask>" },
  };
  return { "tokenizer.json": JSON.stringify(tokenizer), "tokenizer_config.json": JSON.stringify(config) };
}

/** A text and its class, 0 or 1. */
export interface Labelled {
  readonly words: readonly string[];
  readonly label: number;
}

/** A model that scores a text; above 0 is class 1. */
export type Scorer = (words: readonly string[]) => number;

/**
 * Logistic regression on which words a text has, with an L2 penalty of `l2` / 2 on each weight (not on the bias),
 * trained to convergence by accelerated gradient descent over the whole set.
 */
export function bagOfWords(examples: readonly Labelled[], { l2, steps = 600 }: { l2: number; steps?: number }): Scorer {
  const ids = new Map([...countWords(examples.map(({ words }) => words)).keys()].map((word, id) => [word, id]));
  const featuresOf = (words: readonly string[]) =>
    [...new Set(words)].map((word) => ids.get(word)).filter((id) => id !== undefined);
  const rows = examples.map(({ words, label }) => ({ features: featuresOf(words), label }));
  const bias = ids.size;
  // the curvature is at most a quarter of the mean of a row's squared norm's largest, and the penalty
  const most = Math.max(...rows.map(({ features }) => features.length + 1));
  const rate = 1 / (most / 4 + l2);
  let weights = new Float64Array(ids.size + 1);
  let before = weights;
  for (let step = 1; step <= steps; step++) {
    const ahead = weights.map((weight, i) => weight + (step - 1) / (step + 2) * (weight - before[i]));
    const gradient = ahead.map((weight, i) => i === bias ? 0 : l2 * weight);
    for (const { features, label } of rows) {
      const error = (sigmoid(scoreOf(features, ahead, bias)) - label) / rows.length;
      for (const id of features) gradient[id] += error;
      gradient[bias] += error;
    }
    before = weights;
    weights = ahead.map((weight, i) => weight - rate * gradient[i]);
  }
  return (words) => scoreOf(featuresOf(words), weights, bias);
}

function scoreOf(features: readonly number[], weights: Float64Array, bias: number): number {
  return features.reduce((sum, id) => sum + weights[id], weights[bias]);
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/** Part of the texts whose class a scorer gets right. */
export function accuracyOf(score: Scorer, examples: readonly Labelled[]): number {
  return examples.filter(({ words, label }) => (score(words) > 0 ? 1 : 0) === label).length / examples.length;
}
