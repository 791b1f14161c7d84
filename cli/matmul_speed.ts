/** How fast a backend multiplies: what `doctor` prints and MFU is measured against. */
import { type Backend, fill, matmul, own, scope, type Tensor } from "../core/mod.ts";

/** Best GFLOP/s of f32 [n, n] @ [n, n] in about a fifth of a second: others' work on the machine only ever slows one down. */
export async function matmulSpeed(backend: Backend, n: number): Promise<number> {
  const [a, b] = operands(backend, n);
  using _a = a;
  using _b = b;
  const ms = backend.readSync ? oneAtATime(backend, a, b) : await severalAtATime(a, b);
  return 2 * n ** 3 / ms / 1e6;
}

/**
 * The GFLOP/s that a device can reach: at 512 where the host computes; elsewhere at the first size that keeps the device
 * busy for 4 ms, because a small product leaves most of a GPU idle.
 */
export async function peakSpeed(backend: Backend): Promise<number> {
  if (backend.readSync) return await matmulSpeed(backend, 512);
  let best = 0;
  for (let n = 512; n <= 4096; n *= 2) {
    const speed = await matmulSpeed(backend, n);
    best = Math.max(best, speed);
    if (2 * n ** 3 / speed / 1e6 > 4) break;
  }
  return best;
}

function operands(backend: Backend, n: number): [Tensor, Tensor] {
  using inner = scope("matmul speed");
  return [1.5, 0.5].map((value) => own(inner.keep(fill(backend, value, [n, n])))) as [Tensor, Tensor];
}

/** Milliseconds of the fastest product. */
function oneAtATime(backend: Backend, a: Tensor, b: Tensor): number {
  let best = Infinity;
  const end = performance.now() + 200;
  for (let i = 0; i < 5 || performance.now() < end; i++) {
    const start = performance.now();
    using product = matmul(a, b);
    backend.readSync!(product.buffer, 0, 4);
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

/** Milliseconds of a product among as many as fill a twentieth of a second; a read costs as much as several of them. */
async function severalAtATime(a: Tensor, b: Tensor): Promise<number> {
  await enqueued(a, b, 1); // compiles
  let best = Infinity;
  let count = 4;
  const end = performance.now() + 200;
  for (let i = 0; i < 3 || performance.now() < end; i++) {
    const ms = await enqueued(a, b, count);
    best = Math.min(best, ms / count);
    count = Math.max(4, Math.min(256, Math.round(50 / best)));
    if (i >= 2 && ms > 200) break;
  }
  return best;
}

async function enqueued(a: Tensor, b: Tensor, count: number): Promise<number> {
  const start = performance.now();
  const last = products(a, b, count);
  await a.backend.read(last.buffer, 0, 4);
  last.dispose();
  return performance.now() - start;
}

/** The last of `count` products; outside every scope when it is read. */
function products(a: Tensor, b: Tensor, count: number): Tensor {
  using inner = scope("products");
  for (let i = 1; i < count; i++) matmul(a, b).dispose();
  return own(inner.keep(matmul(a, b)));
}
