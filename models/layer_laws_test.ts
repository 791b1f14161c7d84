/**
 * Laws that files of Hugging Face rely on, each with numbers of its own: rotary layouts, where epsilon stands, heads
 * that share keys, tied tables, exact GELU. `llama_test.ts` and `roberta_test.ts` hold whole models to PyTorch's numbers.
 */
import assert from "node:assert/strict";
import { cpuBackend, loopsBackend } from "../backends/cpu/mod.ts";
import {
  attention,
  type Backend,
  backward,
  concat,
  erf,
  fromArray,
  gelu,
  layerNorm,
  own,
  Params,
  type ParamsView,
  rmsNorm,
  rope,
  ropeTables,
  scope,
  slice,
  type Tensor,
} from "../core/mod.ts";
import { assertClose, assertRms } from "../core/testing/golden.ts";
import { random } from "../core/testing/gradcheck.ts";
import { llamaLoss } from "./llama.ts";
import { llamaWeights, makeLlamaConfig, type WeightSpec } from "./llama_config.ts";
import { robertaLoss } from "./roberta.ts";
import { makeRobertaConfig, robertaWeights } from "./roberta_config.ts";

const BACKENDS: Record<string, () => Backend | Promise<Backend>> = {
  loops: () => loopsBackend(),
  cpu: () => cpuBackend({ threads: 1, blas: "off" }),
};

function drawn(backend: Backend, name: string, shape: readonly number[]): Tensor {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return fromArray(backend, Float32Array.from(random(name, size)), shape);
}

/** erf at 0, 0.25, ... 3 (Abramowitz & Stegun 1964, table 7.1). */
const ERF = [0, 0.2763263902, 0.5204998778, 0.7111556337, 0.8427007929, 0.9229001283, 0.9661051465, 0.9866716712]
  .concat([0.9953222650, 0.9985372834, 0.9995930480, 0.9998993781, 0.9999779095]);

for (const [name, make] of Object.entries(BACKENDS)) {
  Deno.test(`${name}: gelu() is x Phi(x) exactly, and erf() lies within 2e-7 of its table`, async () => {
    using backend = await make();
    using _ = scope("test");
    const grid = ERF.map((_, i) => i / 4);
    const values = (at: number[], op: (x: Tensor) => Tensor) =>
      op(fromArray(backend, Float32Array.from(at), [at.length])).readSync();
    assertClose("erf", values(grid, erf), ERF, { rtol: 0, atol: 2e-7 });
    assertClose("erf", values(grid.map((x) => -x), erf), ERF.map((y) => -y), { rtol: 0, atol: 2e-7 });
    // Phi(1) = 0.8413447461, Phi(-2) = 0.0227501319; the tanh form gives 0.841192 for the first
    assertClose("gelu", values([1, -2, 0], (x) => gelu(x)), [0.8413447461, -0.0455002639, 0], { rtol: 0, atol: 2e-7 });
  });

  Deno.test(`${name}: rmsNorm() and layerNorm() add epsilon to the mean square, under the root`, async () => {
    using backend = await make();
    using _ = scope("test");
    const [one, none] = [1, 0].map((value) => fromArray(backend, new Float32Array(4).fill(value), [4]));
    const row = (shift: number) =>
      fromArray(backend, Float32Array.of(3e-3, -3e-3, 3e-3, -3e-3).map((x) => x + shift), [1, 4]);
    const expected = [1, -1, 1, -1].map((sign) => sign * 3e-3 / Math.sqrt(9e-6 + 1e-5));
    assertClose("rmsNorm", rmsNorm(row(0), one, 1e-5).readSync(), expected, { rtol: 1e-6, atol: 0 });
    // 5.003 is known to 5e-7: four digits of its distance from 5
    assertClose("layerNorm", layerNorm(row(5), one, none, 1e-5).readSync(), expected, { rtol: 3e-4, atol: 0 });
  });

  Deno.test(`${name}: rope() of half-split heads is the interleaved rotation of heads in Meta's order`, async () => {
    using backend = await make();
    using _ = scope("test");
    const [T, H, K] = [5, 2, 8];
    const frequencies = [1, 0.3, 0.1, 0.03];
    const meta = random("heads", T * H * K);
    // as files are converted: hf[j] = meta[2 j], hf[j + K/2] = meta[2 j + 1]
    const split = (values: Float64Array) =>
      values.map((_, i) => values[i - i % K + (i % K < K / 2 ? 2 * (i % K) : 2 * (i % K - K / 2) + 1)]);
    const turned = meta.map((value, i) => {
      const angle = (3 + Math.floor(i / (H * K))) * frequencies[Math.floor(i % K / 2)];
      return i % 2 === 0
        ? value * Math.cos(angle) - meta[i + 1] * Math.sin(angle)
        : value * Math.cos(angle) + meta[i - 1] * Math.sin(angle);
    });
    const { cos, sin } = ropeTables(backend, frequencies, 3, T);
    const actual = rope(fromArray(backend, Float32Array.from(split(meta)), [1, T, H, K]), cos, sin);
    assertRms("rope", actual.readSync(), split(turned), { tolerance: 1e-6 });
  });

  Deno.test(`${name}: attention() with grouped heads is that with repeated keys and values`, async () => {
    using backend = await make();
    using _ = scope("test");
    const [B, T, H, G, K] = [2, 6, 6, 2, 4];
    const q = drawn(backend, "q", [B, T, H, K]);
    const [k, v] = ["k", "v"].map((what) => drawn(backend, what, [B, T, G, K]));
    // query head h reads group floor(h G / H)
    const repeated = (x: Tensor) =>
      concat(
        Array.from({ length: H }, (_, h) => Math.floor(h * G / H))
          .map((group) => slice(x, [, , { start: group, end: group + 1 }])),
        2,
      );
    for (const causal of [false, true]) {
      const grouped = attention(q, k, v, { causal }).readSync();
      assertRms("heads", grouped, attention(q, repeated(k), repeated(v), { causal }).readSync(), { tolerance: 1e-6 });
    }
  });
}

