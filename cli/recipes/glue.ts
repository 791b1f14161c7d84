/**
 * RoBERTa-base on GLUE as in the GaLore paper (Zhao et al. 2024, arXiv 2403.03507, table 7): 30 epochs, batches of 16 (CoLA
 * 32), 512 tokens, bases of rank 4 or 8 renewed every 500 steps, a linear rate without warm-up, all linear maps projected.
 * The paper's alpha is what multiplies the projected change. The task, and of the ranks 4 or 8, are the flags'. Another
 * method gets the paper's epochs, batches and lengths; its rate and rank are its own.
 *
 *     deno task finetune --config cli/recipes/glue.ts --model ./roberta-base --task mrpc --data glue --method galore --rank 4
 */
import type { Finetune } from "../finetune_options.ts";

/** Peak rates by task for rank 4, where alpha is 4, and for rank 8, where it is 2. */
const RATES: Readonly<Record<4 | 8, { readonly scale: number; readonly lr: Readonly<Record<string, number>> }>> = {
  4: {
    scale: 4,
    lr: { mnli: 1e-5, sst2: 1e-5, mrpc: 3e-5, cola: 3e-5, qnli: 1e-5, qqp: 1e-5, rte: 1e-5, stsb: 1e-5 },
  },
  8: {
    scale: 2,
    lr: { mnli: 1e-5, sst2: 2e-5, mrpc: 2e-5, cola: 1e-5, qnli: 1e-5, qqp: 2e-5, rte: 2e-5, stsb: 3e-5 },
  },
};

/** The paper's run of a task. @throws RangeError for a task or a rank that its table does not have */
export default function glue({ task = "", method = "galore", rank = 4 }: Partial<Finetune>): Partial<Finetune> {
  const name = task.toLowerCase().replace(/[-_]/g, "");
  const shared: Partial<Finetune> = {
    ...{ epochs: 30, batch: name === "cola" ? 32 : 16, maxLength: 512, clip: 0 },
    ...{ schedule: "linear", warmup: 0, minLr: 0 },
  };
  if (method !== "galore") return shared;
  const { scale, lr } = RATES[rank as 4 | 8] ?? { lr: {} };
  if (lr[name] === undefined) {
    throw new RangeError(
      `Cannot use the paper's GLUE recipe: it has rank 4 and 8 for ${Object.keys(RATES[4].lr).join(", ")}: ` +
        `got rank ${rank} for "${task}"`,
    );
  }
  return { ...shared, method, rank, scale, lr: lr[name], updateProjGap: 500 };
}
