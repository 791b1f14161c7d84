/**
 * RoBERTa against PyTorch: the models of `testdata/roberta` (Hugging Face's RobertaForSequenceClassification and
 * RobertaForMaskedLM in f64, rounded to f32) on padded batches, with logits, loss and the gradient of every weight. Any
 * backend's test can register them.
 */
import assert from "node:assert/strict";
import { registerTest } from "../../core/testing/register.ts";
import { type Backend, backward, fromArray, own, Params, scope, type Tensor } from "../../core/mod.ts";
import { assertRms, type GoldenTensor, readGolden, readJson, rms } from "../../core/testing/golden.ts";
import { type FloatType, takeHost, toArray } from "../../core/testing/inputs.ts";
import { type RobertaBatch, robertaLogits, robertaLoss, type RobertaOptions } from "../roberta.ts";
import { isRegression, parseRobertaConfig, type RobertaConfig, type RobertaHead } from "../roberta_config.ts";

/** The stored models: three classes, one score, the vocabulary. */
export const GOLDEN_ROBERTAS = ["classify", "regression", "mlm"] as const;

/** How closely a backend must agree: RMS of the difference, relative. */
export interface RobertaTolerance {
  readonly logits: number;
  readonly loss: number;
  readonly grad: number;
}

/** A stored model and what it gives. */
export interface GoldenRoberta {
  readonly config: RobertaConfig;
  readonly head: RobertaHead;
  readonly weights: ReadonlyMap<string, GoldenTensor>;
  readonly golden: ReadonlyMap<string, GoldenTensor>;
  readonly tolerance: RobertaTolerance;
}

/** Reads a folder of `testdata/roberta`. */
export function readRoberta(name: string): GoldenRoberta {
  const folder = new URL(`../testdata/roberta/${name}/`, import.meta.url);
  const { recommended_tolerance } = readJson<{ recommended_tolerance: RobertaTolerance }>(
    new URL("golden.json", folder),
  );
  return {
    config: parseRobertaConfig(readJson(new URL("config.json", folder))),
    head: name === "mlm" ? "masked-lm" : "classification",
    weights: readGolden(new URL("model.safetensors", folder)),
    golden: readGolden(new URL("golden.safetensors", folder)),
    tolerance: recommended_tolerance,
  };
}

/** Stored weights as parameters, rounded to nearest in a 16-bit dtype. */
export function robertaParams(backend: Backend, { weights }: GoldenRoberta, dtype: FloatType = "f32"): Params {
  const params = new Params(backend);
  for (const [name, { shape, data }] of weights) {
    params.set(name, own(fromArray(backend, toArray(data, dtype), shape, dtype)));
  }
  return params;
}

/** The stored sequences, their mask, and what they should give. */
export function robertaBatch(
  backend: Backend,
  { golden, config, head }: GoldenRoberta,
  dtype: FloatType = "f32",
): RobertaBatch & { readonly targets: Tensor } {
  const { shape, data: ids } = golden.get("input_ids")!;
  const labels = golden.get("labels")!;
  const isScore = head === "classification" && isRegression(config);
  const wide = dtype === "f64" ? "f64" : "f32";
  return {
    tokens: fromArray(backend, Int32Array.from(ids), shape),
    mask: fromArray(backend, Uint32Array.from(golden.get("attention_mask")!.data), shape),
    targets: isScore
      ? fromArray(backend, toArray(labels.data, wide), labels.shape, wide)
      : fromArray(backend, Int32Array.from(labels.data), labels.shape),
  };
}

/** Logits, loss and gradients by name, on the host. */
export interface RobertaNumbers {
  readonly logits: Float64Array;
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float64Array>;
}

/** One forward and backward of a stored model on its stored batch. */
export async function runRoberta(
  backend: Backend,
  model: GoldenRoberta,
  { dtype = "f32", ...options }: RobertaOptions & { readonly dtype?: FloatType } = {},
): Promise<RobertaNumbers> {
  using params = robertaParams(backend, model, dtype);
  const { config, head } = model;
  const held = new Map<string, Tensor>();
  const [logits, loss] = (() => {
    using step = scope("golden step");
    const { targets, ...batch } = robertaBatch(backend, model, dtype);
    const scores = robertaLogits(params, config, batch, head, options);
    const mean = robertaLoss(params, config, batch, { head, targets, ...options });
    backward(mean, (name, gradient) => held.set(name, gradient.retained()));
    return [own(step.keep(scores)), own(step.keep(mean))];
  })();
  const gradients = new Map<string, Float64Array>();
  for (const [name, gradient] of held) gradients.set(name, await takeHost(gradient));
  return { logits: await takeHost(logits), loss: (await takeHost(loss))[0], gradients };
}

/** Asserts the stored numbers. A gradient is relative to its own RMS, or to a hundredth of the largest one's. */
export function assertRoberta(
  actual: RobertaNumbers,
  { golden, weights }: GoldenRoberta,
  within: RobertaTolerance,
): void {
  assertRms("logits", actual.logits, golden.get("logits")!.data, { tolerance: within.logits });
  assertRms("loss", [actual.loss], golden.get("loss")!.data, { tolerance: within.loss });
  assert.deepEqual([...actual.gradients.keys()].sort(), [...weights.keys()].sort());
  const expected = [...weights.keys()].map((name) => [name, golden.get(`grad.${name}`)!.data] as const);
  const floor = 0.01 * Math.max(...expected.map(([, data]) => rms(data)));
  for (const [name, data] of expected) {
    assertRms(`gradient of ${name}`, actual.gradients.get(name)!, data, { tolerance: within.grad, floor });
  }
}

/** Registers a test for each of `models`. The tolerances are the stored ones, at most 1e-5, unless `within` says. */
export function robertaGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  {
    dtype = "f32" as FloatType,
    within = {} as Partial<RobertaTolerance>,
    models = GOLDEN_ROBERTAS as readonly string[],
    ignore = undefined as string | undefined,
  } = {},
): void {
  for (const folder of models) {
    registerTest(`${name}: robertaLoss() gives PyTorch's numbers for ${folder} in ${dtype}`, async () => {
      using backend = await makeBackend();
      const model = readRoberta(folder);
      const { logits, loss, grad } = model.tolerance;
      const usual = { logits: Math.min(logits, 1e-5), loss, grad: Math.min(grad, 1e-5) };
      assertRoberta(await runRoberta(backend, model, { dtype }), model, { ...usual, ...within });
      assert.equal(backend.memory().live, 0);
    }, ignore);
  }
}
