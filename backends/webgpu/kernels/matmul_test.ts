/**
 * Every matmul design at awkward sizes, against products in f64 on the host; the conformance table holds the standard one.
 * A kernel is compiled for each design and variant, which is what takes the time here: variants go round the designs.
 */
import assert from "node:assert/strict";
import type { MatmulOptions, Operand } from "../../../core/backend.ts";
import { bytesPerElement, type DType } from "../../../core/dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../../core/shape.ts";
import { blank, decode, draw, encode, positions, type Sample, sample } from "../../conformance/samples.ts";
import { storing, unit } from "../../conformance/tolerance.ts";
import { type WebgpuBackend, webgpuBackend } from "../mod.ts";
import { webgpuTest } from "../testing.ts";
import { multiplyTiles } from "./matmul.ts";
import { planOf, shapeClass, TILES } from "./matmul_plan.ts";
import { layoutOf, problemOf } from "./matmul_problem.ts";

/** A product to try. */
interface Trial {
  readonly layout: string;
  readonly sizes: readonly [m: number, n: number, k: number];
  readonly dtype?: DType;
  readonly result?: DType;
  readonly batch?: Shape;
  /** Batch axes along which b repeats. */
  readonly broadcast?: readonly number[];
  readonly gap?: number;
  readonly offset?: number;
}

interface Made {
  readonly a: Sample;
  readonly b: Sample;
  readonly options: MatmulOptions;
  readonly trial: Trial;
}

const next = draw(-1, 1);

function make(trial: Trial): Made {
  const { layout, sizes: [m, n, k], dtype = "f32", batch = [], broadcast = [], gap = 0, offset = 0 } = trial;
  const options = { transposeA: layout[0] === "t", transposeB: layout[1] === "t" };
  const matrix = (rows: number, columns: number, repeated: readonly number[]) => {
    const lead = contiguousStrides(batch).map((stride) => stride * rows * (columns + gap));
    const strides = [...lead.map((stride, axis) => repeated.includes(axis) ? 0 : stride), columns + gap, 1];
    return sample(dtype, [...batch, rows, columns], next, { strides, offset });
  };
  const a = options.transposeA ? matrix(k, m, []) : matrix(m, k, []);
  const b = options.transposeB ? matrix(n, k, broadcast) : matrix(k, n, broadcast);
  return { a, b, options, trial };
}

function upload(backend: WebgpuBackend, from: Sample): Operand {
  const bytes = encode(from);
  const buffer = backend.alloc(Math.max(4, bytes.length));
  if (bytes.length > 0) backend.write(buffer, 0, bytes);
  return { buffer, offset: from.offset, shape: from.shape, strides: from.strides, dtype: from.dtype };
}

type Run = (a: Operand, b: Operand, out: Operand, options: MatmulOptions) => void;

/** Enqueues a trial and gives its output when it is read. */
async function outputOf(backend: WebgpuBackend, { a, b, options, trial }: Made, run: Run): Promise<number[]> {
  const { sizes: [m, n], batch = [], dtype = "f32", result = dtype, offset = 0 } = trial;
  const out = blank(result, [...batch, m, n], { offset });
  const operands = [a, b, out].map((each) => upload(backend, each));
  run(operands[0], operands[1], operands[2], options);
  const bytes = bytesPerElement(result) * (offset + sizeOf(out.shape));
  const read = await backend.read(operands[2].buffer, 0, bytes);
  for (const { buffer } of operands) backend.free(buffer);
  return decode(result, read, 0, positions(out));
}

/** Compares an output with the product in f64, within the bound of the conformance table. */
function check({ a, b, options, trial }: Made, actual: readonly number[], what: string): void {
  const { sizes: [m, n, k], dtype = "f32", result = dtype } = trial;
  const [left, right] = [new Float64Array(a.values), new Float64Array(b.values)];
  const [stepA, downA] = options.transposeA ? [m, 1] : [1, k];
  const [stepB, downB] = options.transposeB ? [1, k] : [n, 1];
  for (let i = 0; i < actual.length; i++) {
    const [batch, row, column] = [Math.floor(i / (m * n)), Math.floor(i / n) % m, i % n];
    let p = batch * m * k + row * downA;
    let q = batch * k * n + column * downB;
    let sum = 0;
    let magnitude = 0;
    for (let l = 0; l < k; l++, p += stepA, q += stepB) {
      sum += left[p] * right[q];
      magnitude += Math.abs(left[p] * right[q]);
    }
    const allowed = 4 * Math.sqrt(k) * unit(dtype) * magnitude + storing(result, sum);
    if (!(Math.abs(actual[i] - sum) <= allowed)) {
      throw new Error(`${what}, ${JSON.stringify(trial)}: element ${i} is ${actual[i]}, expected ${sum} +- ${allowed}`);
    }
  }
}

