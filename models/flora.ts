/**
 * FLoRA (Fast LoRA): weights changed by a low-rank matrix element by element, another one for every example of a batch, as a
 * view of a model's weights.
 *
 * Wen & Chaudhuri 2024 (arXiv 2312.05677). An adapter is `Params` of its own, as in LoRA: the optimizer gets those, the model
 * gets the view, and the base is frozen. Training is the case in which all examples share one adapter, and costs no copies
 * of it. A bias stays outside: it is added to what the changed weight gives. Zeros of W stay zeros, whatever is learned.
 * What the forms are and what they are called: `flora_config.ts`; how it is computed: `flora_product.ts`.
 */
import {
  add,
  type Backend,
  cast,
  dropout,
  foldIn,
  type Key,
  linear,
  type ParamsView,
  scope,
  stack,
  sub,
  type Tensor,
  transpose,
  zeros,
} from "../core/mod.ts";
import {
  type ExampleGroup,
  filledUp,
  groupedView,
  groupExamples,
  linearByGroup,
  takeExamples,
} from "./adapter_groups.ts";
import { type FloraConfig, floraNames } from "./flora_config.ts";
import {
  asResidual,
  floraChange,
  type FloraFactors,
  floraFactors,
  floraWeight,
  plansWeights,
  scaledProduct,
  sharedFactors,
} from "./flora_product.ts";

export { FLORA_TENSORS, type FloraConfig, floraWeights, type FloraWeightSpec } from "./flora_config.ts";
export { initFlora, type InitFloraOptions } from "./flora_init.ts";

/** An adapter: its tensors, and how they are meant. */
export interface Flora {
  readonly params: ParamsView;
  readonly config: FloraConfig;
}

/** What a view of an adapted model needs to know besides. */
export interface WithFloraOptions {
  /** The key of this step's dropout, where all examples share an adapter. Without it nothing is dropped: evaluation. */
  readonly dropoutKey?: Key;
}

/**
 * A view of `base` in which each example of a batch, an index of the first axis, has an adapter of its own.
 *
 * @param rows index into `adapters` for each example, -1: none. Without them all examples share the only adapter
 * @throws RangeError for a number in `rows` that is no such index, for several adapters without `rows`, or a dropout key
 * for several adapters
 * @throws TypeError, when the view is used, for an input of another number of examples, and for a weight that differs by
 * example and is read by `get`
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * import { loopsBackend } from "../backends/cpu/loops/mod.ts";
 * import { fromArray, Params, scope } from "../core/mod.ts";
 * using backend = loopsBackend();
 * using base = new Params(backend);
 * base.set("query.weight", fromArray(backend, [1, 2, 3, 4, 5, 6], [2, 3]));
 * base.freeze(base.names());
 * const config: FloraConfig = { r: 1, form: "product", targets: ["query"] };
 * using same = initFlora(base, config, { seed: 1 });
 * using other = initFlora(base, config, { seed: 1 });
 * other.get("query.flora_B").write(Float32Array.of(10, 100));
 * using _ = scope("two examples");
 * const view = withFlora(base, [same, other].map((params) => ({ params, config })), [0, 1]);
 * const out = view.linear("query", fromArray(backend, [1, 1, 1, 1, 1, 1], [2, 3]));
 * assert.deepEqual([...out.readSync()], [6, 15, 60, 1500]);
 * ```
 */
export function withFlora(
  base: ParamsView,
  adapters: readonly Flora[],
  rows?: readonly number[],
  options: WithFloraOptions = {},
): ParamsView {
  if (!rows && adapters.length !== 1) {
    throw new RangeError(`Cannot adapt a batch: rows must say which example has which adapter: got ${adapters.length}`);
  }
  const groups = groupExamples(rows ?? [], adapters.length);
  if (rows && (groups.length === 0 || (groups.length === 1 && groups[0].adapter < 0))) return base;
  if (groups.length < 2) {
    return new SharedView({ base, adapter: adapters[groups[0]?.adapter ?? 0], ...options }, "");
  }
  if (options.dropoutKey) {
    throw new RangeError(`Cannot drop inputs of several adapters: train one at a time: got ${groups.length} groups`);
  }
  return groupedView({
    ...{ base, groups },
    changes: (adapter, name) => changesWeight(adapters[adapter], name),
    linear: (module, x) => {
      using inner = scope("per-example linear");
      return inner.keep(mixedLinear({ base, adapters, groups }, module, x));
    },
  });
}

function changesWeight({ params }: Flora, name: string): boolean {
  return params.has(name) || (name.endsWith(".weight") && params.has(floraNames(name.slice(0, -7)).A));
}

/** A model whose examples all have one adapter. */
interface Shared extends WithFloraOptions {
  readonly base: ParamsView;
  readonly adapter: Flora;
}

class SharedView implements ParamsView {
  constructor(readonly model: Shared, readonly prefix: string) {}

  get backend(): Backend {
    return this.model.base.backend;
  }

