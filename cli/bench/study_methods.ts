/**
 * What a study compares: each way to train as flags of `train`, and the learning rates it is tried at. Data alone.
 *
 * Methods in full get five rates and more seeds; the others three rates and one seed; the control is AdamW with the
 * projected matrices frozen. Ranks are parts of the model's hidden size d.
 */

/** One way to train. */
export interface Method {
  readonly name: string;
  /** Of `train`, without rate and seed. */
  readonly flags: readonly string[];
  /** Peak learning rates, ascending. */
  readonly rates: readonly number[];
  readonly group: "full" | "short" | "control";
}

/** The name of the method that ablations are made of. */
export const ABLATED = "GaLore d/4";
/** The name of the method with the projected matrices left as they were drawn. */
export const CONTROL = "projected frozen";

const ADAM_RATES = [0.001, 0.002, 0.004, 0.008, 0.016];
const GALORE_RATES = [0.005, 0.01, 0.02, 0.04, 0.08];
/** A gap that no run reaches. */
const NEVER = 1_000_000;

const optimizer = (name: string, ...more: readonly string[]) => ["--optimizer", name, ...more];
/** All bases in one step, as the released code: what is compared is the method. */
const galore = (name: string, rank: number, gap = 200) => [
  ...optimizer(name, "--rank", `${rank}`, "--update-proj-gap", `${gap}`, "--scale", "0.25"),
  ...["--refresh", "together"],
];

/** Every method, for a model of hidden size `d`. */
export function studyMethods(d: number): readonly Method[] {
  const quarter = partOf(d, 4);
  const ranked = (name: string) => optimizer(name, "--rank", `${quarter}`);
  const together = (name: string) => [...ranked(name), "--refresh", "together"];
  return [
    { name: "AdamW", flags: optimizer("adamw"), rates: ADAM_RATES, group: "full" },
    { name: "8-bit AdamW", flags: optimizer("adamw_8bit"), rates: ADAM_RATES, group: "full" },
    { name: ABLATED, flags: galore("galore_adamw", quarter), rates: GALORE_RATES, group: "full" },
    { name: "8-bit GaLore d/4", flags: galore("galore_adamw_8bit", quarter), rates: GALORE_RATES, group: "full" },
    {
      name: "W = BA d/4",
      flags: ["--method", "lowrank", ...ranked("adamw")],
      rates: ADAM_RATES,
      group: "full",
    },
    { name: "Adafactor", flags: optimizer("adafactor"), rates: [0.003, 0.01, 0.03], group: "short" },
    { name: "GaLore d/8", flags: galore("galore_adamw", partOf(d, 8)), rates: [0.01, 0.02, 0.04], group: "short" },
    { name: "GaLore d/2", flags: galore("galore_adamw", partOf(d, 2)), rates: [0.01, 0.02, 0.04], group: "short" },
    { name: "GaLore-Adafactor", flags: galore("galore_adafactor", quarter), rates: [0.01, 0.03, 0.1], group: "short" },
    { name: "Q-GaLore", flags: galore("q_galore", quarter), rates: [0.01, 0.02, 0.04], group: "short" },
    { name: "APOLLO", flags: together("apollo"), rates: [0.005, 0.01, 0.02], group: "short" },
    {
      name: "APOLLO-Mini",
      flags: optimizer("apollo_mini", "--refresh", "together"),
      rates: [0.005, 0.01, 0.02],
      group: "short",
    },
    { name: "Fira", flags: together("fira"), rates: [0.005, 0.01, 0.02], group: "short" },
    { name: "Muon", flags: optimizer("muon"), rates: [0.005, 0.01, 0.02], group: "short" },
    { name: "SGD", flags: optimizer("sgd", "--momentum", "0.9"), rates: [0.1, 0.3, 1], group: "short" },
    {
      name: CONTROL,
      flags: optimizer("adamw", "--freeze", "_proj\\.weight$"),
      rates: [0.004, 0.008, 0.016],
      group: "control",
    },
  ];
}

/** What an ablation varies, as in figure 5 of the GaLore paper. */
export type Ablation = "gap" | "rank";

/** One point of an ablation. */
export interface AblationPoint {
  readonly name: string;
  /** Gap in steps (infinite: never renewed), or rank. */
  readonly value: number;
  readonly flags: readonly string[];
}

/** GaLore over gaps at rank d/4, or over ranks at a gap of 200. */
export function ablationPoints(ablation: Ablation, d: number): readonly AblationPoint[] {
  if (ablation === "gap") {
    return [10, 50, 100, 200, 500, Infinity].map((value) => {
      const flags = galore("galore_adamw", partOf(d, 4), Math.min(value, NEVER));
      return { name: `T = ${value === Infinity ? "infinite" : value}`, value, flags };
    });
  }
  return [16, 8, 4, 2, 1].map((part) => {
    const value = partOf(d, part);
    return { name: part === 1 ? "d" : `d/${part}`, value, flags: galore("galore_adamw", value) };
  });
}

function partOf(d: number, part: number): number {
  return Math.max(1, Math.floor(d / part));
}

/** Methods that were asked for by name, in their own order; all of them when none was. @throws RangeError */
export function chooseMethods(methods: readonly Method[], only: readonly string[]): readonly Method[] {
  const asked = only.map((name) => name.trim().toLowerCase());
  const unknown = asked.filter((name) => !methods.some((method) => method.name.toLowerCase() === name));
  if (unknown.length > 0) {
    const names = methods.map(({ name }) => name).join(", ");
    throw new RangeError(`Cannot study ${unknown.join(", ")}: the methods are ${names}`);
  }
  return asked.length === 0 ? methods : methods.filter(({ name }) => asked.includes(name.toLowerCase()));
}

/** Runs that a method takes: what shards are balanced by. */
const costOf = ({ group, rates }: Method) => group === "full" ? rates.length + 6 : rates.length;

/** The methods of shard `index` of `count`, from 1: whole methods, because seeds follow the best rate. */
export function shardOf(methods: readonly Method[], index: number, count: number): readonly Method[] {
  const loads = new Array<number>(count).fill(0);
  const mine = new Set<Method>();
  for (const method of [...methods].sort((a, b) => costOf(b) - costOf(a))) {
    const lightest = loads.indexOf(Math.min(...loads));
    loads[lightest] += costOf(method);
    if (lightest === index - 1) mine.add(method);
  }
  return methods.filter((method) => mine.has(method));
}
