/**
 * Gradients of attention without a [T, S] matrix in memory (Dao et al. 2022, algorithm 4; Dao 2023 for the two loops).
 *
 *     p = exp2(score - lse), D = sum(dout out), ds = p (dout v^T - D): dq = ds k scale, dk = ds^T q scale, dv = p^T dout
 *     q, dout, dq [B, T, H, K];  k, v, dk, dv [B, S, G, K];  mask u32 [B, S]?;  stats f32 [B, H, T, 2]: lse and D
 *
 * Three kernels, each the only writer of what it writes, so that no sum depends on a schedule. Stats: 16 invocations a row.
 * dq: a workgroup owns `rows` queries of one (b, h) and walks over their keys. dk and dv: a workgroup owns `rows` keys of one
 * (b, g) and walks over the queries of all heads of the group. One moving tile and one of weights serve every product in
 * turn, which loads the queries twice and fits 32 KiB at K = 64. Numerics: as forward; p is computed again from lse.
 */
import type { KernelSource } from "../pipelines.ts";
import { conversions } from "../wgsl.ts";
import { columnsSeen, queryBlock, rowEnds, seenBy, SEES_KEYS, SIZES } from "./attention_forward.ts";
import {
  accumulate,
  type Head,
  heads,
  lines,
  places,
  quadsOf,
  scores,
  stage,
  storeSums,
  sums,
  threadsOf,
  tileMemory,
} from "./attention_tile.ts";
import { quadBinding, quadLoad, quadStore } from "./quads.ts";

const MAIN = /* wgsl */ `fn main(
  @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
)`;

/** Rows of a workgroup of `statsSource`. */
export const STATS_ROWS = 16;

/** Stats: lse, and D = sum(dout out) of each row. Workgroups: blocks of 16 rows [B, T, H]. */
export function statsSource(head: Pick<Head, "K" | "dtype" | "isWide">): KernelSource {
  const { K, dtype, isWide } = head;
  const [out, slope] = ["out", "slope"].map((name) => ({ name, dtype, size: K, isWide }));
  const steps = Math.ceil(quadsOf(K) / 16);
  const terms = lines(steps, (i) => {
    const quad = `part + ${16 * i}u`;
    const add = `sum += dot(load4_out(params.at_out + start, ${quad}), load4_slope(params.at_slope + start, ${quad}));`;
    return 16 * (i + 1) <= quadsOf(K) ? `  ${add}` : `  if (${quad} < ${quadsOf(K)}u) { ${add} }`;
  });
  return {
    bindings: [
      quadBinding(out, "read"),
      quadBinding(slope, "read"),
      { name: "lse", type: "array<f32>", access: "read" },
      { name: "stats", type: "array<vec2f>", access: "read_write" },
    ],
    params: { rows: "u32", T: "u32", H: "u32", at_out: "u32", at_slope: "u32", at_lse: "u32" },
    code: /* wgsl */ `${conversions([dtype])}
${[out, slope].map(quadLoad).join("\n")}
var<workgroup> parts: array<array<f32, 17>, ${STATS_ROWS}>;
@compute @workgroup_size(${16 * STATS_ROWS})
${MAIN} {
  let part = lane % 16u;
  let own = lane / 16u;
  let block = (group.x + group.y * groups.x) * ${STATS_ROWS}u;
  let start = min(block + own, params.rows - 1u) * ${K}u;
  var sum = 0.0;
${terms}
  parts[own][part] = sum;
  workgroupBarrier();
  let row = block + lane;
  if (lane < ${STATS_ROWS}u && row < params.rows) {
    let total = ${Array.from({ length: 16 }, (_, i) => `parts[lane][${i}]`).join(" + ")};
    let head = row % params.H;
    let position = row / params.H;
    let place = (position / params.T * params.H + head) * params.T + position % params.T;
    stats[place] = vec2f(lse[params.at_lse + place], total);
  }
}`,
  };
}

/** dq. Workgroups: blocks of queries, H, B. */
export function queryGradientSource(head: Head): KernelSource {
  const { K, dtype, hasMask, tile: { columns, perThread } } = head;
  const [q, k, v, slope, dq] = ["q", "k", "v", "slope", "dq"].map((name) => heads(head, name));
  const each = (line: (i: number) => string) => lines(perThread, line);
  return {
    bindings: [
      ...[q, k, v, slope].map((input) => quadBinding(input, "read")),
      { name: "stats", type: "array<vec2f>", access: "read" },
      ...(hasMask ? [{ name: "mask", type: "array<u32>", access: "read" } as const] : []),
      quadBinding(dq, "read_write"),
    ],
    params: { ...SIZES, at_q: "u32", at_k: "u32", at_v: "u32", at_slope: "u32", at_mask: "u32", at_dq: "u32" },
    code: /* wgsl */ `${conversions([dtype])}
const K = ${K}u;
${[q, k, v, slope].map(quadLoad).join("\n")}
${quadStore(dq)}
${tileMemory(head, ["own", "slopes"])}
${SEES_KEYS}
${stage(head, "q", "own", "params.slope")}
${stage(head, "slope", "slopes")}
${stage(head, "k", "moving")}
${stage(head, "v", "moving")}
@compute @workgroup_size(${threadsOf(head.tile).all})
${MAIN} {
${places(head)}
${queryBlock(head)}
${rowEnds(head)}
${sums(head, "sum")}
  let stats_at = (group.z * params.H + group.y) * params.T + first;
${each((i) => `  let stats${i} = stats[stats_at + min(row${i}, count - 1u)];`)}
  stage_q_own(lane, params.at_q + queries_at, query_stride, count);
  stage_slope_slopes(lane, params.at_slope + queries_at, query_stride, count);
  for (var base = 0u; base < stop; base += ${columns}u) {
    let left = params.S - base;
    stage_v_moving(lane, params.at_v + keys_at + base * key_stride, key_stride, left);
    workgroupBarrier();
${scores(head, "rise", "slopes")}
    workgroupBarrier();
    stage_k_moving(lane, params.at_k + keys_at + base * key_stride, key_stride, left);
    workgroupBarrier();
${scores(head, "score", "own")}
${columnsSeen(head)}
${
      each((i) =>
        /* wgsl */ `    {
    let change = exp2(score${i} - stats${i}.x) * (rise${i} - stats${i}.y);
    weights[x][row${i}] = select(vec4f(), change, ${seenBy(head, i)});
    }`
      )
    }
    workgroupBarrier();
${accumulate(head, "sum")}
    workgroupBarrier();
  }
${
      storeSums(head, {
        name: "sum",
        factor: () => "params.scale",
        target: "dq",
        place: ["params.at_dq + queries_at", "query_stride", "count"],
      })
    }
}`,
  };
}