const SIZES = { vocab_size: 30, hidden_size: 12, intermediate_size: 20, num_hidden_layers: 1, num_attention_heads: 3 };

/** A model with its output matrix tied to the table, and the same with a matrix of its own. */
interface Tying {
  readonly table: string;
  readonly output: string;
  readonly weights: ReadonlyMap<string, WeightSpec>;
  loss(params: ParamsView, isTied: boolean, tokens: Tensor): Tensor;
}

const llama = makeLlamaConfig({ ...SIZES, hidden_size: 24 });
const roberta = makeRobertaConfig(SIZES, { tie_word_embeddings: false });

const TYINGS: Record<string, Tying> = {
  llama: {
    table: "model.embed_tokens.weight",
    output: "lm_head.weight",
    weights: llamaWeights(llama),
    loss: (params, isTied, tokens) => llamaLoss(params, { ...llama, tie_word_embeddings: isTied }, tokens, tokens),
  },
  roberta: {
    table: "roberta.embeddings.word_embeddings.weight",
    output: "lm_head.decoder.weight",
    weights: robertaWeights(roberta, "masked-lm"),
    loss: (params, isTied, tokens) =>
      robertaLoss(params, { ...roberta, tie_word_embeddings: isTied }, { tokens }, {
        head: "masked-lm",
        targets: tokens,
      }),
  },
};

for (const [name, { table, output, weights, loss }] of Object.entries(TYINGS)) {
  Deno.test(`${name}'s tied table gets the sum of the gradients that table and output matrix get apart`, () => {
    using backend = loopsBackend();
    const gradientsOf = (isTied: boolean) => {
      using params = new Params(backend);
      for (const [weight, { shape }] of weights) {
        if (weight === output && isTied) continue;
        params.set(weight, own(drawn(backend, weight === output ? table : weight, shape)));
      }
      using _ = scope("step");
      const tokens = fromArray(backend, Int32Array.of(0, 7, 9, 21, 7, 2), [1, 6]);
      const gradients = new Map<string, Float64Array>();
      backward(
        loss(params, isTied, tokens),
        (weight, gradient) => gradients.set(weight, Float64Array.from(gradient.readSync())),
      );
      return gradients;
    };
    const [apart, tied] = [gradientsOf(false), gradientsOf(true)];
    assert.equal(tied.has(output), false);
    const total = apart.get(table)!.map((value, i) => value + apart.get(output)![i]);
    assertRms(table, tied.get(table)!, total, { tolerance: 1e-6 });
    for (const [weight, gradient] of tied) {
      if (weight !== table) assertRms(weight, gradient, apart.get(weight)!, { tolerance: 1e-6 });
    }
  });
}
