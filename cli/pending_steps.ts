/**
 * Steps of a guarded loop that are enqueued and not read: their figures stay on the device until all are read at once. The
 * read also finds the first step that was not finite, behind which the guard has let nothing through.
 */
import {
  type Backend,
  concat,
  noGrad,
  own,
  type Params,
  reshape,
  scope,
  stack,
  sum,
  type Tensor,
} from "../core/mod.ts";
import type { GradientNorm, Optimizer } from "../optimizers/mod.ts";
import { badGradient, badLoss, type NonFiniteError } from "./nonfinite.ts";
import type { StepRow } from "./trainer.ts";

/** A guarded step whose figures are on the device. */
interface PendingStep {
  readonly step: number;
  readonly lr: number;
  readonly count: number;
  /** The losses of the micro-batches, the sum of all squares as the guard saw it, the squares of each gradient. */
  readonly figures: Tensor;
  readonly toNorm: (squares: ArrayLike<number>) => GradientNorm;
}

/** Loss and norm of a step that was read. */
interface StepFigures {
  readonly losses: readonly number[];
  readonly norm: GradientNorm;
}

/** Steps that are enqueued and not read. */
export class PendingSteps implements Disposable {
  #steps: PendingStep[] = [];
  #started = 0;
  #tokens: number;

  constructor(
    readonly parts: { readonly backend: Backend; readonly params: Params; readonly optimizer: Optimizer },
    startTokens: number,
  ) {
    this.#tokens = startTokens;
    this.begin();
  }

  /** Commits what is staged and keeps the step's figures. */
  commit(step: number, losses: readonly Tensor[], count: number): void {
    using inner = scope("figures");
    const { optimizer } = this.parts;
    const { squares, toNorm } = optimizer.stepSquares();
    using packed = squares;
    const figures = noGrad(() =>
      concat([...losses.map((loss) => reshape(loss, [1])), reshape(sum(packed), [1]), packed], 0)
    );
    const lr = optimizer.learningRate;
    optimizer.commit(losses);
    this.#steps.push({ step, lr, count, figures: own(inner.keep(figures)), toNorm });
  }

  /** The rows of the steps since the last call, by one read; up to a step that was not finite, if there is one. */
  async read(): Promise<{ rows: StepRow[]; fault?: NonFiniteError }> {
    const { optimizer, backend } = this.parts;
    if (this.#steps.length === 0) return { rows: [] };
    const { figures, fault } = await this.#readFigures();
    const stepMs = (performance.now() - this.#started) / this.#steps.length;
    const memoryBytes = backend.memory().peak;
    const rows = figures.map(({ losses, norm }, index): StepRow => {
      const { step, lr, count } = this.#steps[index];
      const loss = losses.reduce((total, value) => total + value, 0) / optimizer.microBatches;
      this.#tokens += count;
      const tokensPerSecond = count / stepMs * 1000;
      return { step, loss, lr, gradNorm: norm.norm, tokens: this.#tokens, tokensPerSecond, stepMs, memoryBytes };
    });
    this[Symbol.dispose]();
    return { rows, fault };
  }

  /** Starts the clock of the next steps. */
  begin(): void {
    this.parts.backend.resetPeak();
    this.#started = performance.now();
  }

  async #readFigures(): Promise<{ figures: StepFigures[]; fault?: NonFiniteError }> {
    const { optimizer, params } = this.parts;
    const { microBatches } = optimizer;
    using packed = this.#pack();
    const values = await packed.read() as Float32Array;
    const width = packed.shape[1];
    const figures: StepFigures[] = [];
    for (const [index, { step, toNorm }] of this.#steps.entries()) {
      const row = values.subarray(index * width, (index + 1) * width);
      const losses = [...row.subarray(0, microBatches)];
      const norm = toNorm(row.subarray(microBatches + 1));
      const bad = losses.find((loss) => !Number.isFinite(loss));
      if (bad !== undefined || !Number.isFinite(row[microBatches])) {
        optimizer.discard();
        return {
          figures,
          fault: bad === undefined ? badGradient(step, norm.nonFinite) : await badLoss(params, step, bad),
        };
      }
      figures.push({ losses, norm });
    }
    return { figures };
  }

  /** [steps, figures], owned. */
  #pack(): Tensor {
    using inner = scope("figures");
    return own(inner.keep(stack(this.#steps.map(({ figures }) => figures), 0)));
  }

  [Symbol.dispose](): void {
    for (const { figures } of this.#steps) figures.dispose();
    this.#steps = [];
  }
}
