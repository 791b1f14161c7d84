/**
 * The parts that the attention kernels are put together from: tiles of workgroup memory, and the two products over them.
 *
 * A workgroup owns a tile of `rows` (queries, or keys in the gradient of keys), which stays in workgroup memory, and walks
 * over tiles of `columns` (the others). Both lie quad by quad, `tile[quad][row]`: neighbouring invocations read
 * neighbouring rows, and the pitch of one row more keeps the writes off each other's banks. With X = columns / 4 and
 * Y = rows / perThread, invocation (x, y) owns the scores of rows y + Y i, i < perThread, by columns x + X j, j < 4: a vec4f
 * a row, which is also how weights lie, `weights[x][row]`. The product with a tile again gives it of the same rows the
 * quads x + X n. Loops are unrolled in part: neither compiler unrolls what it bounds.
 */
import type { DType } from "../../../core/dtype.ts";
import type { Quads } from "./quads.ts";

/** Sizes of a workgroup's work. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
  /** Rows of an invocation's scores. */
  readonly perThread: number;
}

/** Constants of an attention kernel: its key. */
export interface Head {
  /** Head size. */
  readonly K: number;
  readonly dtype: DType;
  readonly isWide: boolean;
  readonly causal: boolean;
  readonly hasMask: boolean;
  readonly tile: Tile;
}

/** For few rows: a query at a time while text is generated. */
const SMALL: readonly Tile[] = [{ rows: 8, columns: 32, perThread: 1 }];

/** In order of preference: the first that fits is taken. */
const TILES: readonly Tile[] = [
  { rows: 32, columns: 32, perThread: 4 },
  { rows: 32, columns: 16, perThread: 2 },
  { rows: 16, columns: 16, perThread: 1 },
  { rows: 16, columns: 8, perThread: 1 },
  { rows: 8, columns: 8, perThread: 1 },
];

/** How many tiles of rows a kernel keeps, and whether it needs room to reduce over rows. */
export interface Demand {
  readonly kept: number;
  readonly reduces: boolean;
}

/** The best tile for `rows` rows of heads of K that fits into `bytes` of workgroup memory; undefined where none does. */
export function chooseTile(rows: number, K: number, { kept, reduces }: Demand, bytes: number): Tile | undefined {
  const candidates = rows <= 8 ? [...SMALL, ...TILES] : TILES;
  return candidates.find(({ rows, columns }) => {
    const tiles = quadsOf(K) * (kept * (rows + 1) + columns + 1);
    const weights = (columns / 4) * (rows + 1);
    return 16 * (tiles + weights) + (reduces ? 4 * weights : 0) <= bytes;
  });
}

/** Quads of a head. */
export function quadsOf(K: number): number {
  return Math.ceil(K / 4);
}

/** What names a kernel's text. */
export function headKey({ K, dtype, isWide, causal, hasMask, tile: { rows, columns } }: Head): string {
  const traits = [isWide && "wide", causal && "causal", hasMask && "masked"].filter(Boolean).join(" ");
  return `${K} ${dtype} ${rows}x${columns} ${traits}`;
}

/** A tensor of heads as rows of quads. */
export function heads({ K, dtype, isWide }: Head, name: string): Quads {
  return { name, dtype, size: K, isWide };
}

/** Invocations along columns and rows, and in all. */
export function threadsOf({ rows, columns, perThread }: Tile): { x: number; y: number; all: number } {
  const [x, y] = [columns / 4, rows / perThread];
  return { x, y, all: x * y };
}

/** Numbers 0 to count - 1, each as a line. */
export function lines(count: number, line: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => line(i)).join("\n");
}

/** Workgroup memory: `kept` tiles of rows, `moving`, and `weights`. */
export function tileMemory({ K, tile }: Head, kept: readonly string[]): string {
  const tileOf = (rows: number) => `array<array<vec4f, ${rows + 1}>, ${quadsOf(K)}>`;
  return [
    ...kept.map((name) => `var<workgroup> ${name}: ${tileOf(tile.rows)};`),
    `var<workgroup> moving: ${tileOf(tile.columns)};`,
    `var<workgroup> weights: array<array<vec4f, ${tile.rows + 1}>, ${tile.columns / 4}>;`,
  ].join("\n");
}

/** Names of an invocation's own rows and columns; first in every main. */
export function places({ tile }: Head): string {
  const { x, y } = threadsOf(tile);
  return [
    `  let x = lane % ${x}u;`,
    `  let y = lane / ${x}u;`,
    lines(tile.perThread, (i) => `  let row${i} = y + ${i * y}u;`),
    lines(4, (j) => `  let column${j} = x + ${j * x}u;`),
    "  let columns = vec4u(column0, column1, column2, column3);",
  ].join("\n");
}

/** Loads of a tile that an invocation has under way together. */
const BATCH = 4;

/**
 * `fn stage_SOURCE_TILE(lane, start, stride, count)`: tile rows 0 to count - 1 from the rows at start + stride i of a
 * buffer, each times `factor`; the others become 0. Neighbouring invocations take neighbouring quads of a row.
 */
