/** Loss on held-out text: an exact mean over tokens, not a mean of batch means. */
import { type Backend, fromArray, noGrad, own, type ParamsView, scope, stack, type Tensor } from "../core/mod.ts";
import { Batches } from "../data/mod.ts";
import { type LlamaConfig, llamaLoss, type LlamaOptions } from "../models/mod.ts";

/** Token rows as the data package yields them: [batch, seq + 1], row-major. */
export interface TokenRows {
  readonly tokens: Uint32Array;
  readonly batch: number;
  readonly seq: number;
  /** Place of the first row: how many rows there were before it. */
  readonly index?: number;
}

/** Inputs and next-token targets of rows, as i32 host arrays [batch, seq]. */
export function splitRows({ tokens, batch, seq }: TokenRows): { inputs: Int32Array; targets: Int32Array } {
  const inputs = new Int32Array(batch * seq);
  const targets = new Int32Array(batch * seq);
  for (let row = 0; row < batch; row++) {
    for (let t = 0; t < seq; t++) {
      inputs[row * seq + t] = tokens[row * (seq + 1) + t];
      targets[row * seq + t] = tokens[row * (seq + 1) + t + 1];
    }
  }
  return { inputs, targets };
}

/** Next-token loss of a LLaMA on rows, as `trainLoop` asks for it. */
export function rowsLoss(
  backend: Backend,
  view: ParamsView,
  config: LlamaConfig,
  forward?: LlamaOptions,
): (rows: TokenRows) => Tensor {
  return (rows) => {
    const { inputs, targets } = splitRows(rows);
    const shape = [rows.batch, rows.seq];
    const tokens = fromArray(backend, inputs, shape);
    return llamaLoss(view, config, tokens, fromArray(backend, targets, shape), forward);
  };
}

/** Batches to a read where the host cannot see the device's memory. */
const BATCHES_A_READ = 16;

/** Mean loss in nats a token over the rows. */
export function evaluate(
  backend: Backend,
  params: ParamsView,
  config: LlamaConfig,
  batches: AsyncIterable<TokenRows>,
): Promise<{ loss: number; tokens: number }> {
  const loss = rowsLoss(backend, params, config);
  return meanLoss(backend, batches, (rows) => ({ loss: loss(rows), size: rows.batch * rows.seq }));
}

/** Mean of batches' losses, each counted by its size: how many tokens it is the mean of. */
export async function meanLoss(
  backend: Backend,
  batches: AsyncIterable<TokenRows>,
  score: (rows: TokenRows) => { readonly loss: Tensor; readonly size: number },
): Promise<{ loss: number; tokens: number }> {
  const together = backend.readSync ? 1 : BATCHES_A_READ;
  const waiting: { loss: Tensor; size: number }[] = [];
  let total = 0;
  let tokens = 0;
  const collect = async () => {
    const values = await readLosses(waiting.map(({ loss }) => loss));
    for (const [index, { size }] of waiting.splice(0).entries()) {
      total += values[index] * size;
      tokens += size;
    }
  };
  for await (const rows of batches) {
    waiting.push(withoutTape(() => score(rows)));
    if (waiting.length === together) await collect();
  }
  if (waiting.length > 0) await collect();
  if (tokens === 0) throw new RangeError("Cannot evaluate: there is no held-out text");
  return { loss: total / tokens, tokens };
}

/** Scalars by one read; frees them. */
async function readLosses(losses: readonly Tensor[]): Promise<ArrayLike<number>> {
  using packed = pack(losses);
  for (const loss of losses) loss.dispose();
  return await packed.read();
}

function pack(losses: readonly Tensor[]): Tensor {
  using inner = scope("losses");
  return own(inner.keep(stack(losses, 0)));
}

function withoutTape<Scored extends { readonly loss: Tensor }>(score: () => Scored): Scored {
  using evaluation = scope("evaluate");
  const scored = noGrad(score);
  evaluation.keep(scored.loss);
  return scored;
}

/** Every row of a split once, in order; the last batch may be smaller. `batches` 0: all. */
export async function* splitBatches(
  path: string,
  rows: number,
  { split, batch, batches }: { split: "train" | "validation"; batch: number; batches: number },
): AsyncGenerator<TokenRows> {
  const total = batches > 0 ? Math.min(rows, batches * batch) : rows;
  await using whole = new Batches(path, { split, batch, shuffle: false, readers: 0 });
  let done = 0;
  for (; done + batch <= total; done += batch) yield await whole.next();
  if (done === total) return;
  await using rest = new Batches(path, {
    split,
    batch: total - done,
    shuffle: false,
    readers: 0,
    start: { index: done },
  });
  yield await rest.next();
}
