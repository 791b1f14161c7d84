import assert from "node:assert/strict";
import { WasmMemory } from "./memory.ts";
import { poolLayout, ThreadPool } from "./threads.ts";
import { compileKernels } from "./wasm/load.ts";

async function start(threads: number): Promise<{ pool: ThreadPool; memory: WasmMemory }> {
  const { module } = await compileKernels("auto");
  const memory = new WasmMemory({ reserve: poolLayout(threads).end });
  return { pool: await ThreadPool.start({ threads, module, memory: memory.memory32 }), memory };
}

/** y = M x with M [rows][4] of ones, one task for each 32 rows. Returns the sum of y. */
function rowSums(threads: Awaited<ReturnType<typeof start>>, rows: number): (x: number) => number {
  const { pool, memory } = threads;
  const [matrix, x, y] = [rows * 4, 4, rows].map((size) => {
    const buffer = memory.alloc(4 * size);
    const address = memory.address({ buffer, offset: 0, dtype: "f32", shape: [], strides: [] });
    return { address, view: (memory.view(buffer, "f32") as Float32Array).fill(1) };
  });
  return (value) => {
    x.view.fill(value);
    y.view.fill(0);
    const operands = [matrix.address, 4, 0, x.address, 0, y.address, 0];
    pool.run("gemvRows", Math.ceil(rows / 32), [rows, 4, ...operands, 1, 32]);
    return y.view.reduce((sum, term) => sum + term, 0);
  };
}

for (const threads of [1, 2, 3, 4]) {
  Deno.test(`ThreadPool runs every task of 10,000 jobs once on ${threads} threads`, async () => {
    const started = await start(threads);
    using pool = started.pool;
    assert.equal(pool.threads, threads);
    const sizes = [32, 64, 500, 1024].map((rows) => ({ rows, sums: rowSums(started, rows) }));
    for (let job = 0; job < 10_000; job++) {
      const { rows, sums } = sizes[job % sizes.length];
      const value = job % 97;
      assert.equal(sums(value), 4 * value * rows, `job ${job}`);
    }
  });
}

Deno.test("ThreadPool wakes its workers after they slept", async () => {
  const started = await start(3);
  using _pool = started.pool;
  const sums = rowSums(started, 4096);
  for (let i = 0; i < 20; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(sums(i), 4 * i * 4096);
  }
});

Deno.test("ThreadPool uses no processor time while idle", async () => {
  const { pool } = await start(4);
  using _pool = pool;
  await new Promise((resolve) => setTimeout(resolve, 50));
  const { cpuUsage } = await import("node:process");
  const before = cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 400));
  const { user, system } = cpuUsage(before);
  assert.ok((user + system) / 1000 < 120, `used ${(user + system) / 1000} ms of 400`);
});

Deno.test("ThreadPool surfaces a trap of any thread by the kernel's name, and goes on", async () => {
  const started = await start(3);
  using pool = started.pool;
  const sums = rowSums(started, 1024);
  const { reserved } = started.memory.memory();
  for (let i = 0; i < 200; i++) {
    // The output begins inside the memory and ends outside: only later tasks trap.
    const out = reserved - 4 * 600;
    const args = [1024, 4, 262144, 4, 0, 262144, 0, out, 0, 1, 32];
    assert.throws(() => pool.run("gemvRows", 32, args), /Cannot finish kernel gemvRows: .*out of bounds/);
    assert.equal(sums(i), 4 * i * 1024);
  }
  assert.throws(() => pool.run("gemvRows", 1, [8, 4, 262144, 4, 0, 262144, 0, reserved, 0, 1, 32]), /kernel gemvRows/);
});

Deno.test("ThreadPool refuses a kernel that it does not have, and too many arguments", async () => {
  const { pool } = await start(1);
  using _pool = pool;
  assert.equal(pool.has("gemvRows"), true);
  assert.throws(() => pool.run("none", 1, []), /Cannot run kernel none/);
  assert.throws(() => pool.run("gemvRows", 1, new Array(25).fill(0)), RangeError);
});

Deno.test("ThreadPool lets a program end that forgot to dispose it", async () => {
  const source = `
    import { cpuBackend } from ${JSON.stringify(new URL("./mod.ts", import.meta.url).href)};
    const backend = await cpuBackend({ threads: 3, blas: "off" });
    console.log(backend.threads);`;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--allow-read", `data:text/typescript,${encodeURIComponent(source)}`],
    signal: AbortSignal.timeout(20_000),
  });
  const { success, stdout } = await command.output();
  assert.equal(new TextDecoder().decode(stdout).trim(), "3");
  assert.ok(success);
});
