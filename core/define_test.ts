/** The choice between fused and composed: made-up entries that say who ran. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { asLeaf, backward, checkpoint, noGrad } from "./autograd.ts";
import type { Backend, FusedKernel, FusedKernels, Operand } from "./backend.ts";
import { withoutFused } from "./define.ts";
import { add, cast, silu, swiglu } from "./ops/elementwise.ts";
import { transpose } from "./ops/layout.ts";
import { rmsNorm, softmax } from "./ops/norm.ts";
import { sum } from "./ops/reduce.ts";
import { scope } from "./scope.ts";
import { withFused } from "./testing/fake_fused.ts";
import { assertClose } from "./testing/golden.ts";
import { assertNoLeak } from "./testing/leaks.ts";
import { fromArray, type Tensor } from "./tensor.ts";

/** Runs `body` on the loops with these entries. */
function onFake(entries: (loops: Backend) => FusedKernels, body: (backend: Backend, loops: Backend) => void): void {
  using loops = loopsBackend();
  using _ = scope("test");
  body(withFused(loops, entries(loops)), loops);
}

/** An entry that fills its output with 42: no result of the op. */
function always42(loops: Backend, parts: Partial<FusedKernel<unknown>> = {}): FusedKernel<unknown> {
  return { supports: () => true, forward: (_inputs, _attributes, out) => loops.kernels.fill(42, out), ...parts };
}

function gradientsOf(loss: Tensor): Record<string, number[]> {
  const gradients: Record<string, number[]> = {};
  backward(loss, (name, gradient) => gradients[name] = [...gradient.readSync()]);
  return gradients;
}

const VALUES = [-1, 0, 0.5, 2];

Deno.test("fused ops run the backend's entry, and not inside withoutFused()", () => {
  onFake((loops) => ({ silu: always42(loops) }), (backend) => {
    const x = fromArray(backend, VALUES, [4]);
    assert.deepEqual([...silu(x).readSync()], [42, 42, 42, 42]);
    assert.notEqual(withoutFused(() => silu(x)).readSync()[0], 42);
    assert.throws(() =>
      withoutFused(() => {
        throw new RangeError("on purpose");
      })
    );
    assert.equal(silu(x).readSync()[0], 42);
  });
});

Deno.test("fused ops run the composed form when the entry declines, and ask it with inputs and attributes", () => {
  const asked: unknown[] = [];
  const declining = (loops: Backend) =>
    always42(loops, {
      supports: (inputs, attributes) => {
        asked.push([inputs.map(({ shape, dtype }) => `${dtype}${shape}`), attributes]);
        return inputs[0].dtype === "f64";
      },
    });
  onFake((loops) => ({ rmsNorm: declining(loops) }), (backend, loops) => {
    const inputs = (on: Backend) => [fromArray(on, VALUES, [2, 2]), fromArray(on, [1, 2], [2])] as const;
    const actual = rmsNorm(...inputs(backend), 1e-3);
    assert.deepEqual(actual.readSync(), rmsNorm(...inputs(loops), 1e-3).readSync());
    assert.deepEqual(asked, [[["f322,2", "f322"], { eps: 1e-3 }]]);
    const [x, weight] = inputs(backend).map((tensor) => cast(tensor, "f64"));
    assert.equal(rmsNorm(x, weight, 1e-3).readSync()[0], 42);
  });
});

Deno.test("fused ops without a vjp have the composed gradient, of the inputs that want one", async () => {
  using loops = loopsBackend();
  await assertNoLeak("composed gradient", loops, () => {
    using _ = scope("test");
    const run = (backend: Backend) => {
      const gate = asLeaf(fromArray(backend, VALUES, [4]), "gate");
      const up = fromArray(backend, [1, 2, 3, 4], [4]);
      return gradientsOf(sum(swiglu(gate, up)));
    };
    const fake = withFused(loops, { swiglu: always42(loops) });
    const actual = run(fake);
    assert.deepEqual(Object.keys(actual), ["gate"]);
    assert.deepEqual(actual, run(loops));
  });
});

Deno.test("fused ops without a vjp have the composed gradient inside checkpoint() as well", () => {
  using loops = loopsBackend();
  const run = (backend: Backend) => {
    using _ = scope("test");
    const gate = asLeaf(fromArray(backend, VALUES, [4]), "gate");
    const up = asLeaf(fromArray(backend, [1, 2, 3, 4], [4]), "up");
    return gradientsOf(sum(checkpoint((input) => swiglu(input, up), gate)));
  };
  assert.deepEqual(run(withFused(loops, { swiglu: always42(loops) })), run(loops));
});

