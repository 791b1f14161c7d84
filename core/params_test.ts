/** Params: names, views by prefix, ownership and freezing. */
import assert from "node:assert/strict";
import { loopsBackend } from "../backends/cpu/loops/mod.ts";
import { backward } from "./autograd.ts";
import type { Backend } from "./backend.ts";
import { add } from "./ops/elementwise.ts";
import { linear } from "./ops/matmul.ts";
import { sum } from "./ops/reduce.ts";
import { decorated, Params } from "./params.ts";
import { scope } from "./scope.ts";
import { fromArray, type Tensor } from "./tensor.ts";

function twoLayers(backend: Backend): Params {
  const params = new Params(backend);
  params.set("model.0.up.weight", fromArray(backend, [1, 2, 3, 4, 5, 6], [3, 2]));
  params.set("model.0.up.bias", fromArray(backend, [1, 0, -1], [3]));
  params.set("model.1.down.weight", fromArray(backend, [1, 0, 1], [1, 3]));
  return params;
}

Deno.test("Params counts what it holds, in order of insertion", () => {
  using backend = loopsBackend();
  using params = twoLayers(backend);
  assert.deepEqual(params.names(), ["model.0.up.weight", "model.0.up.bias", "model.1.down.weight"]);
  assert.deepEqual([params.size, params.bytes], [12, 48]);
  assert.equal([...params.entries()].length, 3);
  assert.equal(params.toString().split("\n")[1], "model.0.up.bias f32[3]");
});

Deno.test("at() narrows names step by step, by words and numbers", () => {
  using backend = loopsBackend();
  using params = twoLayers(backend);
  const layer = params.at("model").at(0);
  assert.equal(layer.get("up.weight"), params.get("model.0.up.weight"));
  assert.ok(layer.at("up").has("bias") && !layer.has("bias"));
  assert.equal(layer.backend, backend);
});

Deno.test("get() names the missing parameter with its prefix", () => {
  using backend = loopsBackend();
  using params = twoLayers(backend);
  assert.throws(() => params.at("model.7").get("up.weight"), {
    name: "TypeError",
    message: 'Cannot find parameter "model.7.up.weight": got 3 others',
  });
});

Deno.test("linear() applies weight and bias under a name, from a view as well", () => {
  using backend = loopsBackend();
  using params = twoLayers(backend);
  using _ = scope("test");
  const x = fromArray(backend, [1, -1], [1, 2]);
  const hidden = params.at("model").at(0).linear("up", x);
  assert.deepEqual([...hidden.readSync()], [0, -1, -2]);
  assert.deepEqual([...params.linear("model.1.down", hidden).readSync()], [-2]);
});

Deno.test("set() makes a leaf, takes it out of its scope, and refuses a taken name or another backend", () => {
  using backend = loopsBackend();
  using other = loopsBackend();
  using params = new Params(backend);
  {
    using _ = scope("load");
    params.set("w", fromArray(backend, [1, 2], [2]));
  }
  assert.equal(params.get("w").isDisposed, false);
  {
    using _ = scope("step");
    const gradients: string[] = [];
    backward(sum(add(params.get("w"), 1)), (name) => gradients.push(name));
    assert.deepEqual(gradients, ["w"]);
  }
  using again = fromArray(backend, [1], [1]);
  assert.throws(() => params.set("w", again), { name: "TypeError", message: 'Cannot add "w": the name is taken' });
  using foreign = fromArray(other, [1], [1]);
  assert.throws(() => params.set("v", foreign), {
    name: "TypeError",
    message: 'Cannot hold "v": it lives on loops, expected loops',
  });
});

