/** Finding a basis of rank 128 for llama-60m's matrices. `deno bench -A optimizers/basis_bench.ts` */
import { cpuBackend, loopsBackend } from "../backends/cpu/mod.ts";
import { fromArray, keyOf, normal } from "../core/mod.ts";
import { subspaceBasis } from "./mod.ts";

const native = await cpuBackend({ threads: 2 });
const backends = {
  [native.kernelPath]: native,
  wasm: await cpuBackend({ threads: 2, blas: "off" }),
  loops: loopsBackend(),
};

for (const [rows, columns] of [[512, 512], [1376, 512], [512, 1376]]) {
  const group = `subspaceBasis() of [${rows}, ${columns}]`;
  for (const [name, backend] of Object.entries(backends)) {
    const gradient = fromArray(backend, normal(keyOf(1), rows * columns), [rows, columns]);
    const side = rows >= columns ? "right" : "left";
    Deno.bench({ name: `${group}: ${name}`, group }, async () => {
      using _ = await subspaceBasis().compute(gradient, { side, rank: 128, key: keyOf(2) });
    });
  }
}
