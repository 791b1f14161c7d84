/**
 * Tests that hold a backend's block-wise 8-bit updates (`quantizeBlockwise`, `dequantizeBlockwise`, `adamBlockwise`)
 * to `blockwise_reference.ts`, and to stored numbers of the published kernels (testdata/quantize.json says what made
 * them).
 *
 * A GPU's division may be some units in the last place off, so there a share may get the code of a neighbour 4 units
 * away; on the mid-points, where absmax is a power of two, no device may err. Test support: no module imports this.
 */
import assert from "node:assert/strict";
import type { Backend, BlockwiseOptions } from "../../core/backend.ts";
import { codebook, type SlotKind } from "../../core/codebook.ts";
import { assertRms, readGolden } from "../../core/testing/golden.ts";
import { registerTest } from "../../core/testing/register.ts";
import { keyOf, normal, uniform } from "../../core/random.ts";
import { ADAM_CASES, checkAdam, checkMissingParameter, checkShutGate } from "./blockwise_adam.ts";
import { onBackend, placed, placedBlockwise, readBlockwise, readFloats } from "./blockwise_operands.ts";
import { absmaxOf, dequantize, nearestCode, nearestCodes, roundedCode, shareOf } from "./blockwise_reference.ts";
import type { Device } from "./samples.ts";

const KINDS: readonly SlotKind[] = ["signed", "nonnegative"];
const LAYOUTS: readonly BlockwiseOptions[] = [256, 2048].flatMap((blockSize) =>
  (["safe", "stock"] as const).map((rounding) => ({ blockSize, rounding }))
);

/** What a backend's test can say of it. */
export interface BlockwiseConformanceOptions {
  /** Whose tolerances hold; `cpu` by default: bits. */
  readonly device?: Device;
  /** Why this machine has no such backend. */
  readonly ignore?: string;
}

/**
 * Registers the tests of one backend; `makeBackend` is called once a test, and what it makes is disposed.
 *
 * @example
 * ```ts ignore
 * import { blockwiseConformance } from "../conformance/blockwise.ts";
 * import { myBackend } from "./mod.ts";
 * blockwiseConformance("mine", () => myBackend());
 * ```
 */
export function blockwiseConformance(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { device = "cpu", ignore }: BlockwiseConformanceOptions = {},
): void {
  const register = (title: string, body: (backend: Backend) => Promise<void>) =>
    registerTest(`${title} on ${name}`, async () => {
      using backend = await makeBackend();
      await body(backend);
      assert.equal(backend.memory().live, 0, "memory was not given back");
    }, ignore);
  for (const kind of KINDS) {
    for (const options of LAYOUTS) {
      const of = `${kind} values in ${options.rounding} blocks of ${options.blockSize}`;
      register(`quantizeBlockwise() finds the nearest codes of a million ${of}`, async (backend) => {
        await checkQuantize(backend, manyValues(kind), kind, { ...options, device });
      });
      register(
        `quantizeBlockwise() decides as documented at zeros, mid-points and short ends of ${of}`,
        async (backend) => {
          for (const x of edgeVectors(kind)) await checkQuantize(backend, x, kind, { ...options, device: "cpu" });
        },
      );
    }
    register(`dequantizeBlockwise() gives the values of ${kind} codes`, (backend) => checkDequantize(backend, kind));
  }
  register("quantizeBlockwise() and dequantizeBlockwise() follow the published kernels", checkStored);
  for (const epsPlacement of ["corrected", "uncorrected"] as const) {
    for (const decayPlacement of ["before", "after"] as const) {
      register(
        `adamBlockwise() follows the formula over 20 steps: eps ${epsPlacement}, decay ${decayPlacement}`,
        async (backend) => {
          for (const wanted of ADAM_CASES) await checkAdam(backend, { ...wanted, epsPlacement, decayPlacement });
        },
      );
    }
  }
  register("adamBlockwise() changes nothing and writes 0 when the factor is negative", checkShutGate);
  register("adamBlockwise() throws when a param comes without its update", checkMissingParameter);
}

/** Half of them over 12 decades, half normal; of odd length, so that the last block is short. */
function manyValues(kind: SlotKind): Float32Array<ArrayBuffer> {
  const x = normal(keyOf(1), 1_000_003);
  uniform(keyOf(2), 500_000).forEach((u, i) => x[i] = Math.sign(x[i]) * 10 ** (2 - 12 * u));
  return kind === "signed" ? x : x.map(Math.abs);
}

/** Vectors whose codes hang on single units: each is handed over on its own, so that its blocks begin where it does. */
function edgeVectors(kind: SlotKind): Float32Array<ArrayBuffer>[] {
  const values = codebook(kind);
  const middles = [...values.subarray(1)].flatMap((value, code) => neighbourhood((value + values[code]) / 2));
  const blocks: number[] = [];
  while (middles.length > 0) blocks.push(1, ...middles.splice(0, 255));
  const tiny = [1, 1e-30, 2 ** -126, 0, -0, ...(kind === "signed" ? [-1, -1e-30, -1e-9, -(2 ** -126)] : [1e-9, 1e-7])];
  return [
    Float32Array.from(blocks),
    Float32Array.from(blocks, (middle) => middle * 2 ** -20),
    Float32Array.from(tiny),
    Float32Array.from({ length: 4099 }, (_, i) => i < 2048 ? 0 : tiny[i % tiny.length]),
    Float32Array.from({ length: 2305 }, (_, i) => i % 2 && kind === "signed" ? -0 : 0),
    Float32Array.of(kind === "signed" ? -3 : 3),
    new Float32Array(0),
  ];
}

