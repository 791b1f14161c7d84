/**
 * From what models say of probes to measures: of all, of each group, and gaps between groups, each with a bootstrap interval over
 * items. All models are measured on the same draws. Which groups a gap counts is decided once, on all items.
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
  countedGroups,
  FAIRNESS,
  falsePositiveRate,
  type Gap,
  gapError,
  gapInterval,
  gapOf,
  groupConfusions,
  type GroupValue,
  type GroupValues,
  type Interval,
  NATS_A_BIT,
  percentileInterval,
  positiveRate,
  type Rate,
  ratesOf,
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
  /** 95 %, of a bootstrap within groups: its percentiles, and of a gap what `gapInterval` makes of it. */
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

/** A measure of any set of items. */
interface Level {
  readonly name: string;
  readonly gap?: GapKind;
  readonly of: (picked: Picked) => GroupValue;
}

/** The gap of a measure, where one is told. */
interface GapKind {
  readonly name: string;
  /** The largest there can be. */
  readonly most?: number;
}

/** All measures of a model. */
export function measureModel(
  probes: Probes,
  compared: Compared,
  { samples, seed = 0 }: { readonly samples: number; readonly seed?: number },
): MeasuredValue[] {
  const { groups, groupNames } = probes;
  const slots = groupNames.map((_, group) => indicesOf(groups, group));
  const whole: Draw = { all: Int32Array.from(groups, (_, i) => i), byGroup: slots };
  const measures = measuresOf(probes, compared).map(({ on, ...rest }) => ({ ...rest, ...on(whole) }));
  const drawn: (Gap | undefined)[][] = measures.map(() => []);
  for (const all of samples > 0 ? resamples(groups, { samples, seed }) : []) {
    // a draw leaves each place to its group
    const draw = { all, byGroup: slots.map((own) => own.map((slot) => all[slot])) };
    for (const [i, { again }] of measures.entries()) drawn[i].push(again(draw));
  }
  return measures.map(({ name, group, value, of, interval }, i) => {
    const found = typeof value === "number" ? interval(drawn[i]) : undefined;
    return {
      ...{ measure: name, group: group === undefined ? null : groupNames[group], n: of, value: value ?? null },
      ...{ low: found?.low ?? null, high: found?.high ?? null },
    };
  });
}

function indicesOf(groups: Int32Array, group: number): Int32Array {
  return Int32Array.from(Array.from(groups.keys()).filter((i) => groups[i] === group));
}

interface Measure {
  readonly name: string;
  readonly group?: number;
  /** What it is of all items, and how draws are read beside that. */
  readonly on: (whole: Draw) => Reading;
}

interface Reading {
  readonly value: Gap | undefined;
  readonly of: number;
  /** Of a draw: the value, or the error of a gap. */
  readonly again: (draw: Draw) => Gap | undefined;
  /** From what draws gave. */
  readonly interval: (drawn: readonly (Gap | undefined)[]) => Interval | undefined;
}

function measuresOf(probes: Probes, compared: Compared): Measure[] {
  const levels = [...shiftLevels(compared), ...(probes.labels.length > 0 ? choiceLevels(probes, compared) : [])];
  const found: Measure[] = levels.flatMap(({ name, gap, of }) => [
    { name, on: (whole) => levelOn(whole, ({ all }) => of(all)) },
    ...probes.groupNames.map((_, group): Measure => ({
      ...{ name, group, on: (whole) => levelOn(whole, ({ byGroup }) => of(byGroup[group])) },
    })),
    ...gap === undefined ? [] : [gapMeasure(gap, ({ byGroup }) => [byGroup.map(of)])],
  ]);
  return probes.labels.length > 0 ? [...found, ...fairness(probes, compared, levels)] : found;
}

function levelOn(whole: Draw, of: (draw: Draw) => GroupValue): Reading {
  return { ...of(whole), again: (draw) => of(draw).value, interval: percentileInterval };
}

function gapMeasure({ name, most }: GapKind, kinds: (draw: Draw) => readonly GroupValues[]): Measure {
  return {
    name,
    on: (whole) => {
      const values = kinds(whole);
      const value = gapOf(...values);
      return {
        ...{ value, of: whole.all.length, again: (draw) => gapError(values, kinds(draw)) },
        interval: (errors) => gapInterval(value as number, errors as (number | undefined)[], { most }),
      };
    },
  };
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
    value: shiftCapture(sumOf(own.toReference, picked), sumOf(before.toReference, picked), sumOf(places, picked)),
    of: picked.length,
  });
  return [
    { name: "shiftCapture", gap: { name: "shiftCaptureGap" }, of: capture },
    { name: "bitsFromBase", of: mean(own.fromBase, 1 / NATS_A_BIT) },
    { name: "bitsToReference", of: mean(own.toReference, 1 / NATS_A_BIT) },
    { name: "bitsApart", of: mean(model.apart, 1 / NATS_A_BIT) },
    { name: "likeBase", of: mean(model.likeBase) },
    { name: "likeReference", of: mean(model.likeReference) },
    { name: "loss", gap: { name: "lossGap" }, of: mean(model.loss) },
    { name: "excessLoss", gap: { name: "excessLossGap" }, of: mean(excess) },
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
      gap: { name: "accuracyGap", most: 1 },
      of: (picked) => share({ hits: sumOf(isRight, picked), of: picked.length }),
    },
    {
      name: "calibrationError",
      gap: { name: "calibrationGap", most: 1 },
      of: (picked) => ({ value: calibrationError(model.confidences, isRight, 10, picked), of: picked.length }),
    },
    { name: "positiveRate", of: rateOf(positiveRate) },
    ...labels.includes(positive) ? [{ name: "truePositiveRate", of: rateOf(truePositiveRate) }] : [],
    { name: "falsePositiveRate", of: rateOf(falsePositiveRate) },
    {
      name: "retained",
      gap: { name: "retainedGap", most: 1 },
      of: (picked) => share(behaviourOf(bad, picked).retained),
    },
    {
      name: "newHarms",
      gap: { name: "newHarmsGap", most: 1 },
      of: (picked) => share(behaviourOf(bad, picked).newHarms),
    },
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
  const gap = (name: keyof typeof FAIRNESS): Measure =>
    gapMeasure({ name, most: 1 }, ({ all }) => {
      const confusions = groupConfusions(judged, groupNames.length, positive, all);
      return FAIRNESS[name].map((rate) => ratesOf(confusions, rate));
    });
  const worst = ({ byGroup, all }: Draw, counted: readonly number[]) => ({
    ...{ value: worstOf(byGroup.map(accuracy.of), counted), of: all.length },
  });
  return [
    {
      name: "worstAccuracy",
      on: (whole) => {
        const counted = countedGroups(whole.byGroup.map(accuracy.of));
        return { ...worst(whole, counted), again: (draw) => worst(draw, counted).value, interval: percentileInterval };
      },
    },
    gap("demographicParity"),
    // without positives, as among completions, nobody can miss one
    ...labels.includes(positive) ? [gap("equalOpportunity"), gap("equalisedOdds")] : [],
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
