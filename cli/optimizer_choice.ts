/** From a run's options to an optimizer, and the table that says which parameter gets what. */
import { type Backend, bytesFor } from "../core/mod.ts";
import {
  accumulate,
  type BasisStrategy,
  constant,
  cosine,
  galoreShapes,
  linearDecay,
  type OptimizerOptions as DriverOptions,
  route,
  type Routing,
  type Rule,
  type Schedule,
  type ScheduleOptions,
  sidesOf,
  warmupStableDecay,
} from "../optimizers/mod.ts";
import { DEFAULT_RATES, familyRouting, isProjecting } from "./optimizer_family.ts";
import type { OptimizerOptions, Run } from "./options.ts";

/** An optimizer as chosen, with what is said about it at the start. */
export interface OptimizerChoice {
  readonly routing: Routing;
  readonly learningRate: number;
  readonly rank?: number;
  /** Lines of advice: ranks that were cut. */
  readonly notes: readonly string[];
}

/** What the choice depends on beside the options. */
export interface ChoiceContext {
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  readonly projected: RegExp;
  readonly hiddenSize: number;
  readonly steps: number;
  readonly gradAccum: number;
  readonly seed: number;
  readonly dtype: Run["dtype"];
  /** Replaces the basis strategy: the planner's, which computes nothing. */
  readonly basis?: BasisStrategy;
  /** Rates as multiples of the run's, by name: the first pattern that matches counts, none is 1. */
  readonly rates?: readonly (readonly [RegExp, number])[];
  /** In place of the schedule that the options name. */
  readonly ownSchedule?: (options: ScheduleOptions) => Schedule;
}

/** Builds the optimizer of a run. @throws RangeError for a warm-up longer than the run. */
export function chooseOptimizer(options: OptimizerOptions, context: ChoiceContext): OptimizerChoice {
  const learningRate = options.lr ?? DEFAULT_RATES[options.optimizer];
  const schedule = makeSchedule(options, learningRate, context);
  const rank = rankOf(options, context.hiddenSize);
  const base = familyRouting(options, { ...context, learningRate: schedule, rank: rank ?? 1 });
  const apart = (context.rates ?? []).flatMap(([pattern, multiple]) => {
    const learningRate = (step: number) => multiple * schedule(step);
    const rated = familyRouting(options, { ...context, learningRate, rank: rank ?? 1 });
    return rated.routes.map(([other, rule]) => [bothPatterns(pattern, other), rule] as const);
  });
  const frozen = options.freeze.map((pattern) => [freezePattern(pattern), null] as const);
  if ([...context.shapes.keys()].every((name) => frozen.some(([pattern]) => pattern.test(name)))) {
    throw new RangeError("Cannot train: --freeze leaves no parameter to move");
  }
  const routes = [...frozen, ...apart, ...base.routes].map(([pattern, rule]) =>
    [pattern, rule && context.gradAccum > 1 ? accumulate(context.gradAccum, rule) : rule] as const
  );
  return {
    routing: route(dropIdle(routes, context)),
    learningRate,
    rank,
    notes: rank === undefined ? [] : rankNotes(rank, options, context),
  };
}

function freezePattern(pattern: string): RegExp {
  try {
    return new RegExp(pattern);
  } catch (cause) {
    throw new SyntaxError(`Cannot use --freeze ${pattern}: ${(cause as Error).message}`, { cause });
  }
}

/** What both patterns match somewhere. */
function bothPatterns(one: RegExp, other: RegExp): RegExp {
  return new RegExp(`^(?=[^]*?(?:${one.source}))(?=[^]*?(?:${other.source}))`);
}

/** A preset's own pattern may be left without parameters by `--freeze`; a user's pattern may not. */
function dropIdle(routes: readonly (readonly [RegExp, Rule | null])[], { shapes }: ChoiceContext) {
  const names = [...shapes.keys()];
  const taken = new Set<string>();
  return routes.filter(([pattern, rule]) => {
    const hits = names.filter((name) => !taken.has(name) && pattern.test(name));
    for (const name of hits) taken.add(name);
    return rule === null || hits.length > 0;
  });
}

/** Vectors in each basis of an optimizer that projects. */
function rankOf({ optimizer, rank }: OptimizerOptions, hiddenSize: number): number | undefined {
  if (!isProjecting(optimizer)) return undefined;
  return optimizer === "apollo_mini" ? 1 : rank ?? Math.max(1, Math.floor(hiddenSize / 4));
}

