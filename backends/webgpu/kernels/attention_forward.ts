/**
 * out = softmax(q k^T scale) v without a [T, S] matrix in memory (Dao et al. 2022: online softmax).
 *
 *     q, out [B, T, H, K];  k, v [B, S, G, K];  mask u32 [B, S]?;  lse f32 [B, H, T]
 *
 * A workgroup owns `rows` queries of one (b, h) and walks over the keys that any of them sees, `columns` at a time: scores in
 * registers, the largest of a row by workgroup memory, weights through workgroup memory, sums in registers. An invocation
 * keeps the part of a row's sum that its own columns give until the end. Numerics: scores carry the factor log2(e), so that
 * a weight is exp2; lse is in base 2 too. A hidden key's weight is 0 by selection, not by -infinity. Rows that see no key:
 * output 0, lse 0. The spec is the composed form in core/ops/attention.ts.
 */
import type { KernelSource } from "../pipelines.ts";
import { conversions } from "../wgsl.ts";
import {
  accumulate,
  type Head,
  heads,
  lines,
  ownedQuads,
  places,
  scores,
  stage,
  storeSums,
  sums,
  threadsOf,
  tileMemory,
} from "./attention_tile.ts";
import { quadBinding, quadLoad, quadStore } from "./quads.ts";

/** Sizes and factors that every attention kernel gets; after them offsets, `at_NAME`. */
export const SIZES = { T: "u32", S: "u32", H: "u32", G: "u32", scale: "f32", slope: "f32" } as const;

/** Below every score. */
const LOWEST = "-1e30";

export const SEES_KEYS = /* wgsl */ `
fn first_hidden(query: u32) -> u32 { return u32(clamp(i32(query + 1u + params.S) - i32(params.T), 0, i32(params.S))); }`;

/** `visible`: which of the own columns, keys from `base` on, the mask shows. */
export function columnsSeen({ hasMask }: Head): string {
  if (!hasMask) return "    let keys = base + columns;";
  const element = (part: string) =>
    `mask[params.at_mask + group.z * params.S + min(keys.${part}, params.S - 1u)] != 0u`;
  return `    let keys = base + columns;\n    let visible = vec4<bool>(${[..."xyzw"].map(element).join(", ")});`;
}

/** Which of the own columns the query of row i sees; its keys end before `end{i}`. */
export function seenBy({ hasMask }: Head, i: number): string {
  const before = `(keys < vec4u(end${i}))`;
  return hasMask ? `${before} & visible` : before;
}

/** Declares `end{i}`, the number of the first key that the query of row i does not see. */
export function rowEnds({ causal, tile }: Head): string {
  return lines(tile.perThread, (i) => `  let end${i} = ${causal ? `first_hidden(first + row${i})` : "params.S"};`);
}

/** Where the workgroup's queries lie and where its keys end. Long causal rows come first: the short fill the gaps. */
export function queryBlock({ causal, tile: { rows } }: Head): string {
  return /* wgsl */ `
  let first = (${causal ? "groups.x - 1u - group.x" : "group.x"}) * ${rows}u;
  let count = min(${rows}u, params.T - first);
  let stop = ${causal ? "first_hidden(first + count - 1u)" : "params.S"};
  let query_stride = params.H * K;
  let key_stride = params.G * K;
  let queries_at = ((group.z * params.T + first) * params.H + group.y) * K;
  let keys_at = (group.z * params.S * params.G + group.y / (params.H / params.G)) * K;`;
}

/** The forward kernel. Workgroups: blocks of queries, H, B. */
export function forwardSource(head: Head): KernelSource {
  const { K, dtype, hasMask, tile: { rows, columns, perThread } } = head;
  const { x, all } = threadsOf(head.tile);
  const [q, k, v, out] = ["q", "k", "v", "out"].map((name) => heads(head, name));
  const each = (line: (i: number) => string) => lines(perThread, line);
  const owned = Array.from({ length: ownedQuads(head) }, (_, n) => n);
  const row = (i: number) => Array.from({ length: x }, (_, place) => `peaks[${place}][row${i}]`);
  return {
    bindings: [
      ...[q, k, v].map((input) => quadBinding(input, "read")),
      ...(hasMask ? [{ name: "mask", type: "array<u32>", access: "read" } as const] : []),
      quadBinding(out, "read_write"),
      { name: "lse", type: "array<f32>", access: "read_write" },
    ],
    params: { ...SIZES, at_q: "u32", at_k: "u32", at_v: "u32", at_mask: "u32", at_out: "u32", at_lse: "u32" },
    code: /* wgsl */ `${conversions([dtype])}
const K = ${K}u;
${[q, k, v].map(quadLoad).join("\n")}
${quadStore(out)}
${tileMemory(head, ["own"])}
var<workgroup> peaks: array<array<f32, ${rows + 1}>, ${x}>;
${SEES_KEYS}
${stage(head, "q", "own", "params.slope")}
${stage(head, "k", "moving")}
${stage(head, "v", "moving")}
@compute @workgroup_size(${all})
fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
${places(head)}
${queryBlock(head)}
${rowEnds(head)}
${sums(head, "sum")}
${each((i) => `  var peak${i} = f32(${LOWEST});\n  var total${i} = 0.0;`)}
  stage_q_own(lane, params.at_q + queries_at, query_stride, count);
  for (var base = 0u; base < stop; base += ${columns}u) {
    let left = params.S - base;
    stage_k_moving(lane, params.at_k + keys_at + base * key_stride, key_stride, left);
    workgroupBarrier();
${scores(head, "score", "own")}
${columnsSeen(head)}
${
      each((i) =>
        /* wgsl */ `    let seen${i} = ${seenBy(head, i)};
    score${i} = select(vec4f(${LOWEST}), score${i}, seen${i});
    peaks[x][row${i}] = max(max(score${i}.x, score${i}.y), max(score${i}.z, score${i}.w));`
      )
    }
    workgroupBarrier();
${
      each((i) =>
        /* wgsl */ `    {
    let before = peak${i};
${row(i).map((value) => `    peak${i} = max(peak${i}, ${value});`).join("\n")}
    let fade = exp2(before - peak${i});
    let weight = select(vec4f(), exp2(score${i} - peak${i}), seen${i});
    total${i} = total${i} * fade + ((weight.x + weight.y) + (weight.z + weight.w));
    weights[x][row${i}] = weight;
${owned.map((n) => `    sum${i}_${n} *= fade;`).join("\n")}
    }`
      )
    }
    stage_v_moving(lane, params.at_v + keys_at + base * key_stride, key_stride, left);
    workgroupBarrier();
${accumulate(head, "sum")}
    workgroupBarrier();
  }
${each((i) => `  peaks[x][row${i}] = total${i};`)}
  workgroupBarrier();
${
      each((i) =>
        /* wgsl */ `  let whole${i} = ${row(i).join(" + ")};
  let isEmpty${i} = bitcast<u32>(whole${i}) == 0u; // a NaN is not
  let share${i} = select(1.0 / whole${i}, 0.0, isEmpty${i});
  if (x == 0u && row${i} < count) {
    let place = params.at_lse + (group.z * params.H + group.y) * params.T + first + row${i};
    lse[place] = select(peak${i} + log2(whole${i}), 0.0, isEmpty${i});
  }`
      )
    }
${
      storeSums(head, {
        name: "sum",
        factor: (i) => `share${i}`,
        target: "out",
        place: ["params.at_out + queries_at", "query_stride", "count"],
      })
    }
}`,
  };
}
