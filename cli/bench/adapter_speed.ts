/**
 * How long one linear map of a batch takes whose examples have adapters of their own, by each way to compute it.
 *
 * The ways: FLoRA as the paper has it, one product of r times the rows; FLoRA as `withFlora` chooses, which may change weights
 * instead; LoRA in a loop over adapters, each on its own examples; LoRA by products batched over examples, which is what
 * the paper compares with; and grouped LoRA, `withLoraBatch`. Times are the best of several rounds over all cells, so that
 * others' work on the machine meets every way alike.
 */
import {
  add,
  type Backend,
  fromArray,
  keyOf,
  linear,
  matmul,
  noGrad,
  normal,
  own,
  Params,
  scope,
  stack,
  sum,
  type Tensor,
  transpose,
} from "../../core/mod.ts";
import {
  type FloraConfig,
  groupExamples,
  initFlora,
  initLora,
  linearByGroup,
  type LoraConfig,
  scaledProduct,
  takeExamples,
  withFlora,
  withLora,
  withLoraBatch,
} from "../../models/mod.ts";

/** Ways to compute the map. */
export const WAYS = ["FLoRA", "FLoRA as chosen", "loop", "batched LoRA", "grouped LoRA"] as const;
/** One of `WAYS`. */
export type Way = typeof WAYS[number];

/** What is measured. */
export interface SpeedPlan {
  /** Inputs and outputs of the map. */
  readonly width: number;
  readonly examples: number;
  /** Tokens of an example. */
  readonly tokens: number;
  readonly ranks: readonly number[];
  /** Numbers of distinct adapters in the batch. */
  readonly adapters: readonly number[];
  /** How long to measure: as many rounds over all cells as fit, two at least. */
  readonly seconds: number;
  /** Runs between two looks at the clock. */
  readonly repeats: number;
}

/** One measurement. */
export interface SpeedCell {
  readonly way: Way;
  readonly rank: number;
  readonly adapters: number;
  readonly ms: number;
}

/** The costs that the paper's rule is made of. */
export interface ProductCosts {
  readonly rank: number;
  /** Seconds of a multiply-add in products batched over examples, of this rank. */
  readonly batched: number;
  /** Seconds of a multiply-add in the one product with W. */
  readonly whole: number;
}

/** Measures every way at every rank and number of adapters, and what multiply-adds cost. */
export async function measureAdapters(
  backend: Backend,
  plan: SpeedPlan,
): Promise<{ cells: SpeedCell[]; costs: ProductCosts[] }> {
  const { width, examples, tokens, ranks } = plan;
  using base = new Params(backend);
  base.set("map.weight", drawn(backend, 1, [width, width]));
  base.freeze(base.names());
  using x = drawn(backend, 2, [examples, tokens, width]);
  const timed: { run: () => Tensor; ms: number }[] = [];
  const time = (run: () => Tensor) => timed[timed.push({ run, ms: Infinity }) - 1];
  using owned = new DisposableStack();
  const cells = ranks.flatMap((rank) => {
    const sets = adaptersOf(base, rank, examples);
    for (const { params } of [...sets.lora, ...sets.flora]) owned.use(params);
    return plan.adapters.flatMap((adapters) =>
      WAYS.map((way) => ({ way, rank, adapters, timed: time(wayOf(way, base, x, sets, adapters)) }))
    );
  });
  const whole = time(() => base.linear("map", x));
  const products = ranks.map((rank) => {
    const down = owned.use(drawn(backend, 3, [examples, width, rank]));
    const up = owned.use(drawn(backend, 4, [examples, rank, width]));
    return { rank, timed: time(() => matmul(matmul(x, down), up)) };
  });
  await runAll(timed, plan);
  const rows = examples * tokens;
  return {
    cells: cells.map(({ timed: { ms }, ...cell }) => ({ ...cell, ms })),
    costs: products.map(({ rank, timed: { ms } }) => ({
      rank,
      batched: ms / 1e3 / (2 * rows * width * rank),
      whole: whole.ms / 1e3 / (rows * width * width),
    })),
  };
}

/** Adapters of both kinds, one for each example. */
interface Adapters {
  readonly lora: readonly { readonly params: Params; readonly config: LoraConfig }[];
  readonly flora: readonly { readonly params: Params; readonly config: FloraConfig }[];
}

