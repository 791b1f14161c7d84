/**
 * From what models say of probes to measures: of all, of each group, and gaps between groups, each with a bootstrap interval over
 * items. All models are measured on the same draws.
 *
 *     shiftCapture    1 - KL(reference || model) / KL(reference || base): 0 has learned nothing of the shift, 1 all
 *     bitsFromBase    KL(model || base), bitsToReference: KL(reference || model), bitsApart: Jensen-Shannon, at a place
 *     excessLoss      the model's loss less the reference's, in nats at a place
 *     retained        of items that the base answers badly and the reference well: the share that is still bad
 *     newHarms        of items that both answer well: the share that is bad
 */
import {
  behaviourOf,
  calibrationError,
  type Confusion,
  demographicParity,
  equalisedOdds,
  equalOpportunity,
  falsePositiveRate,
  type Gap,
  gapOf,
  groupConfusions,
  type Interval,
  NATS_A_BIT,
  percentileInterval,
  positiveRate,
  type Rate,
  resamples,
  shareOf,
  shiftCapture,
  truePositiveRate,
  worstOf,
} from "../data/mod.ts";
import type { Readings } from "./shift_readings.ts";
import type { Probes } from "./shift_subject.ts";

/** A measure of all items, of a group, or between groups. */
export interface MeasuredValue {
  readonly measure: string;
  /** Null: of all, or between groups. */
  readonly group: string | null;
  /** Items behind it. */
  readonly n: number;
  /** Null where it is undefined: a share of nothing. */
  readonly value: Gap | null;
  /** 95 %, by the percentiles of a bootstrap within groups. */
  readonly low: number | null;
  readonly high: number | null;
}

/** A model beside the two that it is measured against. */
export interface Compared {
  readonly model: Readings;
  readonly base: Readings;
  readonly reference: Readings;
}

/** Which items are measured; repeats count. */
type Picked = ArrayLike<number>;

/** Items of a draw, all and by group. */
interface Draw {
  readonly all: Picked;
  readonly byGroup: readonly Picked[];
}

interface Value {
  readonly value: Gap | undefined;
  readonly of: number;
}

/** A measure of any set of items. */
interface Level {
  readonly name: string;
  /** What its gap is called, where one is told. */
  readonly gap?: string;
  readonly of: (picked: Picked) => { readonly value: number | undefined; readonly of: number };
}

/** All measures of a model. */
export function measureModel(
  probes: Probes,
  compared: Compared,
  { samples, seed = 0 }: { readonly samples: number; readonly seed?: number },
): MeasuredValue[] {
  const measures = measuresOf(probes, compared);
  const { groups, groupNames } = probes;
  const slots = groupNames.map((_, group) => indicesOf(groups, group));
  const drawn: (Gap | undefined)[][] = measures.map(() => []);
  for (const all of samples > 0 ? resamples(groups, { samples, seed }) : []) {
    // a draw leaves each place to its group
    const draw = { all, byGroup: slots.map((own) => own.map((slot) => all[slot])) };
    for (const [i, { of }] of measures.entries()) drawn[i].push(of(draw).value);
  }
  const whole: Draw = { all: Int32Array.from(groups, (_, i) => i), byGroup: slots };
  return measures.map(({ name, group, of }, i) => {
    const { value, of: n } = of(whole);
    const interval: Interval | undefined = typeof value === "number" ? percentileInterval(drawn[i]) : undefined;
    return {
      ...{ measure: name, group: group === undefined ? null : groupNames[group], n, value: value ?? null },
      ...{ low: interval?.low ?? null, high: interval?.high ?? null },
    };
  });
}

function indicesOf(groups: Int32Array, group: number): Int32Array {
  return Int32Array.from(Array.from(groups.keys()).filter((i) => groups[i] === group));
}

interface Measure {
  readonly name: string;
  readonly group?: number;
  readonly of: (draw: Draw) => Value;
}

function measuresOf(probes: Probes, compared: Compared): Measure[] {
  const levels = [...shiftLevels(compared), ...(probes.labels.length > 0 ? choiceLevels(probes, compared) : [])];
  const found: Measure[] = levels.flatMap(({ name, gap, of }) => [
    { name, of: ({ all }) => of(all) },
    ...probes.groupNames.map((_, group) => ({ name, group, of: ({ byGroup }: Draw) => of(byGroup[group]) })),
    ...gap === undefined ? [] : [{
      name: gap,
      of: ({ all, byGroup }: Draw) => ({ value: gapOf(byGroup.map(of)), of: all.length }),
    }],
  ]);
  return probes.labels.length > 0 ? [...found, ...fairness(probes, compared, levels)] : found;
}

