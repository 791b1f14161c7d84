/** What laws are tested over: every rule, problems to descend, and a loop that trains. */
import {
  add,
  type Backend,
  backward,
  foldIn,
  fromArray,
  type HostArray,
  keyOf,
  mean,
  mul,
  normal,
  Params,
  scope,
  type Shape,
  sizeOf,
  square,
  sub,
  sum,
  type Tensor,
} from "../../core/mod.ts";
import {
  adafactor,
  adafactorW,
  adam,
  adamW,
  constant,
  cosine,
  finish,
  galore,
  type GaloreOptions,
  type GradientRule,
  identity,
  linearDecay,
  Optimizer,
  type OptimizerOptions,
  polarBasis,
  type ProjType,
  type Routing,
  type Rule,
  scaleByAdam,
  scaleByMuon,
  type Schedule,
  sgd,
  trace,
  warmupStableDecay,
} from "../mod.ts";
import { LAW_GALORE, type RuleCase } from "./rule_case.ts";
import { STORED_RULES, SUBSPACE_RULES } from "./stored_rules.ts";

export { LAW_GALORE, type RuleCase } from "./rule_case.ts";
export { load, store, type StoredSnapshot } from "./snapshots.ts";

/** A rule of the gradient alone. */
interface InnerCase {
  /** The rate is for those that apply it themselves. */
  readonly make: (learningRate?: number) => GradientRule;
  readonly kind: RuleCase["kind"];
  /** Gives a change rather than a direction: no rate follows it. */
  readonly isWhole?: boolean;
}

/** Rules of the gradient alone: what galore wraps. */
export const INNER: Readonly<Record<string, InnerCase>> = {
  "identity": { make: identity, kind: "gradient" },
  "trace": { make: () => trace({ decay: 0.5 }), kind: "gradient" },
  "trace with nesterov": { make: () => trace({ decay: 0.5, nesterov: true }), kind: "gradient" },
  "scaleByAdam": { make: () => scaleByAdam(), kind: "sign" },
  "scaleByAdam with eps uncorrected": {
    make: () => scaleByAdam({ eps: 1e-6, epsPlacement: "uncorrected" }),
    kind: "sign",
  },
  "adafactor": {
    make: (learningRate = 0.05) => adafactor({ learningRate, scaleParameter: false }),
    kind: "sign",
    isWhole: true,
  },
  "adafactor with momentum": {
    make: (learningRate = 0.05) => adafactor({ learningRate, scaleParameter: false, beta1: 0.9 }),
    kind: "sign",
    isWhole: true,
  },
  "scaleByMuon": { make: () => scaleByMuon(), kind: "sign" },
};

export const PROJ_TYPES: readonly ProjType[] = ["std", "reverse_std", "left", "right", "full"];

const SCHEDULES: Readonly<Record<string, (peak: number) => Schedule>> = {
  "constant() with a warm-up": (peak) => constant(peak, 5),
  "cosine()": (peak) => cosine({ peak, warmup: 5, total: 250, minimum: peak / 10 }),
  "linearDecay()": (peak) => linearDecay({ peak, warmup: 5, total: 250 }),
  "warmupStableDecay()": (peak) => warmupStableDecay({ peak, warmup: 5, total: 250, decay: 50 }),
};

