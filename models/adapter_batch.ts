/**
 * Grouped LoRA: a batch whose examples have different adapters, in one forward pass over one base.
 *
 * The base's linear map runs once over the whole batch, and what adapters add is computed by groups of examples that
 * share one, in one of two ways, whichever is cheaper (`plansStacking`): all groups as one batched product of stacked
 * factors, shorter groups and smaller ranks filled up, or group after group. S-LoRA (Sheng et al. 2023) and Punica (Chen
 * et al. 2023) have kernels for the same thing; here it is made of the ops there are, with their gradients.
 *
 * A module that an adapter replaces whole (a classifier of its own), or changes as DoRA does, runs group after group, each
 * with its own weights. Tables that a model reads by `get` cannot differ by example: that is refused. Nothing is dropped:
 * adapters that are trained one at a time use `withLora`.
 */
import {
  add,
  cast,
  concat,
  fromArray,
  linear,
  matmul,
  mul,
  type ParamsView,
  reshape,
  scope,
  type Shape,
  stack,
  type Tensor,
  zeros,
} from "../core/mod.ts";
import {
  type ExampleGroup,
  filledUp,
  groupedView,
  groupExamples,
  joinGroups,
  linearByGroup,
  takeExamples,
} from "./adapter_groups.ts";
import { type Lora, wide, withLora } from "./lora.ts";
import { loraNames, loraScale } from "./lora_config.ts";

/**
 * A view of `base` in which each example of a batch, an index of the first axis, has an adapter of its own.
 *
 * @param rows index into `adapters` for each example; -1: none
 * @throws RangeError for a number in `rows` that is no such index
 * @throws TypeError, when the view is used, for an input of another number of examples, and for a weight that differs by
 * example and is read by `get`
 */
export function withLoraBatch(base: ParamsView, adapters: readonly Lora[], rows: readonly number[]): ParamsView {
  const groups = groupExamples(rows, adapters.length);
  if (groups.length === 0 || (groups.length === 1 && groups[0].adapter < 0)) return base;
  if (groups.length === 1) return withLora(base, [adapters[groups[0].adapter]]);
  return groupedView({
    ...{ base, groups },
    changes: (adapter, name) => changesWeight(adapters[adapter], name),
    linear: (module, x) => batchLinear({ base, adapters, groups }, module, x),
  });
}

interface Batch {
  readonly base: ParamsView;
  readonly adapters: readonly Lora[];
  readonly groups: readonly ExampleGroup[];
}

function changesWeight({ params }: Lora, name: string): boolean {
  const { A, embeddingA } = loraNames(name.replace(/\.weight$/, ""));
  return [name, A, embeddingA].some((key) => params.has(key));
}

function batchLinear(batch: Batch, module: string, x: Tensor): Tensor {
  const { base, adapters, groups } = batch;
  using inner = scope("grouped linear");
  if (!groups.some(({ adapter }) => runsApart(adapters[adapter], module))) {
    return inner.keep(changed(batch, module, x, base.linear(module, x)));
  }
  const viewOf = (adapter: number) => adapter < 0 ? base : withLora(base, [adapters[adapter]]);
  return inner.keep(linearByGroup(groups, module, x, viewOf));
}

/** Whether an adapter's map is more than the base's and a product of factors. */
function runsApart(adapter: Lora | undefined, module: string): boolean {
  const { A } = loraNames(module);
  return adapter !== undefined &&
    (adapter.params.has(`${module}.weight`) || (adapter.config.dora === true && adapter.params.has(A)));
}

/** The base's result with what the adapters add. */
function changed({ adapters, groups }: Batch, module: string, x: Tensor, plain: Tensor): Tensor {
  const { A, B } = loraNames(module);
  const members = groups.map(({ adapter, examples }): Member => {
    const lora = adapters[adapter];
    if (!lora?.params.has(A)) return { adapter, examples };
    const [a, b] = [A, B].map((name) => wide(lora.params.get(name)));
    return { adapter, examples, factors: { A: a, B: b, scale: loraScale(lora.config) } };
  });
  const active = members.filter(isActive);
  if (active.length === 0) return plain;
  const input = cast(x, active[0].factors.A.dtype);
  const change = plansStacking(active, x.shape)
    ? stackedChange(active, input)
    : joinGroups(members.map((member) => groupChange(member, input, plain.shape.at(-1)!)), members);
  return add(plain, cast(change, plain.dtype));
}