  get(name: string): Tensor {
    const full = this.prefix + name;
    const { base, adapter } = this.model;
    if (adapter.params.has(full)) return adapter.params.get(full);
    if (!changesWeight(adapter, full)) return base.get(full);
    throw new TypeError(
      `Cannot read "${full}": a map with an adapter has no weight of its own; apply it by linear()`,
    );
  }

  has(name: string): boolean {
    return this.model.base.has(this.prefix + name);
  }

  at(prefix: string | number): ParamsView {
    return new SharedView(this.model, `${this.prefix}${prefix}.`);
  }

  linear(name: string, x: Tensor): Tensor {
    const full = this.prefix + name;
    const { base, adapter } = this.model;
    using inner = scope("adapted linear");
    if (adapter.params.has(`${full}.weight`)) {
      return inner.keep(
        linear(x, this.get(`${name}.weight`), this.has(`${name}.bias`) ? this.get(`${name}.bias`) : undefined),
      );
    }
    const factors = floraFactors(adapter, full);
    return inner.keep(factors ? sharedLinear(this.model, full, x, factors) : base.linear(full, x));
  }
}

/** One adapter's map of all examples. */
function sharedLinear({ base, adapter, dropoutKey }: Shared, module: string, x: Tensor, factors: FloraFactors): Tensor {
  const weight = base.get(`${module}.weight`);
  const rate = adapter.config.dropout ?? 0;
  const seen = dropoutKey && rate > 0 ? dropout(x, rate, foldIn(dropoutKey, module)) : x;
  const isResidual = factors.form === "residual";
  const R = factors.A.shape[0];
  const changesFirst = plansWeights({ rows: x.size / weight.shape[1], parts: isResidual ? R + 1 : R, rank: R });
  if (changesFirst && seen === x) {
    return withBias(base, module, linear(x, cast(floraWeight(weight, factors), weight.dtype)));
  }
  const change = changesFirst
    ? linear(seen, cast(floraChange(weight, factors), weight.dtype))
    : cast(scaledProduct(seen, weight, ...sharedFactors(factors)), x.dtype);
  if (isResidual) return add(base.linear(module, x), change);
  // in either form the adapter is what W x changes by, and that alone sees the dropped input
  const whole = seen === x ? change : add(change, linear(sub(x, seen), weight));
  return withBias(base, module, whole);
}

function withBias(base: ParamsView, module: string, product: Tensor): Tensor {
  const bias = `${module}.bias`;
  return base.has(bias) ? add(product, base.get(bias)) : product;
}

/** A model whose examples have adapters of their own. */
interface Mixed {
  readonly base: ParamsView;
  readonly adapters: readonly Flora[];
  readonly groups: readonly ExampleGroup[];
}

function mixedLinear({ base, adapters, groups }: Mixed, module: string, x: Tensor): Tensor {
  const viewOf = (adapter: number) => adapter < 0 ? base : new SharedView({ base, adapter: adapters[adapter] }, "");
  const isApart = groups.some(({ adapter }) => adapters[adapter]?.params.has(`${module}.weight`));
  if (isApart) return linearByGroup(groups, module, x, viewOf);
  const found = groups.map(({ adapter }) => adapter < 0 ? undefined : floraFactors(adapters[adapter], module));
  if (found.every((factors) => !factors)) return base.linear(module, x);
  const isProduct = found.every((factors) => factors?.form === "product");
  const factors = isProduct ? found : found.map((one) => one && asResidual(one));
  const weight = base.get(`${module}.weight`);
  const rank = Math.max(...factors.map((one) => one?.A.shape[0] ?? 0));
  const parts = isProduct ? rank : rank + 1;
  if (plansWeights({ rows: x.size / weight.shape[1], parts, rank, adapters: factors.filter((one) => one).length })) {
    return linearByGroup(groups, module, x, viewOf);
  }
  const change = cast(scaledProduct(x, weight, ...factorsOfExamples(groups, factors, rank)), x.dtype);
  return isProduct ? withBias(base, module, change) : add(base.linear(module, x), change);
}

/** Every example's A [B, R, in] and transposed B [B, R, out], zeros where it has none or its rank is smaller. */
function factorsOfExamples(
  groups: readonly ExampleGroup[],
  factors: readonly (FloraFactors | undefined)[],
  rank: number,
): [Tensor, Tensor] {
  const { A: { backend, shape: [, columns], dtype }, B: { shape: [rows] } } = factors.find((one) => one)!;
  const none = { A: zeros(backend, [rank, columns], dtype), B: zeros(backend, [rows, rank], dtype) };
  const all = factors.map((one) => one ? { A: filledUp(one.A, 0, rank), B: filledUp(one.B, 1, rank) } : none);
  const place: number[] = [];
  for (const [group, { examples }] of groups.entries()) for (const example of examples) place[example] = group;
  const A = stack(all.map(({ A }) => A), 0);
  const B = stack(all.map(({ B }) => transpose(B)), 0);
  return [takeExamples(A, place), takeExamples(B, place)];
}
