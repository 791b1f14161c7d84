/**
 * FLoRA against PyTorch: one linear map with an adapter for every example, ranks 1 and 3, forward and backward. Any backend's
 * test can register it.
 */
import assert from "node:assert/strict";
import { type Backend, backward, fromArray, mul, own, Params, scope, sum, type Tensor } from "../../core/mod.ts";
import { assertRms, type GoldenTensor, readGolden, readJson, rms } from "../../core/testing/golden.ts";
import { takeHost } from "../../core/testing/inputs.ts";
import { registerTest } from "../../core/testing/register.ts";
import { type FloraConfig, withFlora } from "../flora.ts";
import { transpose } from "./host_matrices.ts";

const FILES = new URL("../testdata/adapters/", import.meta.url);

/** Registers the tests. The tolerances are the fixture's times `slack`. */
export function floraGoldens(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { slack = 1, ignore = undefined as string | undefined } = {},
): void {
  const golden = readGolden(new URL("flora.safetensors", FILES));
  const { recommended_tolerance: within } = readJson<{ recommended_tolerance: Record<string, number> }>(
    new URL("flora.json", FILES),
  );
  for (const [group, tolerance] of Object.entries(within)) {
    registerTest(
      `${name}: withFlora() gives PyTorch's map and gradients for an adapter per example, ${group}`,
      async () => {
        using backend = await makeBackend();
        const stored = (key: string) => golden.get(key)!;
        const [N, R, rows] = stored(`${group}.A`).shape;
        const columns = stored(`${group}.B`).shape[1];
        {
          using base = new Params(backend);
          base.set("map.weight", fromArray(backend, stored("weight").data, [rows, columns]));
          using inputs = new Params(backend);
          inputs.set("x", fromArray(backend, stored("x").data, stored("x").shape));
          using factors = new Params(backend);
          for (let n = 0; n < N; n++) {
            factors.set(`${n}.map.flora_A`, transposed(backend, stored(`${group}.B`), n));
            factors.set(`${n}.map.flora_B`, transposed(backend, stored(`${group}.A`), n));
          }
          const held = run({ base, inputs, factors, N, R }, stored("cotangent"));
          const found = new Map<string, Float64Array>();
          for (const [leaf, tensor] of held) found.set(leaf, await takeHost(tensor));
          assert.equal(found.size, 4 + 2 * N);
          const expected = ["y", "y_mean", "grad.x", "grad.weight", "grad.A", "grad.B"].map((key) =>
            stored(`${group}.${key}`)
          );
          const actual = [
            ...["y", "y_mean", "x", "map.weight"].map((leaf) => found.get(leaf)!),
            ...["flora_B", "flora_A"].map((factor) => joined(found, factor, N, R)),
          ];
          const floor = 0.01 * Math.max(...expected.map(({ data }) => rms(data)));
          for (const [i, values] of actual.entries()) {
            assertRms(`${group} ${i}`, values, expected[i].data, { tolerance: slack * tolerance, floor });
          }
        }
        assert.equal(backend.memory().live, 0);
      },
      ignore,
    );
  }
}

/** Matrix n of a stack, transposed: the fixture's A [R, out] and B [in, R] are our B and A the other way round. */
function transposed(backend: Backend, { shape: [, rows, columns], data }: GoldenTensor, n: number): Tensor {
  const matrix = transpose(data.slice(n * rows * columns, (n + 1) * rows * columns), rows, columns);
  return fromArray(backend, Float32Array.from(matrix), [columns, rows]);
}

/** The gradients of one factor of all adapters, as the fixture stacks them. */
function joined(found: ReadonlyMap<string, Float64Array>, factor: string, N: number, R: number): number[] {
  return Array.from({ length: N }, (_, n) => {
    const gradient = found.get(`${n}.map.${factor}`)!;
    const size = gradient.length / R;
    return [...factor === "flora_B" ? transpose(gradient, size, R) : transpose(gradient, R, size)];
  }).flat();
}

/** What a step needs. */
interface Setting {
  readonly base: Params;
  readonly inputs: Params;
  readonly factors: Params;
  readonly N: number;
  readonly R: number;
}

/** The map as a sum and as a mean over the parts, and the gradients of the sum, by name. */
function run({ base, inputs, factors, N, R }: Setting, cotangent: GoldenTensor): Map<string, Tensor> {
  using step = scope("golden step");
  const rows = Array.from({ length: N }, (_, n) => n);
  const out = (reduction: "sum" | "mean") => {
    const config: FloraConfig = { r: R, form: "product", targets: ["map"], reduction };
    const adapters = rows.map((n) => ({ params: factors.at(n), config }));
    return withFlora(base, adapters, rows).linear("map", inputs.get("x"));
  };
  const y = out("sum");
  const held = new Map([["y", own(step.keep(y))], ["y_mean", own(step.keep(out("mean")))]]);
  const weights = fromArray(base.backend, cotangent.data, cotangent.shape);
  backward(sum(mul(y, weights)), (leaf, gradient) => held.set(leaf, gradient.retained()));
  return held;
}
