/** `eval` of a RoBERTa on text: the masked-LM loss on held-out text, the same tokens hidden every time. */
import type { Options } from "./arguments.ts";
import { chooseTokenizer, openData } from "./data_source.ts";
import { openDevice } from "./device.ts";
import { splitBatches } from "./evaluation.ts";
import type { dataFlags, deviceFlags } from "./flags.ts";
import { formatNumber, type Output } from "./log.ts";
import { makeParams, resolveModel } from "./model_source.ts";
import { makeObjective, rowLength } from "./objective.ts";
import { DEFAULTS } from "./options.ts";

/** What is evaluated, and on what. */
export interface MaskedEvaluation extends Options<typeof dataFlags>, Options<typeof deviceFlags> {
  readonly seq: number;
  readonly batch: number;
  readonly batches: number;
  readonly split: "train" | "validation";
  readonly json: boolean;
}

/** Evaluates the model in a folder. @throws RangeError for a tokenizer without a mask */
export async function evaluateMasked(folder: string, options: MaskedEvaluation, output: Output): Promise<void> {
  const tokenizer = await chooseTokenizer({ tokenizer: options.tokenizer, modelFolder: folder, masked: true });
  const model = await resolveModel({ model: folder, seq: options.seq }, tokenizer);
  const seq = rowLength(model.config, options.seq);
  const holdOut = options.holdOut ?? DEFAULTS.holdOut;
  const data = await openData({ ...options, holdOut, seq, added: options.seq - seq }, tokenizer);
  using backend = await openDevice(options, output);
  using params = await makeParams(backend, model, { seed: 0, dtype: "f32" });
  const { evaluate } = makeObjective(backend, params, model.config, { seed: 0, special: model.special });
  const { loss, tokens } = await evaluate(splitBatches(data.path, data.store.split(options.split).rows, options));
  const perplexity = Math.exp(loss);
  if (options.json) {
    return output.out(JSON.stringify({ model: folder, split: options.split, loss, perplexity, tokens }));
  }
  output.out(
    `loss ${loss.toFixed(4)} nats a hidden token, perplexity ${formatNumber(perplexity)}, over ${
      tokens.toLocaleString("en-US")
    } hidden tokens`,
  );
}