/** Runs trials on a design (or on the standard one) in one wait, and checks them. */
async function checkAll(backend: WebgpuBackend, name: string | undefined, trials: readonly Trial[]): Promise<void> {
  const made = trials.map(make);
  backend.gpu.tiles.forced = name;
  const outputs = made.map((each) => outputOf(backend, each, backend.kernels.matmul));
  backend.gpu.tiles.forced = undefined;
  (await Promise.all(outputs)).forEach((actual, i) => check(made[i], actual, name ?? "standard"));
}

const LAYOUTS = ["nn", "nt", "tn", "tt"];

/** Odd sizes, gaps and offsets: element by element, padded. */
const ODD: readonly Omit<Trial, "layout">[] = [
  { sizes: [3, 5, 1] },
  { sizes: [31, 33, 3] },
  { sizes: [63, 129, 33], gap: 3, offset: 1 },
  { sizes: [257, 65, 31] },
];

/** Rows that begin at multiples of four, with an inner size that fits or not. */
const WIDE: readonly Omit<Trial, "layout">[] = [
  { sizes: [128, 64, 32] },
  { sizes: [132, 68, 64], offset: 8 },
  { sizes: [4, 256, 32], gap: 4 },
];

/** Every tile, every layout of each kind of tile, each odd and wide; more of the short texts, which compile quickly. */
const COVER: readonly (readonly [tile: string, odd: string, wide: string])[] = [
  ["turned 128x128x16 256", "nt", ""],
  ["turned 128x64x16 128", "", "nn"],
  ["turned 64x64x16 64", "tn", ""],
  ["turned 32x32x16 64", "nn tt", "nt tn"],
  ["turned 128x128x8 256", "", "tt"],
  ["shared 128x128x8 256", "nn", "tn"],
  ["shared 64x64x16 256", "tt", "nt"],
  ["shared 64x64x8 64", "nt", "nn"],
  ["register 64x64x4 64", "tn nn", "nt"],
  ["register 32x32x4 64", "nn nt tn tt", "nn nt tn tt"],
];

webgpuTest("matmul() gives the host's product on every design", async (t) => {
  using backend = await webgpuBackend();
  assert.deepEqual(COVER.map(([name]) => name), [...TILES.keys()]);
  for (const [name, odd, wide] of COVER) {
    const on = (layouts: string, shapes: typeof ODD) =>
      layouts.split(" ").filter(Boolean).flatMap((layout) => shapes.map((shape): Trial => ({ layout, ...shape })));
    await t.step(name, () => checkAll(backend, name, [...on(odd, ODD), ...on(wide, WIDE)]));
  }
});

webgpuTest("matmul() takes 16-bit operands on both kinds of design", async () => {
  using backend = await webgpuBackend();
  for (const [name, dtype] of [["turned 32x32x16 64", "bf16"], ["register 32x32x4 64", "f16"]] as const) {
    const shapes = [...WIDE.slice(0, 2), { sizes: [31, 34, 33], offset: 2 }, {
      sizes: [33, 31, 32],
      offset: 2,
    }] as const;
    await checkAll(backend, name, shapes.map((shape, i): Trial => ({ layout: LAYOUTS[i], dtype, ...shape })));
    await checkAll(backend, name, [{ layout: "nt", sizes: [127, 33, 40], dtype, result: "f32" }]);
  }
});

webgpuTest("matmul() walks batches, repeated factors and tall stacks", async () => {
  using backend = await webgpuBackend();
  await checkAll(backend, "turned 32x32x16 64", [
    { layout: "nn", sizes: [33, 36, 20], batch: [3] },
    { layout: "nt", sizes: [33, 8, 16], batch: [2, 3], broadcast: [0], offset: 4 },
    { layout: "nn", sizes: [5, 36, 20], batch: [7], broadcast: [0] }, // one tall matrix
    { layout: "tn", sizes: [5, 36, 20], batch: [7], broadcast: [0] },
  ]);
});

webgpuTest("matmul() multiplies vectors", async () => {
  using backend = await webgpuBackend();
  const trials: Trial[] = [
    { layout: "nn", sizes: [1, 257, 129] },
    { layout: "nt", sizes: [1, 33, 260], offset: 4 },
    { layout: "tn", sizes: [1, 64, 65] },
    { layout: "nn", sizes: [65, 1, 127] },
    { layout: "tn", sizes: [127, 1, 64], gap: 1 },
    { layout: "nt", sizes: [1, 1, 1] },
    { layout: "nn", sizes: [1, 34, 9], batch: [3] },
    { layout: "nt", sizes: [33, 1, 300], batch: [2], dtype: "bf16" },
    { layout: "nn", sizes: [1, 31, 64], dtype: "bf16" },
    { layout: "nn", sizes: [1, 31, 64], dtype: "f16", result: "f32" },
  ];
  await checkAll(backend, undefined, trials);
});

