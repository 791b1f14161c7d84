/** What the autotune measures, keeps and takes back. */
import assert from "node:assert/strict";
import { autotune, type AutotuneOptions, choiceName, type Trial } from "./autotune.ts";
import type { Gpu } from "./gpu.ts";
import { TILES } from "./kernels/matmul_plan.ts";
import { webgpuBackend } from "./mod.ts";
import { webgpuTest } from "./testing.ts";
import { TileChoice } from "./tiles.ts";

class FakeStore {
  readonly texts = new Map<string, string>();
  get(key: string): Promise<string | undefined> {
    return Promise.resolve(this.texts.get(key));
  }
  set(key: string, value: string): Promise<void> {
    this.texts.set(key, value);
    return Promise.resolve();
  }
}

const TILE = "shared 64x64x8 64";
const KEY = "matmul tiles some card";

function stored(tiles: unknown, version = 1, adapter = "some card"): string {
  return JSON.stringify({ version, adapter, tiles });
}

/** Runs an autotune that measures nothing, over a choice of its own. */
async function readBack(text: string): Promise<{ tiles: Record<string, string>; text: string }> {
  const store = new FakeStore();
  store.texts.set(KEY, text);
  const tiles = new TileChoice();
  const gpu = { tiles, limits: {}, pool: { resetPeak: () => {} } } as unknown as Gpu;
  await autotune(gpu, { adapter: "some card", store, trials: [] });
  return { tiles: tiles.entries(), text: store.texts.get(KEY)! };
}

Deno.test("autotune() takes what was stored, and measures nothing", async () => {
  const known = { "nt lll": TILE };
  assert.deepEqual(await readBack(stored(known)), { tiles: known, text: stored(known) });
});

Deno.test("autotune() measures anew when what was stored is of no use", async () => {
  const useless = ["", "{", "null", "[]", stored(null), stored([]), stored({ "nt lll": "no such tile" })];
  for (const text of [...useless, stored({ "nt lll": 1 }), stored({}, 0), stored({}, 1, "another card")]) {
    assert.deepEqual(await readBack(text), { tiles: {}, text: stored({}) });
  }
});

webgpuTest("autotune() records tiles that it knows, once", async () => {
  using backend = await webgpuBackend();
  const { gpu } = backend;
  const store = new FakeStore();
  const trials: Trial[] = [["nt", 96, 96, 64]];
  const tiles = ["register 32x32x4 64", "turned 32x32x16 64"];
  const options: AutotuneOptions = { adapter: "some card", store, budgetMs: 60_000, trials, tiles };
  await autotune(gpu, options);
  const { inUse, live } = backend.memory();
  assert.deepEqual([inUse, live], [0, 0]);
  assert.deepEqual(gpu.tiles.forced, undefined);
  const found = JSON.parse(store.texts.get(KEY)!);
  assert.deepEqual(found.tiles, gpu.tiles.entries());
  assert.ok(Object.values(found.tiles).every((name) => TILES.has(name as string)));
  const before = backend.counters().dispatches;
  await autotune(gpu, options);
  assert.deepEqual(backend.counters().dispatches, before);
});

webgpuTest("webgpuBackend() names a stored choice in its kernel path", async () => {
  using plain = await webgpuBackend();
  const store = new FakeStore();
  const key = `matmul tiles ${plain.adapter.name}`;
  store.texts.set(key, stored({ "nn mmm": TILE }, 1, plain.adapter.name));
  using tuned = await webgpuBackend({ autotune: true, store });
  assert.deepEqual(tuned.kernelPath, `${plain.kernelPath}, tiles ${choiceName(tuned.gpu)}`);
  store.texts.set(key, stored({}, 1, plain.adapter.name));
  using standard = await webgpuBackend({ autotune: true, store });
  assert.deepEqual(standard.kernelPath, plain.kernelPath);
});
