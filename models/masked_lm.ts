/**
 * Masking for the masked-LM objective, on the host: which tokens a model must find again, and what it sees in place of
 * each.
 *
 * Devlin et al. 2019 (arXiv 1810.04805), section 3.1, drawn anew for every batch as RoBERTa does (Liu et al. 2019,
 * section 4.1): each token that is not special counts with probability `rate`; of those that count 80 % become the mask, 10 %
 * a random token that is not special, and 10 % stay. Which ones is a function of the key and the place alone.
 */
import { foldIn, type Key, uniform } from "../core/mod.ts";

/** How `maskTokens` draws. */
export interface MaskingOptions {
  /** Another key for each batch and epoch. */
  readonly key: Key;
  /** The token that stands for a hidden one. */
  readonly maskId: number;
  /** Number of tokens that there are. */
  readonly vocab: number;
  /** Tokens that are neither hidden nor drawn: beginning, end, padding and the mask itself. */
  readonly specialIds: Iterable<number>;
  /** Share of the tokens that count. Default 0.15, the papers'. */
  readonly rate?: number;
}

/** Shares of the tokens that count: shown as the mask, and as a random token. The rest stays as it is. */
const [MASKED, RANDOM] = [0.8, 0.1];

/**
 * Hides tokens, and says what they were.
 *
 * @param tokens a batch of any shape, flat
 * @returns both as long as `tokens`: what the model sees, and the targets, -100 where none counts
 * @throws RangeError for a rate outside [0, 1], or when every token is special
 */
export function maskTokens(
  tokens: Int32Array,
  { key, maskId, vocab, specialIds, rate = 0.15 }: MaskingOptions,
): { tokens: Int32Array<ArrayBuffer>; targets: Int32Array<ArrayBuffer> } {
  if (!(rate >= 0 && rate <= 1)) throw new RangeError(`Cannot mask tokens: the rate must be in [0, 1]: got ${rate}`);
  const special = new Set(specialIds).add(maskId);
  const ordered = [...special].filter((id) => id >= 0 && id < vocab).sort((a, b) => a - b);
  const plain = vocab - ordered.length;
  if (plain < 1) throw new RangeError(`Cannot mask tokens: all ${vocab} of them are special`);
  const [counts, kinds, picks] = ["counts", "kind", "token"].map((name) => uniform(foldIn(key, name), tokens.length));
  const shown = Int32Array.from(tokens);
  const targets = new Int32Array(tokens.length).fill(-100);
  for (let i = 0; i < tokens.length; i++) {
    if (special.has(tokens[i]) || counts[i] >= rate) continue;
    targets[i] = tokens[i];
    if (kinds[i] < MASKED) shown[i] = maskId;
    else if (kinds[i] < MASKED + RANDOM) shown[i] = plainToken(Math.floor(picks[i] * plain), ordered);
  }
  return { tokens: shown, targets };
}

/** The token of this rank among those that are not in `special`, which is in order. */
function plainToken(rank: number, special: readonly number[]): number {
  let token = rank;
  for (const id of special) if (token >= id) token++;
  return token;
}
