import assert from "node:assert/strict";
import { OutOfMemoryError } from "../../core/errors.ts";
import { WasmMemory } from "./memory.ts";

/** A small generator, so that a failure repeats. */
function randoms(seed: number): () => number {
  let state = seed;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
}

function place(memory: WasmMemory, buffer: object): number {
  return memory.address({ buffer, offset: 0, dtype: "u8", shape: [], strides: [] });
}

Deno.test("WasmMemory keeps 64-byte alignment, order and counts over 100,000 random allocations and frees", () => {
  const memory = new WasmMemory({ reserve: 1000 });
  const random = randoms(7);
  const held: { buffer: object; start: number; bytes: number }[] = [];
  const baseline = memory.memory();
  let inUse = 0;
  for (let step = 0; step < 100_000; step++) {
    if (held.length > 0 && random() < 0.5 + (held.length - 100) / 400) {
      const index = Math.floor(random() * held.length);
      const [gone] = held.splice(index, 1);
      memory.free(gone.buffer);
      inUse -= Math.ceil(gone.bytes / 4) * 4;
    } else {
      const bytes = Math.floor(2 ** (random() * 20));
      const buffer = memory.alloc(bytes);
      held.push({ buffer, start: place(memory, buffer), bytes });
      inUse += Math.ceil(bytes / 4) * 4;
    }
    assert.equal(memory.memory().inUse, inUse);
    if (step % 500 === 0) checkApart(held);
  }
  checkApart(held);
  for (const { buffer } of held) memory.free(buffer);
  const after = memory.memory();
  assert.deepEqual([after.inUse, after.live], [baseline.inUse, baseline.live]);
  assert.equal(memory.numHoles(), 1, "everything joins again");
});

function checkApart(held: readonly { start: number; bytes: number }[]): void {
  const sorted = held.toSorted((a, b) => a.start - b.start);
  sorted.forEach(({ start }, i) => {
    assert.equal(start % 64, 0);
    const before = i > 0 ? sorted[i - 1].start + sorted[i - 1].bytes : 1000;
    assert.ok(start >= before, `${start} overlaps what ends at ${before}`);
  });
}

Deno.test("WasmMemory neither grows nor splinters over thousands of equal training steps", () => {
  const memory = new WasmMemory({ reserve: 0 });
  const random = randoms(3);
  const weights = Array.from({ length: 40 }, () => memory.alloc(Math.floor(random() * 400_000)));
  const sizes = Array.from({ length: 120 }, () => Math.floor(2 ** (8 + random() * 13)));
  const state: object[] = [];
  const step = () => {
    const activations = sizes.map((bytes) => memory.alloc(bytes));
    for (let i = activations.length - 1; i >= 0; i--) {
      const gradient = memory.alloc(sizes[i]);
      memory.free(activations[i]);
      // A slot that is replaced every step, and so wanders.
      state.push(memory.alloc(sizes[i] / 8));
      if (state.length > sizes.length) memory.free(state.shift()!);
      memory.free(gradient);
    }
  };
  for (let i = 0; i < 20; i++) step();
  const { reserved } = memory.memory();
  const holes = memory.numHoles();
  for (let i = 0; i < 3000; i++) step();
  assert.equal(memory.memory().reserved, reserved);
  assert.ok(memory.numHoles() <= 2 * holes + 10, `${holes} holes became ${memory.numHoles()}`);
  for (const buffer of [...weights, ...state]) memory.free(buffer);
  assert.equal(memory.memory().live, 0);
});

Deno.test("WasmMemory keeps contents and views when it grows", () => {
  const memory = new WasmMemory({ reserve: 0 });
  const first = memory.alloc(8);
  const view = memory.view(first, "f32");
  memory.write(first, 0, new Uint8Array(new Float32Array([1, 2]).buffer));
  const before = memory.memory().reserved;
  const large = memory.alloc(before + 1);
  assert.ok(memory.memory().reserved > before);
  memory.write(large, before - 3, new Uint8Array([7, 8, 9, 10]));
  assert.deepEqual([...memory.readSync(large, before - 3, 4)], [7, 8, 9, 10]);
  view[1] = 5;
  assert.deepEqual(new Float32Array(memory.readSync(first, 0, 8).buffer), new Float32Array([1, 5]));
});

Deno.test("WasmMemory reports peak and limit, and names the bytes beyond the limit", () => {
  const memory = new WasmMemory({ reserve: 0, limit: 1000 });
  const first = memory.alloc(600);
  assert.throws(() => memory.alloc(404, "the logits"), (error: unknown) => {
    assert.ok(error instanceof OutOfMemoryError);
    assert.deepEqual([error.bytesAsked, error.bytesInUse, error.bytesAllowed], [404, 600, 1000]);
    assert.match(error.message, /the logits/);
    return true;
  });
  memory.free(first);
  memory.free(memory.alloc(100));
  assert.deepEqual({ ...memory.memory(), reserved: 0 }, { inUse: 0, reserved: 0, peak: 600, live: 0, limit: 1000 });
  memory.resetPeak();
  assert.equal(memory.memory().peak, 0);
});

Deno.test("WasmMemory refuses more than 4 GiB by name, and goes on", () => {
  const memory = new WasmMemory({ reserve: 1 << 20 });
  assert.equal(memory.memory().limit, 2 ** 32 - 2 ** 20);
  assert.throws(() => memory.alloc(2 ** 32), OutOfMemoryError);
  assert.throws(() => memory.alloc(NaN), OutOfMemoryError);
  memory.free(memory.alloc(16));
});

Deno.test("WasmMemory throws on a double free, a use after free, and a buffer of another backend", () => {
  const memory = new WasmMemory({ reserve: 0 });
  const buffer = memory.alloc(16, "the weights");
  memory.free(buffer);
  assert.throws(() => memory.free(buffer), /Cannot free a buffer of cpu: the weights was freed before/);
  assert.throws(() => memory.readSync(buffer, 0, 4), /freed before/);
  assert.throws(() => memory.view(buffer, "f32"), /freed before/);
  assert.throws(() => place(memory, buffer), /freed before/);
  assert.throws(() => memory.free({}), TypeError);
  assert.throws(() => memory.free(new WasmMemory({ reserve: 0 }).alloc(4)), TypeError);
});

Deno.test("WasmMemory throws a RangeError when bytes outside a buffer are read or written", () => {
  const memory = new WasmMemory({ reserve: 0 });
  const buffer = memory.alloc(8);
  assert.throws(() => memory.readSync(buffer, 4, 8), RangeError);
  assert.throws(() => memory.write(buffer, -4, new Uint8Array(4)), RangeError);
  assert.equal(memory.readSync(memory.alloc(0), 0, 0).length, 0);
});