/** A group at one module: its adapter's factors there, if it has any. */
interface Member extends ExampleGroup {
  readonly factors?: { readonly A: Tensor; readonly B: Tensor; readonly scale: number };
}
type ActiveMember = Required<Member>;

function isActive(member: Member): member is ActiveMember {
  return member.factors !== undefined;
}

/**
 * What a group on its own costs beside its arithmetic, in multiply-adds: its four or five more operations take about 30
 * us on two CPU cores, which multiply and add 3e10 times a second (measured at widths of 512); on a GPU they cost more.
 */
const GROUP_OVERHEAD = 1e6;

/**
 * Whether one batched product is cheaper than a loop over the groups: whether the multiply-adds that filling up wastes are
 * fewer than what the groups cost beside theirs. Always, for two or more groups of one size and rank.
 *
 * @param members the groups that have factors at this module
 * @param shape of the module's input, [B, .., in]
 */
export function plansStacking(
  members: readonly {
    readonly examples: readonly number[];
    readonly factors: { readonly A: Spec; readonly B: Spec };
  }[],
  shape: Shape,
): boolean {
  if (members.length < 2) return false;
  const rowsEach = shape.slice(1, -1).reduce((product, extent) => product * extent, 1);
  const longest = Math.max(...members.map(({ examples }) => examples.length));
  const highest = Math.max(...members.map(({ factors: { A } }) => A.shape[0]));
  const wasted = members.reduce((sum, { examples, factors: { A, B } }) => {
    const [rank, columns] = A.shape;
    return sum + rowsEach * (columns + B.shape[0]) * (longest * highest - examples.length * rank);
  }, 0);
  return wasted <= GROUP_OVERHEAD * members.length;
}

/** The shape of a factor. */
interface Spec {
  readonly shape: Shape;
}

/** s B A x of a group's examples; zeros where it has no factors. */
function groupChange({ examples, factors }: Member, x: Tensor, features: number): Tensor {
  if (!factors) return zeros(x.backend, [examples.length, ...x.shape.slice(1, -1), features], x.dtype);
  return linear(mul(linear(takeExamples(x, examples), factors.A), factors.scale), factors.B);
}

/** s B A x of every example by one batched product, [B, .., out]. */
function stackedChange(members: readonly ActiveMember[], x: Tensor): Tensor {
  const { backend } = x;
  const numGroups = members.length;
  const longest = Math.max(...members.map(({ examples }) => examples.length));
  const highest = Math.max(...members.map(({ factors: { A } }) => A.shape[0]));
  // a short group is filled up with its last example, whose further results nobody takes
  const picks = members.flatMap(({ examples }) =>
    Array.from({ length: longest }, (_, i) => examples[Math.min(i, examples.length - 1)])
  );
  const none = picks.length;
  const place = new Array<number>(x.shape[0]).fill(none);
  for (const [group, { examples }] of members.entries()) {
    for (const [i, example] of examples.entries()) place[example] = group * longest + i;
  }
  const A = stack(members.map(({ factors: { A } }) => filledUp(A, 0, highest)), 0); // [G, R, in]
  const B = stack(members.map(({ factors: { B } }) => filledUp(B, 1, highest)), 0); // [G, out, R]
  const scales = Float32Array.from(members, ({ factors }) => factors.scale);
  const scale = cast(fromArray(backend, scales, [numGroups, 1, 1]), x.dtype);
  const taken = reshape(takeExamples(x, picks), [numGroups, -1, x.shape.at(-1)!]); // [G, rows, in]
  const inner = mul(matmul(taken, A, { transposeB: true }), scale);
  const shape = [picks.length, ...x.shape.slice(1, -1), B.shape[1]];
  const change = reshape(matmul(inner, B, { transposeB: true }), shape);
  if (!place.includes(none)) return takeExamples(change, place);
  return takeExamples(concat([change, zeros(backend, shape.with(0, 1), x.dtype)], 0), place);
}