/** What needs distributions alone. */
function shiftLevels({ model, base, reference }: Compared): Level[] {
  const [own, before] = [model, base].map(({ layers }) => layers[layers.length - 1]);
  const { places } = model;
  const mean = (values: Float64Array, scale = 1) => (picked: Picked) => {
    const over = sumOf(places, picked);
    return { value: over === 0 ? undefined : sumOf(values, picked) / over * scale, of: picked.length };
  };
  const excess = model.loss.map((loss, i) => loss - reference.loss[i]);
  const capture = (picked: Picked) => ({
    value: shiftCapture(sumOf(own.toReference, picked), sumOf(before.toReference, picked)),
    of: picked.length,
  });
  return [
    { name: "shiftCapture", gap: "shiftCaptureGap", of: capture },
    { name: "bitsFromBase", of: mean(own.fromBase, 1 / NATS_A_BIT) },
    { name: "bitsToReference", of: mean(own.toReference, 1 / NATS_A_BIT) },
    { name: "bitsApart", of: mean(model.apart, 1 / NATS_A_BIT) },
    { name: "likeBase", of: mean(model.likeBase) },
    { name: "likeReference", of: mean(model.likeReference) },
    { name: "loss", gap: "lossGap", of: mean(model.loss) },
    { name: "excessLoss", gap: "excessLossGap", of: mean(excess) },
  ];
}

/** What needs choices. */
function choiceLevels({ labels, positive }: Probes, { model, base, reference }: Compared): Level[] {
  const isWrong = (readings: Readings) => readings.choices.map((choice, i) => Number(choice !== labels[i]));
  const bad = { base: isWrong(base), reference: isWrong(reference), candidate: isWrong(model) };
  const isRight = bad.candidate.map((wrong) => 1 - wrong);
  const share = (rate: Rate) => ({ value: shareOf(rate), of: rate.of });
  const rateOf = (rate: (confusion: Confusion) => Rate) => (picked: Picked) => {
    const one = { predictions: model.choices, labels, groups: new Int32Array(labels.length) };
    return share(rate(groupConfusions(one, 1, positive, picked)[0]));
  };
  return [
    {
      name: "accuracy",
      gap: "accuracyGap",
      of: (picked) => share({ hits: sumOf(isRight, picked), of: picked.length }),
    },
    {
      name: "calibrationError",
      gap: "calibrationGap",
      of: (picked) => ({ value: calibrationError(model.confidences, isRight, 10, picked), of: picked.length }),
    },
    { name: "positiveRate", of: rateOf(positiveRate) },
    ...labels.includes(positive) ? [{ name: "truePositiveRate", of: rateOf(truePositiveRate) }] : [],
    { name: "falsePositiveRate", of: rateOf(falsePositiveRate) },
    { name: "retained", gap: "retainedGap", of: (picked) => share(behaviourOf(bad, picked).retained) },
    { name: "newHarms", gap: "newHarmsGap", of: (picked) => share(behaviourOf(bad, picked).newHarms) },
  ];
}

/** What is told of all groups together. */
function fairness(
  { labels, groups, groupNames, positive }: Probes,
  { model }: Compared,
  levels: readonly Level[],
): Measure[] {
  const accuracy = levels.find(({ name }) => name === "accuracy")!;
  const judged = { predictions: model.choices, labels, groups };
  const gap = (name: string, between: (confusions: readonly Confusion[]) => Gap): Measure => ({
    name,
    of: ({ all }) => ({
      value: between(groupConfusions(judged, groupNames.length, positive, all)),
      of: all.length,
    }),
  });
  return [
    {
      name: "worstAccuracy",
      of: ({ all, byGroup }) => ({ value: worstOf(byGroup.map(accuracy.of)), of: all.length }),
    },
    gap("demographicParity", demographicParity),
    // without positives, as among completions, nobody can miss one
    ...labels.includes(positive)
      ? [gap("equalOpportunity", equalOpportunity), gap("equalisedOdds", equalisedOdds)]
      : [],
  ];
}

function sumOf(values: ArrayLike<number>, picked: Picked): number {
  let sum = 0;
  for (let k = 0; k < picked.length; k++) sum += values[picked[k]];
  return sum;
}

/** Finds a measure among a model's. */
export function findMeasure(values: readonly MeasuredValue[], measure: string, group: string | null = null) {
  return values.find((one) => one.measure === measure && one.group === group);
}
