/**
 * What a model says of every probe, beside what the base and the reference say: divergences, losses, choices, and the same
 * divergences after each layer. Everything is summed by item on the host, in doubles; no distribution is kept.
 */
import type { ParamsView } from "../core/mod.ts";
import { jsDivergence, klDivergence, logSoftmax, topIndex } from "../data/mod.ts";
import type { LogitLens } from "../models/mod.ts";
import type { ProbeBatch, ProbeRow, ShiftSubject } from "./shift_subject.ts";

/** Divergences of one layer by item, in nats, summed over the item's places. */
export interface LayerReadings {
  /** KL(model || base) */
  readonly fromBase: Float64Array;
  /** KL(reference || model) */
  readonly toReference: Float64Array;
}

/** A model's answers to all probes. Arrays are by item, sums over its places of what is wanted. */
export interface Readings {
  readonly places: Float64Array;
  /** The last layer is what the model says. */
  readonly layers: readonly LayerReadings[];
  /** Jensen and Shannon's divergence from the reference. */
  readonly apart: Float64Array;
  /** Places at which the likeliest is the base's. */
  readonly likeBase: Float64Array;
  /** The same of the reference's. */
  readonly likeReference: Float64Array;
  /** -log p of what is wanted, in nats. */
  readonly loss: Float64Array;
  /** What is chosen; empty where nothing is. */
  readonly choices: Int32Array;
  /** The probability of what is chosen, among what could be. */
  readonly confidences: Float64Array;
}

/** Views of the three models that a reading compares; the model may be one of the others. */
export interface ComparedViews {
  readonly model: ParamsView;
  readonly base: ParamsView;
  readonly reference: ParamsView;
}

/** Reads a model on all probes. @throws RangeError when it says something that is no number */
export async function readModel(
  name: string,
  { batches, probes, config, isClassifier }: ShiftSubject,
  views: ComparedViews,
): Promise<Readings> {
  const items = probes.groups.length;
  const array = () => new Float64Array(items);
  const layers = Array.from(
    { length: config.num_hidden_layers },
    () => ({ fromBase: array(), toReference: array() }),
  );
  const readings: Readings = {
    ...{ places: array(), layers, apart: array(), likeBase: array(), likeReference: array(), loss: array() },
    choices: new Int32Array(probes.labels.length),
    confidences: new Float64Array(probes.labels.length),
  };
  const unwanted = array();
  for (const batch of batches) await readBatch(batch, views, { readings, unwanted, isClassifier });
  if (probes.choices.length > 0 && !isClassifier) chooseCompletions(readings, unwanted);
  if (!readings.loss.every(Number.isFinite)) {
    throw new RangeError(`Cannot compare ${name}: its scores must be finite, and some are not`);
  }
  return readings;
}

interface Sums {
  readonly readings: Readings;
  /** -log p of what is not wanted, by item. */
  readonly unwanted: Float64Array;
  readonly isClassifier: boolean;
}

async function readBatch({ lens, rows }: ProbeBatch, views: ComparedViews, sums: Sums): Promise<void> {
  using model = lens(views.model);
  // the same weights say the same
  using ownBase = views.base === views.model ? undefined : lens(views.base);
  using ownReference = views.reference === views.model ? undefined : lens(views.reference);
  const [base, reference] = [ownBase ?? model, ownReference ?? model];
  for (let layer = 0; layer < model.layers; layer++) {
    const own = await distributions(model, layer, rows.length);
    const before = base === model ? own : await distributions(base, layer, rows.length);
    const after = reference === model ? own : await distributions(reference, layer, rows.length);
    const isLast = layer === model.layers - 1;
    for (const [i, row] of rows.entries()) {
      if (row.isWanted) {
        const { fromBase, toReference } = sums.readings.layers[layer];
        fromBase[row.item] += klDivergence(own[i], before[i]);
        toReference[row.item] += klDivergence(after[i], own[i]);
      }
      if (isLast) readRow(row, { own: own[i], before: before[i], after: after[i] }, sums);
    }
  }
}

/** Log-probabilities of each row. */
async function distributions(lens: LogitLens, layer: number, count: number): Promise<Float64Array[]> {
  using scores = lens.read(layer);
  const values = await scores.read() as Float32Array;
  const width = values.length / count;
  return Array.from({ length: count }, (_, i) => logSoftmax(values.subarray(i * width, (i + 1) * width)));
}

interface RowSays {
  readonly own: Float64Array;
  readonly before: Float64Array;
  readonly after: Float64Array;
}

function readRow(
  { item, target, isWanted }: ProbeRow,
  says: RowSays,
  { readings, unwanted, isClassifier }: Sums,
): void {
  const { own, before, after } = says;
  if (!isWanted) {
    unwanted[item] -= own[target];
    return;
  }
  const top = topIndex(own);
  readings.places[item]++;
  readings.loss[item] -= own[target];
  readings.apart[item] += jsDivergence(own, after);
  readings.likeBase[item] += Number(top === topIndex(before));
  readings.likeReference[item] += Number(top === topIndex(after));
  if (!isClassifier) return;
  readings.choices[item] = top;
  readings.confidences[item] = Math.exp(own[top]);
}

/** Of two completions the likelier one is chosen; equally likely ones count for the wanted one. */
function chooseCompletions({ loss, choices, confidences }: Readings, unwanted: Float64Array): void {
  for (let item = 0; item < loss.length; item++) {
    const isBad = unwanted[item] < loss[item];
    choices[item] = Number(isBad);
    confidences[item] = 1 / (1 + Math.exp(-Math.abs(unwanted[item] - loss[item])));
  }
}
