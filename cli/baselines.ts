/** What counting alone achieves on the held-out text: n-gram models of the same training text, beside the model's loss. */
import { ngramBaselines } from "../data/mod.ts";
import type { DataSource } from "./data_source.ts";

/** A baseline's loss in nats a token. */
export interface Baseline {
  readonly name: string;
  readonly nats: number;
}

/** Most tokens that are counted: beyond it the tables would take more memory than the model. */
const MOST_TOKENS = 8_000_000;

const NAMES: Readonly<Record<number, string>> = { 1: "unigram", 3: "trigram", 5: "order-5" };

/** Unigram, trigram and order-5 losses for byte-level data of moderate size; none otherwise. */
export async function heldOutBaselines({ store, tokenizer }: DataSource): Promise<Baseline[]> {
  if (tokenizer.name !== "byte" || !store.splits.includes("validation")) return [];
  if (store.split("train").rows * store.info.seq > MOST_TOKENS) return [];
  const [train, heldOut] = [await store.split("train").readTokens(), await store.split("validation").readTokens()];
  const baselines = ngramBaselines(train, heldOut, store.info.tokenizer.vocabSize, [1, 3, 5]);
  return baselines.map(({ order, nats }) => ({ name: NAMES[order], nats }));
}
