/**
 * ViT and Visual Prompt Tuning against PyTorch: the model of `testdata/vit` (Hugging Face's ViTForImageClassification in
 * f64, rounded to f32) on images that are not square, with logits, loss and the gradient of every weight; and with
 * learned prompts, shallow and deep, those of prompts and head. Any backend's test can register them.
 */
import assert from "node:assert/strict";
import { registerTest } from "../../core/testing/register.ts";
import { type Backend, backward, fromArray, own, Params, scope, type Tensor } from "../../core/mod.ts";
import { assertRms, type GoldenTensor, readGolden, readJson, rms } from "../../core/testing/golden.ts";
import { type FloatType, takeHost, toArray } from "../../core/testing/inputs.ts";
import type { VisualPrompts } from "../visual_prompts.ts";
import { parseVitConfig, type VitConfig } from "../vit_config.ts";
import { vitLogits, vitLoss, type VitOptions } from "../vit.ts";

/** What is stored: the model itself, and the same frozen model with prompts. */
export const GOLDEN_VITS = ["vit", "vpt_shallow", "vpt_deep"] as const;

/** How closely a backend must agree: RMS of the difference, relative. */
export interface VitTolerance {
  readonly logits: number;
  readonly loss: number;
  readonly grad: number;
}

/** The stored model, its images, and what they give. */
export interface GoldenVit {
  readonly config: VitConfig;
  readonly weights: ReadonlyMap<string, GoldenTensor>;
  readonly golden: ReadonlyMap<string, GoldenTensor>;
  readonly tolerance: VitTolerance;
  /** Images and labels, which the runs share. */
  readonly batch: ReadonlyMap<string, GoldenTensor>;
}

const FOLDER = new URL("../testdata/vit/", import.meta.url);

/** Reads one of the stored runs. */
export function readVit(name: typeof GOLDEN_VITS[number] = "vit"): GoldenVit {
  const file = name === "vit" ? "golden" : name;
  const json = readJson<{ recommended_tolerance: VitTolerance }>(new URL(`${file}.json`, FOLDER));
  return {
    config: parseVitConfig(readJson(new URL("config.json", FOLDER))),
    weights: readGolden(new URL("model.safetensors", FOLDER)),
    golden: readGolden(new URL(`${file}.safetensors`, FOLDER)),
    batch: readGolden(new URL("golden.safetensors", FOLDER)),
    tolerance: json.recommended_tolerance,
  };
}

function upload(backend: Backend, { shape, data }: GoldenTensor, dtype: FloatType): Tensor {
  return fromArray(backend, toArray(data, dtype), shape, dtype);
}

/** Stored weights as parameters, rounded to nearest in a 16-bit dtype. */
export function vitParams(backend: Backend, { weights }: GoldenVit, dtype: FloatType = "f32"): Params {
  const params = new Params(backend);
  for (const [name, tensor] of weights) params.set(name, own(upload(backend, tensor, dtype)));
  return params;
}

/** The stored prompts, and the stored model's head, as what is trained. */
export function goldenPrompts(
  backend: Backend,
  { golden, weights }: GoldenVit,
  dtype: FloatType = "f32",
): VisualPrompts & { readonly params: Params } {
  const params = new Params(backend);
  const names = ["prompt_embeddings", "deep_prompt_embeddings"].filter((name) => golden.has(name));
  for (const name of names) params.set(name, own(upload(backend, golden.get(name)!, dtype)));
  for (const part of ["weight", "bias"]) {
    params.set(`classifier.${part}`, own(upload(backend, weights.get(`classifier.${part}`)!, dtype)));
  }
  const numTokens = golden.get("prompt_embeddings")!.shape[1];
  return { params, config: { deep: golden.has("deep_prompt_embeddings"), numTokens } };
}

/** The stored images and labels. */
export function vitBatch(
  backend: Backend,
  { batch }: GoldenVit,
  dtype: FloatType = "f32",
): { readonly pixels: Tensor; readonly targets: Tensor } {
  const labels = batch.get("labels")!;
  return {
    pixels: upload(backend, batch.get("pixel_values")!, dtype === "f64" ? "f64" : "f32"),
    targets: fromArray(backend, Int32Array.from(labels.data), labels.shape),
  };
}

/** Logits, loss and gradients by name, on the host. */
export interface VitNumbers {
  readonly logits: Float64Array;
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float64Array>;
}

/** One forward and backward of a stored run: with prompts over a frozen model where it has them. */
export async function runVit(
  backend: Backend,
  model: GoldenVit,
  { dtype = "f32", ...options }: VitOptions & { readonly dtype?: FloatType } = {},
): Promise<VitNumbers> {
  using params = vitParams(backend, model, dtype);
  const prompts = model.golden.has("prompt_embeddings") ? goldenPrompts(backend, model, dtype) : undefined;
  using _task = prompts?.params;
  if (prompts) params.freeze(params.names());
  const held = new Map<string, Tensor>();
  const [logits, loss] = (() => {
    using step = scope("golden step");
    const { pixels, targets } = vitBatch(backend, model, dtype);
    const scores = vitLogits(params, model.config, pixels, { prompts, ...options });
    const mean = vitLoss(params, model.config, pixels, { targets, prompts, ...options });
    backward(mean, (name, gradient) => held.set(name, gradient.retained()));
    return [own(step.keep(scores)), own(step.keep(mean))];
  })();
  const gradients = new Map<string, Float64Array>();
  for (const [name, gradient] of held) gradients.set(name, await takeHost(gradient));
  return { logits: await takeHost(logits), loss: (await takeHost(loss))[0], gradients };
}

/** Asserts the stored numbers. A gradient is relative to its own RMS, or to a hundredth of the largest one's. */
export function assertVit(actual: VitNumbers, { golden }: GoldenVit, within: VitTolerance): void {
  assertRms("logits", actual.logits, golden.get("logits")!.data, { tolerance: within.logits });
  assertRms("loss", [actual.loss], golden.get("loss")!.data, { tolerance: within.loss });
  const expected = [...golden].filter(([name]) => name.startsWith("grad."))
    .map(([name, { data }]) => [name.slice(5), data] as const);
  assert.deepEqual([...actual.gradients.keys()].sort(), expected.map(([name]) => name).sort());
  const floor = 0.01 * Math.max(...expected.map(([, data]) => rms(data)));
  for (const [name, data] of expected) {
    assertRms(`gradient of ${name}`, actual.gradients.get(name)!, data, { tolerance: within.grad, floor });
  }
}

/** Registers a test for each stored run. The tolerances are the stored ones, at most 1e-5, unless `within` says. */
export function vitGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  {
    dtype = "f32" as FloatType,
    within = {} as Partial<VitTolerance>,
    ignore = undefined as string | undefined,
  } = {},
): void {
  for (const run of GOLDEN_VITS) {
    registerTest(`${name}: vitLoss() gives PyTorch's numbers for ${run} in ${dtype}`, async () => {
      using backend = await makeBackend();
      const model = readVit(run);
      const { logits, loss, grad } = model.tolerance;
      const usual = { logits: Math.min(logits, 1e-5), loss, grad: Math.min(grad, 1e-5) };
      assertVit(await runVit(backend, model, { dtype }), model, { ...usual, ...within });
      assert.equal(backend.memory().live, 0);
    }, ignore);
  }
}
