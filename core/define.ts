/**
 * How an op reaches the seam: argument checks, and the fused-or-composed choice.
 *
 * The composed form of a fused op is its definition. It runs when the backend has no entry or the entry declines; its
 * gradient is used (from the saved inputs) when the entry has no vjp of its own. Over 16-bit operands the definition is
 * the composed form in f32 between casts: rounding every intermediate to 16 bits would leave two digits of a norm.
 */
import type { FusedAttributes, FusedKernel, FusedName, Operand, Spec } from "./backend.ts";
import { needsGradient, Node, recompose, record } from "./autograd.ts";
import { type DType, isHalf } from "./dtype.ts";
import { cast } from "./ops/elementwise.ts";
import { contiguous } from "./ops/layout.ts";
import { scope } from "./scope.ts";
import { describe } from "./shape.ts";
import { emptyLike, type Tensor } from "./tensor.ts";

let composedOnly = false;

/** Runs `fn` as if no backend had fused kernels: the definition itself. For tests and oracles. */
export function withoutFused<T>(fn: () => T): T {
  const before = composedOnly;
  composedOnly = true;
  try {
    return fn();
  } finally {
    composedOnly = before;
  }
}

/** @throws TypeError unless all operands live on one backend and have one dtype. */
export function checkAlike(op: string, ...operands: readonly Tensor[]): void {
  const [first] = operands;
  for (const operand of operands) {
    if (operand.backend !== first.backend) {
      throw new TypeError(`Cannot run ${op}(): operands live on ${first.backend.name} and ${operand.backend.name}`);
    }
    if (operand.dtype !== first.dtype) {
      throw new TypeError(`Cannot run ${op}(): dtypes must match: got ${describe(first)} and ${describe(operand)}`);
    }
  }
}

/** What a product saves: each factor only where the other one needs a gradient. Frozen weights keep no activations. */
export function factors(a: Tensor, b: Tensor): readonly [Tensor, Tensor] {
  return [b.node ? a : b, a.node ? b : a];
}

/** Runs `compose` in a scope of its own, so that its intermediates die with it. */
export function composed(op: string, compose: () => Tensor): Tensor {
  using inner = scope(op);
  return inner.keep(compose());
}

/**
 * `compose` between casts: 16-bit inputs are widened to f32, and the result is rounded once to `dtype`. Its gradient
 * comes back in the inputs' own dtypes. Other inputs pass as they are.
 */
export function widened(dtype: DType, compose: (...inputs: Tensor[]) => Tensor): (...inputs: Tensor[]) => Tensor {
  return (...inputs) => cast(compose(...inputs.map((x) => isHalf(x.dtype) ? cast(x, "f32") : x)), dtype);
}

/**
 * Runs a fused op: the backend's entry if it takes these operands, else the composed form, in f32 for 16-bit operands.
 *
 * @param out what the op gives
 * @param compose the definition, in terms of other ops
 */
export function fused<Name extends FusedName>(
  name: Name,
  inputs: readonly Tensor[],
  attributes: FusedAttributes[Name],
  out: Spec,
  compose: (...inputs: Tensor[]) => Tensor,
): Tensor {
  const backend = inputs[0].backend;
  const entry = composedOnly ? undefined : backend.fused[name] as FusedKernel<FusedAttributes[Name]> | undefined;
  const definition = isHalf(inputs[0].dtype) ? widened(out.dtype, compose) : compose;
  if (!entry?.supports(inputs, attributes)) return composed(name, () => definition(...inputs));
  using inner = scope(name);
  const operands = inputs.map(contiguous);
  const result = emptyLike(backend, out);
  const residuals = (entry.residuals?.(inputs, attributes) ?? []).map((spec) => emptyLike(backend, spec));
  entry.forward(operands, attributes, result, residuals);
  if (needsGradient(inputs)) {
    if (entry.vjp) recordFused(name, entry, attributes, inputs, operands, result, residuals);
    else {
      record(name, result, inputs, operands, (gradient, saved) => {
        const gradients = recompose(definition, saved, inputs.map((input) => input.node), gradient);
        return gradients.map((part) => () => part);
      });
    }
  }
  return inner.keep(result);
}

function recordFused<Name extends FusedName>(
  name: Name,
  entry: FusedKernel<FusedAttributes[Name]>,
  attributes: FusedAttributes[Name],
  inputs: readonly Tensor[],
  operands: readonly Tensor[],
  result: Tensor,
  residuals: readonly Tensor[],
): void {
  const vjp = entry.vjp!;
  const wanted = inputs.map((input) => input.node !== undefined);
  const specs: Spec[] = operands.map(({ shape, dtype }) => ({ shape, dtype }));
  const kept = vjp.saves.inputs.filter((index) => index < operands.length);
  const saved = [...kept.map((index) => operands[index]), ...residuals, ...(vjp.saves.out ? [result] : [])];
  result.node = new Node(name, inputs.map((input) => input.node), saved, (gradient, held) => {
    const backend = gradient.backend;
    const savedInputs: (Operand | undefined)[] = operands.map(() => undefined);
    kept.forEach((index, position) => savedInputs[index] = held[position]);
    const grads = specs.map((spec, index) => {
      if (!wanted[index]) return undefined;
      const given = vjp.saves.overwrites?.includes(index) ? held[kept.indexOf(index)] : undefined;
      // the tape's own view is the last one: nobody can read what is overwritten
      return given && !given.isShared ? given.view(given.shape, given.strides, given.offset) : emptyLike(backend, spec);
    });
    vjp.run(
      {
        inputs: savedInputs,
        residuals: held.slice(kept.length, kept.length + residuals.length),
        out: vjp.saves.out ? held[held.length - 1] : undefined,
      },
      contiguous(gradient),
      attributes,
      grads,
    );
    return grads.map((grad) => () => grad);
  });
}