function adaptersOf(base: Params, rank: number, count: number): Adapters {
  const lora: LoraConfig = { r: rank, alpha: rank, targets: ["map"] };
  const flora: FloraConfig = { r: rank, form: "product", targets: ["map"] };
  const seeds = Array.from({ length: count }, (_, seed) => seed);
  return {
    lora: seeds.map((seed) => ({ params: initLora(base, lora, { seed }), config: lora })),
    flora: seeds.map((seed) => ({ params: initFlora(base, flora, { seed }), config: flora })),
  };
}

/** The map by one way, of a batch in which the first `count` adapters take turns. */
function wayOf(way: Way, base: Params, x: Tensor, { lora, flora }: Adapters, count: number): () => Tensor {
  const rows = Array.from({ length: x.shape[0] }, (_, example) => example % count);
  const used = { lora: lora.slice(0, count), flora: flora.slice(0, count) };
  const factors = (params: readonly Params[], name: string) =>
    takeExamples(stack(params.map((one) => one.get(name)), 0), rows);
  switch (way) {
    case "FLoRA": {
      const params = used.flora.map((one) => one.params);
      return () => {
        const B = transpose(factors(params, "map.flora_B")); // [B, R, out]
        return scaledProduct(x, base.get("map.weight"), factors(params, "map.flora_A"), B);
      };
    }
    case "FLoRA as chosen":
      return () => withFlora(base, used.flora, rows).linear("map", x);
    case "loop": {
      const groups = groupExamples(rows, count);
      return () => linearByGroup(groups, "map", x, (adapter) => withLora(base, [used.lora[adapter]]));
    }
    case "batched LoRA": {
      const params = used.lora.map((one) => one.params);
      return () => {
        const inner = matmul(x, factors(params, "map.lora_A.weight"), { transposeB: true });
        const change = matmul(inner, factors(params, "map.lora_B.weight"), { transposeB: true });
        return add(linear(x, base.get("map.weight")), change);
      };
    }
    case "grouped LoRA":
      return () => withLoraBatch(base, used.lora, rows).linear("map", x);
  }
}

async function runAll(
  timed: readonly { run: () => Tensor; ms: number }[],
  { seconds, repeats }: Pick<SpeedPlan, "seconds" | "repeats">,
): Promise<void> {
  for (const { run } of timed) await finished(run, 1); // compiles
  const end = performance.now() + 1e3 * seconds;
  for (let round = 0; round < 2 || performance.now() < end; round++) {
    for (const cell of timed) {
      const start = performance.now();
      await finished(cell.run, repeats);
      cell.ms = Math.min(cell.ms, (performance.now() - start) / repeats);
    }
  }
}

/** Runs it so often, and waits for one number of the last. */
async function finished(run: () => Tensor, repeats: number): Promise<void> {
  let last: Tensor | undefined;
  for (let i = 1; i <= repeats; i++) {
    using inner = scope("timed");
    const out = noGrad(run);
    if (i === repeats) last = own(inner.keep(noGrad(() => sum(out))));
  }
  await last!.read();
  last!.dispose();
}

function drawn(backend: Backend, seed: number, shape: readonly number[]): Tensor {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return own(fromArray(backend, normal(keyOf(seed), size), shape));
}

/**
 * How many times as long FLoRA takes as batched LoRA, by the paper's count: r d c2 to 2 r c1 + d c2 for every row and output.
 * At most 1 is the paper's rule, 2 c1 / (d c2) + 1 / r >= 1.
 */
export function ruleRatio({ rank, batched, whole }: ProductCosts, width: number): number {
  return rank * width * whole / (2 * rank * batched + width * whole);
}

/**
 * The rank up to which a ratio that grows with the rank stays at most 1, between two measured ones by a straight line; before
 * the first, from 0 at rank 0. Infinity where it is never above 1.
 */
export function crossing(ratios: readonly { readonly rank: number; readonly ratio: number }[]): number {
  const at = ratios.findIndex(({ ratio }) => ratio > 1);
  if (at < 0) return Infinity;
  const [before, after] = [ratios[at - 1] ?? { rank: 0, ratio: 0 }, ratios[at]];
  return before.rank + (after.rank - before.rank) * (1 - before.ratio) / (after.ratio - before.ratio);
}
