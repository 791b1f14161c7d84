/**
 * The inner loop of a matmul tile without workgroup memory: an invocation reads its rows of a and columns of b from
 * storage, four steps of k at a time, and caches do the rest. For GPUs whose caches are as near as workgroup memory
 * (Apple), and for rasterisers on the CPU, where workgroup memory is memory like any other.
 */
import { fetched, lastOf, multiply, range, type Read, type Side, type Tile } from "./matmul_sides.ts";

/** Statements that add all products of `begin` to `end` to the sums. */
export function registerLoop({ depth }: Tile, sides: readonly [Side, Side]): string {
  const places = sides.flatMap((side) => {
    const { name, alongK, threads, each, place, start } = side;
    return range(alongK ? each : each / 4).map((i) => {
      const outer = alongK ? Math.floor(i / 4) * 4 * threads + i % 4 : 4 * threads * i;
      const step = alongK ? ` * params.stride_${name}` : "";
      return `  let at_${name}${i} = ${name}_at + min(${start} + ${outer}u + 4u * ${place}, ${lastOf(side)})${step};`;
    });
  });
  const read: Read = (side, outer, e) => {
    const { name, alongK } = side;
    const k = alongK || e === 0 ? "k" : `(k + ${e}u)`;
    return fetched(side, `at_${name}${outer} + ${alongK ? k : `${k} * params.stride_${name}`}`, k);
  };
  return [...places, `  for (var k = begin; k < end; k += ${depth}u) {`, multiply(sides, read), "  }"].join("\n");
}