/** Every rule of the package, alone and in its usual company. */
export const RULES: readonly RuleCase[] = [
  { name: "sgd()", kind: "gradient", make: (learningRate) => sgd({ learningRate }) },
  { name: "sgd() with decay", kind: "gradient", make: (learningRate) => sgd({ learningRate, weightDecay: 1e-3 }) },
  { name: "sgd() with momentum", kind: "gradient", make: (learningRate) => sgd({ learningRate, momentum: 0.5 }) },
  {
    name: "sgd() with nesterov",
    kind: "gradient",
    make: (learningRate) => sgd({ learningRate, momentum: 0.5, nesterov: true }),
  },
  { name: "adam()", kind: "sign", make: (learningRate) => adam({ learningRate }) },
  ...(["corrected", "uncorrected"] as const).flatMap((epsPlacement) =>
    (["before", "after"] as const).map((decayPlacement): RuleCase => ({
      name: `adamW() with eps ${epsPlacement} and decay ${decayPlacement}`,
      kind: "sign",
      make: (learningRate) => adamW({ learningRate, weightDecay: 1e-3, eps: 1e-6, epsPlacement, decayPlacement }),
    }))
  ),
  { name: "adafactorW() at its relative step", kind: "sign", make: () => adafactorW() },
  { name: "adafactorW() under a rate", kind: "sign", make: (learningRate) => adafactorW({ learningRate }) },
  {
    name: "adafactorW() with momentum and decay",
    kind: "sign",
    make: (learningRate) => adafactorW({ learningRate, beta1: 0.9, weightDecay: 1e-3 }),
  },
  ...(["spectral", "rms"] as const).map((scale): RuleCase => ({
    name: `scaleByMuon() scaled ${scale}`,
    kind: "sign",
    make: (learningRate) => finish(scaleByMuon({ scale }), { learningRate, weightDecay: 1e-3 }),
  })),
  ...PROJ_TYPES.flatMap((projType) =>
    Object.entries(INNER).map(([inner, { make, kind, isWhole }]): RuleCase => ({
      name: `galore(${inner}) ${projType}`,
      kind,
      make: (learningRate) => {
        const rule = galore(make(learningRate), { ...LAW_GALORE, projType });
        return isWhole ? rule : finish(rule, { learningRate });
      },
    }))
  ),
  ...(["before", "after"] as const).map((decayPlacement): RuleCase => ({
    name: `galore(scaleByAdam) with scale and decay ${decayPlacement}`,
    kind: "sign",
    make: (learningRate) =>
      finish(galore(scaleByAdam(), { ...LAW_GALORE, scale: 0.5 }), { learningRate, weightDecay: 1e-3, decayPlacement }),
  })),
  ...([["identity", "full"], ["scaleByAdam", "std"]] as const).map(([inner, projType]): RuleCase => ({
    name: `galore(${inner}) ${projType}, staggered, with polarBasis()`,
    kind: INNER[inner].kind,
    make: (learningRate) => {
      const options: GaloreOptions = { ...LAW_GALORE, projType, refresh: "staggered", basis: polarBasis() };
      return finish(galore(INNER[inner].make(), options), { learningRate });
    },
  })),
  ...STORED_RULES,
  ...SUBSPACE_RULES,
  ...Object.entries(SCHEDULES).flatMap(([schedule, make]): RuleCase[] => [
    { name: `sgd() under ${schedule}`, kind: "gradient", make: (rate) => sgd({ learningRate: make(rate) }) },
    {
      name: `galore(scaleByAdam) under ${schedule}`,
      kind: "sign",
      make: (rate) => finish(galore(scaleByAdam(), LAW_GALORE), { learningRate: make(rate) }),
    },
  ]),
];

/** Something to descend: starting weights and a scalar loss. */
export interface Problem {
  readonly name: string;
  readonly start: Readonly<Record<string, { readonly shape: Shape; readonly values: ArrayLike<number> }>>;
  readonly loss: (params: Params) => Tensor;
  readonly rate: Readonly<Record<RuleCase["kind"], number>>;
}

/** `size` normal numbers that depend on the name alone. */
export function numbers(name: string, size: number, std = 1): Float32Array<ArrayBuffer> {
  return normal(foldIn(keyOf(11), name), size, 0, std);
}

function tensor(params: Params, values: ArrayLike<number>, shape: Shape, dtype: "f32" | "f64"): Tensor {
  return fromArray(params.backend, Float64Array.from(values), shape, dtype);
}

const dtypeOf = (params: Params) => params.get(params.names()[0]).dtype as "f32" | "f64";

