/**
 * Gradients against central differences, in f64: one random direction for each input, under a random cotangent.
 *
 * Steps are 1e-5 max(1, |x|) an element, where truncation and rounding errors are both near 1e-10.
 */
import assert from "node:assert/strict";
import type { Backend } from "../backend.ts";
import { foldIn, keyOf, uniform } from "../random.ts";
import { sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { evaluate, type HostInput } from "./inputs.ts";

const STEP = 1e-5;

/** How closely both must agree. */
export interface GradcheckOptions {
  /** Default 1e-6, of the larger of the two numbers. */
  readonly rtol?: number;
  /** Default 1e-8. */
  readonly atol?: number;
}

/**
 * Asserts that the gradients of `run` are those of its values.
 *
 * @param backend one that computes in f64
 */
export async function gradcheck(
  what: string,
  backend: Backend,
  inputs: readonly HostInput[],
  run: (...inputs: Tensor[]) => Tensor,
  { rtol = 1e-6, atol = 1e-8 }: GradcheckOptions = {},
): Promise<void> {
  const probe = await evaluate(backend, inputs, run);
  const cotangent = random(`${what} cotangent`, sizeOf(probe.shape));
  const { gradients } = await evaluate(backend, inputs, run, { cotangent });
  const valueAt = async (moved: readonly HostInput[]) => dot((await evaluate(backend, moved, run)).value, cotangent);
  for (const [i, input] of inputs.entries()) {
    if (input.kind !== "float") {
      assert.equal(gradients[i], undefined, `${what}: input ${i} wants no gradient and has one`);
      continue;
    }
    const direction = random(`${what} direction ${i}`, input.stored.length)
      .map((value, j) => value * STEP * Math.max(1, Math.abs(input.stored[j])));
    const moved = (sign: number) =>
      inputs.with(i, { ...input, stored: input.stored.map((value, j) => value + sign * direction[j]) });
    const numeric = (await valueAt(moved(1)) - await valueAt(moved(-1))) / 2 / STEP;
    const analytic = gradients[i] ? dot(gradients[i], direction) / STEP : 0;
    const error = Math.abs(numeric - analytic);
    assert.ok(
      error <= atol + rtol * Math.max(Math.abs(numeric), Math.abs(analytic)),
      `${what}: the gradient of input ${i} gives ${analytic} where differences give ${numeric}`,
    );
  }
}

/** Numbers in [-1, 1) that depend on the name alone. */
export function random(name: string, size: number): Float64Array {
  return Float64Array.from(uniform(foldIn(keyOf(3), name), size), (u) => 2 * u - 1);
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}
