/**
 * What every backend must do: a table of cases for each kernel, and the tests that hold a backend to it.
 *
 * The references are plain f64 arithmetic on lists, written without the loops. Around every operand lies poison (bytes
 * of ones: NaN), which must neither reach a result nor change. Each case runs twice and must give the same bits. Fused
 * entries are not tested here but above the seam, against the composed ops. Test support: no module imports this.
 */
import assert from "node:assert/strict";
import type { Backend, BufferHandle, KernelName, Operand } from "../core/backend.ts";
import { bytesFor, bytesPerElement, type DType } from "../core/dtype.ts";
import { isContiguous } from "../core/shape.ts";
import { binaryCases, castCases, unaryCases, whereCases } from "./conformance/elementwise.ts";
import { copyStridedCases, fillCases, iotaCases, randomBitsCases } from "./conformance/making.ts";
import { matmulCases, reduceCases } from "./conformance/reductions.ts";
import { addIntoCases, scatterAddRowsCases, takeRowsCases } from "./conformance/rows.ts";
import { type Case, decode, type Device, encode, given, positions, type Sample } from "./conformance/samples.ts";

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

/** What a backend's test can say of it. */
export interface ConformanceOptions {
  /** Whose tolerances hold; `cpu` by default. */
  readonly device?: Device;
  /** The dtypes that the backend has; all by default. */
  readonly dtypes?: readonly DType[];
  /** False where the host cannot see an index that lies outside, so that none can throw. */
  readonly checksIndices?: boolean;
}

/** A backend, or the reason why this machine has none. */
export type Made = Backend | { readonly ignored: string };

const ALL: readonly DType[] = ["f32", "f64", "bf16", "f16", "i32", "u32", "u8"];

/**
 * Registers one Deno test for each kernel of a backend. Where `make` gives a reason instead, they are ignored.
 *
 * @param make called once to see whether there is one, then once a test; what it makes is disposed
 * @example
 * ```ts ignore
 * import { conformance } from "../conformance.ts";
 * import { myBackend } from "./mod.ts";
 * await conformance("mine", () => myBackend());
 * ```
 */
export async function conformance(
  name: string,
  make: () => Made | Promise<Made>,
  { device = "cpu", dtypes = ALL, checksIndices = true }: ConformanceOptions = {},
): Promise<void> {
  const probe = await make();
  const reason = "ignored" in probe ? probe.ignored : undefined;
  if (!("ignored" in probe)) probe[Symbol.dispose]();
  const register = (title: string, fn: (backend: Backend, t: Deno.TestContext) => Promise<void>) =>
    Deno.test({
      name: `${title} on ${name}${reason === undefined ? "" : ` (ignored: ${reason})`}`,
      ignore: reason !== undefined,
      fn: async (t) => {
        using backend = await make() as Backend;
        await fn(backend, t);
      },
    });
  for (const kernel of Object.keys(CASES) as KernelName[]) {
    register(`${kernel}() gives the reference's values`, async (backend, t) => {
      const cases = CASES[kernel]().filter(({ inputs, out }) =>
        [...inputs, out].every(({ dtype }) => dtypes.includes(dtype))
      );
      for (const [step, group] of Map.groupBy(cases, (entry) => entry.name)) {
        await t.step(step, async () => {
          for (const entry of group) await check(backend, entry, device);
        });
      }
    });
  }
  if (!checksIndices) return;
  register("takeRows() throws a RangeError when an index lies outside", (backend) => {
    for (const index of [-1, 3]) checkIndex(backend, index);
    return Promise.resolve();
  });
}

/** Bytes of poison before and after each operand. */
const GUARD = 64;

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
  const before = backend.memory();
  const first = await runOnce(backend, entry, label);
  const second = await runOnce(backend, entry, label);
  assert.deepEqual(second, first, `${label}: the second run gave other bits`);
  const after = backend.memory();
  assert.deepEqual([after.inUse, after.live], [before.inUse, before.live], `${label}: memory was not given back`);
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
    for (const { operand, bytes } of inputs) {
      assert.deepEqual(await backend.read(operand.buffer, 0, bytes.length), bytes, `${label}: an input changed`);
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

/** The byte ranges that may change: the elements, and after packed ones the rest of their last word. */
function written({ out, exactTail }: Case): [number, number][] {
  const width = bytesPerElement(out.dtype);
  const ranges = positions(out).map((place): [number, number] => [GUARD + place * width, GUARD + (place + 1) * width]);
  const last = ranges.at(-1);
  if (last && !exactTail && isContiguous(out.shape, out.strides)) last[1] = Math.ceil(last[1] / 4) * 4;
  return ranges;
}

function layoutOf({ dtype, shape, strides, offset }: Sample): string {
  return `${dtype}[${shape.join(", ")}] (strides ${strides.join(", ")}; offset ${offset})`;
}

function checkIndex(backend: Backend, index: number): void {
  const [table, indices, out] = [
    given("f32", [3, 2], [0, 1, 2, 3, 4, 5]),
    given("i32", [2], [0, index]),
    given("f32", [2, 2], [0, 0, 0, 0]),
  ].map((sample) => place(backend, sample).operand);
  assert.throws(() => backend.kernels.takeRows(table, indices, out), RangeError);
  for (const { buffer } of [table, indices, out]) backend.free(buffer);
}
