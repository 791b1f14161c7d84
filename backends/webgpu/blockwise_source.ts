/**
 * The texts of `blockwise.ts`. Each element is read once and written once: what a block needs again, when its largest
 * magnitude is known, stays in registers.
 */
import { ADAM_PARAMS } from "./adam_params.ts";
import {
  copyTables,
  decoder,
  each,
  ENCODE,
  ENTRY,
  floats,
  getter,
  packer,
  PARAMS,
  peaks,
  places,
  placeTypes,
  putter,
  stored,
  TABLE_AT,
  TABLE_WORDS,
  TABLES,
  type Teams,
} from "./blockwise_text.ts";
import { GROUP_INDEX } from "./gpu.ts";
import { groupJoin } from "./kernels/groups.ts";
import type { KernelSource } from "./pipelines.ts";

/** Codes and largest magnitudes of x. */
export function encodeSource(teams: Teams, isVector: boolean): KernelSource {
  const { team, words, bySubgroups } = teams;
  return {
    subgroups: bySubgroups,
    bindings: [floats("x", "read", isVector), ...stored("to", "read_write"), TABLES],
    params: { ...PARAMS, ...placeTypes("x", "to", "to_absmax"), table: "u32", flips: "u32", least: "u32" },
    code: /* wgsl */ `
var<workgroup> table: array<f32, 256>;
${getter("x", isVector)}
${ENCODE}
${packer(isVector)}
${groupJoin(peaks("u32"), team, bySubgroups)}
@compute @workgroup_size(${team.size})
${ENTRY}
${copyTables(256, team.size, "params.table")}
${places(teams)}
  var peak = 0u;
${
      each(words, (k) =>
        `  var x_${k} = vec4f(0.0);
  if (word_${k} < params.words) {
    x_${k} = get_x(word_${k});
    peak = max(peak, largest(x_${k}));
  }`)
    }
  peak = group_peak(peak, lane);
  let inverse = inverse_of(peak);
${
      each(words, (k) =>
        `  if (word_${k} < params.words) {
    let code = encode(x_${k}, inverse, 0u, params.flips, params.least);
    to[params.at_to / 4u + word_${k}] = pack(select(vec4u(0u), code, within(word_${k})));
  }`)
    }
  if (member == 0u && word_0 < params.words) { to_absmax[params.at_to_absmax + block] = peak; }
}`,
  };
}

/** The values that codes stand for; a lane has one word, and takes them from the buffer. */
export function decodeSource(size: number, isVector: boolean): KernelSource {
  return {
    bindings: [...stored("codes", "read"), TABLES, floats("out", "read_write", isVector)],
    params: { ...PARAMS, ...placeTypes("codes", "codes_absmax", "out"), table: "u32", block_words: "u32" },
    code: /* wgsl */ `
${putter("out", isVector)}
${decoder("tables")}
@compute @workgroup_size(${size})
${ENTRY}
  let word = ${GROUP_INDEX} * ${size}u + lane;
  if (word >= params.words) { return; }
  let scale = bitcast<f32>(codes_absmax[params.at_codes_absmax + word / params.block_words]);
  put_out(word, decode(codes[params.at_codes / 4u + word], params.table) * scale);
}`,
  };
}

/** What a call of `adamBlockwise` has. */
export interface AdamVariant {
  readonly teams: Teams;
  readonly isVector: boolean;
  readonly hasFactor: boolean;
  readonly hasParam: boolean;
  readonly hasOut: boolean;
}

/**
 * One step of Adam. A negative factor is the closed gate: nothing moves, and `out` is 0. All lanes see the same factor,
 * so that they meet at every barrier or at none.
 */
