/** What is said of a step whose loss or gradients are not finite, and which weight may be at fault. */
import { cast, noGrad, type Params } from "../core/mod.ts";

/** Thrown for a loss or a gradient that is not finite: the weights are as the last step before left them. */
export class NonFiniteError extends Error {
  override readonly name = "NonFiniteError";
  constructor(readonly step: number, what: string) {
    super(`Cannot take step ${step}: ${what}; the weights are those of step ${step - 1}. Lower --lr or set --clip`);
  }
}

/** The error of a step whose gradients of these names are not finite; of none: only their squares' sum is not. */
export function badGradient(step: number, names: readonly string[]): NonFiniteError {
  if (names.length === 0) return new NonFiniteError(step, "the norm of all gradients together is not finite");
  const others = names.length > 1 ? ` and ${names.length - 1} others` : "";
  return new NonFiniteError(step, `the gradient of ${names[0]}${others} is not finite`);
}

/** The error of a step with such a loss. */
export async function badLoss(params: Params, step: number, loss: number): Promise<NonFiniteError> {
  return new NonFiniteError(step, `the loss is ${loss}; ${await suspect(params)}`);
}

/** Which weight may be at fault for a loss that is not finite: one that is not finite itself, else the largest. */
async function suspect(params: Params): Promise<string> {
  let largest = { name: "", size: -1 };
  for (const [name, tensor] of params.entries()) {
    using whole = tensor.dtype === "f32" ? tensor.retained() : noGrad(() => cast(tensor, "f32"));
    for (const value of await whole.read()) {
      if (!Number.isFinite(value)) return `${name} holds ${value}`;
      if (Math.abs(value) > largest.size) largest = { name, size: Math.abs(value) };
    }
  }
  return `the largest weight is ${largest.size.toPrecision(3)} in ${largest.name}`;
}
