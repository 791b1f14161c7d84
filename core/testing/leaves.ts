/** Leaves of the gradient tape, and their gradients on the host. */
import assert from "node:assert/strict";
import { asLeaf, backward } from "../autograd.ts";
import type { Backend } from "../backend.ts";
import { foldIn, keyOf, normal } from "../random.ts";
import { sizeOf } from "../shape.ts";
import { fromArray, type Tensor } from "../tensor.ts";

/** A leaf of normal numbers that depend on its name. */
export function leaf(backend: Backend, name: string, shape: readonly number[]): Tensor {
  return asLeaf(fromArray(backend, normal(foldIn(keyOf(1), name), sizeOf(shape), 0, 0.5), shape), name);
}

/** Gradients by name, in order of arrival; a name that arrives twice is an error. */
export function gradientsOf(loss: Tensor): Map<string, number[]> {
  const gradients = new Map<string, number[]>();
  backward(loss, (name, gradient) => {
    assert.ok(!gradients.has(name), `${name} was finished twice`);
    gradients.set(name, [...gradient.readSync()]);
  });
  return gradients;
}
