/**
 * Why a model has not captured a shift, from weights: D* = W_reference - W_base and D_c = W_candidate - W_base of each linear map.
 *
 * - how much of |D*|^2 its leading singular directions hold: what any change of that rank can hold at most (Eckart & Young 1936);
 * - the effective rank of D_c, exp of the entropy of its singular values over their sum (Roy & Vetterli 2007);
 * - principal angles between the leading directions of D_c and D* (Bjorck & Golub 1973);
 * - a group's predicted excess loss, tr((D* - D_c) S_g (D* - D_c)^T), with S_g the mean of x x^T over the group's inputs to the
 *   map in the reference model. It is exact for one linear map under a squared loss; over the maps of a network it is a
 *   sum of terms that matter unequally, so that only its order over models and groups says something.
 *
 * Embeddings, norms, biases and heads are left out. Maps whose smaller side is above `MOST_DECOMPOSED` get the prediction and
 * the missing share but no decomposition, which would take many seconds each.
 */
import {
  add,
  type Backend,
  decorated,
  fromArray,
  gramSvd,
  matmul,
  mul,
  noGrad,
  own,
  type Params,
  type ParamsView,
  reshape,
  scope,
  sub,
  sum,
  svd,
  type Tensor,
} from "../core/mod.ts";
import type { ShiftSubject } from "./shift_subject.ts";

/** Largest smaller side of a map that is decomposed: that of RoBERTa base, at two to four seconds a map. */
export const MOST_DECOMPOSED = 768;

/** Leading directions whose angles are told, at most. */
const DIRECTIONS = 4;

/** A singular value below this part of the largest is that of a rounding error: weights are f32, and larger than changes. */
const RANK_TOLERANCE = 1e-3;

/** A change below this part of the weight is rounding alone: f32 keeps 6e-8 of a number, and a merge rounds a few times. */
const ROUNDING = 1e-6;

/** Unit vectors are given to maps this many times as long, so that a bias rounds what comes out by as much less. */
const LENGTH = 2 ** 10;

/** A linear map that is compared. */
export interface ComparedMap {
  readonly module: string;
  readonly rows: number;
  readonly columns: number;
}

/** A decomposed change of a map: all singular values, and the leading directions, row-major and in columns. */
interface Directions {
  readonly values: Float64Array;
  readonly left: Float64Array;
  readonly right: Float64Array;
}

/** D* of a map. */
export interface MapShift extends ComparedMap {
  /** |D*|^2 */
  readonly energy: number;
  /** What |D*| would be of rounding alone. */
  readonly rounding: number;
  /** Undefined for a map that is too large. */
  readonly directions?: Directions;
}

/** D_c of a map beside its D*. */
export interface MapChange {
  readonly module: string;
  /** |D_c|^2 */
  readonly energy: number;
  /** |D* - D_c|^2 */
  readonly missing: number;
  /** Null for a map that is too large. */
  readonly effectiveRank: number | null;
  /** Singular values above a thousandth of the largest, and above what rounding makes. */
  readonly rank: number | null;
  /** In degrees, the smallest first, between as many leading directions as both have, four at most; of outputs and inputs. */
  readonly angles: { readonly left: readonly number[]; readonly right: readonly number[] };
}

/** What of the shift a model's weights lack. */
export interface Explanation {
  /** Of all maps: sum |D* - D_c|^2 / sum |D*|^2. Null where the reference's maps have not moved by more than rounding. */
  readonly missing: number | null;
  /** What a change of this model's largest rank lacks at least. */
  readonly leastMissing: number | null;
  /** Mean over the maps that moved and are decomposed, and the largest. */
  readonly effectiveRank: number | null;
  readonly rank: number | null;
  /** Mean of the squared cosines of the angles, over maps: 1 are the same directions. */
  readonly overlap: number | null;
  /** By group. */
  readonly predictedExcess: readonly number[];
  readonly maps: readonly MapChange[];
}

/** The linear maps of a model whose matrices `projected` names. */
export function comparedMaps(base: Params, { projected }: Pick<ShiftSubject, "projected">): ComparedMap[] {
  return [...base.entries()].flatMap(([name, { shape }]) =>
    projected.test(name) && shape.length === 2
      ? [{ module: name.replace(/\.weight$/, ""), rows: shape[0], columns: shape[1] }]
      : []
  );
}

/** Models whose maps are compared, and what they are compared on. */
export interface Explaining {
  readonly base: ParamsView;
  readonly reference: ParamsView;
  readonly subject: Pick<ShiftSubject, "probes" | "batches" | "projected">;
}

/**
 * tr(E S_g E^T) of every map and group, E what the model's matrix lacks of the reference's: the mean of |E x|^2 over the
 * group's inputs x in the reference, in one pass and without S_g, whose size is the columns' square. By map.
 */
