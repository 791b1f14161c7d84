/**
 * What FLoRA must be: every example's own weight W o B A, computed without it, with its gradients; and in a model each example
 * as if it ran alone. Any backend's test can register it.
 */
import assert from "node:assert/strict";
import {
  type Backend,
  backward,
  fromArray,
  mul,
  noGrad,
  own,
  Params,
  type ParamsView,
  scope,
  sum,
  type Tensor,
} from "../../core/mod.ts";
import { assertRms } from "../../core/testing/golden.ts";
import { random } from "../../core/testing/gradcheck.ts";
import { takeHost } from "../../core/testing/inputs.ts";
import { registerTest } from "../../core/testing/register.ts";
import { type Flora, type FloraConfig, initFlora, withFlora } from "../flora.ts";
import { initLlama, llama } from "../llama.ts";
import { product, transpose } from "./host_matrices.ts";
import { tiny } from "./tiny_lora.ts";

const [EXAMPLES, TOKENS, ROWS, COLUMNS] = [5, 3, 9, 7];

/** An adapter of its own for a model, away from its first values. */
export function stirredFlora(base: Params, config: FloraConfig, seed: number): Flora & { readonly params: Params } {
  const params = initFlora(base, config, { seed });
  for (const [name, tensor] of params.entries()) {
    tensor.write(Float32Array.from(random(`${name} ${seed}`, tensor.size), (value) => 0.5 * value));
  }
  return { params, config };
}

/** Registers the tests. */
export function floraLaws(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { tolerance = 1e-6, ranks = [1, 2, 4, 8], ignore = undefined as string | undefined } = {},
): void {
  for (const form of ["product", "residual"] as const) {
    registerTest(
      `${name}: FLoRA's ${form} is each example's explicit weight, gradients included, ranks ${ranks}`,
      async () => {
        using backend = await makeBackend();
        for (const r of ranks) await checkExplicit(backend, { r, form, targets: ["map"] }, tolerance);
        assert.equal(backend.memory().live, 0);
      },
      ignore,
    );
  }

  registerTest(`${name}: a LLaMA gives each example of a batch of FLoRA adapters what it gives it alone`, async () => {
    using backend = await makeBackend();
    using base = initLlama(backend, tiny, 1);
    const config: FloraConfig = { r: 2, targets: "all-linear" };
    const adapters = [
      stirredFlora(base, config, 1),
      stirredFlora(base, { r: 3, targets: ["q_proj", "up_proj", "lm_head"], form: "product", reduction: "mean" }, 2),
      stirredFlora(base, { ...config, modulesToSave: ["lm_head"] }, 3),
    ];
    const rows = [1, -1, 0, 1, 2, 0];
    const ids = Int32Array.from({ length: 30 }, (_, i) => (i * i + 3 * i + 1) % tiny.vocab_size);
    const logits = (view: ParamsView, start: number, end: number) => {
      using inner = scope("logits");
      const tokens = fromArray(backend, ids.slice(5 * start, 5 * end), [end - start, 5]);
      return own(inner.keep(noGrad(() => llama(view, tiny, tokens))));
    };
    const mixed = logits(withFlora(base, adapters, rows), 0, rows.length);
    const alone = rows.map((row, example) =>
      logits(row < 0 ? base : withFlora(base, [adapters[row]]), example, example + 1)
    );
    const [actual, ...expected] = await Promise.all([mixed, ...alone].map(takeHost));
    const size = actual.length / rows.length;
    for (const [example, values] of expected.entries()) {
      assertRms(`example ${example}`, actual.slice(example * size, (example + 1) * size), values, { tolerance });
    }
    for (const { params } of adapters) params.dispose();
  }, ignore);
}

