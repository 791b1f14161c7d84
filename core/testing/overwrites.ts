/** Gradients that take the memory of what was saved for them: equal bits, less memory, and nobody's tensor overwritten. */
import assert from "node:assert/strict";
import { asLeaf, backward } from "../autograd.ts";
import type { Backend } from "../backend.ts";
import { crossEntropy } from "../ops/loss.ts";
import { linear } from "../ops/matmul.ts";
import { scope } from "../scope.ts";
import { fromArray, type Tensor } from "../tensor.ts";
import { float, index, takeHost } from "./inputs.ts";
import { registerTest } from "./register.ts";

const [N, D, V] = [33, 8, 300];

/** The gradient of a head's weights, and the most bytes meanwhile; with `hold`, its logits before and after backward. */
async function run(backend: Backend, hold: boolean) {
  const of = (name: string, shape: number[]) => Float32Array.from(float(shape).values(name));
  const held: Tensor[] = [];
  backend.resetPeak();
  const before = backend.memory().inUse;
  {
    using _ = scope("head");
    const x = fromArray(backend, of("x", [N, D]), [N, D]);
    const weight = asLeaf(fromArray(backend, of("weight", [V, D]), [V, D]), "weight");
    const targets = fromArray(backend, Int32Array.from(index([N], V, { holes: true }).values("targets")), [N]);
    const loss = (() => {
      using inner = scope("loss");
      const logits = linear(x, weight);
      if (hold) held.push(logits.retained());
      return inner.keep(crossEntropy(logits, targets));
    })();
    backward(loss, (_, gradient) => held.push(gradient.retained()));
  }
  const peak = backend.memory().peak - before;
  const values = await Promise.all(held.map(takeHost));
  return { gradient: values[values.length - 1], logits: hold ? values[0] : undefined, peak };
}

/** Registers the test: crossEntropy writes its gradient over logits that nobody else holds, and only over those. */
export function overwritesSaved(
  name: string,
  makeBackend: () => Backend | Promise<Backend>,
  { ignore }: { readonly ignore?: string } = {},
): void {
  registerTest(
    `${name}: the gradient of crossEntropy() takes the memory of logits that nobody else holds`,
    async () => {
      using backend = await makeBackend();
      const [alone, shared] = [await run(backend, false), await run(backend, true)];
      assert.deepEqual(alone.gradient, shared.gradient);
      assert.equal(shared.peak - alone.peak, 4 * N * V);
      // what somebody holds is as it was: the loss depends on it, and a gradient is small
      assert.ok(shared.logits!.some((value) => Math.abs(value) > 1));
      assert.equal(backend.memory().live, 0);
    },
    ignore,
  );
}
