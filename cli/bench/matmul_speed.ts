/** Times f32 matrix products of one engine and prints one JSON line: `lowrank`, `lowrank-blas` or `jax-js`. */
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { fill, matmul, scope } from "../../core/mod.ts";

/** Best and median GFLOP/s over `rounds` products. */
function summary(n: number, times: number[]): { median: number; best: number } {
  times.sort((a, b) => a - b);
  const rate = (ms: number) => 2 * n ** 3 / ms / 1e6;
  return { median: rate(times[times.length >> 1]), best: rate(times[0]) };
}

async function lowrank(n: number, rounds: number, blas: "off" | "require"): Promise<number[]> {
  using backend = await cpuBackend({ threads: 2, blas });
  using _ = scope("matmul");
  const [a, b] = [fill(backend, 1.5, [n, n]), fill(backend, 0.5, [n, n])];
  const times: number[] = [];
  for (let i = 0; i < rounds + 5; i++) {
    const start = performance.now();
    using product = matmul(a, b);
    backend.readSync!(product.buffer, 0, 4);
    if (i >= 5) times.push(performance.now() - start);
  }
  return times;
}

async function jaxJs(n: number, rounds: number): Promise<number[]> {
  // by name, so that only a bench fetches the peer
  const peer = "npm:@jax-js/jax@0.1.25";
  const { defaultDevice, init, numpy } = await import(peer);
  await init("wasm");
  defaultDevice("wasm");
  const a = numpy.full([n, n], 1.5);
  const b = numpy.full([n, n], 0.5);
  await Promise.all([a.ref.data(), b.ref.data()]);
  const times: number[] = [];
  for (let i = 0; i < rounds + 5; i++) {
    const start = performance.now();
    await numpy.matmul(a.ref, b.ref).data();
    if (i >= 5) times.push(performance.now() - start);
  }
  return times;
}

const [engine, size] = Deno.args;
const n = Number(size);
const rounds = n <= 512 ? 60 : 20;
const times = engine === "jax-js"
  ? await jaxJs(n, rounds)
  : await lowrank(n, rounds, engine === "lowrank" ? "off" : "require");
console.log(JSON.stringify({ engine, n, ...summary(n, times) }));
Deno.exit(0);
