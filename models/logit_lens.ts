/**
 * LogitLens: what a model would say if it stopped after each of its layers. The last layer's is what the model says.
 *
 * nostalgebraist 2020 ("interpreting GPT: the logit lens"): the final norm and the head, read off each layer's output. For a
 * RoBERTa with a classification head it is that head on the first token of each layer's output. No tuned lens: no weights
 * are trained for it, so that early layers may say little. Off the tape: nothing here has a gradient.
 *
 *     B batch, T tokens, D model, V vocabulary, N places, C labels
 */
import {
  embedding,
  linear,
  noGrad,
  own,
  type ParamsView,
  reshape,
  rmsNorm,
  scope,
  slice,
  tanh,
  type Tensor,
} from "../core/mod.ts";
import { llamaHidden } from "./llama.ts";
import type { LlamaConfig } from "./llama_config.ts";
import { type RobertaBatch, robertaHidden } from "./roberta.ts";
import type { RobertaConfig } from "./roberta_config.ts";

/** Layers' outputs, and the head that reads them. Dispose it. */
export interface LogitLens extends Disposable {
  /** How many layers there are. */
  readonly layers: number;
  /** Scores as after layer `layer` (from 0): [N, V], or [B, C]. The caller disposes them. */
  read(layer: number): Tensor;
}

/**
 * A LLaMA's layers at some places of a batch.
 *
 * @param tokens i32 or u32 [B, T]
 * @param places i32 [N]: places in the flat batch, B T of them
 * @throws RangeError as `llama`
 */
export function llamaLens(params: ParamsView, config: LlamaConfig, tokens: Tensor, places: Tensor): LogitLens {
  const { hidden_size: D, rms_norm_eps, tie_word_embeddings } = config;
  const outputs: Tensor[] = [];
  noGrad(() => {
    using _ = scope("llama lens");
    const onLayer = (output: Tensor) => void outputs.push(own(embedding(reshape(output, [-1, D]), places)));
    llamaHidden(params, config, tokens, undefined, { onLayer });
  });
  return lensOf(outputs, (output) => {
    const normed = rmsNorm(output, params.get("model.norm.weight"), rms_norm_eps);
    return tie_word_embeddings
      ? linear(normed, params.get("model.embed_tokens.weight"))
      : params.linear("lm_head", normed);
  });
}

/**
 * A RoBERTa's layers under its classification head.
 *
 * @throws RangeError as `robertaHidden`
 */
export function robertaLens(params: ParamsView, config: RobertaConfig, batch: RobertaBatch): LogitLens {
  const [B] = batch.tokens.shape;
  const outputs: Tensor[] = [];
  noGrad(() => {
    using _ = scope("roberta lens");
    const onLayer = (output: Tensor) =>
      void outputs.push(own(reshape(slice(output, [undefined, { end: 1 }]), [B, config.hidden_size])));
    robertaHidden(params, config, batch, { onLayer });
  });
  return lensOf(
    outputs,
    (output) => params.linear("classifier.out_proj", tanh(params.linear("classifier.dense", output))),
  );
}

function lensOf(outputs: readonly Tensor[], head: (output: Tensor) => Tensor): LogitLens {
  return {
    layers: outputs.length,
    read(layer) {
      using reading = scope("logit lens");
      return own(reading.keep(noGrad(() => head(outputs[layer]))));
    },
    [Symbol.dispose]() {
      for (const output of outputs) output.dispose();
    },
  };
}
