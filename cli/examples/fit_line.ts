/**
 * Fits a line to noisy points by gradient descent: tensors, a loss, a sink, an optimizer, in forty lines.
 *
 *     deno run cli/examples/fit_line.ts
 */
import { add, backward, fromArray, keyOf, meanSquaredError, mul, normal, own, Params, scope } from "../../core/mod.ts";
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { Optimizer, sgd } from "../../optimizers/mod.ts";

const backend = loopsBackend();
using params = new Params(backend);
params.set("slope", own(fromArray(backend, [0], [1])));
params.set("intercept", own(fromArray(backend, [0], [1])));
using optimizer = new Optimizer(params, sgd({ learningRate: 0.1, momentum: 0.9 }));

const noise = normal(keyOf(1), 64, 0, 0.1);
const xs = Array.from({ length: 64 }, (_, i) => i / 32 - 1);
const ys = xs.map((x, i) => 3 * x - 1 + noise[i]);

for (let step = 0; step < 100; step++) {
  {
    using _ = scope("step");
    const x = fromArray(backend, xs, [64]);
    const line = add(mul(x, params.get("slope")), params.get("intercept"));
    backward(meanSquaredError(line, fromArray(backend, ys, [64])), optimizer.stage);
  }
  optimizer.commit();
}

const [slope] = await params.get("slope").read();
const [intercept] = await params.get("intercept").read();
console.log(`y = ${slope.toFixed(2)} x + ${intercept.toFixed(2)}   (made with y = 3 x - 1 and noise)`);
if (Math.abs(slope - 3) > 0.1 || Math.abs(intercept + 1) > 0.1) Deno.exit(1);
