/** What ops refuse, and the words they use: the operation, the rule, and what they got. */
import assert from "node:assert/strict";
import { loopsBackend } from "../../backends/cpu/loops/mod.ts";
import type { Backend } from "../backend.ts";
import { scope } from "../scope.ts";
import type { Shape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { attention, rope } from "./attention.ts";
import { zeros } from "./create.ts";
import { add, swiglu, where } from "./elementwise.ts";
import { broadcastTo, concat, permute, reshape, slice } from "./layout.ts";
import { crossEntropy } from "./loss.ts";
import { linear, matmul, patchEmbedding } from "./matmul.ts";
import { layerNorm, rmsNorm } from "./norm.ts";
import { sum } from "./reduce.ts";

type Make = (...shape: number[]) => Tensor;

const REFUSALS: [run: (f: Make, backend: Backend) => unknown, name: string, message: string][] = [
  [(f) => add(f(2, 3), f(4)), "TypeError", "Cannot broadcast in add(): got a f32[2, 3] and b f32[4]"],
  [() => add(1, 2), "TypeError", "Cannot combine two numbers: one operand must be a tensor"],
  [(f) => where(f(2), f(2), f(2)), "TypeError", "Cannot select in where(): the mask must be u32, got f32[2]"],
  [
    (f) => matmul(f(2, 3), f(4, 5)),
    "TypeError",
    "Cannot multiply in matmul(): inner sizes must match: got a f32[2, 3] and b f32[4, 5] (3 and 4)",
  ],
  [
    (f) => matmul(f(3), f(3, 1)),
    "TypeError",
    "Cannot multiply in matmul(): operands need two axes: got a f32[3] and b f32[3, 1]",
  ],
  [
    (f) => matmul(f(2, 3, 4), f(3, 4, 5)),
    "TypeError",
    "Cannot multiply in matmul(): leading axes must broadcast: got a f32[2, 3, 4] and b f32[3, 4, 5]",
  ],
  [
    (f) => linear(f(2, 3), f(5, 4)),
    "TypeError",
    "Cannot apply linear(): inner sizes must match: got x f32[2, 3] and weight f32[5, 4]",
  ],
  [
    (f) => patchEmbedding(f(1, 3, 5, 4), f(8, 3, 2, 2)),
    "TypeError",
    "Cannot apply patchEmbedding(): got pixels f32[1, 3, 5, 4] and weight f32[8, 3, 2, 2]; " +
    "channels must match and the patch must divide the image",
  ],
  [(f) => reshape(f(2, 3), [4]), "TypeError", "Cannot reshape f32[2, 3] to [4]: it has 6 elements"],
  [(f) => reshape(f(2, 3), [4, -1]), "TypeError", "Cannot reshape f32[2, 3] to [4, -1]: it has 6 elements"],
  [(f) => reshape(f(2, 3), [-1, -1]), "TypeError", "Cannot reshape f32[2, 3] to [-1, -1]: it has 6 elements"],
  [(f) => permute(f(2, 3), [0, 0]), "TypeError", "Cannot permute f32[2, 3] by [0, 0]: each axis must appear once"],
  [(f) => broadcastTo(f(2, 3), [3]), "TypeError", "Cannot broadcast f32[2, 3] to [3]"],
  [(f) => slice(f(4), [{ start: 2, end: 7 }]), "RangeError", "Cannot slice f32[4]: axis 0 from 2 to 7 by 1"],
  [(f) => concat([f(2, 3), f(2, 4)], 0), "TypeError", "Cannot concat along axis 0: got f32[2, 3], f32[2, 4]"],
  [(f) => sum(f(2, 3), 2), "RangeError", "Cannot use axis 2 in sum(): the operand has 2 axes"],
  [(f) => sum(f(2, 3), [1, -1]), "RangeError", "Cannot use axes [1, -1] in sum(): one appears twice"],
  [
    (f) => rmsNorm(f(2, 3), f(2), 1e-6),
    "TypeError",
    "Cannot apply rmsNorm(): got x f32[2, 3] and weight f32[2]; the last axes must match",
  ],
  [
    (f) => layerNorm(f(2, 3), f(3), f(1, 3), 1e-6),
    "TypeError",
    "Cannot apply layerNorm(): got x f32[2, 3] and weight f32[1, 3]; the last axes must match",
  ],
  [
    (f) => swiglu(f(2, 3), f(3)),
    "TypeError",
    "Cannot apply swiglu(): shapes must match: got gate f32[2, 3] and up f32[3]",
  ],
  [
    (f, b) => crossEntropy(f(2, 3), zeros(b, [3], "i32")),
    "TypeError",
    "Cannot score in crossEntropy(): expected logits [N, V] and targets i32[N]: got f32[2, 3] and i32[3]",
  ],
  [
    (f, b) => crossEntropy(f(2, 3), zeros(b, [2, 1], "i32")),
    "TypeError",
    "Cannot score in crossEntropy(): expected logits [N, V] and targets i32[N]: got f32[2, 3] and i32[2, 1]",
  ],
  [
    (f) => attention(f(1, 2, 3, 4), f(1, 2, 2, 4), f(1, 2, 2, 4)),
    "TypeError",
    "Cannot attend in attention(): got q f32[1, 2, 3, 4], k f32[1, 2, 2, 4], v f32[1, 2, 2, 4]",
  ],
  [
    (f) => attention(f(1, 2, 2, 4), f(1, 2, 2, 4), f(1, 3, 2, 4)),
    "TypeError",
    "Cannot attend in attention(): got q f32[1, 2, 2, 4], k f32[1, 2, 2, 4], v f32[1, 3, 2, 4]",
  ],
  [
    (f) => attention(f(1, 2, 2, 4), f(1, 3, 2, 4), f(1, 3, 2, 4), { mask: f(1, 3) }),
    "TypeError",
    "Cannot attend in attention(): the mask must be u32[1, 3], got f32[1, 3]",
  ],
  [
    (f) => rope(f(1, 5, 2, 4), f(5, 2), f(4, 2)),
    "TypeError",
    "Cannot rotate in rope(): got x f32[1, 5, 2, 4], cos f32[5, 2], sin f32[4, 2]",
  ],
];

Deno.test("ops refuse operands that do not fit, and say what they got", () => {
  using backend = loopsBackend();
  for (const [run, name, message] of REFUSALS) {
    using _ = scope("test");
    const make = (...shape: Shape) => zeros(backend, shape);
    assert.throws(() => run(make, backend), { name, message });
  }
  assert.equal(backend.memory().live, 0);
});
