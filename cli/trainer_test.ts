/** The loop where the host cannot see the device's memory: the same training by one read a sync point. */
import assert from "node:assert/strict";
import { cpuBackend } from "../backends/cpu/mod.ts";
import { type Backend, type HostArray, type Params, Tensor } from "../core/mod.ts";
import { assertNoLeak } from "../core/testing/leaks.ts";
import { initLlama, LLAMA_PROJECTED } from "../models/mod.ts";
import {
  accumulate,
  adamW,
  galoreAdamW,
  galoreSgd,
  Optimizer,
  route,
  type Routing,
  type Rule,
  sgd,
  walkState,
} from "../optimizers/mod.ts";
import type { TokenRows } from "./evaluation.ts";
import { evaluate, rowsLoss } from "./evaluation.ts";
import { NonFiniteError, type StepRow, type TrainerOptions, trainLoop } from "./trainer.ts";
import { tinyConfig } from "./testing/workspace.ts";

/** The CPU backend as a device whose memory the host cannot see, with its reads counted. */
async function blindBackend(): Promise<Backend & { reads: number }> {
  const backend = await cpuBackend({ threads: 1, blas: "off" });
  const blind = {
    ...backend,
    readSync: undefined,
    reads: 0,
    read: (...args: Parameters<Backend["read"]>) => {
      blind.reads++;
      return backend.read(...args);
    },
  };
  return blind;
}

const config = tinyConfig();

/** Rows of a batch that depend on their number alone. */
function batch(index: number): TokenRows {
  return {
    tokens: Uint32Array.from({ length: 2 * 17 }, (_, i) => (7 * i + 13 * index + i * i) % 256),
    batch: 2,
    seq: 16,
  };
}

interface Outcome {
  readonly rows: StepRow[];
  readonly groups: number[];
  readonly weights: Map<string, HostArray>;
  readonly state: Map<string, HostArray>;
  readonly error?: unknown;
  readonly reads: number;
}

interface Session extends Partial<TrainerOptions> {
  /** Called before a batch is drawn; its number counts from 0. */
  readonly onBatch?: (index: number, params: Params, optimizer: Optimizer) => void;
}

async function train(backend: Backend & { reads?: number }, rule: Rule | Routing, session: Session): Promise<Outcome> {
  using params = initLlama(backend, config, 1);
  using optimizer = new Optimizer(params, rule, { clip: 1, guard: !backend.readSync });
  const rows: StepRow[] = [];
  const groups: number[] = [];
  let drawn = 0;
  let error: unknown;
  const before = backend.reads ?? 0;
  try {
    await trainLoop({
      backend,
      params,
      optimizer,
      loss: rowsLoss(backend, params, config),
      nextBatch: () => {
        session.onBatch?.(drawn, params, optimizer);
        return Promise.resolve(batch(drawn++));
      },
    }, {
      startStep: 0,
      startTokens: 0,
      steps: 11,
      ...session,
      afterSteps: async (some) => {
        rows.push(...some);
        groups.push(some.length);
        return await session.afterSteps?.(some) ?? false;
      },
    });
  } catch (thrown) {
    error = thrown;
  }
  const reads = (backend.reads ?? 0) - before;
  const weights = new Map<string, HostArray>();
  for (const [name, tensor] of params.entries()) weights.set(name, await tensor.read());
  const state = new Map<string, HostArray>();
  for (const [name, leaf] of optimizer.snapshot().leaves) {
    const tensors: [string, Tensor][] = [];
    walkState(leaf.state, (path, value) => value instanceof Tensor && tensors.push([`${name}/${path}`, value]));
    for (const [path, tensor] of tensors) state.set(path, await tensor.read());
  }
  return { rows, groups, weights, state, error, reads };
}

const figures = ({ step, loss, lr, gradNorm, tokens }: StepRow) => [step, loss, lr, gradNorm, tokens];
const everyFifth = (step: number) => step % 5 === 0;