webgpuTest("matmul() writes zeros when the inner size is 0", async () => {
  using backend = await webgpuBackend();
  const made = make({ layout: "nn", sizes: [33, 31, 0] });
  assert.ok((await outputOf(backend, made, backend.kernels.matmul)).every((value) => value === 0));
});

webgpuTest("multiplyTiles() sums slices of the inner axis", async () => {
  using backend = await webgpuBackend();
  const trials: Trial[] = [
    { layout: "tn", sizes: [33, 40, 515] },
    { layout: "nt", sizes: [31, 33, 512], batch: [2] },
    { layout: "tn", sizes: [33, 34, 512], dtype: "bf16" },
    { layout: "tn", sizes: [32, 31, 512], dtype: "bf16" },
  ];
  const made = trials.map(make);
  const run: Run = (a, b, out, options) => {
    const tile = TILES.get("turned 32x32x16 64")!;
    multiplyTiles(backend.gpu, problemOf(a, b, out, options), { tile, slices: 4 });
  };
  const outputs = await Promise.all(made.map((each) => outputOf(backend, each, run)));
  outputs.forEach((actual, i) => check(made[i], actual, "split"));
});

webgpuTest("matmul() gives the same bits again, and in several dispatches", async () => {
  using backend = await webgpuBackend();
  const made = [
    make({ layout: "nt", sizes: [129, 65, 33], batch: [3] }),
    make({ layout: "nn", sizes: [1, 300, 65] }),
  ];
  const run = () => Promise.all(made.map((each) => outputOf(backend, each, backend.kernels.matmul)));
  const [first, second] = await Promise.all([run(), run()]);
  assert.deepEqual(first, second);
  const before = backend.counters().dispatches;
  backend.gpu.recorder.seconds = () => 0.55;
  const third = await run();
  assert.deepEqual(third, first);
  assert.ok(backend.counters().dispatches - before >= 9, "the products were not cut");
});

/** A problem of contiguous f32 matrices, without memory. */
function problemLike(layout: string, [m, n, k]: readonly number[], batch: Shape = []) {
  const operand = (shape: Shape): Operand => {
    return { buffer: {}, offset: 0, shape, strides: contiguousStrides(shape), dtype: "f32" };
  };
  const a = operand([...batch, ...(layout[0] === "t" ? [k, m] : [m, k])]);
  const b = operand([...batch, ...(layout[1] === "t" ? [n, k] : [k, n])]);
  return problemOf(a, b, operand([...batch, m, n]), { transposeA: layout[0] === "t", transposeB: layout[1] === "t" });
}

const CARD = {
  isSoftware: false,
  limits: {
    maxComputeWorkgroupStorageSize: 49152,
    maxComputeInvocationsPerWorkgroup: 1024,
    maxComputeWorkgroupSizeX: 1024,
  },
};

Deno.test("planOf() takes the fastest tile where a GPU is full, and cuts a long inner axis where it is not", () => {
  const large = planOf(problemLike("nn", [4096, 4096, 4096]), CARD, undefined);
  assert.deepEqual([large.tile.name, large.slices], ["turned 64x64x16 64", 1]);
  const projection = planOf(problemLike("tn", [128, 1376, 2048]), CARD, undefined);
  assert.ok(projection.slices > 1, JSON.stringify(projection));
  const gradient = planOf(problemLike("tn", [512, 512, 16384]), CARD, undefined);
  assert.ok(gradient.slices > 1, JSON.stringify(gradient));
  assert.deepEqual(planOf(problemLike("nn", [64, 64, 64]), CARD, undefined).slices, 1);
});

Deno.test("planOf() passes over tiles that a device cannot run", () => {
  const small = { ...CARD, limits: { ...CARD.limits, maxComputeInvocationsPerWorkgroup: 64 } };
  for (const name of [undefined, "shared 128x128x8 256"]) {
    const { tile } = planOf(problemLike("nn", [4096, 4096, 4096]), small, name);
    assert.deepEqual(tile.down * tile.across, 64);
  }
});

Deno.test("problemOf() names layouts and classes", () => {
  const problem = problemLike("tn", [128, 1376, 64], [3]);
  assert.deepEqual(layoutOf(problem), "tn");
  assert.deepEqual(shapeClass(problem), "tn mls batch");
});
