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
 * Embeddings, norms and heads are left out. Maps whose smaller side is above `MOST_DECOMPOSED` get the prediction and the
 * missing share but no decomposition, which would take minutes each.
 */
import {
  add,
  contiguous,
  decorated,
  fromArray,
  matmul,
  mul,
  noGrad,
  own,
  type Params,
  type ParamsView,
  reshape,
  scope,
  stack,
  sub,
  sum,
  svd,
  type Tensor,
  transpose,
} from "../core/mod.ts";
import type { ShiftSubject } from "./shift_subject.ts";

/** Largest smaller side of a map that is decomposed. */
export const MOST_DECOMPOSED = 512;

/** Leading directions whose angles are told, at most. */
const DIRECTIONS = 4;

/** A singular value below this part of the largest is that of a rounding error: weights are f32, and larger than changes. */
const RANK_TOLERANCE = 1e-3;

/** A linear map that is compared. */
export interface ComparedMap {
  readonly module: string;
  readonly rows: number;
  readonly columns: number;
}

/** A decomposed change of a map: row-major, directions in columns. */
interface Directions {
  readonly values: Float64Array;
  readonly left: Float64Array;
  readonly right: Float64Array;
}

/** D* of a map. */
export interface MapShift extends ComparedMap {
  /** |D*|^2 */
  readonly energy: number;
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
  /** Singular values above a thousandth of the largest. */
  readonly rank: number | null;
  /** In degrees, the smallest first, between as many leading directions as both have, four at most; of outputs and inputs. */
  readonly angles: { readonly left: readonly number[]; readonly right: readonly number[] };
}

/** What of the shift a model's weights lack. */
export interface Explanation {
  /** Of all maps: sum |D* - D_c|^2 / sum |D*|^2. Null where the reference's maps have not moved. */
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

/** S_g of every map, by group. Dispose it. */
export interface GroupMoments extends Disposable {
  /** f32 [groups, columns, columns] */
  of(module: string): Tensor;
}

/** Runs the probes through a model and sums up what its maps are given. */
export function groupMoments(subject: ShiftSubject, model: ParamsView): GroupMoments {
  const { probes: { groups, groupNames }, batches, projected } = subject;
  const sums = new Map<string, Tensor>();
  const dispose = () => sums.forEach((tensor) => tensor.dispose());
  const tokens = new Float64Array(groupNames.length);
  for (const { owners } of batches) for (const item of owners) if (item >= 0) tokens[groups[item]]++;
  try {
    for (const { owners, lens } of batches) {
      const masks = groupNames.map((_, group) =>
        Float32Array.from(owners, (item) => item >= 0 && groups[item] === group ? 1 / tokens[group] : 0)
      );
      const watched = decorated(model, {
        linear(name, x, plain) {
          if (projected.test(`${name}.weight`)) accumulate(sums, name, x, masks);
          return plain.linear(name, x);
        },
      });
      lens(watched)[Symbol.dispose]();
    }
  } catch (error) {
    dispose();
    throw error;
  }
  return { of: (module) => sums.get(module)!, [Symbol.dispose]: dispose };
}

function accumulate(sums: Map<string, Tensor>, module: string, x: Tensor, masks: readonly Float32Array<ArrayBuffer>[]) {
  using inner = scope("group moments");
  const flat = reshape(x, [-1, x.shape[x.shape.length - 1]]);
  const products = masks.map((mask) =>
    matmul(mul(flat, fromArray(x.backend, mask, [mask.length, 1])), flat, { transposeA: true })
  );
  const found = stack(products, 0);
  const before = sums.get(module);
  sums.set(module, own(inner.keep(before ? add(before, found) : found)));
  before?.dispose();
}

/** D of a map: what the model makes of every unit vector, less what the base makes of it. [rows, columns] */
function changeOf({ module, columns }: ComparedMap, model: ParamsView, base: ParamsView): Tensor {
  using inner = scope("change of a map");
  const unit = Float32Array.from({ length: columns * columns }, (_, i) => i % (columns + 1) === 0 ? 1 : 0);
  const units = fromArray(base.backend, unit, [columns, columns]);
  return own(
    inner.keep(noGrad(() => contiguous(transpose(sub(model.linear(module, units), base.linear(module, units)))))),
  );
}

/** A change with its energy, decomposed where its map is small enough. */
async function decompose(change: Tensor, { rows, columns }: ComparedMap) {
  const values = Float64Array.from(await change.read(), Number);
  const energy = squares(values);
  const side = Math.min(rows, columns);
  if (side > MOST_DECOMPOSED) return { energy };
  // no change has no directions
  const none = { values: new Float64Array(side), left: new Float64Array(), right: new Float64Array() };
  const directions: Directions = energy === 0 ? none : svd(values, rows, columns);
  return { energy, directions };
}

function squares(values: ArrayLike<number | bigint>): number {
  return Array.from(values, Number).reduce((total, value) => total + value * value, 0);
}

/** D* of every map. */
export async function referenceShift(
  maps: readonly ComparedMap[],
  reference: ParamsView,
  base: ParamsView,
): Promise<MapShift[]> {
  const shifts: MapShift[] = [];
  for (const map of maps) {
    using change = changeOf(map, reference, base);
    shifts.push({ ...map, ...await decompose(change, map) });
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
  { base, reference, moments }: { base: ParamsView; reference: ParamsView; moments: GroupMoments },
): Promise<Explanation> {
  const maps: MapChange[] = [];
  const excess: number[][] = [];
  for (const shift of shifts) {
    using change = changeOf(shift, model, base);
    using lacking = changeOf(shift, reference, model);
    const { energy, directions: found } = await decompose(change, shift);
    const rank = found && numericalRank(found.values);
    maps.push({
      module: shift.module,
      energy,
      missing: squares(await lacking.read()),
      effectiveRank: found ? effectiveRank(found.values) : null,
      rank: rank ?? null,
      angles: found && shift.directions ? anglesOf(found, shift.directions, shift) : { left: [], right: [] },
    });
    using traces = tracesOf(lacking, moments.of(shift.module));
    excess.push(Array.from(await traces.read(), Number));
  }
  const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
  const whole = total(shifts.map(({ energy }) => energy));
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

/** tr(E S_g E^T) of every group, [groups]. */
function tracesOf(lacking: Tensor, moments: Tensor): Tensor {
  using inner = scope("predicted excess");
  return own(inner.keep(noGrad(() => {
    const weighted = matmul(reshape(lacking, [1, ...lacking.shape]), moments); // [groups, rows, columns]
    return sum(mul(weighted, reshape(lacking, [1, ...lacking.shape])), [1, 2]);
  })));
}

/** exp of the entropy of the values over their sum: 0 for no change, r for r equal ones. */
export function effectiveRank(values: ArrayLike<number>): number {
  const total = Array.from(values).reduce((sum, value) => sum + value, 0);
  if (total === 0) return 0;
  return Math.exp(
    -Array.from(values, (value) => value / total).reduce((sum, p) => p > 0 ? sum + p * Math.log(p) : sum, 0),
  );
}

function numericalRank(values: Float64Array): number {
  return values[0] > 0 ? values.filter((value) => value > RANK_TOLERANCE * values[0]).length : 0;
}

function anglesOf(one: Directions, other: Directions, { rows, columns }: ComparedMap): MapChange["angles"] {
  const count = Math.min(DIRECTIONS, numericalRank(one.values), numericalRank(other.values));
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
