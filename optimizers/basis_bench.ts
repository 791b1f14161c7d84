/** Finding a basis of rank 128 for llama-60m's matrices. `deno bench -A optimizers/basis_bench.ts` */
import { cpuBackend, loopsBackend } from "../backends/cpu/mod.ts";
import { fromArray, keyOf, normal } from "../core/mod.ts";
import { polarBasis, type Side, subspaceBasis } from "./mod.ts";

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
    Deno.bench({ name: `${group}: subspaceBasis(), ${name}`, group }, async () => {
      using _ = await subspaceBasis().compute(gradient, { side, rank, key });
    });
    if (backend === backends.loops) continue;
    Deno.bench({ name: `${group}: polarBasis() from nothing, ${name}`, group }, async () => {
      using _ = await polarBasis().compute(gradient, { side, rank, key });
    });
    const previous = await polarBasis().compute(gradient, { side, rank, key });
    Deno.bench({ name: `${group}: polarBasis() from the basis in use, ${name}`, group }, async () => {
      using _ = await polarBasis().compute(gradient, { side, rank, key, previous });
    });
  }
}
