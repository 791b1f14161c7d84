/**
 * Trains a LLaMA of 60,000 weights with GaLore to recite a sentence, and lets it.
 *
 *     deno run --allow-read cli/examples/tiny_llama.ts
 */
import { argmax, backward, fromArray, noGrad, reshape, scope, slice } from "../../core/mod.ts";
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { initLlama, llama, LLAMA_PROJECTED, llamaLoss, makeLlamaConfig } from "../../models/mod.ts";
import { cosine, galoreAdamW, Optimizer } from "../../optimizers/mod.ts";

const text = "A gradient of low rank carries what the weights need to learn. ";
const bytes = new TextEncoder().encode(text.repeat(4));
const seq = 64;
const config = makeLlamaConfig({
  vocab_size: 128,
  hidden_size: 48,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
});

using backend = await cpuBackend({ threads: 1, blas: "off" });
using params = initLlama(backend, config, 1);
using optimizer = new Optimizer(
  params,
  galoreAdamW({
    learningRate: cosine({ peak: 0.02, warmup: 10, total: 120 }),
    projected: LLAMA_PROJECTED,
    galore: { rank: 12, updateProjGap: 20, scale: 0.5 },
  }),
);
console.log(`${params.size} weights`);

let last = Infinity;
for (let step = 0; step < 120; step++) {
  const start = (step * 17) % text.length;
  {
    using train = scope("train step");
    const tokens = fromArray(backend, Int32Array.from(bytes.subarray(start, start + seq)), [1, seq]);
    const targets = fromArray(backend, Int32Array.from(bytes.subarray(start + 1, start + seq + 1)), [1, seq]);
    const loss = llamaLoss(params, config, tokens, targets);
    backward(loss, optimizer.stage);
    [last] = train.keep(loss).readSync();
    loss.dispose();
  }
  if (optimizer.refreshDue) await optimizer.refresh();
  optimizer.commit();
  if (step % 20 === 19) console.log(`step ${step + 1}  loss ${last.toFixed(3)}`);
}

const recited = [...bytes.subarray(0, 12)];
while (recited.length < text.length - 1) {
  using _ = scope("recite");
  const logits = noGrad(() => llama(params, config, fromArray(backend, Int32Array.from(recited), [1, recited.length])));
  const next = argmax(reshape(slice(logits, [undefined, { start: recited.length - 1 }]), [config.vocab_size]));
  recited.push(next.readSync()[0]);
}
console.log(new TextDecoder().decode(Uint8Array.from(recited)));
if (last > 0.5) Deno.exit(1);
