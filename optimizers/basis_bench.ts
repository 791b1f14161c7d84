/** Finding a basis of rank 128 for llama-60m's matrices. `deno bench -A optimizers/basis_bench.ts` */
import { cpuBackend, loopsBackend } from "../backends/cpu/mod.ts";
import { fromArray, keyOf, normal, type Tensor } from "../core/mod.ts";
import {
  type BasisStrategy,
  finishNow,
  polarBasis,
  randomBasis,
  randomizedBasis,
  type Side,
  subspaceBasis,
} from "./mod.ts";

const native = await cpuBackend({ threads: 2 });
const backends = {
  [native.kernelPath]: native,
  wasm: await cpuBackend({ threads: 2, blas: "off" }),
  loops: loopsBackend(),
};
const [rank, key] = [128, keyOf(2)];

for (const [rows, columns] of [[512, 512], [1376, 512], [512, 1376]]) {
  const group = `a basis of [${rows}, ${columns}]`;
  const side: Side = rows >= columns ? "right" : "left";
  for (const [name, backend] of Object.entries(backends)) {
    const gradient = fromArray(backend, normal(keyOf(1), rows * columns), [rows, columns]);
    const compute = (strategy: BasisStrategy, previous?: Tensor) =>
      finishNow(strategy.compute(gradient, { side, rank, key, previous }));
    const bench = (what: string, strategy: BasisStrategy, previous?: Tensor) =>
      Deno.bench({ name: `${group}: ${what}, ${name}`, group }, () => compute(strategy, previous).dispose());
    bench("subspaceBasis() from nothing", subspaceBasis());
    if (backend === backends.loops) continue;
    bench("subspaceBasis() from the basis in use", subspaceBasis(), compute(subspaceBasis()));
    bench("randomizedBasis()", randomizedBasis());
    bench("polarBasis() from nothing", polarBasis());
    bench("polarBasis() from the basis in use", polarBasis(), compute(polarBasis()));
    bench("randomBasis()", randomBasis());
  }
}
