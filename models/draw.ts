/**
 * First weights of a model by name: matrices normal, norms 1, biases 0. Each is a function of the seed and its name,
 * drawn in f32 and rounded to nearest in a 16-bit dtype. It refuses to know architectures.
 */
import {
  type Backend,
  foldIn,
  fromArray,
  isHalf,
  keyOf,
  normal,
  own,
  Params,
  type Shape,
  sizeOf,
} from "../core/mod.ts";
import { fromFloat32 } from "./safetensors_convert.ts";

/** What the 16-bit types are called in files. */
const HALVES = { bf16: "BF16", f16: "F16" } as const;

/** What is drawn for a weight. */
export interface DrawSpec {
  readonly shape: Shape;
  /** Standard deviation of a matrix. Default: the model's. */
  readonly std?: number;
  /** A row that starts as zeros: that of the padding in a table of embeddings. */
  readonly zeroRow?: number;
}

/** How weights are drawn. */
export interface DrawOptions {
  readonly seed: number;
  readonly dtype?: "f32" | "bf16" | "f16";
  /** Standard deviation of matrices that do not say their own. */
  readonly std: number;
  /** Draws others under the same seed and names: for a part that is not to be what a whole model had. */
  readonly purpose?: string;
}

/** New weights under the names and shapes of `weights`, in that order. */
export function drawWeights(
  backend: Backend,
  weights: ReadonlyMap<string, DrawSpec>,
  { seed, dtype = "f32", std: usual, purpose }: DrawOptions,
): Params {
  const key = purpose === undefined ? keyOf(seed) : foldIn(keyOf(seed), purpose);
  const params = new Params(backend);
  for (const [name, { shape, std = usual, zeroRow }] of weights) {
    const size = sizeOf(shape);
    const values = name.endsWith(".bias")
      ? new Float32Array(size)
      : shape.length === 1
      ? new Float32Array(size).fill(1)
      : normal(foldIn(key, name), size, 0, std);
    if (zeroRow !== undefined) values.fill(0, zeroRow * shape[1], (zeroRow + 1) * shape[1]);
    const stored = isHalf(dtype) ? new Uint16Array(fromFloat32(values, HALVES[dtype]).buffer) : values;
    params.set(name, own(fromArray(backend, stored, shape, dtype)));
  }
  return params;
}
