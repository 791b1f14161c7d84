/** States: flat and back, what they hold, and what is refused. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { fromArray, own, scope, Tensor } from "../core/mod.ts";
import {
  disposeReplaced,
  disposeState,
  flattenState,
  ownState,
  type State,
  stateBytes,
  unflattenState,
  walkState,
} from "./mod.ts";

const backend = loopsBackend();
const tensor = (...values: number[]) => own(fromArray(backend, values, [values.length]));

/** A state of every kind of entry: nested, empty, null. */
function sample() {
  return {
    "0": { inner: { mu: tensor(1, 2), nu: tensor(3, 4) }, left: null as Tensor | null, side: "right", renewedAt: 3 },
    "1": {},
    "2": { flag: true },
  };
}

Deno.test("flattenState() and unflattenState() keep every entry, and the empty states too", () => {
  const state = sample();
  const { tensors, values } = flattenState(state);
  assert.deepEqual([...tensors.keys()], ["0/inner/mu", "0/inner/nu"]);
  assert.deepEqual(values, { "0/left": null, "0/side": "right", "0/renewedAt": 3, "2/flag": true });
  const back = unflattenState(sample(), tensors, JSON.parse(JSON.stringify(values)));
  assert.deepEqual(Object.keys(back), ["0", "1", "2"]);
  assert.deepEqual(flattenState(back), { tensors, values });
  assert.deepEqual(back["1"], {});
});

Deno.test("unflattenState() takes a tensor where the shape has null, as after the first refresh", () => {
  const { tensors, values } = flattenState(sample());
  const left = tensor(5);
  tensors.set("0/left", left);
  delete values["0/left"];
  const back = unflattenState(sample(), tensors, values) as ReturnType<typeof sample>;
  assert.equal(back[0].left, left);
});

Deno.test("unflattenState() names what is missing, unknown, or of another kind", () => {
  const refuses = (change: (flat: ReturnType<typeof flattenState>) => void, message: RegExp) => {
    const flat = flattenState(sample());
    change(flat);
    assert.throws(() => unflattenState(sample(), flat.tensors, flat.values), message);
  };
  refuses(({ tensors }) => tensors.delete("0/inner/mu"), /^RangeError: .*"0\/inner\/mu" is missing$/);
  refuses(({ values }) => delete values["0/side"], /^RangeError: .*"0\/side" is missing$/);
  refuses(({ tensors }) => tensors.set("0/inner/rho", tensor(1)), /^RangeError: .*it has no "0\/inner\/rho"$/);
  refuses(({ values }) => values["3/flag"] = true, /^RangeError: .*it has no "3\/flag"$/);
  refuses(
    ({ tensors }) => tensors.set("0/inner/mu", tensor(1, 2, 3)),
    /^TypeError: .*expected f32\[2\] for "0\/inner\/mu", got f32\[3\]$/,
  );
  refuses(({ values }) => values["0/renewedAt"] = "3", /^TypeError: .*expected number for "0\/renewedAt", got string$/);
  refuses(({ values, tensors }) => {
    tensors.delete("0/inner/mu");
    values["0/inner/mu"] = null;
  }, /^TypeError: .*expected f32\[2\] for "0\/inner\/mu", got null$/);
});

Deno.test("unflattenState() takes a phase that an older checkpoint lacks as 0, and nothing else", () => {
  const shape = { phase: 3, step: 1, left: null };
  assert.deepEqual(unflattenState(shape, new Map(), { step: 2, left: null }), { phase: 0, step: 2, left: null });
  assert.throws(() => unflattenState(shape, new Map(), { phase: 1, left: null }), /"step" is missing/);
  assert.throws(() => unflattenState(shape, new Map(), { phase: null, step: 1, left: null }), /expected number/);
});

Deno.test("unflattenState() never writes to a prototype, whatever a file says", () => {
  const flat = flattenState(sample());
  const values = JSON.parse('{"__proto__/polluted": 1, "constructor/prototype/polluted": 1}');
  assert.throws(() => unflattenState(sample(), flat.tensors, { ...flat.values, ...values }), /it has no "__proto__/);
  assert.equal(({} as Record<string, unknown>).polluted, undefined);
});

Deno.test("stateBytes() adds up tensors, and walkState() visits every entry once", () => {
  assert.equal(stateBytes(sample()), 16);
  const paths: string[] = [];
  walkState(sample(), (path, value) => paths.push(value instanceof Tensor ? `${path}*` : path));
  assert.deepEqual(paths, ["0/inner/mu*", "0/inner/nu*", "0/left", "0/side", "0/renewedAt", "2/flag"]);
});

Deno.test("disposeReplaced() frees what the next state has not taken over", () => {
  const before = { a: tensor(1), b: { c: tensor(2) } } satisfies State;
  const after = { a: tensor(3), b: before.b } satisfies State;
  disposeReplaced(before, after);
  assert.deepEqual([before.a.isDisposed, before.b.c.isDisposed, after.a.isDisposed], [true, false, false]);
  disposeState(after);
  assert.deepEqual([after.a.isDisposed, after.b.c.isDisposed], [true, true]);
});

Deno.test("ownState() takes a state out of the scope that made it", () => {
  let state: { mu: Tensor };
  {
    using _ = scope("maker");
    state = ownState({ mu: fromArray(backend, [1], [1]) }) as { mu: Tensor };
  }
  assert.equal(state.mu.isDisposed, false);
  state.mu.dispose();
});
