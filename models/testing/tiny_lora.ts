/** What the tests of adapters share: a tiny LLaMA, tokens, and adapters away from their first values. */
import { type Backend, fromArray, type Params, type Tensor } from "../../core/mod.ts";
import { random } from "../../core/testing/gradcheck.ts";
import { type LlamaConfig, makeLlamaConfig } from "../llama_config.ts";

/** None of its weights has the shape of an activation of 14 tokens. */
export const tiny: LlamaConfig = makeLlamaConfig({
  vocab_size: 40,
  hidden_size: 24,
  intermediate_size: 36,
  num_hidden_layers: 2,
  num_attention_heads: 4,
}, { num_key_value_heads: 2, max_position_embeddings: 16 });

/** [2, 7] tokens of the tiny model that differ. */
export function someTokens(backend: Backend): Tensor {
  return fromArray(backend, Int32Array.from({ length: 14 }, (_, i) => (i * i + 3 * i + 1) % 40), [2, 7]);
}

/** Puts random numbers into the tensors of an adapter whose names match. */
export function stir(adapter: Params, which: RegExp, scale = 1): void {
  for (const [name, tensor] of adapter.entries()) {
    if (which.test(name)) tensor.write(Float32Array.from(random(name, tensor.size), (value) => scale * value));
  }
}
