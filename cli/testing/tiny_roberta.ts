/**
 * A RoBERTa of 20,000 weights with a tokenizer of a few words, and a task that it can learn in seconds: which of two kinds of
 * words a sentence has. Only tests import this.
 */
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { loadTokenizer } from "../../data/mod.ts";
import { initRoberta, makeRobertaConfig, type RobertaConfig, type RobertaHead } from "../../models/mod.ts";
import { saveModel } from "../checkpoint.ts";
import { writeFolderDurably } from "../durable.ts";

const GOOD = ["fine", "lovely", "warm", "bright"];
const BAD = ["dull", "cold", "grim", "stale"];
const PLAIN = ["the", "a", "film", "song", "is", "was", "very", "and", "rather", "quite"];

/** A configuration with enough spread in its first weights for frozen layers to tell words apart. */
export function tinyRobertaConfig(overrides: Partial<RobertaConfig> = {}): RobertaConfig {
  const sizes = { hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2 };
  return makeRobertaConfig({ vocab_size: 400, ...sizes }, {
    max_position_embeddings: 34,
    initializer_range: 0.15,
    hidden_dropout_prob: 0.05,
    attention_probs_dropout_prob: 0.05,
    ...overrides,
  });
}

/** Writes a model folder with drawn weights and a tokenizer. */
export async function writeTinyRoberta(
  folder: string,
  { config = tinyRobertaConfig(), head = "masked-lm" }: { config?: RobertaConfig; head?: RobertaHead } = {},
): Promise<void> {
  await Deno.mkdir("words", { recursive: true });
  await writeTokenizer("words");
  const { files } = await loadTokenizer("words");
  using params = initRoberta(loopsBackend(), config, { seed: 1, head });
  await writeFolderDurably(".", folder, (writer) => saveModel(writer, params, config, files));
}

/** GPT-2's two files: every byte, and each word with a space before it as one token. */
async function writeTokenizer(folder: string): Promise<void> {
  const vocab = new Map(["<s>", "<pad>", "</s>", "<unk>", "<mask>"].map((token, id) => [token, id]));
  for (let byte = 0, other = 256; byte < 256; byte++) {
    const isItself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    vocab.set(String.fromCodePoint(isItself ? byte : other++), vocab.size);
  }
  const merges = ["#version: 0.2"];
  for (const word of [...GOOD, ...BAD, ...PLAIN]) {
    for (let end = 1; end <= word.length; end++) {
      const [left, right] = [`\u0120${word.slice(0, end - 1)}`, word[end - 1]];
      if (vocab.has(left + right)) continue;
      merges.push(`${left} ${right}`);
      vocab.set(left + right, vocab.size);
    }
  }
  await Deno.writeTextFile(`${folder}/vocab.json`, JSON.stringify(Object.fromEntries(vocab)));
  await Deno.writeTextFile(`${folder}/merges.txt`, merges.join("\n") + "\n");
}

/** Rows of the task, the same every time: a sentence of some words, one of them good (1) or bad (0). */
export function toyRows(count: number, seed: number): { sentence: string; label: number }[] {
  let state = seed;
  const draw = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % below;
  };
  return Array.from({ length: count }, (_, i) => {
    const label = i % 2;
    const words = Array.from({ length: 2 + draw(5) }, () => PLAIN[draw(PLAIN.length)]);
    words.splice(draw(words.length + 1), 0, (label ? GOOD : BAD)[draw(4)]);
    return { sentence: ` ${words.join(" ")}`, label };
  });
}

/** Writes `train.tsv` and `dev.tsv` as SST-2 has them. */
export async function writeToyTask(folder: string, { train = 160, dev = 60 } = {}): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (const [file, rows] of [["train", toyRows(train, 1)], ["dev", toyRows(dev, 2)]] as const) {
    const lines = rows.map(({ sentence, label }) => `${sentence}\t${label}\n`);
    await Deno.writeTextFile(`${folder}/${file}.tsv`, "sentence\tlabel\n" + lines.join(""));
  }
}