export function stage(head: Head, source: string, target: string, factor = "1.0"): string {
  const size = target === "moving" ? head.tile.columns : head.tile.rows;
  const quads = quadsOf(head.K);
  const { all } = threadsOf(head.tile);
  const width = Math.min(all, 2 ** Math.ceil(Math.log2(quads)));
  const step = all / width;
  const batch = Math.min(BATCH, Math.ceil(size / step));
  const load = (i: number) =>
    /* wgsl */ `    let row${i} = row + ${i * step}u;
    let loaded${i} = ${factor} * load4_${source}(start + min(row${i}, count - 1u) * stride, quad);`;
  const store = (i: number) => {
    const write = `${target}[quad][row${i}] = select(vec4f(), loaded${i}, row${i} < count);`;
    return size % (batch * step) === 0 ? `    ${write}` : `    if (row${i} < ${size}u) { ${write} }`;
  };
  const move = [lines(batch, load), lines(batch, store)].join("\n");
  return /* wgsl */ `
fn stage_${source}_${target}(lane: u32, start: u32, stride: u32, count: u32) {
  for (var quad = lane % ${width}u; quad < ${quads}u; quad += ${width}u) {
  for (var row = lane / ${width}u; row < ${size}u; row += ${batch * step}u) {
${move}
  }
  }
}`;
}

/** Quads of a row that one pass of the loop of `scores` takes. */
const UNROLL = 4;

/** Declares `NAME0..`: products of the own rows of `kept` with the own columns of `moving`. */
export function scores({ K, tile: { perThread } }: Head, name: string, kept: string): string {
  const step = (quad: string) =>
    /* wgsl */ `  {
${lines(4, (j) => `    let m${j} = moving[${quad}][column${j}];`)}
${
      lines(4, (e) => {
        const part = "xyzw"[e];
        return `    let t${e} = vec4f(m0.${part}, m1.${part}, m2.${part}, m3.${part});`;
      })
    }
${
      lines(perThread, (i) => {
        const products = [..."xyzw"].map((part, e) => `    ${name}${i} += r.${part} * t${e};`);
        return [`    {`, `    let r = ${kept}[${quad}][row${i}];`, ...products, `    }`].join("\n");
      })
    }
  }`;
  return [
    lines(perThread, (i) => `  var ${name}${i} = vec4f();`),
    unrolled(quadsOf(K), UNROLL, "quad", step),
  ].join("\n");
}

/** Adds to the `sums` NAME: the own rows of `weights` times the own quads of `moving`. */
export function accumulate(head: Head, name: string): string {
  const { tile: { perThread } } = head;
  const { x } = threadsOf(head.tile);
  const owned = ownedQuads(head);
  const step = (place: string) =>
    /* wgsl */ `  {
${lines(perThread, (i) => `    let w${i} = weights[${place}][row${i}];`)}
${
      lines(4 * owned, (index) => {
        const [n, j] = [Math.floor(index / 4), index % 4];
        const value = `moving[quad${n}][${place} + ${j * x}u]`;
        const products = Array.from({ length: perThread }, (_, i) => `    ${name}${i}_${n} += w${i}[${j}] * v;`);
        return [`    {`, `    let v = ${value};`, ...products, `    }`].join("\n");
      })
    }
  }`;
  return unrolled(x, 1, "place", step);
}

/** Quads of a result that an invocation owns, for each of its rows. */
export function ownedQuads({ K, tile }: Head): number {
  return Math.ceil(quadsOf(K) / threadsOf(tile).x);
}

/** Names of the own quads, and sums `NAME{i}_{n}` over them. */
export function sums(head: Head, ...names: readonly string[]): string {
  const owned = ownedQuads(head);
  const { x } = threadsOf(head.tile);
  return [
    lines(owned, (n) => `  let quad${n} = min(x + ${n * x}u, ${quadsOf(head.K) - 1}u);`),
    ...names.map((name) =>
      lines(head.tile.perThread * owned, (index) => {
        return `  var ${name}${Math.floor(index / owned)}_${index % owned} = vec4f();`;
      })
    ),
  ].join("\n");
}

/** Stores `sums` NAME, times FACTOR{i}, as rows at start + stride row of the buffer `target`, where row < count. */
export function storeSums(
  head: Head,
  { name, factor, target, place: [start, stride, count] }: {
    readonly name: string;
    readonly factor: (i: number) => string;
    readonly target: string;
    readonly place: readonly [start: string, stride: string, count: string];
  },
): string {
  const owned = ownedQuads(head);
  const { x } = threadsOf(head.tile);
  return lines(head.tile.perThread, (i) => {
    const stores = lines(owned, (n) => {
      const store = `store4_${target}(${start} + row${i} * ${stride}, quad${n}, ${name}${i}_${n} * ${factor(i)});`;
      return (n + 1) * x <= quadsOf(head.K)
        ? `    ${store}`
        : `    if (x + ${n * x}u < ${quadsOf(head.K)}u) { ${store} }`;
    });
    return `  if (row${i} < ${count}) {\n${stores}\n  }`;
  });
}

/** A loop over 0 to count - 1 whose body is written out `by` times; what is left over follows it. */
function unrolled(count: number, by: number, index: string, step: (place: string) => string): string {
  const looped = count <= by ? 0 : Math.floor(count / by) * by;
  const rest = lines(count - looped, (i) => step(`${looped + i}u`));
  if (looped === 0) return rest;
  const body = lines(by, (i) => step(i === 0 ? index : `${index} + ${i}u`));
  return `  for (var ${index} = 0u; ${index} < ${looped}u; ${index} += ${by}u) {\n${body}\n  }\n${rest}`;
}
