/**
 * One case against one backend: the runner behind `conformance.ts`, which knows no test framework, so that a page in a
 * browser can run the table too.
 *
 * Around every operand lies poison (bytes of ones: NaN), which must neither reach a result nor change. Each case runs
 * twice and must give the same bits.
 */
import assert from "node:assert/strict";
import type { Backend, BufferHandle, KernelName, Operand } from "../../core/backend.ts";
import { bytesFor, bytesPerElement, type DType } from "../../core/dtype.ts";
import { isContiguous } from "../../core/shape.ts";
import { binaryCases, castCases, unaryCases, whereCases } from "./elementwise.ts";
import { copyStridedCases, fillCases, iotaCases, randomBitsCases } from "./making.ts";
import { matmulCases, reduceCases } from "./reductions.ts";
import { addIntoCases, scatterAddRowsCases, takeRowsCases } from "./rows.ts";
import { type Case, decode, type Device, encode, given, positions, type Sample } from "./samples.ts";

/** The cases of each kernel. A kernel without an entry is a compile error. */
const CASES: { readonly [Name in KernelName]: () => Case[] } = {
  unary: unaryCases,
  binary: binaryCases,
  where: whereCases,
  cast: castCases,
  fill: fillCases,
  iota: iotaCases,
  reduce: reduceCases,
  matmul: matmulCases,
  copyStrided: copyStridedCases,
  takeRows: takeRowsCases,
  scatterAddRows: scatterAddRowsCases,
  randomBits: randomBitsCases,
  addInto: addIntoCases,
};

/** The names of all kernels. */
export const KERNELS = Object.keys(CASES) as KernelName[];

/** The cases of a kernel over these dtypes, in groups of one name. */
export function casesOf(kernel: KernelName, dtypes: readonly DType[]): Map<string, Case[]> {
  const cases = CASES[kernel]().filter(({ inputs, out }) =>
    [...inputs, out].every(({ dtype }) => dtypes.includes(dtype))
  );
  return Map.groupBy(cases, ({ name }) => name);
}

/** Holds a backend to a group of cases. */
export async function checkCases(backend: Backend, cases: readonly Case[], device: Device): Promise<void> {
  // reads of one moment cost a device one wait
  for (let i = 0; i < cases.length; i += AT_ONCE) {
    await Promise.all(cases.slice(i, i + AT_ONCE).map((entry) => check(backend, entry, device)));
  }
  assert.equal(backend.memory().live, 0, "memory was not given back");
}

/** Bytes of poison before and after each operand. */
const GUARD = 64;

/** Cases that run between two waits. */
const AT_ONCE = 32;

interface Placed {
  readonly operand: Operand;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

function place(backend: Backend, sample: Sample): Placed {
  const { dtype, shape, strides } = sample;
  const bytes = new Uint8Array(2 * GUARD + bytesFor(dtype, sample.storage.length)).fill(0xff);
  bytes.set(encode(sample), GUARD);
  const buffer: BufferHandle = backend.alloc(bytes.length, "a conformance case");
  backend.write(buffer, 0, bytes);
  const offset = GUARD / bytesPerElement(dtype) + sample.offset;
  return { operand: { buffer, offset, shape, strides, dtype }, bytes };
}

async function check(backend: Backend, entry: Case, device: Device): Promise<void> {
  const label = `${entry.name}: ${entry.inputs.map(layoutOf).join(" and ")} to ${layoutOf(entry.out)}`;
  const [first, second] = await Promise.all([runOnce(backend, entry, label), runOnce(backend, entry, label)]);
  assert.deepEqual(second, first, `${label}: the second run gave other bits`);
  const actual = decode(entry.out.dtype, first, GUARD, positions(entry.out));
  assert.equal(actual.length, entry.expected.length, `${label}: the case is wrong about its size`);
  entry.expected.forEach((value, i) => {
    const allowed = entry.allowed?.(device, i) ?? 0;
    const near = actual[i] === value || Math.abs(actual[i] - value) <= allowed || (value !== value && isNaN(actual[i]));
    assert.ok(near, `${label}: element ${i} is ${actual[i]}, not ${value} (+- ${allowed})`);
  });
}

/** The bytes of the output's buffer after one run. Everything that the kernel must leave alone has been compared. */
async function runOnce(backend: Backend, entry: Case, label: string): Promise<Uint8Array<ArrayBuffer>> {
  const inputs = entry.inputs.map((sample) => place(backend, sample));
  const out = place(backend, entry.out);
  try {
    entry.run(backend.kernels, inputs.map(({ operand }) => operand), out.operand);
    for (const [i, { operand, bytes }] of inputs.entries()) {
      const after = await backend.read(operand.buffer, 0, bytes.length);
      if (i === entry.updated?.input) checkUpdated(after, bytes, entry, label);
      else assert.deepEqual(after, bytes, `${label}: an input changed`);
    }
    const result = await backend.read(out.operand.buffer, 0, out.bytes.length);
    const outside = result.slice();
    for (const [begin, end] of written(entry)) outside.set(out.bytes.subarray(begin, end), begin);
    assert.deepEqual(outside, out.bytes, `${label}: bytes outside the output changed`);
    return result;
  } finally {
    for (const { operand } of [...inputs, out]) backend.free(operand.buffer);
  }
}

/** Of an input that the kernel changes: its elements are what they must be, and the bytes around them as they were. */
function checkUpdated(after: Uint8Array<ArrayBuffer>, before: Uint8Array, entry: Case, label: string): void {
  const { input, expected } = entry.updated!;
  const out = entry.inputs[input];
  assert.deepEqual(decode(out.dtype, after, GUARD, positions(out)), expected, `${label}: input ${input}`);
  const outside = after.slice();
  for (const [begin, end] of written({ out })) outside.set(before.subarray(begin, end), begin);
  assert.deepEqual(outside, before, `${label}: bytes outside input ${input} changed`);
}

/** The byte ranges that may change: the elements, and after packed ones the rest of their last word. */
function written({ out, exactTail }: Pick<Case, "out" | "exactTail">): [number, number][] {
  const width = bytesPerElement(out.dtype);
  const ranges = positions(out).map((place): [number, number] => [GUARD + place * width, GUARD + (place + 1) * width]);
  const last = ranges.at(-1);
  if (last && !exactTail && isContiguous(out.shape, out.strides)) last[1] = Math.ceil(last[1] / 4) * 4;
  return ranges;
}

function layoutOf({ dtype, shape, strides, offset }: Sample): string {
  return `${dtype}[${shape.join(", ")}] (strides ${strides.join(", ")}; offset ${offset})`;
}

/** Asserts that an index outside of the table throws. */
export function checkIndex(backend: Backend, index: number): void {
  const [table, indices, out] = [
    given("f32", [3, 2], [0, 1, 2, 3, 4, 5]),
    given("i32", [2], [0, index]),
    given("f32", [2, 2], [0, 0, 0, 0]),
  ].map((sample) => place(backend, sample).operand);
  assert.throws(() => backend.kernels.takeRows(table, indices, out), RangeError);
  for (const { buffer } of [table, indices, out]) backend.free(buffer);
}
