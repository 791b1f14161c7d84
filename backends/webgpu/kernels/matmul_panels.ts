/**
 * The inner loop of a matmul tile over panels in workgroup memory. The workgroup copies a panel of a and one of b, `depth`
 * steps of k deep, and reads the next panels into registers while it multiplies.
 *
 * A factor whose contiguous axis is the outer one lies there as in storage: [depth][each / 4][threads] vec4. One that is
 * contiguous along k is kept
 * - by `shared` as it is, [each][threads + 1][depth / 4 + 1]: four steps of k are read at a time, which takes as many
 *   reads as the other order but more registers. The padding keeps the rows of a warp in different banks;
 * - by `turned` like the other one: an invocation reads four rows by four steps and turns them in registers. (It must
 *   write whole vec4: WGSL lets a write of one component touch its neighbours.) Copies of a and b fall to different warps.
 *
 * Arrays are nested so that every index in the loop is a constant but the invocation's own place: bounds checks are the
 * same in each step and leave the loop, and addresses are constants.
 */
import { fetched, lastOf, multiply, range, type Read, type Side, type Tile } from "./matmul_sides.ts";

/** The declaration of a factor's panel. */
export function panelMemory({ name, readsAlongK, each, threads, depth }: Side): string {
  const [rows, columns, places] = readsAlongK ? [each, threads + 1, depth / 4 + 1] : [depth, each / 4, threads];
  return `var<workgroup> panel_${name}: array<array<array<vec4<f32>, ${places}>, ${columns}>, ${rows}>;`;
}

/** Statements that add all products of `begin` to `end` to the sums. */
export function panelLoop({ depth, down, across }: Tile, sides: readonly [Side, Side]): string {
  const copies = sides.flatMap((side) => (isTurned(side) ? turnedCopies : plainCopies)(side, down * across));
  const reads = (indent: string, k: string) =>
    copies.flatMap((copy) => guarded(copy, indent, copy.reads.map(([name, value]) => `${name} = ${value(k)};`)));
  const read: Read = ({ name, readsAlongK, place }, outer, e) =>
    readsAlongK ? `panel_${name}[${outer}][${place}][QUAD]` : `panel_${name}[STEP${e}][${outer}][${place}]`;
  const body = multiply(sides, read);
  return [
    ...copies.flatMap(({ place, reads }) => [...place, ...reads.map(([name]) => `var ${name} = vec4<f32>();`)])
      .map((line) => `  ${line}`),
    ...reads("  ", "begin"),
    `  for (var k = begin; k < end; k += ${depth}u) {`,
    "    workgroupBarrier();",
    ...copies.flatMap((copy) => guarded(copy, "    ", copy.writes)),
    "    workgroupBarrier();",
    `    let later = k + ${depth}u;`,
    "    if (later < end) {",
    ...reads("      ", "later"),
    "    }",
    ...range(depth / 4).map((quad) =>
      body.replaceAll("QUAD", `${quad}`).replace(/STEP(\d)/g, (_, e) => `${4 * quad + Number(e)}`)
    ),
    "  }",
  ].join("\n");
}

/** What an invocation moves from storage to workgroup memory at once. */
interface Copy {
  /** Statements before the loop: where it lies. */
  readonly place: readonly string[];
  /** Which invocations take part; all by default. */
  readonly guard?: string;
  readonly reads: readonly (readonly [variable: string, value: (k: string) => string])[];
  readonly writes: readonly string[];
}

function guarded({ guard }: Copy, indent: string, lines: readonly string[]): string[] {
  if (guard === undefined) return lines.map((line) => indent + line);
  return [`${indent}if (${guard}) {`, ...lines.map((line) => `${indent}  ${line}`), `${indent}}`];
}

function isTurned({ alongK, readsAlongK }: Side): boolean {
  return alongK && !readsAlongK;
}

/** Single vec4, kept in the order of storage. */
function plainCopies(side: Side, all: number): Copy[] {
  const { name, alongK, threads, each, start, depth } = side;
  const items = each * threads * depth / 4;
  return range(Math.ceil(items / all)).map((s): Copy => {
    const own = `${name}${s}`;
    const item = s === 0 ? "lane" : `(lane + ${s * all}u)`;
    const inner = alongK ? depth / 4 : each * threads / 4;
    const [k, outer] = alongK
      ? [`4u * (${item} % ${inner}u)`, `${item} / ${inner}u`]
      : [`${item} / ${inner}u`, `${item} % ${inner}u`];
    const first = `min(${start} + ${alongK ? "" : "4u * "}o_${own}, ${lastOf(side)})`;
    const at = alongK ? `${first} * params.stride_${name} + k_${own}` : `${first} + k_${own} * params.stride_${name}`;
    const to = alongK
      ? `[(o_${own} / ${4 * threads}u) * 4u + o_${own} % 4u][(o_${own} / 4u) % ${threads}u][k_${own} / 4u]`
      : `[k_${own}][o_${own} / ${threads}u][o_${own} % ${threads}u]`;
    const from = (k: string) => `at_${own} + ${alongK ? k : `${k} * params.stride_${name}`}`;
    return {
      place: [`let k_${own} = ${k};`, `let o_${own} = ${outer};`, `let at_${own} = ${name}_at + ${at};`],
      guard: (s + 1) * all > items ? `${item} < ${items}u` : undefined,
      reads: [[`next_${own}`, (k) => fetched(side, from(k), `${k} + k_${own}`)]],
      writes: [`panel_${name}${to} = next_${own};`],
    };
  });
}

/** Four rows by four steps, turned. Those of a fall to the first invocations, those of b to the last. */
function turnedCopies(side: Side, all: number): Copy[] {
  const { name, threads, each, start, depth } = side;
  const items = each * threads * depth / 16;
  const lane = name === "a" ? "lane" : `(${all - 1}u - lane)`;
  return range(Math.ceil(items / all)).map((s): Copy => {
    const own = `${name}${s}`;
    const item = s === 0 ? lane : `(${lane} + ${s * all}u)`;
    const row = (r: number) => `min(${start} + 4u * o_${own} + ${r}u, ${lastOf(side)})`;
    const turned = (e: number) => range(4).map((r) => `next_${own}_${r}[${e}]`).join(", ");
    return {
      place: [
        `let k_${own} = 4u * (${item} % ${depth / 4}u);`,
        `let o_${own} = ${item} / ${depth / 4}u;`,
        ...range(4).map((r) => `let at_${own}_${r} = ${name}_at + ${row(r)} * params.stride_${name} + k_${own};`),
      ],
      guard: (s + 1) * all > items ? `${item} < ${items}u` : undefined,
      reads: range(4).map((r) =>
        [`next_${own}_${r}`, (k) => fetched(side, `at_${own}_${r} + ${k}`, `${k} + k_${own}`)] as const
      ),
      writes: range(4).map((e) =>
        `panel_${name}[k_${own} + ${e}u][o_${own} / ${threads}u][o_${own} % ${threads}u] = vec4(${turned(e)});`
      ),
    };
  });
}
