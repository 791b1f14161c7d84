/** W = B A as a way to fine-tune: a model's matrices become their nearest factors, which are trained in their place. */
import { factorise, LOW_RANK_FACTORS, mergedWeights, withLowRank } from "../models/mod.ts";
import { loadParams, saveModel } from "./checkpoint.ts";
import { type FinetuneMethod, mergedModel, type MethodContext } from "./finetune_method.ts";

/** Trains factors, and every other weight whole. Says how much of the matrices the factors keep. */
export async function lowRankMethod({ base, run, subject }: MethodContext): Promise<FinetuneMethod> {
  const { projected, config, files } = subject;
  const { params: trained, kept } = await factorise(base, { rank: run.rank, targets: projected });
  return {
    ...{ trained, projected: LOW_RANK_FACTORS, hasAdapter: false },
    notes: [`factors of rank ${run.rank} keep ${(100 * kept).toFixed(1)}% of the squared norm of the matrices`],
    view: () => withLowRank(trained),
    merged: () => mergedModel(mergedWeights(trained)),
    saveState: (writer) => saveModel(writer, trained, config, files),
    restoreState: (folder) => loadParams(folder, trained),
    [Symbol.dispose]: () => trained.dispose(),
  };
}