// One basis, found by reads of the host, in the first step.
const galore = { rank: 4, updateProjGap: 100 };
const RULES: Readonly<Record<string, () => Rule | Routing>> = {
  "galore_adamw": () => galoreAdamW({ learningRate: 0.01, weightDecay: 0.1, projected: LLAMA_PROJECTED, galore }),
  "galore_sgd": () => galoreSgd({ learningRate: 0.1, momentum: 0.9, projected: LLAMA_PROJECTED, galore }),
  "adamw": () => adamW({ learningRate: 0.01, weightDecay: 0.1 }),
  "sgd with momentum": () => sgd({ learningRate: 0.1, momentum: 0.9 }),
  "adamw, accumulating": () => route([[/(?:)/, accumulate(2, adamW({ learningRate: 0.01 }))]]),
};

for (const [name, make] of Object.entries(RULES)) {
  Deno.test(`trainLoop() without readSync gives the same figures and weights: ${name}`, async () => {
    using seeing = await cpuBackend({ threads: 1, blas: "off" });
    using blind = await blindBackend();
    const checked = await train(seeing, make(), {});
    await assertNoLeak("a guarded loop", blind, async () => {
      const guarded = await train(blind, make(), { syncDue: everyFifth });
      assert.deepEqual([checked.error, guarded.error], [undefined, undefined]);
      assert.deepEqual([checked.groups, guarded.groups], [new Array(11).fill(1), [5, 5, 1]]);
      assert.deepEqual(guarded.rows.map(figures), checked.rows.map(figures));
      assert.deepEqual(guarded.weights, checked.weights);
      assert.deepEqual(guarded.state, checked.state);
      for (const { stepMs, tokensPerSecond, memoryBytes } of guarded.rows) {
        assert.ok(stepMs > 0 && tokensPerSecond > 0 && memoryBytes > 0);
      }
      assert.equal(new Set(guarded.rows.slice(0, 5).map(({ stepMs }) => stepMs)).size, 1, "the mean of its interval");
      if (!name.startsWith("galore")) assert.equal(guarded.reads, 3, "one a sync point");
    });
  });
}

Deno.test("trainLoop() without readSync reads once a sync point when no basis is due", async () => {
  using blind = await blindBackend();
  const reads: number[] = [];
  const { error } = await train(blind, RULES.galore_adamw(), {
    steps: 10,
    syncDue: everyFifth,
    onBatch: () => reads.push(blind.reads),
  });
  assert.equal(error, undefined);
  const [first] = reads.slice(1);
  assert.deepEqual(reads.slice(1).map((count) => count - first), [0, 0, 0, 0, 1, 1, 1, 1, 1]);
});

for (const bad of [NaN, Infinity]) {
  for (const syncDue of [everyFifth, () => true]) {
    Deno.test(`trainLoop() without readSync names step 7 when its gradient is ${bad}, reading ${syncDue}`, async () => {
      using blind = await blindBackend();
      const rule = RULES.adamw;
      const good = await train(blind, rule(), { steps: 6 });
      const spoiled = await train(blind, rule(), {
        syncDue,
        onBatch: (index, _, optimizer) => {
          if (index !== 6) return;
          // spoils one gradient of this step on its way to the optimizer
          const { stage } = optimizer;
          Object.defineProperty(optimizer, "stage", {
            value: (name: string, gradient: Tensor) => {
              if (name === "lm_head.weight") {
                const values = new Float32Array(gradient.size);
                values[3] = bad;
                gradient.write(values);
              }
              stage(name, gradient);
              if (name === "model.embed_tokens.weight") Object.defineProperty(optimizer, "stage", { value: stage });
            },
            configurable: true,
          });
        },
      });
      assert.ok(spoiled.error instanceof NonFiniteError, String(spoiled.error));
      assert.match(
        spoiled.error.message,
        /^Cannot take step 7: the gradient of lm_head\.weight is not finite; the weights are those of step 6\./,
      );
      assert.equal(spoiled.error.step, 7);
      assert.deepEqual(spoiled.rows.map(figures), good.rows.map(figures), "the rows before it are given");
      assert.deepEqual(spoiled.weights, good.weights);
      assert.deepEqual(spoiled.state, good.state);
    });
  }
}

