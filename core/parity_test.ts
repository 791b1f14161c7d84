/** The composed forms against f64, and that the parity test finds a fused entry that is wrong. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import type { FusedKernel } from "./backend.ts";
import { withFused } from "./testing/fake_fused.ts";
import { checkFused, fusedParity, type ParityType } from "./testing/parity.ts";

fusedParity("loops", () => loopsBackend(), { dtypes: ["f32", "bf16", "f16"] });

Deno.test("checkFused() rejects a wrong value, a wrong gradient, and an entry that never runs", async () => {
  using loops = loopsBackend();
  const check = (entry: Partial<FusedKernel<unknown>>, dtype?: ParityType) => {
    const { kernels } = loops;
    const silu: FusedKernel<unknown> = {
      supports: () => true,
      forward: ([x], _attributes, out) => {
        // x / (1 + e^-x), over the output's own memory
        kernels.unary("neg", x, out);
        kernels.unary("exp", out, out);
        const one = { ...out, buffer: loops.alloc(4), offset: 0, strides: out.shape.map(() => 0) };
        kernels.fill(1, { ...one, shape: [1], strides: [1] });
        kernels.binary("add", out, one, out);
        kernels.binary("div", x, out, out);
        loops.free(one.buffer);
      },
      ...entry,
    };
    return checkFused("silu", withFused(loops, { silu }), { dtype });
  };
  await check({});
  await assert.rejects(check({}, "bf16"), /bf16 against f64: value/, "its intermediates are rounded to 16 bits");
  await check({ supports: ([{ dtype }]) => dtype === "f32" }, "bf16");
  await assert.rejects(check({ forward: ([x], _, out) => loops.kernels.unary("neg", x, out) }), /against f64: value/);
  const vjp: FusedKernel<unknown>["vjp"] = {
    saves: { inputs: [], out: false },
    run: (_saved, gradient, _attributes, [grad]) => loops.kernels.unary("neg", gradient, grad!),
  };
  await assert.rejects(check({ vjp }), /against f64: gradient 0/);
  await assert.rejects(check({ supports: () => false }), /silu: the entry ran 0 times/);
});