function makeSchedule(
  { schedule, warmup, minLr }: OptimizerOptions,
  peak: number,
  { steps: total, ownSchedule }: ChoiceContext,
): Schedule {
  const asked = { peak, warmup: warmup ?? Math.round(total / 10), total, minimum: minLr * peak };
  if (asked.warmup > total) {
    throw new RangeError(`Cannot warm up for ${asked.warmup} steps: the run has ${total}`);
  }
  // A rate of 0 is for the step after the last, as in Hugging Face's schedules: a step at 0 would be lost, and a run of one
  // would learn nothing.
  const until = minLr > 0 ? total : total + 1;
  if (ownSchedule) return ownSchedule({ ...asked, total: until });
  const options = minLr > 0 ? asked : { ...asked, warmup: Math.max(1, asked.warmup), total: until };
  switch (schedule) {
    case "cosine":
      return cosine(options);
    case "linear":
      return linearDecay(options);
    case "constant":
      return constant(peak, options.warmup);
    case "wsd":
      return warmupStableDecay({ ...options, decay: Math.round(total / 5) });
  }
}

function rankNotes(rank: number, { projType }: OptimizerOptions, { shapes, projected }: ChoiceContext): string[] {
  const cut = [...shapes].filter(([name, shape]) => projected.test(name) && rank > Math.min(...shape));
  if (cut.length === 0) return [];
  const [name, shape] = cut[0];
  return [
    `rank ${rank} is larger than ${cut.length} of the projected matrices and is cut to their smaller side ` +
    `(${galoreShapes(shape, rank, projType).rank} for ${name})`,
  ];
}

/** How the driver works in a run. */
export function driverOptions(
  { clip, rounding, seed, perLayer, clipExact }: Pick<Run, "clip" | "rounding" | "seed" | "perLayer" | "clipExact">,
  { readSync }: Pick<Backend, "readSync">,
): DriverOptions {
  // a read a step costs more than the step where the host cannot see the memory; updates amid backward cannot wait for one
  const guard = !readSync || (perLayer && clip === 0);
  return { clip: clip || undefined, guard, rounding, seed, perLayer, clipExact };
}

/** One row of the parameter table. */
export interface ParameterGroup {
  /** Names with the layer number replaced by `*`. */
  readonly name: string;
  readonly count: number;
  readonly shape: readonly number[];
  readonly rule: string;
  readonly weightBytes: number;
  readonly stateBytes: number;
}

/** Groups parameters by name pattern, with what each group's rule is. `stateOf` gives state bytes of a name. */
export function parameterTable(
  shapes: ReadonlyMap<string, readonly number[]>,
  options: OptimizerOptions & Pick<Run, "dtype">,
  choice: OptimizerChoice,
  projected: RegExp,
  stateOf: (name: string) => number,
): ParameterGroup[] {
  const groups = new Map<string, { -readonly [K in keyof ParameterGroup]: ParameterGroup[K] }>();
  for (const [name, shape] of shapes) {
    const key = name.replace(/\.\d+\./g, ".*.");
    const size = shape.reduce((product, extent) => product * extent, 1);
    const weightBytes = bytesFor(options.dtype, size);
    const group = groups.get(key);
    if (group) {
      group.count++;
      group.weightBytes += weightBytes;
      group.stateBytes += stateOf(name);
    } else {
      const rule = ruleName(name, shape, options, choice, projected);
      groups.set(key, { name: key, count: 1, shape, rule, weightBytes, stateBytes: stateOf(name) });
    }
  }
  return [...groups.values()];
}

function ruleName(
  name: string,
  shape: readonly number[],
  { optimizer, freeze, projType }: OptimizerOptions,
  { rank }: OptimizerChoice,
  projected: RegExp,
): string {
  if (freeze.some((pattern) => new RegExp(pattern).test(name))) return "frozen";
  const inner = optimizer.replace("galore_", "");
  if (rank === undefined || !projected.test(name)) return inner;
  const kept = galoreShapes(shape, rank, projType).rank;
  return `galore(${inner}) rank ${kept} ${sidesOf(projType, shape[0], shape[1]).join("+")}`;
}
