/**
 * A character-level LLaMA of 0.9 M weights with GaLore on Shakespeare's plays, the usual small corpus (1.1 MB; Karpathy's
 * char-rnn, data/tinyshakespeare/input.txt). GaLore: Zhao et al. 2024, arXiv 2403.03507.
 *
 *     deno task train --config cli/recipes/tinyshakespeare.ts --data input.txt
 */
import { DEFAULTS, type Run } from "../options.ts";

/** The base recipe with changes: a variant is one call. */
export function tinyshakespeare(changes: Partial<Run> = {}): Run {
  return {
    ...DEFAULTS,
    model: "llama-9m",
    data: ["input.txt"],
    optimizer: "galore_adamw",
    rank: 32,
    updateProjGap: 200,
    scale: 0.25,
    lr: 0.01,
    warmup: 100,
    batch: 16,
    seq: 256,
    steps: 2000,
    evalEvery: 250,
    evalBatches: 25,
    saveEvery: 500,
    prompt: "ROMEO:\n",
    ...changes,
  };
}

export default tinyshakespeare() satisfies Run;
