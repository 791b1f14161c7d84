/** Accounting by both rules, against shapes counted by hand and against what plans find. */
import assert from "node:assert/strict";
import {
  LLAMA_PROJECTED,
  llamaConfig,
  llamaWeights,
  ROBERTA_PROJECTED,
  robertaConfig,
  robertaWeights,
} from "../models/mod.ts";
import {
  elementCounts,
  honestMemory,
  type ModelShapes,
  modelShapes,
  PAPER_FINETUNE,
  paperFinetuneMemory,
  paperMemory,
} from "./accounting.ts";
import { planMemory, type PlanRequest } from "./memory_plan.ts";
import { DEFAULTS } from "./options.ts";

/** A matrix that is projected [6, 4], one that is not [10, 4], and a vector of 4. */
const SMALL: ModelShapes = new Map([
  ["a", { shape: [6, 4], isProjected: true }],
  ["b", { shape: [10, 4], isProjected: false }],
  ["c", { shape: [4], isProjected: false }],
]);

Deno.test("elementCounts() counts all weights, and r (m + n) for what is projected", () => {
  assert.deepEqual(elementCounts(SMALL, 2), { all: 68, lowRank: 2 * (6 + 4) + 44, factors: 20 });
  assert.deepEqual(elementCounts(SMALL, 100), { all: 68, lowRank: 4 * (6 + 4) + 44, factors: 40 });
});

Deno.test("paperMemory() follows the paper's rule of two bytes an element", () => {
  assert.deepEqual(paperMemory(SMALL, "full", 2), { weights: 136, states: 272 });
  assert.deepEqual(paperMemory(SMALL, "full_8bit", 2), { weights: 136, states: 136 });
  assert.deepEqual(paperMemory(SMALL, "galore", 2), { weights: 136, states: 3 * 64 });
  assert.deepEqual(paperMemory(SMALL, "low_rank", 2), { weights: 2 * 64, states: 4 * 64 });
  assert.deepEqual(paperMemory(SMALL, "lora", 2), { weights: 2 * (68 + 64), states: 4 * 64 });
  // [6, 4] at rank 2: moments 2 x 6 x 2, a basis of 2 x 4; the others 2 x 44
  assert.deepEqual(paperMemory(SMALL, "galore_8bit", 2), { weights: 136, states: 24 + 8 + 88 });
});

Deno.test("paperFinetuneMemory() counts the model in two bytes an element and what has a low rank in four", () => {
  assert.deepEqual(paperFinetuneMemory(SMALL, "full", 2), { weights: 136, states: 272 });
  assert.deepEqual(paperFinetuneMemory(SMALL, "lora", 2), { weights: 136 + 4 * 20, states: 2 * 4 * 20 });
  assert.deepEqual(paperFinetuneMemory(SMALL, "galore", 2), { weights: 136, states: 6 * 20 });
});

Deno.test.each(PAPER_FINETUNE)(
  "paperFinetuneMemory() gives the paper's figure for GLUE from RoBERTa-base's shapes: %o",
  ({ method, rank = 0, printed }) => {
    const shapes = modelShapes(robertaWeights(robertaConfig("roberta-base"), "classification"), ROBERTA_PROJECTED);
    const { weights, states } = paperFinetuneMemory(shapes, method, rank);
    assert.ok(Math.abs(weights + states - printed) < 1.5e6, `${weights + states}`);
  },
);

Deno.test("honestMemory() counts every tensor in the type that it is stored in", () => {
  const galore = { rank: 2, projector: "f32" } as const;
  const whole = honestMemory(SMALL, { weights: "f32", moments: "f32", galore });
  assert.deepEqual(whole, { weights: 272, moments: 4 * 112, projectors: 32, masters: 0, states: 4 * 112 + 32 });
  const bf16 = honestMemory(SMALL, { weights: "bf16", moments: "bf16", galore: { rank: 2, projector: "bf16" } });
  assert.deepEqual(bf16, { weights: 136, moments: 2 * 112, projectors: 16, masters: 0, states: 2 * 112 + 16 });
  const stored = honestMemory(SMALL, { weights: "bf16", moments: "8bit", leastStored: 12, block: 16, master: true });
  // codes and absmax of 24 and 40 elements, f32 for the vector of 4
  assert.equal(stored.moments, 2 * (24 + 4 * 2 + 40 + 4 * 3 + 16));
  assert.equal(stored.masters, 4 * 68);
  for (const [projector, bytes] of [["int8", 264], ["int4", 136]] as const) {
    const { projectors } = honestMemory(SMALL, { weights: "f32", moments: "f32", galore: { rank: 2, projector } });
    assert.equal(projectors, bytes);
  }
});

Deno.test.each([
  [{ optimizer: "adamw" }, { moments: "f32" }],
  [{ optimizer: "adamw_8bit" }, { moments: "8bit" }],
  [{ optimizer: "adamw_8bit", stateBlock: 2048 }, { moments: "8bit", block: 2048 }],
  [{ optimizer: "galore_adamw", rank: 32 }, { moments: "f32", galore: { rank: 32, projector: "f32" } }],
  [{ optimizer: "galore_adamw", rank: 32, projector: "int8" }, {
    moments: "f32",
    galore: { rank: 32, projector: "int8" },
  }],
  [{ optimizer: "q_galore", rank: 32, dtype: "bf16", policy: "webgpu" }, {
    weights: "bf16",
    moments: "8bit",
    galore: { rank: 32, projector: "int4" },
  }],
  [{ optimizer: "galore_adamw_8bit", rank: 32, dtype: "bf16", policy: "webgpu", rounding: "master" }, {
    weights: "bf16",
    moments: "8bit",
    galore: { rank: 32, projector: "bf16" },
    master: true,
  }],
] as [Partial<PlanRequest>, Partial<Parameters<typeof honestMemory>[1]>][])(
  "honestMemory() agrees to the byte with a plan of %o",
  async (options, storage) => {
    const config = llamaConfig("llama-9m", { vocab_size: 300 });
    const plan = await planMemory(config, { ...DEFAULTS, batch: 1, seq: 8, ...options });
    const shapes = modelShapes(llamaWeights(config), LLAMA_PROJECTED);
    const honest = honestMemory(shapes, { weights: "f32", moments: "f32", ...storage });
    assert.equal(plan.weightBytes, honest.weights);
    assert.equal(plan.optimizerBytes, honest.moments + honest.masters);
    assert.equal(plan.projectorBytes, honest.projectors);
  },
);
