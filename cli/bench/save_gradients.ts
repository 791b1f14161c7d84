/**
 * Trains a LLaMA of a few layers on the bytes of a text with AdamW and saves gradients of its matrices: what
 * `basis_quality.ts` measures bases on. Each is a file of f32, OUT/HIDDEN-STEP-NAME.f32, listed in OUT/index.jsonl.
 *
 *     deno run -A cli/bench/save_gradients.ts --data tinyshakespeare.txt --hidden 512 --layers 2 --out runs/gradients
 */
import { parseArgs } from "node:util";
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { backward, foldIn, fromArray, keyOf, type Params, scope, type Tensor, uniform } from "../../core/mod.ts";
import { initLlama, type LlamaConfig, llamaConfig, llamaLoss } from "../../models/mod.ts";
import { adamWPreset, Optimizer } from "../../optimizers/mod.ts";

const { values: flags } = parseArgs({
  options: {
    data: { type: "string" },
    out: { type: "string", default: "runs/gradients" },
    hidden: { type: "string", default: "512" },
    ff: { type: "string", default: "1376" },
    layers: { type: "string", default: "2" },
    batch: { type: "string", default: "8" },
    seq: { type: "string", default: "128" },
    lr: { type: "string", default: "0.001" },
    /** Steps before which gradients are saved; the last ends the run. */
    at: { type: "string", default: "0,200,800,1000" },
    matrices: { type: "string", default: "self_attn.q_proj,self_attn.v_proj,mlp.up_proj,mlp.down_proj" },
    threads: { type: "string", default: "2" },
  },
});
if (!flags.data) throw new Error("give --data FILE");
const [hidden, ff, layers, batch, seq, threads] = [
  ...[flags.hidden, flags.ff, flags.layers, flags.batch, flags.seq, flags.threads],
].map(Number);
const at = flags.at.split(",").map(Number);

const text = await Deno.readFile(flags.data);
await Deno.mkdir(flags.out, { recursive: true });
using backend = await cpuBackend({ threads });
const config = llamaConfig("llama-60m", {
  vocab_size: 256,
  hidden_size: hidden,
  intermediate_size: ff,
  num_hidden_layers: layers,
  num_attention_heads: hidden / 64,
  num_key_value_heads: hidden / 64,
  head_dim: 64,
});
using params = initLlama(backend, config, 1);
using optimizer = new Optimizer(params, adamWPreset({ learningRate: warmedUp(Number(flags.lr)) }), { clip: 1 });
const wanted = new Set(flags.matrices.split(",").map((name) => `model.layers.${layers - 1}.${name}.weight`));

for (let step = 0; step <= at[at.length - 1]; step++) {
  const loss = trainStep(params, config, step, at.includes(step));
  if (step % 50 === 0 || at.includes(step)) console.log(`step ${step} loss ${loss.toFixed(4)}`);
  optimizer.commit();
  await new Promise((resolve) => setTimeout(resolve));
}

/** One pass over windows drawn for the step. Gives the loss. */
function trainStep(params: Params, config: LlamaConfig, step: number, saves: boolean): number {
  using _ = scope("train step");
  const starts = uniform(foldIn(keyOf(7), step), batch).map((share) => Math.floor(share * (text.length - seq - 1)));
  const windows = (shift: number) =>
    Int32Array.from({ length: batch * seq }, (_, i) => text[starts[Math.floor(i / seq)] + i % seq + shift]);
  const [tokens, targets] = [0, 1].map((shift) => fromArray(backend, windows(shift), [batch, seq]));
  const loss = llamaLoss(params, config, tokens, targets);
  backward(loss, (name, gradient) => {
    if (saves && wanted.has(name)) save(step, name, gradient);
    optimizer.stage(name, gradient);
  });
  return loss.readSync()[0];
}

function save(step: number, name: string, gradient: Tensor): void {
  const file = `${hidden}-${step}-${name.split(".").at(-2)}.f32`;
  Deno.writeFileSync(`${flags.out}/${file}`, new Uint8Array(gradient.readSync().buffer));
  const row = { file, hidden, step, matrix: name.split(".").at(-2), shape: gradient.shape };
  Deno.writeTextFileSync(`${flags.out}/index.jsonl`, `${JSON.stringify(row)}\n`, { append: true });
}

/** The rate, reached over the first 50 steps. */
function warmedUp(rate: number): (step: number) => number {
  return (step) => rate * Math.min(1, step / 50);
}