Deno.test("freeze() stops gradients to the named weights", () => {
  using backend = loopsBackend();
  using params = twoLayers(backend);
  params.freeze(["model.0.up.weight", "model.0.up.bias"]);
  assert.ok(params.isFrozen("model.0.up.bias") && !params.isFrozen("model.1.down.weight"));
  using _ = scope("test");
  const x = fromArray(backend, [1, -1], [1, 2]);
  const finished: string[] = [];
  const hidden: Tensor = params.linear("model.0.up", x);
  assert.equal(hidden.node, undefined);
  backward(sum(linear(hidden, params.get("model.1.down.weight"))), (name) => finished.push(name));
  assert.deepEqual(finished, ["model.1.down.weight"]);
  assert.throws(() => params.freeze(["model.2"]), TypeError);
});

Deno.test("replace() puts a tensor in a weight's place, frozen where that was, and frees the one before", () => {
  using backend = loopsBackend();
  using other = loopsBackend();
  using params = twoLayers(backend);
  params.freeze(["model.0.up.weight"]);
  const before = backend.memory().live;
  {
    using _ = scope("merge");
    for (const [name, shape] of [["model.0.up.weight", [3, 2]], ["model.1.down.weight", [1, 3]]] as const) {
      const old = params.get(name);
      params.replace(name, add(old, 1));
      assert.ok(old.isDisposed);
      assert.deepEqual(params.get(name).shape, shape);
    }
  }
  assert.deepEqual([...params.get("model.0.up.weight").readSync()], [2, 3, 4, 5, 6, 7]);
  assert.equal(backend.memory().live, before);
  assert.ok(params.isFrozen("model.0.up.weight") && !params.isFrozen("model.1.down.weight"));
  {
    using _ = scope("step");
    const finished: string[] = [];
    const hidden = params.linear("model.0.up", fromArray(backend, [1, -1], [1, 2]));
    backward(sum(params.linear("model.1.down", hidden)), (name) => finished.push(name));
    assert.deepEqual(finished.sort(), ["model.0.up.bias", "model.1.down.weight"]);
  }
  using wide = fromArray(backend, [1, 2], [1, 2]);
  assert.throws(() => params.replace("model.1.down.weight", wide), {
    name: "TypeError",
    message: 'Cannot replace "model.1.down.weight": expected f32[1, 3] on loops, got f32[1, 2] on loops',
  });
  using foreign = fromArray(other, [1, 2, 3], [1, 3]);
  assert.throws(() => params.replace("model.1.down.weight", foreign), TypeError);
  assert.throws(() => params.replace("model.2", wide), {
    name: "TypeError",
    message: /^Cannot find parameter "model.2"/,
  });
});

Deno.test("decorated() stands in for linear maps by their full names, under every prefix, and stacks", () => {
  using backend = loopsBackend();
  using params = twoLayers(backend);
  using _ = scope("test");
  const asked: string[] = [];
  const shifted = params.decorated({
    linear(name, x, plain) {
      asked.push(name);
      return name.endsWith("up") ? add(plain.linear(name, x), 1) : plain.linear(name, x);
    },
  });
  const twice = decorated(shifted, { linear: (name, x, plain) => add(plain.linear(name, x), plain.linear(name, x)) });
  const x = fromArray(backend, [1, -1], [1, 2]);
  assert.deepEqual([...shifted.at("model").at(0).linear("up", x).readSync()], [1, 0, -1]);
  assert.deepEqual([...shifted.linear("model.1.down", fromArray(backend, [1, 2, 3], [1, 3])).readSync()], [4]);
  assert.deepEqual([...twice.at("model.0").linear("up", x).readSync()], [2, 0, -2]);
  assert.deepEqual(asked, ["model.0.up", "model.1.down", "model.0.up", "model.0.up"]);
  assert.deepEqual([...params.at("model.0").linear("up", x).readSync()], [0, -1, -2]);
  assert.ok(
    twice.at("model.0").has("up.bias") && twice.get("model.1.down.weight") === params.get("model.1.down.weight"),
  );
});

Deno.test("dispose() frees every weight, once", () => {
  using backend = loopsBackend();
  const params = twoLayers(backend);
  params.dispose();
  params.dispose();
  assert.equal(backend.memory().live, 0);
  assert.deepEqual(params.names(), []);
});
