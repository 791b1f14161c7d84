/** Whole numbers of 4 and 8 bits: how far off, how many bytes, and what is refused. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { foldIn, fromArray, keyOf, normal, scope, type Tensor, uniform } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { affine, disposeState, ownState, stateBytes } from "./mod.ts";

const SHAPES = [[1, 1], [3, 5], [2, 256], [7, 37], [16, 16], [33, 31], [24, 520]] as const;

/** Of either sign, all of one sign far from 0, all equal, all zeros, over decades. */
const KINDS: Readonly<Record<string, (size: number) => Float32Array>> = {
  "of either sign": (size) => normal(keyOf(size), size),
  "of one sign": (size) => uniform(keyOf(size), size).map((u) => 3 + u),
  "negative": (size) => uniform(keyOf(size), size).map((u) => -0.001 * (1 + u)),
  "equal": (size) => new Float32Array(size).fill(-0.3),
  "zero": (size) => new Float32Array(size),
  "over decades": (size) => normal(keyOf(size), size).map((x, i) => x * 10 ** -(i % 7)),
};

for (const bits of [4, 8] as const) {
  Deno.test(`affine() of ${bits} bits is off by half a step of each group at most, whatever the values`, async () => {
    for (const backend of [loopsBackend(), await cpuBackend({ threads: 1, blas: "off" })]) {
      using _ = backend;
      await assertNoLeak("affine()", backend, () => {
        for (const group of [2, 64, 256]) {
          const codec = affine({ bits, group });
          for (const shape of SHAPES) {
            for (const [kind, make] of Object.entries(KINDS)) {
              using _ = scope("affine");
              const x = make(shape[0] * shape[1]);
              const stored = codec.encode(fromArray(backend, x, shape), "signed", keyOf(0));
              const back = codec.decode(stored, "signed");
              assert.deepEqual([back.shape, back.dtype], [shape, "f32"]);
              const values = back.readSync();
              for (let begin = 0; begin < x.length; begin += group) {
                const members = x.subarray(begin, begin + group);
                // the last group is filled up with zeros
                const range = members.length < group ? [...members, 0] : members;
                const step = Math.max(Math.max(...range) - Math.min(...range), 1e-5) / (2 ** bits - 1);
                members.forEach((value, i) => {
                  const off = Math.abs(values[begin + i] - value);
                  if (off > 0.5001 * step + 3e-7 * Math.abs(value)) assert.fail(`${kind} [${shape}]: ${value}, ${off}`);
                });
              }
            }
          }
        }
      });
    }
  });

  Deno.test(`affine() of ${bits} bits takes ${bits / 8} bytes an element and 8 a group, before and after`, () => {
    using backend = loopsBackend();
    for (const group of [64, 256]) {
      const codec = affine({ bits, group });
      for (const shape of SHAPES) {
        const groups = Math.ceil(shape[0] * shape[1] / group);
        const expected = groups * (group * bits / 8 + 8);
        const before = backend.memory().inUse;
        const stored = ownState(
          codec.encode(fromArray(backend, normal(keyOf(1), shape[0] * shape[1]), shape), "signed", keyOf(0)),
        );
        const empty = ownState(codec.zeros(backend, shape, "signed"));
        assert.equal(stateBytes(stored), expected);
        assert.deepEqual(describe(empty), describe(stored));
        disposeState(empty);
        assert.equal(backend.memory().inUse - before, expected + 4 * shape[0] * shape[1], "beside the values");
      }
    }
  });
}

function describe(state: Record<string, unknown>): string[] {
  return Object.entries(state).map(([key, value]) =>
    `${key} ${typeof value === "object" ? `${value as Tensor}` : value}`
  );
}

Deno.test("affine() of 4 bits packs the earlier element of a pair into the lower half of its byte", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  // from 0 to 15 in steps of 1: codes are the values
  const x = Float32Array.from({ length: 16 }, (_, i) => (7 * i) % 16);
  const { codes, scale, zero } = affine({ bits: 4, group: 16 }).encode(
    fromArray(backend, x, [4, 4]),
    "signed",
    keyOf(0),
  );
  assert.deepEqual([(codes as Tensor).shape, (codes as Tensor).dtype], [[1, 8], "u8"]);
  assert.deepEqual(
    [...(codes as Tensor).readSync()],
    Array.from({ length: 8 }, (_, i) => x[2 * i] + 16 * x[2 * i + 1]),
  );
  assert.deepEqual([(scale as Tensor).readSync()[0], (zero as Tensor).readSync()[0]], [1, 0]);
});

Deno.test("affine() gives zeros back for what zeros() made", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  for (const bits of [4, 8] as const) {
    const codec = affine({ bits });
    assert.deepEqual(
      codec.decode(codec.zeros(backend, [3, 5], "signed"), "signed").readSync(),
      new Float32Array(15),
    );
  }
});

Deno.test("affine() stores the same whatever the key", () => {
  using backend = loopsBackend();
  using _ = scope("test");
  const x = fromArray(backend, normal(foldIn(keyOf(1), "x"), 60), [6, 10]);
  const codes = (seed: number) => (affine({ bits: 8 }).encode(x, "signed", keyOf(seed)).codes as Tensor).readSync();
  assert.deepEqual(codes(1), codes(2));
});

Deno.test("affine() refuses groups that do not fill bytes", () => {
  for (const group of [0, 1, 3, 2.5, NaN, -4]) {
    assert.throws(
      () => affine({ bits: 4, group }),
      /^RangeError: Cannot store in groups of .*: expected an even number/,
    );
  }
});