async function excessByMap(
  model: ParamsView,
  { reference, subject: { probes: { groups, groupNames }, batches, projected } }: Explaining,
): Promise<Map<string, number[]>> {
  const sums = new Map<string, Tensor>();
  const tokens = new Float64Array(groupNames.length);
  for (const { owners } of batches) for (const item of owners) if (item >= 0) tokens[groups[item]]++;
  try {
    for (const { owners, lens } of batches) {
      const shares = groupNames.flatMap((_, group) =>
        Array.from(owners, (item) => item >= 0 && groups[item] === group ? 1 / tokens[group] : 0)
      );
      const watched = decorated(reference, {
        linear(name, x, plain) {
          const y = plain.linear(name, x);
          if (!projected.test(`${name}.weight`)) return y;
          using inner = scope("predicted excess");
          const found = noGrad(() => matmul(inputShares(x, shares), lackingSquares(name, x, y, { model, reference })));
          const before = sums.get(name);
          sums.set(name, own(inner.keep(before ? add(before, found) : found)));
          before?.dispose();
          return y;
        },
      });
      lens(watched)[Symbol.dispose]();
    }
    const found = new Map<string, number[]>();
    for (const [module, tensor] of sums) found.set(module, Array.from(await tensor.read(), Number));
    return found;
  } finally {
    for (const tensor of sums.values()) tensor.dispose();
  }
}

/** [groups, inputs] */
function inputShares(x: Tensor, shares: readonly number[]): Tensor {
  const inputs = x.size / x.shape[x.shape.length - 1];
  return fromArray(x.backend, Float32Array.from(shares), [shares.length / inputs, inputs]);
}

/** |E x|^2 of every input, [inputs, 1]; y is what the reference's map makes of x. */
function lackingSquares(
  module: string,
  x: Tensor,
  y: Tensor,
  { model, reference }: { readonly model: ParamsView; readonly reference: ParamsView },
): Tensor {
  const zero = zeros(x.backend, x.shape[x.shape.length - 1]);
  // what biases differ by is no part of E x
  const biases = sub(reference.linear(module, zero), model.linear(module, zero));
  const rows = biases.size;
  const lacking = sub(reshape(sub(y, model.linear(module, x)), [-1, rows]), biases);
  return reshape(sum(mul(lacking, lacking), [1]), [-1, 1]);
}

function zeros(backend: Backend, columns: number): Tensor {
  return fromArray(backend, new Float32Array(columns), [1, columns]);
}

/**
 * D of a map, transposed: what the model makes of every unit vector less what it makes of nothing, which is its bias, less
 * the same of the base. [columns, rows]
 */
function changeOf({ module, columns }: ComparedMap, model: ParamsView, base: ParamsView): Tensor {
  using inner = scope("change of a map");
  const unit = Float32Array.from({ length: columns * columns }, (_, i) => i % (columns + 1) === 0 ? LENGTH : 0);
  const [units, zero] = [fromArray(base.backend, unit, [columns, columns]), zeros(base.backend, columns)];
  return own(inner.keep(noGrad(() => {
    const [after, before] = [model, base].map((one) => sub(one.linear(module, units), one.linear(module, zero)));
    return mul(sub(after, before), 1 / LENGTH);
  })));
}

/** A change (`changeOf`) with its energy, decomposed where its map is small enough. */
async function decompose(change: Tensor, { rows, columns, rounding }: ComparedMap & { readonly rounding: number }) {
  const values = await change.read() as Float32Array;
  const energy = squares(values);
  const side = Math.min(rows, columns);
  if (side > MOST_DECOMPOSED) return { energy };
  // no change has no directions
  const none = { values: new Float64Array(side), left: new Float64Array(), right: new Float64Array() };
  const directions: Directions = hasMoved({ energy, rounding }) ? directionsOf(values, rows, columns) : none;
  return { energy, directions };
}

/** Whether a change is more than rounding. */
function hasMoved({ energy, rounding }: Pick<MapShift, "energy" | "rounding">): boolean {
  return energy > rounding ** 2;
}

/** Singular values and leading directions of D from D^T [columns, rows]. */
function directionsOf(transposed: ArrayLike<number>, rows: number, columns: number): Directions {
  const side = Math.min(rows, columns);
  const isLeft = rows <= columns;
  const { values, vectors } = gramSvd(transposed, columns, rows); // D's left vectors, or its right ones where it is tall
  const width = Math.min(DIRECTIONS, side);
  const [near, far] = [new Float64Array(side * width), new Float64Array(Math.max(rows, columns) * width)];
  for (let j = 0; j < width; j++) {
    for (let i = 0; i < side; i++) near[i * width + j] = vectors[i * side + j];
    if (values[j] === 0) continue;
    for (let i = 0; i < columns; i++) {
      for (let k = 0; k < rows; k++) {
        const [at, from] = isLeft ? [i, k] : [k, i];
        far[at * width + j] += transposed[i * rows + k] * near[from * width + j] / values[j];
      }
    }
  }
  return isLeft ? { values, left: near, right: far } : { values, left: far, right: near };
}

