/**
 * Steps of the training loop itself on the dry backend, and what each of them takes: the peak, the same in blocks of the
 * device's allocator, and what was staged of the gradients. It knows neither models nor tasks.
 */
import { bytesFor, type Tensor } from "../core/mod.ts";
import type { DryBackend } from "../backends/dry/mod.ts";
import type { Optimizer } from "../optimizers/mod.ts";
import { type BatchSize, type TrainerParts, trainLoop } from "./trainer.ts";

/** What a step takes. */
export interface StepPlan {
  /** Most bytes of tensors at once. */
  readonly peak: number;
  /** The same in blocks of the device's allocator, over this step and those before. */
  readonly held: number;
  /** Most that was staged at once, or the largest gradient where each is used up as it comes. */
  readonly staged: number;
}

/** What is run. */
export interface PlannedLoop<Rows extends BatchSize> extends Omit<TrainerParts<Rows>, "nextBatch"> {
  readonly backend: DryBackend;
  /** The batch of every step. */
  readonly rows: Rows;
  /** Whether each gradient is used up as it comes. */
  readonly isUsedUp: boolean;
}

/** Runs three steps. An optimizer whose gap is 2 renews its bases in the first and the third. */
export async function planSteps<Rows extends BatchSize>(
  { rows, isUsedUp, ...parts }: PlannedLoop<Rows>,
): Promise<[first: StepPlan, second: StepPlan, third: StepPlan]> {
  const steps: StepPlan[] = [];
  const watched = watchStaged(parts.optimizer, isUsedUp);
  await trainLoop({ ...parts, nextBatch: () => Promise.resolve(rows) }, {
    startStep: 0,
    startTokens: 0,
    steps: 3,
    afterSteps: ([row]) => {
      steps.push({ peak: row.memoryBytes, held: parts.backend.peakHeld(), staged: watched.take() });
      return Promise.resolve(false);
    },
  });
  const [first, second, third] = steps;
  return [first, second, third];
}

/** Listens to what backward hands to an optimizer; where each gradient is used up as it comes, the largest counts. */
function watchStaged(optimizer: Optimizer, isUsedUp: boolean): { take(): number } {
  const stage = optimizer.stage;
  let most = 0;
  const listening: Optimizer["stage"] = (name, gradient) => {
    stage(name, gradient);
    let staged = isUsedUp ? bytesOf(gradient) : 0;
    if (!isUsedUp) {
      for (const leaf of optimizer.snapshot().leaves.values()) staged += leaf.staged ? bytesOf(leaf.staged) : 0;
    }
    most = Math.max(most, staged);
  };
  Object.defineProperty(optimizer, "stage", { value: listening });
  return {
    take: () => {
      const bytes = most;
      most = 0;
      return bytes;
    },
  };
}

function bytesOf(tensor: Tensor): number {
  return bytesFor(tensor.dtype, tensor.size);
}
