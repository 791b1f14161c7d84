/** How fast a backend multiplies: what `doctor` prints and MFU is measured against. */
import { type Backend, fill, matmul, scope } from "../core/mod.ts";

/** Best GFLOP/s of f32 [n, n] @ [n, n] in about a fifth of a second: others' work on the machine only ever slows one down. */
export function matmulSpeed(backend: Backend, n: number): number {
  using _ = scope("matmul speed");
  const a = fill(backend, 1.5, [n, n]);
  const b = fill(backend, 0.5, [n, n]);
  let best = Infinity;
  const end = performance.now() + 200;
  for (let i = 0; i < 5 || performance.now() < end; i++) {
    const start = performance.now();
    using product = matmul(a, b);
    if (backend.readSync) backend.readSync(product.buffer, 0, 4);
    best = Math.min(best, performance.now() - start);
  }
  return 2 * n ** 3 / best / 1e6;
}
