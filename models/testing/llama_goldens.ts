/**
 * LLaMA against PyTorch: the models of `testdata/llama` (Hugging Face's LlamaForCausalLM in f64, rounded to f32) with
 * logits, loss and the gradient of every weight. Any backend's test can register them.
 */
import assert from "node:assert/strict";
import { registerTest } from "../../core/testing/register.ts";
import { type Backend, backward, type DType, fromArray, own, Params, scope, type Tensor } from "../../core/mod.ts";
import { assertRms, type GoldenTensor, readGolden, readJson, rms } from "../../core/testing/golden.ts";
import { type FloatType, takeHost, toArray } from "../../core/testing/inputs.ts";
import { llama, llamaLoss, type LlamaOptions } from "../llama.ts";
import { type LlamaConfig, parseLlamaConfig } from "../llama_config.ts";

/** The stored models: heads of their own, grouped ones with tied embeddings, one key/value head. */
export const GOLDEN_LLAMAS = ["mha", "gqa", "mqa"] as const;

/** A stored model and what it gives. */
export interface GoldenLlama {
  readonly config: LlamaConfig;
  readonly weights: ReadonlyMap<string, GoldenTensor>;
  readonly golden: ReadonlyMap<string, GoldenTensor>;
}

/** Reads a folder of `testdata/llama`. */
export function readLlama(name: string): GoldenLlama {
  const folder = new URL(`../testdata/llama/${name}/`, import.meta.url);
  return {
    config: parseLlamaConfig(readJson(new URL("config.json", folder))),
    weights: readGolden(new URL("model.safetensors", folder)),
    golden: readGolden(new URL("golden.safetensors", folder)),
  };
}

/** Stored weights as parameters, rounded to nearest in a 16-bit dtype. */
export function llamaParams(backend: Backend, { weights }: GoldenLlama, dtype: FloatType = "f32"): Params {
  const params = new Params(backend);
  for (const [name, { shape, data }] of weights) {
    params.set(name, own(fromArray(backend, toArray(data, dtype), shape, dtype)));
  }
  return params;
}

/** Tokens [B, T] and the token after each, -100 after the last: the stored labels are not shifted. */
export function llamaBatch(backend: Backend, { golden }: GoldenLlama): { tokens: Tensor; targets: Tensor } {
  const { shape, data: ids } = golden.get("input_ids")!;
  const labels = golden.get("labels")!.data;
  const [, T] = shape;
  const shifted = Int32Array.from(labels, (_, i) => i % T === T - 1 ? -100 : labels[i + 1]);
  return {
    tokens: fromArray(backend, Int32Array.from(ids), shape),
    targets: fromArray(backend, shifted, shape),
  };
}

/** Logits, loss and gradients by name, on the host. */
export interface LlamaNumbers {
  readonly logits: Float64Array;
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float64Array>;
  /** The dtypes in which they arrived. */
  readonly dtypes: ReadonlyMap<string, DType>;
}

/** One forward and backward of a stored model on its stored batch. */
export async function runLlama(
  backend: Backend,
  model: GoldenLlama,
  { dtype = "f32", ...options }: LlamaOptions & { readonly dtype?: FloatType } = {},
): Promise<LlamaNumbers> {
  using params = llamaParams(backend, model, dtype);
  const held = new Map<string, Tensor>();
  const [logits, loss] = (() => {
    using step = scope("golden step");
    const { tokens, targets } = llamaBatch(backend, model);
    const scores = llama(params, model.config, tokens);
    const mean = llamaLoss(params, model.config, tokens, targets, options);
    backward(mean, (name, gradient) => held.set(name, gradient.retained()));
    return [own(step.keep(scores)), own(step.keep(mean))];
  })();
  const gradients = new Map<string, Float64Array>();
  const dtypes = new Map([...held].map(([name, { dtype }]) => [name, dtype]));
  for (const [name, gradient] of held) gradients.set(name, await takeHost(gradient));
  return { logits: await takeHost(logits), loss: (await takeHost(loss))[0], gradients, dtypes };
}

/** How closely a backend must agree: RMS of the difference, relative. */
export interface LlamaTolerance {
  readonly logits: number;
  readonly loss: number;
  readonly gradient: number;
}

/** Asserts the stored numbers. A gradient is relative to its own RMS, or to a hundredth of the largest one's. */
export function assertLlama(actual: LlamaNumbers, { golden, weights }: GoldenLlama, within: LlamaTolerance): void {
  assertRms("logits", actual.logits, golden.get("logits")!.data, { tolerance: within.logits });
  assertRms("loss", [actual.loss], golden.get("loss")!.data, { tolerance: within.loss });
  assert.deepEqual([...actual.gradients.keys()].sort(), [...weights.keys()].sort());
  const expected = [...weights.keys()].map((name) => [name, golden.get(`grad.${name}`)!.data] as const);
  const floor = 0.01 * Math.max(...expected.map(([, data]) => rms(data)));
  for (const [name, data] of expected) {
    assertRms(`gradient of ${name}`, actual.gradients.get(name)!, data, { tolerance: within.gradient, floor });
  }
}

/** Registers a test for each stored model. The tolerances are those of an f32 backend that accumulates in f32. */
export function llamaGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  {
    dtype = "f32" as FloatType,
    logits = 1e-5,
    loss = 1e-6,
    gradient = 1e-5,
    ignore = undefined as string | undefined,
  } = {},
): void {
  for (const folder of GOLDEN_LLAMAS) {
    registerTest(`${name}: llama() gives PyTorch's logits, loss and gradients for ${folder} in ${dtype}`, async () => {
      using backend = await makeBackend();
      const model = readLlama(folder);
      assertLlama(await runLlama(backend, model, { dtype }), model, { logits, loss, gradient });
      assert.equal(backend.memory().live, 0);
    }, ignore);
  }
}
