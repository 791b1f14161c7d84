/**
 * Writes a rule of one's own, sign descent with momentum (Lion's direction), and lets GaLore wrap it: a rule is a value
 * with an `init` and an `update`, so it composes with everything else.
 *
 *     deno run cli/examples/custom_rule.ts
 */
import {
  add,
  backward,
  fromArray,
  keyOf,
  matmul,
  meanSquaredError,
  mul,
  normal,
  own,
  Params,
  scope,
  sign,
  type Tensor,
  zeros,
} from "../../core/mod.ts";
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { chain, galore, type GradientRule, Optimizer, scaleByLearningRate, type State } from "../../optimizers/mod.ts";

interface LionState extends State {
  mu: Tensor;
}

/** Chen et al. 2023: the sign of an interpolation between momentum and gradient. */
function scaleByLion(beta1 = 0.9, beta2 = 0.99): GradientRule<LionState> {
  return {
    name: "scaleByLion",
    options: { beta1, beta2 },
    slots: { mu: "signed" },
    init: ({ backend, shape }) => ({ mu: zeros(backend, shape) }),
    update: (gradient, { mu }) => [
      sign(add(mul(mu, beta1), mul(gradient, 1 - beta1))),
      { mu: add(mul(mu, beta2), mul(gradient, 1 - beta2)) },
    ],
  };
}

const backend = loopsBackend();
const [rows, columns, examples] = [24, 16, 64];
using params = new Params(backend);
params.set("map.weight", own(fromArray(backend, normal(keyOf(1), rows * columns, 0, 0.1), [rows, columns])));
const inputs = normal(keyOf(2), examples * columns, 0, 1);
const truth = normal(keyOf(3), rows * columns, 0, 0.3);

using optimizer = new Optimizer(
  params,
  chain(galore(scaleByLion(), { rank: 6, updateProjGap: 20 }), scaleByLearningRate((step) => 0.03 * 0.98 ** step)),
);
let [first, last] = [0, 0];
for (let step = 0; step < 150; step++) {
  {
    using _ = scope("step");
    const x = fromArray(backend, inputs, [examples, columns]);
    const target = matmul(x, fromArray(backend, truth, [rows, columns]), { transposeB: true });
    const loss = meanSquaredError(params.linear("map", x), target);
    backward(loss, optimizer.stage);
    [last] = loss.readSync();
    if (step === 0) first = last;
  }
  if (optimizer.refreshDue) await optimizer.refresh();
  optimizer.commit();
}
console.log(`loss ${first.toFixed(3)} -> ${last.toFixed(4)} with GaLore over a rule of one's own`);
if (last > first / 20) Deno.exit(1);
