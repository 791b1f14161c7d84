/** Stored runs of matrix completion: losses, errors and products of both forms. Any backend's test can register them. */
import assert from "node:assert/strict";
import { type Backend, fromArray, own, Params } from "../../core/mod.ts";
import { type GoldenTensor, readGolden, readJson } from "../../core/testing/golden.ts";
import { registerTest } from "../../core/testing/register.ts";
import { transpose } from "../../models/testing/host_matrices.ts";
import { Descent, type Observed } from "../complete_model.ts";

const FOLDER = new URL("../../models/testdata/adapters/", import.meta.url);

/** The settings of the stored runs. */
export interface CompletionFixture {
  readonly d: number;
  readonly est: number;
  readonly eps: number;
  readonly lr: number;
  readonly gamma: number;
  readonly steps: number;
}

/** The stored runs. */
export function completionFixture(): { settings: CompletionFixture; golden: Map<string, GoldenTensor> } {
  return {
    settings: readJson<CompletionFixture>(new URL("deep_completion.json", FOLDER)),
    golden: readGolden(new URL("deep_completion.safetensors", FOLDER)),
  };
}

/** What is observed in them. */
export function fixtureObserved(golden: ReadonlyMap<string, GoldenTensor>): Observed {
  const [rows, columns] = golden.get("target")!.shape;
  const mask = Float32Array.from(golden.get("mask")!.data);
  return { rows, columns, mask, seen: Float32Array.from(golden.get("target")!.data, (value, i) => mask[i] * value) };
}

/** Registers the runs, of at most `steps` steps. The tolerances are the fixture's. */
export function completionGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { steps = 400, ignore = undefined as string | undefined } = {},
): void {
  for (const form of ["full", "compressed", "svd"] as const) {
    registerTest(`${name}: Descent gives the stored losses, errors and products, ${form}`, async () => {
      using backend = await makeBackend();
      await followRun(backend, form, steps);
      assert.equal(backend.memory().live, 0);
    }, ignore);
  }
}

async function followRun(backend: Backend, form: "full" | "compressed" | "svd", steps: number): Promise<void> {
  const { settings, golden } = completionFixture();
  const data = (key: string) => golden.get(key)!.data;
  using factors = storedFactors(backend, form);
  using descent = new Descent(factors, fixtureObserved(golden), { learningRate: settings.lr, gamma: settings.gamma });
  const target = data("target");
  const size = Math.hypot(...target);
  const distance = (a: ArrayLike<number>, b: ArrayLike<number>) => {
    let total = 0;
    for (let i = 0; i < a.length; i++) total += (a[i] - b[i]) ** 2;
    return Math.sqrt(total);
  };
  const [losses, errors] = [data(`${form}.loss`), data(`${form}.recovery_error`)];
  for (let step = 0; step <= steps; step++) {
    if (step > 0) descent.advance();
    const matrix = await descent.matrix();
    assert.ok(Math.abs(descent.lossOf(matrix) - losses[step]) <= 1e-4 * losses[0], `loss after ${step}`);
    assert.ok(Math.abs(distance(matrix, target) / size - errors[step]) <= 1e-3, `error after ${step}`);
    const stored = golden.get(`${form}.product${step}`);
    if (stored) assert.ok(distance(matrix, stored.data) <= 1e-3 * size, `product after ${step}`);
  }
  assert.equal(descent.step, steps);
  if (form !== "compressed" || steps < settings.steps) return;
  const width = 2 * settings.est;
  const left = await factors.get("left.weight").read() as Float32Array;
  const right = transpose(await factors.get("right.weight").read() as Float32Array, width, settings.d);
  for (const [side, values] of [["left", left], ["right", right]] as const) {
    const stored = data(`compressed.${side}_end`);
    assert.ok(distance(values, stored) <= 1e-3 * Math.hypot(...stored), `${side} at the end`);
  }
}

/** The factors that a stored run starts from. */
function storedFactors(backend: Backend, form: "full" | "compressed" | "svd"): Params {
  const { settings: { d, est, eps }, golden } = completionFixture();
  const factors = new Params(backend);
  const set = (name: string, values: ArrayLike<number>, shape: readonly number[]) =>
    factors.set(`${name}.weight`, own(fromArray(backend, Float32Array.from(values), shape)));
  if (form === "full") {
    for (const i of [1, 2, 3]) set(`factor_${i}`, golden.get(`full.W${i}`)!.data, [d, d]);
    return factors;
  }
  const width = form === "svd" ? est : 2 * est;
  const eye = Float32Array.from({ length: width * width }, (_, i) => i % (width + 1) === 0 ? eps : 0);
  set("left", golden.get(`${form}.left`)!.data, [d, width]);
  for (const i of [1, 2, 3]) set(`inner_${i}`, eye, [width, width]);
  set("right", transpose(golden.get(`${form}.right`)!.data, d, width), [width, d]);
  return factors;
}