/** One linear map under an adapter per example against matrices on the host, in f64. */
async function checkExplicit(backend: Backend, config: FloraConfig, tolerance: number): Promise<void> {
  const { r, form } = config;
  const drawn = (what: string, size: number) => Float32Array.from(random(what, size));
  const [weight, bias] = [drawn("weight", ROWS * COLUMNS), drawn("bias", ROWS)];
  const [x, cotangent] = [drawn("x", EXAMPLES * TOKENS * COLUMNS), drawn("cotangent", EXAMPLES * TOKENS * ROWS)];
  const factors = Array.from({ length: EXAMPLES }, (_, n) => ({
    A: drawn(`A ${n} ${r}`, r * COLUMNS),
    B: drawn(`B ${n} ${r}`, ROWS * r),
  }));
  const found = await perExample(backend, { weight, bias, x, cotangent, factors, config });
  for (const [n, { A, B }] of factors.entries()) {
    const part = (values: ArrayLike<number>, width: number) =>
      Float64Array.from(values).slice(n * TOKENS * width, (n + 1) * TOKENS * width);
    const [input, g] = [part(x, COLUMNS), part(cotangent, ROWS)];
    const M = product(B, A, [ROWS, r, COLUMNS]).map((value) => form === "residual" ? value + 1 : value);
    const own = M.map((value, i) => value * weight[i]);
    const y = product(input, transpose(own, ROWS, COLUMNS), [TOKENS, COLUMNS, ROWS]).map((v, i) => v + bias[i % ROWS]);
    const dM = product(transpose(g, TOKENS, ROWS), input, [ROWS, TOKENS, COLUMNS]).map((value, i) => value * weight[i]);
    const expected = {
      y,
      x: product(g, own, [TOKENS, ROWS, COLUMNS]),
      A: product(transpose(B, ROWS, r), dM, [r, ROWS, COLUMNS]),
      B: product(dM, transpose(A, r, COLUMNS), [ROWS, COLUMNS, r]),
    };
    const actual = {
      y: part(found.get("y")!, ROWS),
      x: part(found.get("x")!, COLUMNS),
      A: found.get(`${n}.map.flora_A`)!,
      B: found.get(`${n}.map.flora_B`)!,
    };
    for (const key of ["y", "x", "A", "B"] as const) {
      assertRms(`rank ${r}, example ${n}, ${key}`, actual[key], expected[key], { tolerance });
    }
  }
}

/** What `perExample` runs. */
interface Explicit {
  readonly weight: Float32Array;
  readonly bias: Float32Array;
  readonly x: Float32Array;
  readonly cotangent: Float32Array;
  readonly factors: readonly { readonly A: Float32Array; readonly B: Float32Array }[];
  readonly config: FloraConfig;
}

/** The map's result and the gradients of x and of every adapter's factors, by name. */
async function perExample(backend: Backend, given: Explicit): Promise<Map<string, Float64Array>> {
  const { config, factors } = given;
  using base = new Params(backend);
  base.set("map.weight", fromArray(backend, given.weight, [ROWS, COLUMNS]));
  base.set("map.bias", fromArray(backend, given.bias, [ROWS]));
  base.freeze(base.names());
  using leaves = new Params(backend);
  leaves.set("x", fromArray(backend, given.x, [EXAMPLES, TOKENS, COLUMNS]));
  for (const [n, { A, B }] of factors.entries()) {
    leaves.set(`${n}.map.flora_A`, fromArray(backend, A, [config.r, COLUMNS]));
    leaves.set(`${n}.map.flora_B`, fromArray(backend, B, [ROWS, config.r]));
  }
  const held = new Map<string, Tensor>();
  {
    using step = scope("per-example step");
    const adapters = factors.map((_, n) => ({ params: leaves.at(n), config }));
    const y = withFlora(base, adapters, factors.map((_, n) => n)).linear("map", leaves.get("x"));
    held.set("y", own(step.keep(y)));
    const weights = fromArray(backend, given.cotangent, y.shape);
    backward(sum(mul(y, weights)), (leaf, gradient) => held.set(leaf, gradient.retained()));
  }
  const host = new Map<string, Float64Array>();
  for (const [leaf, tensor] of held) host.set(leaf, await takeHost(tensor));
  return host;
}
