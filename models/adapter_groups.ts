/**
 * A batch whose examples have different adapters: sorted by adapter, put back in order, and as a view of a model.
 *
 * An example is an index of the first axis; what lies behind it (tokens, features) travels with it. An adapter is a number
 * here, and -1 is none: what it does to a linear map is its kind's own (`adapter_batch.ts`, `flora.ts`). Tables that a
 * model reads by `get` cannot differ by example: that is refused.
 */
import {
  type Backend,
  concat,
  describe,
  embedding,
  fromArray,
  pad,
  type ParamsView,
  reshape,
  slice,
  type Tensor,
} from "../core/mod.ts";

/** The examples of one adapter, in their order in the batch. */
export interface ExampleGroup {
  /** Index of the adapter; -1: none. */
  readonly adapter: number;
  readonly examples: readonly number[];
}

/**
 * The groups of a batch by ascending adapter, those without one first.
 *
 * @param rows the adapter of each example
 * @throws RangeError for a number that is none of -1 .. `numAdapters` - 1
 */
export function groupExamples(rows: readonly number[], numAdapters: number): ExampleGroup[] {
  const groups = new Map<number, number[]>();
  for (const [example, adapter] of rows.entries()) {
    if (!Number.isInteger(adapter) || adapter < -1 || adapter >= numAdapters) {
      throw new RangeError(
        `Cannot adapt a batch: each example has an adapter from 0 to ${numAdapters - 1}, or -1 for none: ` +
          `got ${adapter} for example ${example}`,
      );
    }
    const group = groups.get(adapter);
    if (group) group.push(example);
    else groups.set(adapter, [example]);
  }
  return [...groups].sort(([a], [b]) => a - b).map(([adapter, examples]) => ({ adapter, examples }));
}

/**
 * Examples of a batch in another order, or with repetitions: a view where they follow each other, otherwise a copy.
 *
 * @param x [B, ..]
 * @returns [number of examples, ..]
 */
export function takeExamples(x: Tensor, examples: readonly number[]): Tensor {
  const [B, ...rest] = x.shape;
  const [first] = examples;
  if (examples.every((example, i) => example === first + i)) {
    return examples.length === B ? x : slice(x, [{ start: first, end: first + examples.length }]);
  }
  const picks = fromArray(x.backend, Int32Array.from(examples), [examples.length]);
  return reshape(embedding(reshape(x, [B, -1]), picks), [examples.length, ...rest]);
}

/** What groups gave, [examples of the group, ..] each in the groups' order, as one batch in its own order. */
export function joinGroups(parts: readonly Tensor[], groups: readonly ExampleGroup[]): Tensor {
  if (parts.length === 1) return parts[0];
  const place: number[] = [];
  for (const [at, example] of groups.flatMap(({ examples }) => examples).entries()) place[example] = at;
  return takeExamples(concat(parts, 0), place);
}

/**
 * A linear map group after group, each by its adapter's own view.
 *
 * @throws RangeError when their outputs differ in size
 */
export function linearByGroup(
  groups: readonly ExampleGroup[],
  module: string,
  x: Tensor,
  viewOf: (adapter: number) => ParamsView,
): Tensor {
  const parts = groups.map(({ adapter, examples }) => viewOf(adapter).linear(module, takeExamples(x, examples)));
  const sizes = parts.map((part) => part.shape.at(-1)!);
  const other = sizes.find((size) => size !== sizes[0]);
  if (other === undefined) return joinGroups(parts, groups);
  throw new RangeError(
    `Cannot apply "${module}" to a batch of several adapters: their outputs must be of one size: ` +
      `got ${sizes[0]} and ${other}`,
  );
}

/** A factor with zeros behind its last row (axis 0) or column (axis 1), up to `extent`. */
export function filledUp(factor: Tensor, axis: 0 | 1, extent: number): Tensor {
  const missing = extent - factor.shape[axis];
  return missing === 0 ? factor : pad(factor, [0, 0], [0, 0].with(axis, missing));
}

/** What a kind of adapters does to the maps of a batch. */
export interface GroupedMaps {
  readonly base: ParamsView;
  readonly groups: readonly ExampleGroup[];
  /** Whether an adapter, never -1, changes or replaces the weight `name`. */
  changes(adapter: number, name: string): boolean;
  /** The map called `module` of x, in which every example has its own. */
  linear(module: string, x: Tensor): Tensor;
}

/** A view of the base under which every example of a batch has its own linear maps. */
export function groupedView(maps: GroupedMaps): ParamsView {
  return new GroupedView(maps, "");
}

class GroupedView implements ParamsView {
  constructor(readonly maps: GroupedMaps, readonly prefix: string) {}

  get backend(): Backend {
    return this.maps.base.backend;
  }

  get(name: string): Tensor {
    const full = this.prefix + name;
    const { base, groups } = this.maps;
    const changed = groups.find(({ adapter }) => adapter >= 0 && this.maps.changes(adapter, full));
    if (!changed) return base.get(full);
    throw new TypeError(
      `Cannot read "${full}" for a batch of several adapters: only linear maps can differ by example: ` +
        `got adapter ${changed.adapter}, which changes it`,
    );
  }

  has(name: string): boolean {
    return this.maps.base.has(this.prefix + name);
  }

  at(prefix: string | number): ParamsView {
    return new GroupedView(this.maps, `${this.prefix}${prefix}.`);
  }

  linear(name: string, x: Tensor): Tensor {
    const full = this.prefix + name;
    const numExamples = this.maps.groups.reduce((sum, { examples }) => sum + examples.length, 0);
    if (x.shape[0] === numExamples) return this.maps.linear(full, x);
    throw new TypeError(
      `Cannot apply "${full}" to a batch of several adapters: expected ${numExamples} examples: got ${describe(x)}`,
    );
  }
}
