/**
 * Stored numbers of a Deep LoRA map, whole and compressed: result, change and gradients. Any backend's test can register
 * it.
 */
import assert from "node:assert/strict";
import { type Backend, backward, fromArray, mul, own, Params, scope, sum, type Tensor } from "../../core/mod.ts";
import { assertRms, readGolden, readJson, rms } from "../../core/testing/golden.ts";
import { takeHost } from "../../core/testing/inputs.ts";
import { registerTest } from "../../core/testing/register.ts";
import { collapseDeepLora, type DeepLoraConfig, deepLoraWeights, withDeepLora } from "../deep_lora.ts";
import { product, transpose } from "./host_matrices.ts";

const FILE = new URL("../testdata/adapters/deep_lora.safetensors", import.meta.url);
const JSON_FILE = new URL("../testdata/adapters/deep_lora.json", import.meta.url);

/** Our tensors by the fixture's names. Its `right` is stored in columns, as a subspace; ours is a map's weight. */
const PARTS = {
  full: { W1: "1", W2: "2", W3: "3" },
  compressed: { right: "right", M1: "1", M2: "2", M3: "3", left: "left" },
} as const;

/** Registers a test for each form. The tolerances are the fixture's times `slack`. */
export function deepLoraGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { dtype = "f32" as "f32" | "f64", slack = 1, ignore = undefined as string | undefined } = {},
): void {
  for (const form of ["full", "compressed"] as const) {
    registerTest(`${name}: withDeepLora() gives PyTorch's map and gradients in ${dtype}, ${form}`, async () => {
      using backend = await makeBackend();
      await compareForm(backend, form, dtype, slack);
      assert.equal(backend.memory().live, 0);
    }, ignore);
  }
}

async function compareForm(backend: Backend, form: keyof typeof PARTS, dtype: "f32" | "f64", slack: number) {
  const golden = readGolden(FILE);
  const tolerance = slack *
    readJson<{ recommended_tolerance: Record<string, number> }>(JSON_FILE).recommended_tolerance[form];
  const host = (key: string, data: ArrayLike<number> = golden.get(key)!.data, shape = golden.get(key)!.shape) =>
    fromArray(backend, dtype === "f64" ? Float64Array.from(data) : Float32Array.from(data), shape, dtype);
  const [rows, columns] = golden.get("weight")!.shape;
  const config: DeepLoraConfig = {
    r: form === "full" ? columns : 2,
    compress: form === "compressed",
    targets: ["map"],
  };
  using base = new Params(backend);
  base.set("map.weight", host("weight"));
  base.freeze(base.names());
  using adapter = new Params(backend);
  for (const [part, own] of Object.entries(PARTS[form])) {
    const { data, shape } = golden.get(`${form}.${part}`)!;
    const isTurned = part === "right";
    const values = isTurned ? transpose(data, shape[0], shape[1]) : data;
    adapter.set(`map.deep_lora_${own}.weight`, host(part, values, isTurned ? [...shape].reverse() : shape));
  }
  const specs = [...deepLoraWeights(base.entries(), config)].map(([key, { shape }]) => [key, shape]);
  assert.deepEqual(Object.fromEntries(specs), Object.fromEntries([...adapter.entries()].map(([k, t]) => [k, t.shape])));
  using inputs = new Params(backend);
  inputs.set("x", host("x"));
  const held = new Map<string, Tensor>();
  const y = (() => {
    using step = scope("golden step");
    const out = withDeepLora(base, [{ params: adapter, config }]).linear("map", inputs.get("x"));
    backward(sum(mul(out, host("cotangent"))), (leaf, gradient) => held.set(leaf, gradient.retained()));
    return own(step.keep(out));
  })();
  const found = new Map([[`${form}.y`, await takeHost(y)]]);
  for (const [leaf, gradient] of held) {
    const part = Object.entries(PARTS[form]).find(([, own]) => leaf === `map.deep_lora_${own}.weight`)?.[0] ?? leaf;
    const values = await takeHost(gradient);
    const [m, n] = gradient.shape;
    found.set(`${form}.grad.${part}`, part === "right" ? transpose(values, m, n) : values);
  }
  using collapsed = collapseDeepLora(adapter);
  const A = await collapsed.get("map.lora_A.weight").read() as Float32Array;
  const B = await collapsed.get("map.lora_B.weight").read() as Float32Array;
  found.set(`${form}.delta`, product(B, A, [rows, A.length / columns, columns]));
  assert.equal(found.size, Object.keys(PARTS[form]).length + 3);
  const floor = 0.01 * Math.max(...[...found.keys()].map((key) => rms(golden.get(key)!.data)));
  for (const [key, values] of found) assertRms(key, values, golden.get(key)!.data, { tolerance, floor });
}