function squares(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i] * values[i];
  return total;
}

/** D* of every map. */
export async function referenceShift(
  maps: readonly ComparedMap[],
  reference: ParamsView,
  base: ParamsView,
): Promise<MapShift[]> {
  const shifts: MapShift[] = [];
  for (const map of maps) {
    const rounding = ROUNDING * Math.sqrt(squares(await base.get(`${map.module}.weight`).read() as Float32Array));
    using change = changeOf(map, reference, base);
    shifts.push({ ...map, rounding, ...await decompose(change, { ...map, rounding }) });
  }
  return shifts;
}

/** The share of the decomposed maps' |D*|^2 that changes of a rank can hold; undefined where nothing moved. */
export function energyWithin(shifts: readonly MapShift[], rank: number): number | undefined {
  const known = shifts.flatMap(({ directions }) => directions ? [directions.values] : []);
  const total = known.reduce((sum, values) => sum + squares(values), 0);
  return total === 0 ? undefined : known.reduce((sum, values) => sum + squares(values.subarray(0, rank)), 0) / total;
}

/** What a model's weights lack of the shift, and what that should cost each group. */
export async function explain(
  shifts: readonly MapShift[],
  model: ParamsView,
  compared: Explaining,
): Promise<Explanation> {
  const { base, reference } = compared;
  const maps: MapChange[] = [];
  const byMap = await excessByMap(model, compared);
  for (const shift of shifts) {
    using change = changeOf(shift, model, base);
    using lacking = changeOf(shift, reference, model);
    const { energy, directions: found } = await decompose(change, shift);
    const rank = found && numericalRank(found.values, shift);
    maps.push({
      module: shift.module,
      energy,
      missing: squares(await lacking.read() as Float32Array),
      effectiveRank: found ? effectiveRank(found.values) : null,
      rank: rank ?? null,
      angles: found && shift.directions ? anglesOf(found, shift.directions, shift) : { left: [], right: [] },
    });
  }
  const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
  const whole = shifts.some(hasMoved) ? total(shifts.map(({ energy }) => energy)) : 0;
  const excess = shifts.map(({ module }) => byMap.get(module)!);
  const moved = maps.filter((map) => map.rank !== null && map.rank > 0);
  const largest = moved.length > 0 ? Math.max(...moved.map(({ rank }) => rank!)) : maps.length > 0 ? 0 : null;
  const within = largest === null ? undefined : energyWithin(shifts, largest);
  const cosines = moved.flatMap(({ angles }) => [...angles.left, ...angles.right])
    .map((degrees) => Math.cos(degrees * Math.PI / 180) ** 2);
  return {
    missing: whole === 0 ? null : total(maps.map((map) => map.missing)) / whole,
    leastMissing: within === undefined ? null : 1 - within,
    effectiveRank: moved.length === 0 ? null : total(moved.map((map) => map.effectiveRank!)) / moved.length,
    rank: largest,
    overlap: cosines.length === 0 ? null : total(cosines) / cosines.length,
    predictedExcess: excess.length === 0 ? [] : excess[0].map((_, group) => total(excess.map((row) => row[group]))),
    maps,
  };
}

/** exp of the entropy of the values over their sum: 0 for no change, r for r equal ones. */
export function effectiveRank(values: ArrayLike<number>): number {
  const total = Array.from(values).reduce((sum, value) => sum + value, 0);
  if (total === 0) return 0;
  return Math.exp(
    -Array.from(values, (value) => value / total).reduce((sum, p) => p > 0 ? sum + p * Math.log(p) : sum, 0),
  );
}

function numericalRank(values: Float64Array, { rounding }: Pick<MapShift, "rounding">): number {
  // rounding is spread over all directions
  const least = Math.max(RANK_TOLERANCE * values[0], rounding / Math.sqrt(values.length));
  return values.filter((value) => value > least).length;
}

function anglesOf(one: Directions, other: Directions, shift: MapShift): MapChange["angles"] {
  const { rows, columns } = shift;
  const count = Math.min(DIRECTIONS, numericalRank(one.values, shift), numericalRank(other.values, shift));
  return {
    left: principalAngles(one.left, other.left, rows, count),
    right: principalAngles(one.right, other.right, columns, count),
  };
}

/**
 * Angles in degrees between the spaces of the first `count` columns of two orthonormal matrices, row-major [size, columns], the
 * smallest first.
 */
export function principalAngles(a: ArrayLike<number>, b: ArrayLike<number>, size: number, count: number): number[] {
  if (count === 0) return [];
  const [width, other] = [a.length / size, b.length / size];
  const cosines = new Float64Array(count * count);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      for (let k = 0; k < size; k++) cosines[i * count + j] += a[k * width + i] * b[k * other + j];
    }
  }
  return Array.from(svd(cosines, count, count).values, (cosine) => Math.acos(Math.min(1, cosine)) * 180 / Math.PI);
}
