/**
 * The 60 M run of the GaLore paper (Zhao et al. 2024, arXiv 2403.03507, table 2; scripts/benchmark_c4/llama_60m.sh of the
 * released code), as far as one machine goes: 512 sequences of 256 tokens a step, 10,000 steps, rank 128. In f32, where
 * the paper used bf16; it needs C4 and a T5 tokenizer folder, and weeks on a CPU.
 *
 *     deno task train --config cli/recipes/llama_60m_c4.ts --data c4.jsonl.gz --tokenizer ./t5-base
 */
import { DEFAULTS, type Run } from "../options.ts";

export default {
  ...DEFAULTS,
  model: "llama-60m",
  optimizer: "galore_adamw",
  rank: 128,
  updateProjGap: 200,
  scale: 0.25,
  lr: 0.01,
  schedule: "cosine",
  warmup: 1000,
  minLr: 0.1,
  weightDecay: 0,
  clip: 0,
  batch: 8,
  gradAccum: 64,
  seq: 256,
  steps: 10_000,
  evalEvery: 1000,
  saveEvery: 1000,
} satisfies Run;
