/**
 * The two factors as a tile's invocations see them, and the products of four steps of k: what every tile design is written
 * in. Where the numbers are read from is the design's own affair (`matmul_panels.ts`, `matmul_registers.ts`).
 */
import type { Variant } from "./matmul_text.ts";

/** A tile design. */
export interface Tile {
  /** For example `shared 128x128x8 256`: sizes and invocations. */
  readonly name: string;
  readonly kind: "shared" | "turned" | "register";
  /** Invocations of a workgroup. */
  readonly down: number;
  readonly across: number;
  /** Outputs of an invocation: multiples of 4. */
  readonly high: number;
  readonly wide: number;
  /** Steps of k in a panel: a multiple of 4. */
  readonly depth: number;
}

/** One of the factors as a tile's invocations see it; `outer` is the axis that is not k. */
export interface Side {
  readonly name: "a" | "b";
  /** k is the contiguous axis in storage. */
  readonly alongK: boolean;
  /** An invocation reads four steps of k at a time, else four outer elements. */
  readonly readsAlongK: boolean;
  readonly isRagged: boolean;
  /** Invocations along the outer axis, outer elements of each, and an invocation's place among them. */
  readonly threads: number;
  readonly each: number;
  readonly place: "x" | "y";
  /** First outer element of the tile, and how many there are in all. */
  readonly start: string;
  readonly size: string;
  readonly depth: number;
}

/** Both factors of a tile. */
export function sidesOf({ kind, down, across, high, wide, depth }: Tile, { a, b, isRagged }: Variant): [Side, Side] {
  const side = (alongK: boolean) => ({ alongK, readsAlongK: alongK && kind !== "turned", isRagged, depth });
  return [
    { name: "a", ...side(a.alongK), threads: down, each: high, place: "y", start: "tile_row", size: "params.m" },
    { name: "b", ...side(b.alongK), threads: across, each: wide, place: "x", start: "tile_column", size: "params.n" },
  ];
}

/** The first of the last outer elements that may be read: beyond, they are read again and not stored. */
export function lastOf({ alongK, size }: Side): string {
  return alongK ? `${size} - 1u` : `(${size} - 1u) & 0xfffffffcu`;
}

/** Four elements from storage at `at`; `k` is the step of the first. */
export function fetched({ name, alongK, isRagged }: Side, at: string, k: string): string {
  const fetch = `fetch_${name}(${at})`;
  if (!isRagged) return fetch;
  return alongK ? `padded(${fetch}, ${k}, end)` : `select(vec4<f32>(), ${fetch}, ${k} < end)`;
}

/** How an invocation reads: outer element `outer` for four steps, or four outer elements from quad `outer` on at step e. */
export type Read = (side: Side, outer: number, e: number) => string;

/** Four steps of k: reads a's numbers, then b's a few at a time, and adds all products. */
export function multiply([a, b]: readonly [Side, Side], read: Read): string {
  const lines: string[] = [];
  const load = (side: Side, outer: number, e: number) => {
    const name = side.readsAlongK ? `${side.name}_${outer}` : `${side.name}_${outer}_${e}`;
    lines.push(`let ${name} = ${read(side, outer, e)};`);
  };
  for (const side of [a, b]) if (side.readsAlongK) range(side.each).forEach((i) => load(side, i, 0));
  for (const e of range(4)) {
    for (const side of [a, b]) if (!side.readsAlongK) range(side.each / 4).forEach((q) => load(side, q, e));
    for (const q of range(b.each / 4)) {
      const parts = range(4).map((c) => `b_${4 * q + c}[${e}]`);
      if (b.readsAlongK) lines.push(`let b_${q}_${e} = vec4(${parts.join(", ")});`);
      for (const i of range(a.each)) {
        const left = a.readsAlongK ? `a_${i}[${e}]` : `a_${Math.floor(i / 4)}_${e}[${i % 4}]`;
        lines.push(`sum_${i}_${q} = fma(vec4(${left}), b_${q}_${e}, sum_${i}_${q});`);
      }
    }
  }
  return ["    {", ...lines.map((line) => `      ${line}`), "    }"].join("\n");
}

/** 0 to n - 1. */
export function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}