/** The f32 nearest to x, and its neighbours. */
function neighbourhood(x: number): number[] {
  const bits = new Int32Array(Float32Array.of(x).buffer)[0];
  return [...new Float32Array(Int32Array.of(bits - 1, bits, bits + 1).buffer)];
}

/** Brute force takes most of the time: kept for the next backend. */
const nearest = new Map<string, Uint8Array>();

async function checkQuantize(
  backend: Backend,
  x: Float32Array<ArrayBuffer>,
  kind: SlotKind,
  { device, ...options }: BlockwiseOptions & { readonly device: Device },
): Promise<void> {
  const { blockSize, rounding } = options;
  const absmax = absmaxOf(x, blockSize);
  const key = x.length < 1e6 ? undefined : `${kind} ${blockSize}`;
  const codes = nearest.get(key ?? "") ?? nearestCodes(x, absmax, kind, blockSize);
  if (key) nearest.set(key, codes);
  const actual = await onBackend(backend, (own) => {
    const to = placedBlockwise(own, x.length, blockSize);
    backend.updates.quantizeBlockwise!(placed(own, x), to, kind, options);
    return readBlockwise(own, to);
  });
  assert.deepEqual(actual.absmax, absmax, "absmax");
  for (let i = 0; i < x.length; i++) {
    const expected = roundedCode(codes[i], x[i], kind, rounding);
    if (actual.codes[i] === expected) continue;
    const share = shareOf(x[i], absmax[Math.floor(i / blockSize)]);
    const allowed = device === "cpu" ? [expected] : [share * (1 - 2 ** -21), share * (1 + 2 ** -21)]
      .map((near) => roundedCode(nearestCode(near, kind), x[i], kind, rounding));
    const where = `element ${i} of ${x.length}, ${x[i]} with the share ${share}`;
    assert.ok(allowed.includes(actual.codes[i]), `${where}: code ${actual.codes[i]}, not ${expected}`);
  }
}

async function checkDequantize(backend: Backend, kind: SlotKind): Promise<void> {
  for (const [size, blockSize] of [[2 ** 16 + 77, 256], [4999, 2048], [3, 2048], [0, 256]]) {
    const codes = Uint8Array.from(normal(keyOf(3), size), (value, i) => i < 256 ? i : 128 + 50 * value);
    const absmax = Float32Array.from(uniform(keyOf(4), Math.ceil(size / blockSize)), (u) => 10 ** (1 - 9 * u));
    absmax[1] = 0;
    const expected = dequantize({ codes, absmax }, kind, blockSize);
    const actual = await onBackend(backend, (own) => {
      const out = placed(own, new Float32Array(size));
      const from = placedBlockwise(own, size, blockSize, { codes, absmax });
      backend.updates.dequantizeBlockwise!(from, out, kind, blockSize);
      return readFloats(own, out);
    });
    actual.forEach((value, i) => assert.ok(value === expected[i], `element ${i} is ${value}, not ${expected[i]}`));
  }
}

/** The stored codes have no sign rule and no least code: `safe` where signed, `stock` where not. */
async function checkStored(backend: Backend): Promise<void> {
  const stored = readGolden(new URL("./testdata/quantize.safetensors", import.meta.url));
  for (const [key, { data: codes }] of stored) {
    const [, vector, sign, block] = /^(.*)\.(signed|unsigned)(\d+)\.codes$/.exec(key) ?? [];
    if (vector === undefined) continue;
    const [kind, rounding]: [SlotKind, BlockwiseOptions["rounding"]] = sign === "signed"
      ? ["signed", "safe"]
      : ["nonnegative", "stock"];
    const blockSize = Number(block);
    const x = stored.get(`${vector}.x`)!.data as Float32Array<ArrayBuffer>;
    const [actual, values] = await onBackend(backend, async (own) => {
      const [to, out] = [placedBlockwise(own, x.length, blockSize), placed(own, new Float32Array(x.length))];
      backend.updates.quantizeBlockwise!(placed(own, x), to, kind, { blockSize, rounding });
      backend.updates.dequantizeBlockwise!(to, out, kind, blockSize);
      return await Promise.all([readBlockwise(own, to), readFloats(own, out)]);
    });
    const absmax = stored.get(key.replace("codes", "absmax"))!.data;
    const dequantized = stored.get(key.replace("codes", "dequantized"))!.data;
    assertRms(`${key}: absmax`, actual.absmax, absmax, { tolerance: 1e-7 });
    let different = 0;
    for (let i = 0; i < x.length; i++) {
      const largest = absmax[Math.floor(i / blockSize)];
      const away = largest === 0 ? 0 : Math.abs(actual.codes[i] - codes[i]);
      assert.ok(away <= 1, `${key}: element ${i} has code ${actual.codes[i]}, not ${codes[i]}`);
      different += away;
      const near = away === 1 || Math.abs(values[i] - dequantized[i]) <= 1e-6 * largest;
      assert.ok(near, `${key}: element ${i} is ${values[i]}, not ${dequantized[i]}`);
    }
    assert.ok(different <= x.length / 1000, `${key}: ${different} codes differ`);
  }
}