Deno.test("trainLoop() without readSync names the weight when a loss is not finite", async () => {
  using blind = await blindBackend();
  const { error, rows } = await train(blind, RULES.adamw(), {
    syncDue: everyFifth,
    onBatch: (index, params) => {
      if (index !== 2) return;
      const weight = params.get("model.norm.weight");
      weight.write(new Float32Array(weight.size).fill(NaN));
    },
  });
  assert.match(
    (error as Error).message,
    /^Cannot take step 3: the loss is NaN; model\.norm\.weight holds NaN; the weights are those of step 2\./,
  );
  assert.equal(rows.length, 2);
});

Deno.test("trainLoop() without readSync tells of a bad gradient when a basis is sought on the host", async () => {
  using blind = await blindBackend();
  const { error } = await train(blind, RULES.galore_adamw(), {
    onBatch: (_, params) => {
      params.get("model.norm.weight").write(new Float32Array(32).fill(1e30));
      params.get("lm_head.weight").write(new Float32Array(257 * 32));
    },
  });
  assert.match((error as Error).message, /^Cannot take step 1: the gradient of lm_head\.weight is not finite/);
});

Deno.test("trainLoop() without readSync stops where it is asked to, with what was trained", async () => {
  using blind = await blindBackend();
  let stop = false;
  const stopped = await train(blind, RULES.adamw(), {
    syncDue: (step) => stop || everyFifth(step),
    onBatch: (index) => stop ||= index === 6,
    afterSteps: () => Promise.resolve(stop),
  });
  assert.deepEqual(stopped.groups, [5, 2]);
  const whole = await train(blind, RULES.adamw(), { steps: 7 });
  assert.deepEqual(stopped.weights, whole.weights);
});

Deno.test("trainLoop() without readSync gives the steps before an error of the data", async () => {
  using blind = await blindBackend();
  const { error, rows } = await train(blind, RULES["adamw, accumulating"](), {
    syncDue: everyFifth,
    onBatch: (index) => {
      if (index === 2 * 7 + 1) throw new RangeError("Cannot read a shard");
    },
  });
  assert.match((error as Error).message, /^Cannot read a shard/);
  assert.equal(rows.length, 7);
});

Deno.test("trainLoop() gives the same bits when layers are run again in backward", async () => {
  using backend = await cpuBackend({ threads: 1, blas: "off" });
  using params = initLlama(backend, config, 1);
  using again = initLlama(backend, config, 1);
  const outcomes: unknown[] = [];
  for (const [each, forward] of [[params, {}], [again, { recompute: true }]] as const) {
    using optimizer = new Optimizer(each, adamW({ learningRate: 0.01 }), { clip: 1 });
    const losses: number[] = [];
    let drawn = 0;
    const parts = { backend, params: each, optimizer, loss: rowsLoss(backend, each, config, forward) };
    await trainLoop({ ...parts, nextBatch: () => Promise.resolve(batch(drawn++)) }, {
      startStep: 0,
      startTokens: 0,
      steps: 4,
      afterSteps: (rows) => (losses.push(...rows.map(({ loss }) => loss)), Promise.resolve(false)),
    });
    outcomes.push([losses, await each.get("model.layers.0.mlp.up_proj.weight").read()]);
  }
  assert.deepEqual(outcomes[1], outcomes[0]);
});

Deno.test("evaluate() reads many batches at once where the host cannot see the memory, to the same loss", async () => {
  using blind = await blindBackend();
  using seeing = await cpuBackend({ threads: 1, blas: "off" });
  const lossOn = async (backend: Backend) => {
    using params = initLlama(backend, config, 1);
    const batches = async function* () {
      for (let i = 0; i < 35; i++) yield await Promise.resolve(batch(i));
    };
    return await evaluate(backend, params, config, batches());
  };
  assert.deepEqual(await lossOn(blind), await lossOn(seeing));
  assert.equal(blind.reads, 3);
});