/** dk and dv. Workgroups: blocks of keys, G, B. */
export function keyGradientSource(head: Head): KernelSource {
  const { K, dtype, hasMask, causal, tile: { rows, columns, perThread } } = head;
  const [q, k, v, slope, dk, dv] = ["q", "k", "v", "slope", "dk", "dv"].map((name) => heads(head, name));
  const each = (line: (i: number) => string) => lines(perThread, line);
  const begin = causal
    ? `u32(max(i32(first + params.T) - i32(params.S), 0)) / ${columns}u * ${columns}u` // the first that sees a key of ours
    : "0u";
  const seen = (i: number) =>
    [
      "(queries < vec4u(params.T))",
      ...(causal ? [`(vec4u(first + row${i} + params.T) <= queries + params.S)`] : []),
      ...(hasMask ? [`vec4<bool>(visible${i})`] : []),
    ].join(" & ");
  const shown = (i: number) =>
    `  let visible${i} = mask[params.at_mask + group.z * params.S + first + min(row${i}, count - 1u)] != 0u;`;
  return {
    bindings: [
      ...[q, k, v, slope].map((input) => quadBinding(input, "read")),
      { name: "stats", type: "array<vec2f>", access: "read" },
      ...(hasMask ? [{ name: "mask", type: "array<u32>", access: "read" } as const] : []),
      ...[dk, dv].map((output) => quadBinding(output, "read_write")),
    ],
    params: {
      ...SIZES,
      at_q: "u32",
      at_k: "u32",
      at_v: "u32",
      at_slope: "u32",
      at_mask: "u32",
      at_dk: "u32",
      at_dv: "u32",
    },
    code: /* wgsl */ `${conversions([dtype])}
const K = ${K}u;
${[q, k, v, slope].map(quadLoad).join("\n")}
${[dk, dv].map(quadStore).join("\n")}
${tileMemory(head, ["own", "values"])}
${stage(head, "k", "own", "params.slope")}
${stage(head, "v", "values")}
${stage(head, "q", "moving")}
${stage(head, "slope", "moving")}
@compute @workgroup_size(${threadsOf(head.tile).all})
${MAIN} {
${places(head)}
  let first = group.x * ${rows}u;
  let count = min(${rows}u, params.S - first);
  let query_stride = params.H * K;
  let key_stride = params.G * K;
  let keys_at = ((group.z * params.S + first) * params.G + group.y) * K;
  let per_group = params.H / params.G;
${hasMask ? each(shown) : ""}
${sums(head, "key_sum", "value_sum")}
  stage_k_own(lane, params.at_k + keys_at, key_stride, count);
  stage_v_values(lane, params.at_v + keys_at, key_stride, count);
  for (var member = 0u; member < per_group; member++) {
    let head = group.y * per_group + member;
    let stats_at = (group.z * params.H + head) * params.T;
    for (var base = ${begin}; base < params.T; base += ${columns}u) {
    let left = params.T - base;
    let queries_at = ((group.z * params.T + base) * params.H + head) * K;
    let queries = base + columns;
${lines(4, (j) => `    let stats${j} = stats[stats_at + min(queries[${j}], params.T - 1u)];`)}
    let level = vec4f(stats0.x, stats1.x, stats2.x, stats3.x);
    let shift = vec4f(stats0.y, stats1.y, stats2.y, stats3.y);
    stage_q_moving(lane, params.at_q + queries_at, query_stride, left);
    workgroupBarrier();
${scores(head, "score", "own")}
${
      each((i) =>
        /* wgsl */ `    let weight${i} = select(vec4f(), exp2(score${i} - level), ${seen(i)});
    weights[x][row${i}] = weight${i};`
      )
    }
    workgroupBarrier();
    stage_slope_moving(lane, params.at_slope + queries_at, query_stride, left);
    workgroupBarrier();
${scores(head, "rise", "values")}
${accumulate(head, "value_sum")}
    workgroupBarrier();
${each((i) => `    weights[x][row${i}] = weight${i} * (rise${i} - shift);`)}
    stage_q_moving(lane, params.at_q + queries_at, query_stride, left);
    workgroupBarrier();
${accumulate(head, "key_sum")}
    workgroupBarrier();
    }
  }
${
      [["key_sum", "params.scale", "dk"], ["value_sum", "1.0", "dv"]].map(([name, factor, target]) =>
        storeSums(head, {
          name,
          factor: () => factor,
          target,
          place: [`params.at_${target} + keys_at`, "key_stride", "count"],
        })
      ).join("\n")
    }
}`,
  };
}