/** Squared distance from a target, with axes of different steepness, over a tall, a wide and a square matrix. */
export const PARABOLA: Problem = {
  name: "a parabola",
  start: Object.fromEntries(
    ([["tall", [6, 4]], ["wide", [4, 7]], ["square", [5, 5]]] as const)
      .map(([name, shape]) => [name, { shape, values: numbers(name, sizeOf(shape)) }]),
  ),
  loss: (params) => {
    let total: Tensor | undefined;
    for (const [name, weight] of params.entries()) {
      const target = tensor(params, numbers(`${name} target`, weight.size), weight.shape, dtypeOf(params));
      const steepness = numbers(`${name} steepness`, weight.size).map((x) => 0.5 + Math.abs(x));
      const distance = square(sub(weight, target));
      const part = sum(mul(distance, tensor(params, steepness, weight.shape, dtypeOf(params))));
      total = total ? add(total, part) : part;
    }
    return total!;
  },
  rate: { gradient: 0.05, sign: 0.05 },
};

/** Rosenbrock's valley (1960), once for each pair of entries of two matrices. */
export const ROSENBROCK: Problem = {
  name: "Rosenbrock's valley",
  start: {
    x: { shape: [4, 3], values: numbers("rosenbrock x", 12, 0.4) },
    y: { shape: [4, 3], values: numbers("rosenbrock y", 12, 0.4) },
  },
  loss: (params) => {
    const x = params.get("x");
    const away = square(sub(1, x));
    const off = square(sub(params.get("y"), square(x)));
    return mean(add(away, mul(off, 100)));
  },
  rate: { gradient: 0.005, sign: 0.02 },
};

/** The problem's starting weights on a backend. */
export function startOf(backend: Backend, { start }: Problem, dtype: "f32" | "f64" = "f32"): Params {
  const params = new Params(backend);
  for (const [name, { shape, values }] of Object.entries(start)) {
    params.set(name, fromArray(backend, Float64Array.from(values), shape, dtype));
  }
  return params;
}

/** A problem in training. */
export class Training implements Disposable {
  readonly params: Params;
  readonly optimizer: Optimizer;

  constructor(
    backend: Backend,
    readonly problem: Problem,
    rule: Rule | Routing,
    { dtype = "f32", ...options }: OptimizerOptions & { readonly dtype?: "f32" | "f64" } = {},
  ) {
    this.params = startOf(backend, problem, dtype);
    this.optimizer = new Optimizer(this.params, rule, options);
  }

  /** Stages the gradients of one pass. Gives the loss. */
  async stage(): Promise<number> {
    return await taken(this.#pass());
  }

  #pass(): Tensor {
    using inner = scope("pass");
    const loss = this.problem.loss(this.params);
    backward(loss, this.optimizer.stage);
    return inner.keep(loss);
  }

  /** Refreshes what is due and commits. */
  async commit(): Promise<void> {
    if (this.optimizer.refreshDue) await this.optimizer.refresh();
    this.optimizer.commit();
  }

  /** Whole steps. Gives the loss before each. */
  async steps(count: number): Promise<number[]> {
    // read together: on a device, a read a step is most of the time
    const losses: Promise<number>[] = [];
    const pending: Tensor[] = [];
    for (let i = 0; i < count; i++) {
      pending.push(this.#pass());
      await this.commit();
      if (pending.length === 50 || i === count - 1) losses.push(...pending.splice(0).map(taken));
    }
    return await Promise.all(losses);
  }

  /** All weights on the host. */
  async weights(): Promise<Record<string, HostArray>> {
    const out: Record<string, HostArray> = {};
    for (const [name, weight] of this.params.entries()) out[name] = await weight.read();
    return out;
  }

  [Symbol.dispose](): void {
    this.optimizer.dispose();
    this.params.dispose();
  }
}

/** The number of a scalar, which is disposed. */
async function taken(scalar: Tensor): Promise<number> {
  const [value] = await scalar.read();
  scalar.dispose();
  return value;
}
