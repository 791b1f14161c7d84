/**
 * Matrix completion by a deep factorisation, full against compressed: error of what was not seen, and time to it, on
 * matrices of rank 3 with singular values 2, 1.6 and 1.2 of which three entries in ten are seen. Rates, depth and epsilon
 * are those of `deno task complete`. A step's time is the least mean of ten over turns that alternate between the forms.
 *
 *     deno run -A cli/bench/completion.ts [SIZE ...]
 */
import { cpuBackend } from "../../backends/cpu/mod.ts";
import { foldIn, keyOf, type Params, uniform } from "../../core/mod.ts";
import { drawIsometry, formIsometry } from "../../models/mod.ts";
import { compressedFactors, Descent, drawFactors, fullFactors, type Observed } from "../complete_model.ts";
import { formatTable } from "../log.ts";

const SIZES = [100, 200, 400];
const VALUES = [2, 1.6, 1.2];
const DEEP = { depth: 3, epsilon: 0.1 };
const STEPS = 2000;
const GAMMAS = [0, 0.1, 1];

/** A square matrix of rank 3 and what is seen of it. */
function task(size: number): Observed & { readonly target: Float64Array } {
  const [u, v] = ["u", "v"].map((side) => formIsometry(drawIsometry(foldIn(keyOf(1), side), size, 3)));
  const target = Float64Array.from({ length: size * size }, (_, at) => {
    const [i, j] = [Math.floor(at / size), at % size];
    return VALUES.reduce((sum, value, k) => sum + u[3 * i + k] * value * v[3 * j + k], 0);
  });
  const mask = uniform(foldIn(keyOf(1), "mask"), size * size).map((chance) => chance < 0.3 ? 1 : 0);
  return { rows: size, columns: size, target, mask, seen: target.map((value, i) => mask[i] * value) };
}

/** |matrix - target| / |target| over what was not seen. */
function unseenError({ target, mask }: ReturnType<typeof task>, matrix: ArrayLike<number>): number {
  let [wrong, all] = [0, 0];
  target.forEach((value, i) => {
    if (mask[i] === 1) return;
    wrong += (matrix[i] - value) ** 2;
    all += value ** 2;
  });
  return Math.sqrt(wrong / all);
}

using backend = await cpuBackend({ threads: 1, blas: "off" });
const rows = [["size", "form", "unseen error", "ms a step", "times faster"]];
for (const size of Deno.args.length > 0 ? Deno.args.map(Number) : SIZES) {
  const problem = task(size);
  const start = drawFactors(size, size, { depth: DEEP.depth, seed: 1 });
  using parts = new DisposableStack();
  const descent = (factors: Params, gamma: number) =>
    parts.use(new Descent(parts.use(factors), problem, { learningRate: 0.2, gamma }));
  const forms = new Map([["full", descent(fullFactors(backend, start, DEEP), 0)]]);
  for (const gamma of GAMMAS) {
    const factors = compressedFactors(backend, problem, start, { ...DEEP, rank: 3 });
    forms.set(`compressed, gamma ${gamma}`, descent(factors, gamma));
  }
  const best = new Map<string, number>();
  for (let turn = 0; turn < STEPS / 10; turn++) {
    for (const [name, one] of forms) {
      const started = performance.now();
      for (let i = 0; i < 10; i++) one.advance();
      best.set(name, Math.min(best.get(name) ?? Infinity, (performance.now() - started) / 10));
    }
  }
  for (const [name, one] of forms) {
    const error = unseenError(problem, await one.matrix());
    const ratio = best.get("full")! / best.get(name)!;
    rows.push([String(size), name, error.toExponential(1), best.get(name)!.toFixed(2), ratio.toFixed(1)]);
  }
}
for (const line of formatTable(rows, "rlrrr")) console.log(line);