Deno.test("fused ops hand their vjp what it asked to keep, its residuals, and the wanted gradients", async () => {
  using loops = loopsBackend();
  const seen: Record<string, unknown> = {};
  const read = (operand: Operand | undefined) =>
    operand && [...new Float32Array(loops.readSync!(operand.buffer, 4 * operand.offset, 16).buffer)];
  const entry: FusedKernel<unknown> = always42(loops, {
    residuals: (inputs) => [inputs[0]],
    forward: (inputs, _attributes, out, residuals) => {
      assert.deepEqual(inputs.map(({ strides }) => strides), [[2, 1], [2, 1]], "operands are contiguous");
      loops.kernels.fill(42, out);
      loops.kernels.fill(7, residuals[0]);
    },
    vjp: {
      saves: { inputs: [1], out: true },
      run: (saved, gradient, _attributes, grads) => {
        Object.assign(seen, {
          inputs: saved.inputs.map(read),
          out: read(saved.out),
          residuals: saved.residuals.map(read),
          gradient: read(gradient),
          wanted: grads.map((grad) => grad !== undefined),
        });
        loops.kernels.fill(5, grads[1]!);
      },
    },
  });
  await assertNoLeak("fused gradient", loops, () => {
    using _ = scope("test");
    const backend = withFused(loops, { swiglu: entry });
    const gate = transpose(fromArray(backend, VALUES, [2, 2]));
    const up = asLeaf(fromArray(backend, [1, 2, 3, 4], [2, 2]), "up");
    const gradients = gradientsOf(sum(swiglu(gate, up)));
    assert.deepEqual(gradients, { up: [5, 5, 5, 5] });
  });
  assert.deepEqual(seen, {
    inputs: [undefined, [1, 2, 3, 4]],
    out: [42, 42, 42, 42],
    residuals: [[7, 7, 7, 7]],
    gradient: [1, 1, 1, 1],
    wanted: [false, true],
  });
});

Deno.test("fused ops keep nothing when no gradient is wanted", () => {
  onFake((loops) => ({ softmax: always42(loops, { residuals: (inputs) => [inputs[0]] }) }), (backend, loops) => {
    const x = asLeaf(fromArray(backend, VALUES, [4]), "x");
    const { live } = loops.memory();
    const out = noGrad(() => softmax(x));
    assert.equal(out.node, undefined);
    assert.equal(loops.memory().live, live + 1);
  });
});

Deno.test("fused ops inside a composed gradient use their own entries", () => {
  // swiglu has no entry here: its definition calls silu, which has one
  onFake((loops) => ({ silu: always42(loops) }), (backend) => {
    const out = swiglu(fromArray(backend, VALUES, [4]), fromArray(backend, [1, 2, 3, 4], [4]));
    assertClose("swiglu", out.readSync(), [42, 84, 126, 168], { rtol: 1e-6, atol: 0 });
  });
});

Deno.test("fused ops hand 16-bit operands to an entry as they are, and compose in f32 where there is none", () => {
  const asked: string[] = [];
  const spy = (loops: Backend, takes: boolean) =>
    always42(loops, {
      supports: (inputs) => {
        asked.push(inputs.map(({ dtype }) => dtype).join(" "));
        return takes;
      },
    });
  const run = (backend: Backend) => {
    const gate = asLeaf(cast(fromArray(backend, VALUES, [4]), "bf16"), "gate");
    const up = cast(fromArray(backend, [1, 2, 3, 4], [4]), "bf16");
    const out = swiglu(gate, up);
    assert.equal(out.dtype, "bf16");
    let dtype = "";
    backward(sum(cast(out, "f32")), (_name, gradient) => dtype = gradient.dtype);
    assert.equal(dtype, "bf16");
    return [...cast(out, "f32").readSync()];
  };
  // swiglu takes them; its gradient runs the definition, whose silu is asked for f32
  onFake((loops) => ({ swiglu: spy(loops, true), silu: spy(loops, false) }), (backend) => {
    assert.deepEqual(run(backend), [42, 42, 42, 42]);
    assert.deepEqual(asked.splice(0), ["bf16 bf16", "f32"]);
  });
  onFake((loops) => ({ swiglu: spy(loops, false), silu: spy(loops, false) }), (backend, loops) => {
    assert.deepEqual(run(backend), run(loops));
    assert.deepEqual(asked.splice(0), ["bf16 bf16", "f32"]);
  });
});

Deno.test("ops refuse operands of two backends or two dtypes", () => {
  using one = loopsBackend();
  using two = loopsBackend();
  using _ = scope("test");
  const x = fromArray(one, VALUES, [4]);
  assert.throws(() => add(x, fromArray(two, VALUES, [4])), {
    name: "TypeError",
    message: "Cannot run add(): operands live on loops and loops",
  });
  assert.throws(() => add(x, fromArray(one, [1, 2], [2], "i32")), {
    name: "TypeError",
    message: "Cannot run add(): dtypes must match: got f32[4] and i32[2]",
  });
});
