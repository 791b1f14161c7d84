/**
 * A basis strategy for plans: gives a basis of the right shape with nothing in it, and takes the memory that the real
 * strategy takes while it works. The real one runs once for each shape, over no device, before the plan; factorising
 * hundreds of matrices of zeros on the host would take minutes.
 */
import { type Backend, empty, foldIn, keyOf, own, type Shape } from "../core/mod.ts";
import type { DryBackend } from "../backends/dry/mod.ts";
import { type BasisStrategy, finishReading, galoreShapes, type ProjType, type Side } from "../optimizers/mod.ts";

/** What is planned for. */
export interface PlannedBasisRequest {
  /** Shapes of the matrices that are projected. */
  readonly shapes: Iterable<Shape>;
  readonly rank: number;
  readonly projType: ProjType;
  /** Policy and card: what decides how much a kernel takes. */
  readonly device: unknown;
  /** Makes a backend like the one that is planned on. */
  readonly open: () => DryBackend;
}

/** Host factorisations grow as the cube of the rank: a smaller problem of the same form is measured, down to these sizes. */
const LEAST_RANK = 32;
const LEAST_SIDE = 128;

/** What was measured: a function of its key alone. */
const measured = new Map<string, number>();

/** A stand-in for `strategy`, which takes as much memory. */
export async function plannedBasis(
  strategy: BasisStrategy,
  { shapes, rank, projType, device, open }: PlannedBasisRequest,
): Promise<BasisStrategy> {
  if (strategy.generate) return strategy;
  const common = JSON.stringify([strategy.name, strategy.options, device]);
  const keyFor = (shape: Shape, side: Side, rank: number, isFirst: boolean) =>
    `${common} ${shape.join("x")} ${side} ${rank} ${isFirst ? "first" : "again"}`;
  for (const shape of shapes) {
    for (const { side, shape: basis } of galoreShapes(shape, rank, projType).bases) {
      for (const isFirst of [true, false]) {
        const key = keyFor(shape, side, basis[0], isFirst);
        if (!measured.has(key)) measured.set(key, await scratchBytes(strategy, { shape, side, basis, isFirst, open }));
      }
    }
  }
  return {
    ...strategy,
    // deno-lint-ignore require-yield -- nothing to wait for
    *compute(gradient, { side, rank, previous }) {
      const { backend, shape } = gradient;
      takeBriefly(backend, measured.get(keyFor(shape, side, rank, !previous)) ?? 0);
      return own(empty(backend, [rank, shape[side === "left" ? 0 : 1]]));
    },
  };
}

function takeBriefly(backend: Backend, bytes: number): void {
  backend.free(backend.alloc(bytes, "a basis at work"));
}

interface Trial extends Pick<PlannedBasisRequest, "open"> {
  readonly shape: Shape;
  readonly side: Side;
  /** Shape of the basis. */
  readonly basis: readonly number[];
  readonly isFirst: boolean;
}

/** Bytes that a strategy has in use at most, beside the gradient and the basis before. */
async function scratchBytes(strategy: BasisStrategy, { shape, side, basis, isFirst, open }: Trial): Promise<number> {
  using backend = open();
  // temporaries are matrices of rows, columns and rank: all of them shrink as the square of the sides
  const room = Math.min(basis[0] / LEAST_RANK, Math.min(...shape) / LEAST_SIDE);
  const shrink = strategy.deviceOnly ? 1 : 2 ** Math.max(0, Math.floor(Math.log2(room)));
  const [rows, columns, rank, d] = [...shape, ...basis].map((size) => Math.max(1, Math.round(size / shrink)));
  using gradient = own(empty(backend, [rows, columns]));
  using previous = isFirst ? undefined : own(empty(backend, [rank, d]));
  const before = backend.memory().inUse;
  backend.resetPeak();
  using _basis = await finishReading(
    strategy.compute(gradient, { side, rank, previous, key: foldIn(keyOf(0), "plan") }),
  );
  return (backend.memory().peak - before) * shrink ** 2;
}
