/**
 * Block-wise 8-bit storage and Adam on it, as `core/backend.ts` defines them, one element at a time in f32 (every
 * result through Math.fround). The code is searched over all 256 values, not over the limits that the kernels use. Slow
 * and plain: what the kernels are held to, and nothing that a backend calls.
 */
import type { AdamUpdate, BlockwiseOptions, ParameterUpdate } from "../../core/backend.ts";
import { codebook, type SlotKind, ZERO_CODE } from "../../core/codebook.ts";

const { fround } = Math;

const VALUES: Readonly<Record<SlotKind, Float64Array>> = {
  signed: Float64Array.from(codebook("signed")),
  nonnegative: Float64Array.from(codebook("nonnegative")),
};

/** A stored tensor on the host. */
export interface HostBlockwise {
  readonly codes: Uint8Array<ArrayBuffer>;
  readonly absmax: Float32Array<ArrayBuffer>;
}

/** The code of the value nearest to `share`, the smaller of two; differences of neighbours are exact in f64. */
export function nearestCode(share: number, kind: SlotKind): number {
  const values = VALUES[kind];
  let best = 0;
  let distance = Infinity;
  for (let code = 0; code < 256; code++) {
    const away = Math.abs(share - values[code]);
    if (away < distance) {
      distance = away;
      best = code;
    }
  }
  return best;
}

/** What `rounding` makes of the nearest code. */
export function roundedCode(code: number, x: number, kind: SlotKind, rounding: BlockwiseOptions["rounding"]): number {
  if (rounding === "safe") return kind === "nonnegative" && x > 0 && code === 0 ? 1 : code;
  if (kind === "nonnegative") return code;
  const isNegative = x < 0 || Object.is(x, -0);
  if (isNegative === VALUES[kind][code] < 0) return code;
  return x > 0 ? code + 1 : code - 1;
}

/** The largest magnitude of each block. */
export function absmaxOf(x: Float32Array, blockSize: number): Float32Array<ArrayBuffer> {
  const absmax = new Float32Array(Math.ceil(x.length / blockSize));
  x.forEach((value, i) => {
    const block = Math.floor(i / blockSize);
    absmax[block] = Math.max(absmax[block], Math.abs(value));
  });
  return absmax;
}

/** x over the largest magnitude of its block, as f32 arithmetic has it; 0 where that is 0. */
export function shareOf(x: number, absmax: number): number {
  return absmax === 0 ? 0 : fround(x * fround(1 / absmax));
}

/** Codes of x before `rounding` has its say. */
export function nearestCodes(x: Float32Array, absmax: Float32Array, kind: SlotKind, blockSize: number) {
  return Uint8Array.from(x, (value, i) => {
    const largest = absmax[Math.floor(i / blockSize)];
    return largest === 0 ? ZERO_CODE[kind] : nearestCode(shareOf(value, largest), kind);
  });
}

/** `quantizeBlockwise`. */
export function quantize(
  x: Float32Array,
  kind: SlotKind,
  { blockSize, rounding }: BlockwiseOptions,
): HostBlockwise {
  const absmax = absmaxOf(x, blockSize);
  const codes = nearestCodes(x, absmax, kind, blockSize);
  return { codes: codes.map((code, i) => roundedCode(code, x[i], kind, rounding)), absmax };
}

/** `dequantizeBlockwise`. */
export function dequantize({ codes, absmax }: HostBlockwise, kind: SlotKind, blockSize: number) {
  return Float32Array.from(codes, (code, i) => VALUES[kind][code] * absmax[Math.floor(i / blockSize)]);
}

/** One step of `adamBlockwise` from `before`, which stays as it is. */
export function adamStep(
  before: { readonly mu: HostBlockwise; readonly nu: HostBlockwise; readonly param: Float32Array },
  gradient: Float32Array,
  update: AdamUpdate & BlockwiseOptions,
  parameter: ParameterUpdate,
) {
  const { beta1, beta2, eps, step, epsPlacement, blockSize } = update;
  const [bias1, bias2] = [1 - beta1 ** step, 1 - beta2 ** step];
  const [gain, scale] = epsPlacement === "corrected" ? [1 / bias1, 1 / bias2] : [Math.sqrt(bias2) / bias1, 1];
  const [mu, nu] = [dequantize(before.mu, "signed", blockSize), dequantize(before.nu, "nonnegative", blockSize)];
  const [out, param] = [new Float32Array(mu.length), Float32Array.from(before.param)];
  const average = (old: number, next: number, beta: number) =>
    fround(fround(fround(beta) * old) + fround(fround(1 - beta) * next));
  gradient.forEach((g, i) => {
    mu[i] = average(mu[i], g, beta1);
    nu[i] = average(nu[i], fround(g * g), beta2);
    const root = fround(fround(Math.sqrt(fround(nu[i] * fround(scale)))) + fround(eps));
    out[i] = fround(mu[i] * fround(gain)) / root;
    param[i] = decayed(param[i], out[i], parameter);
  });
  return { mu: quantize(mu, "signed", update), nu: quantize(nu, "nonnegative", update), param, out };
}

/** A parameter after the update u, rounded after every operation. */
function decayed(p: number, u: number, { learningRate, weightDecay, decayPlacement }: ParameterUpdate): number {
  if (decayPlacement === "before") {
    return fround(p - fround(fround(learningRate) * fround(u + fround(fround(weightDecay) * p))));
  }
  const moved = fround(p - fround(fround(learningRate) * u));
  return fround(moved - fround(fround(learningRate * weightDecay) * moved));
}
