/** Scopes: who frees what and when, on a throw and across an await too; and that no op leaves memory behind. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { asLeaf, backward } from "./autograd.ts";
import type { Backend } from "./backend.ts";
import { fill } from "./ops/create.ts";
import { cast, exp, mul } from "./ops/elementwise.ts";
import { reshape } from "./ops/layout.ts";
import { sum } from "./ops/reduce.ts";
import { currentScope, own, scope } from "./scope.ts";
import { CASES, layoutsOf, OP_NAMES } from "./testing/cases.ts";
import { type HostInput, upload } from "./testing/inputs.ts";
import { assertNoLeak } from "./testing/leaks.ts";
import type { Tensor } from "./tensor.ts";

Deno.test("scope() frees what was made in it, and nothing else, when it closes", async () => {
  using backend = loopsBackend();
  using outside = fill(backend, 1, [3]);
  await assertNoLeak("scope", backend, () => {
    using _ = scope("test");
    const inside = exp(outside);
    assert.equal(backend.memory().live, 2);
    assert.equal(inside.isDisposed, false);
  });
  assert.equal(outside.isDisposed, false);
  assert.equal(currentScope(), undefined);
});

Deno.test("keep() hands a result to the enclosing scope, and out of the outermost one to the caller", async () => {
  using backend = loopsBackend();
  await assertNoLeak("keep", backend, () => {
    const kept = keepTwice(backend);
    assert.equal(kept.isDisposed, false);
    assert.equal(backend.memory().live, 1);
    kept.dispose();
  });
});

function keepTwice(backend: Backend): Tensor {
  using outer = scope("outer");
  const result = keepOnce(backend);
  assert.equal(result.owner, outer);
  return outer.keep(result);
}

function keepOnce(backend: Backend): Tensor {
  using inner = scope("inner");
  return inner.keep(exp(fill(backend, 0, [2])));
}

Deno.test("keep() leaves a tensor of another scope where it is", () => {
  using backend = loopsBackend();
  using outer = scope("outer");
  const mine = fill(backend, 1, [2]);
  {
    using inner = scope("inner");
    inner.keep(mine);
  }
  assert.equal(mine.owner, outer);
  assert.equal(mine.isDisposed, false);
});

Deno.test("keep() of a view keeps the memory that it shares", () => {
  using backend = loopsBackend();
  using outer = scope("outer");
  const view = (() => {
    using inner = scope("inner");
    return inner.keep(reshape(fill(backend, 7, [2, 3]), [6]));
  })();
  assert.equal(view.owner, outer);
  assert.deepEqual([...view.readSync()], [7, 7, 7, 7, 7, 7]);
  assert.equal(backend.memory().live, 1);
});

Deno.test("own() takes a tensor out of its scope", () => {
  using backend = loopsBackend();
  const mine = (() => {
    using _ = scope("test");
    return own(fill(backend, 1, [2]));
  })();
  assert.equal(mine.isDisposed, false);
  mine.dispose();
  assert.equal(backend.memory().live, 0);
});

Deno.test("scope() frees when its block throws, and the scopes inside it too", async () => {
  using backend = loopsBackend();
  await assertNoLeak("throw", backend, () => {
    assert.throws(() => {
      using _ = scope("outer");
      fill(backend, 1, [2]);
      using __ = scope("inner");
      fill(backend, 1, [2]);
      throw new RangeError("on purpose");
    }, /^RangeError: on purpose$/);
  });
  assert.equal(currentScope(), undefined);
});

Deno.test("scope() throws by name when it is held across an await and used after it, and still frees", async () => {
  using backend = loopsBackend();
  await assertNoLeak("await", backend, async () => {
    await assert.rejects(async () => {
      using _ = scope("train step");
      fill(backend, 1, [2]);
      using __ = scope("inside it");
      await Promise.resolve();
      fill(backend, 1, [2]);
    }, { message: 'Cannot hold scope "inside it" across an await: close it first' });
  });
  assert.equal(currentScope(), undefined);
});

Deno.test("scope() throws by name when it is closed after an await without use", async () => {
  await assert.rejects(async () => {
    using _ = scope("evaluate");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }, { message: 'Cannot hold scope "evaluate" across an await: close it first' });
  assert.equal(currentScope(), undefined);
});

Deno.test("scope() works again after an await between scopes, in callbacks and in timers", async () => {
  using backend = loopsBackend();
  await assertNoLeak("turns", backend, async () => {
    for (let step = 0; step < 3; step++) {
      {
        using _ = scope(`step ${step}`);
        fill(backend, step, [2]);
      }
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    await Promise.all([1, 2, 3].map(async (value) => {
      await Promise.resolve();
      using _ = scope(`task ${value}`);
      fill(backend, value, [2]);
    }));
  });
});

/** Runs `run` over leaves, and gives its sum as the loss if it can be differentiated. */
function forward(backend: Backend, inputs: readonly HostInput[], run: (...inputs: Tensor[]) => Tensor) {
  const stored = inputs.map((input, i) => {
    const tensor = upload(backend, input, "f64");
    return input.kind === "float" ? asLeaf(tensor, `${i}`) : tensor;
  });
  using inner = scope("forward");
  const out = run(...inputs.map((input, i) => input.view(stored[i])));
  return { stored, loss: out.node && inner.keep(sum(mul(cast(out, "f64"), 2))) };
}

/** What a tape holds until its outermost scope closes, because no loss depends on it. */
const UNREACHABLE = new Set(["stopGradient"]);

for (const op of OP_NAMES) {
  Deno.test(`${op}() leaves no memory behind after forward, and after backward`, async () => {
    using backend = loopsBackend();
    for (const test of CASES[op]) {
      for (const { layout, inputs } of layoutsOf(test)) {
        const what = `${op} ${test.name} ${layout}`;
        await assertNoLeak(`${what}, forward`, backend, () => {
          using _ = scope("outermost");
          forward(backend, inputs, test.run);
        });
        if (UNREACHABLE.has(op)) continue;
        using _ = scope("outermost");
        const { live } = backend.memory();
        const { stored, loss } = forward(backend, inputs, test.run);
        if (loss) backward(loss, () => {});
        for (const tensor of [...stored, ...(loss ? [loss] : [])]) tensor.dispose();
        assert.equal(backend.memory().live, live, `${what}: buffers left over inside the scope after backward`);
      }
    }
  });
}