export function adamSource(variant: AdamVariant): KernelSource {
  const { teams: { team, bySubgroups }, isVector, hasFactor, hasParam, hasOut } = variant;
  return {
    subgroups: bySubgroups,
    bindings: [
      floats("grad", "read", isVector),
      ...stored("mu", "read_write"),
      ...stored("nu", "read_write"),
      TABLES,
      ...(hasFactor ? [{ name: "factor_of", type: "array<f32>", access: "read" } as const] : []),
      ...(hasParam ? [floats("param", "read_write", isVector)] : []),
      ...(hasOut ? [floats("out", "read_write", isVector)] : []),
    ],
    params: {
      ...PARAMS,
      ...placeTypes("grad", "mu", "mu_absmax", "nu", "nu_absmax", "factor", "param", "out"),
      flips: "u32",
      least: "u32",
      ...ADAM_PARAMS,
    },
    code: /* wgsl */ `
var<workgroup> table: array<f32, ${TABLE_WORDS}>;
${getter("grad", isVector)}
${hasParam ? getter("param", isVector) + "\n" + putter("param", isVector) : ""}
${hasOut ? putter("out", isVector) : ""}
${decoder("table")}
${ENCODE}
${packer(isVector)}
${groupJoin(peaks("vec2u"), team, bySubgroups)}
@compute @workgroup_size(${team.size})
${ENTRY}
${adamBody(variant)}
}`,
  };
}

function adamBody({ teams, hasFactor, hasParam, hasOut }: AdamVariant): string {
  const { team, words } = teams;
  const { signed, nonnegative } = TABLE_AT;
  const shut = each(words, (k) => `    if (word_${k} < params.words) { put_out(word_${k}, vec4f(0.0)); }`);
  const gate = /* wgsl */ `  let factor = factor_of[params.at_factor];
  if (factor < 0.0) {
${hasOut ? shut + "\n" : ""}    return;
  }`;
  const update = (k: number) =>
    /* wgsl */ `  var m_${k} = vec4f(0.0);
  var v_${k} = vec4f(0.0);
  if (word_${k} < params.words) {
    let g = factor * get_grad(word_${k});
    let m = decode(mu[params.at_mu / 4u + word_${k}], ${signed.values}u) * mu_scale;
    let v = decode(nu[params.at_nu / 4u + word_${k}], ${nonnegative.values}u) * nu_scale;
    let nothing = vec4f(0.0); // no code past the end stands for anything
    m_${k} = select(nothing, params.beta1 * m + params.gain1 * g, within(word_${k}));
    v_${k} = select(nothing, params.beta2 * v + params.gain2 * (g * g), within(word_${k}));
    peak = max(peak, vec2(largest(m_${k}), largest(v_${k})));
    let u = (m_${k} * params.scale1) / (sqrt(v_${k}) * params.scale2 + params.eps);
${hasOut ? `    put_out(word_${k}, u);\n` : ""}${hasParam ? parameterUpdate(k) : ""}  }`;
  const store = (k: number) =>
    /* wgsl */ `  if (word_${k} < params.words) {
    let m = encode(m_${k}, mu_inverse, ${signed.limits}u, params.flips, 0u);
    let v = encode(v_${k}, nu_inverse, ${nonnegative.limits}u, 0u, params.least);
    mu[params.at_mu / 4u + word_${k}] = pack(select(vec4u(0u), m, within(word_${k})));
    nu[params.at_nu / 4u + word_${k}] = pack(select(vec4u(0u), v, within(word_${k})));
  }`;
  return /* wgsl */ `${places(teams)}
${hasFactor ? gate : "  let factor = 1.0;"}
${copyTables(TABLE_WORDS, team.size, "0u")}
  let known = select(0u, block, word_0 < params.words);
  let mu_scale = bitcast<f32>(mu_absmax[params.at_mu_absmax + known]);
  let nu_scale = bitcast<f32>(nu_absmax[params.at_nu_absmax + known]);
  var peak = vec2u(0u);
${each(words, update)}
  peak = group_peak(peak, lane);
  let mu_inverse = inverse_of(peak.x);
  let nu_inverse = inverse_of(peak.y);
${each(words, store)}
  if (member == 0u && word_0 < params.words) {
    mu_absmax[params.at_mu_absmax + block] = peak.x;
    nu_absmax[params.at_nu_absmax + block] = peak.y;
  }`;
}

function parameterUpdate(k: number): string {
  return /* wgsl */ `    let p = get_param(word_${k});
    put_param(word_${k}, (p - params.rate * u - params.before * p) * params.after);
`;
}
