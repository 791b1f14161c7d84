/**
 * crossEntropy, fused: mean over rows that are not ignored of log(sum of e^x) - x[target]. Definition: `core/ops/loss.ts`.
 *
 *   dlogits = (softmax(x) - [column = target]) * dy / count,  0 in ignored rows
 *
 * logits [N, V], f32, bf16 or f16; targets i32 [N]; out and dy f32 []. Residual, f32 [2 N + 1]: of each row the largest
 * logit and the log of the sum of e^(x - largest), then the number of rows kept (at least 1). Forward reads the logits
 * once, a team of lanes a row (`log_sum.ts`), and backward once, an invocation a unit, which writes the gradient over them
 * where nobody else holds them: there is no second copy.
 * The rows' losses are added by one workgroup, at most 32 in a chain.
 *
 * The host cannot see targets: one outside [0, V) that is not `ignoreIndex` gives a NaN loss and a NaN row of the
 * gradient. So does a NaN or +infinity among a kept row's logits. Ignored rows are not read.
 */
import type { FusedKernel, FusedSaved, Operand } from "../../../core/backend.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu } from "../gpu.ts";
import { gradientSource, MEAN_TEAM, meanSource, NAN_BITS, rowSource } from "./cross_entropy_source.ts";
import { teamFor, usesSubgroups } from "./groups.ts";
import type { RowVariant } from "./log_sum.ts";
import { areStorable, unitOf } from "./units.ts";

type CrossEntropyAttributes = { readonly ignoreIndex: number };

/** See the head of this file. */
export function crossEntropyEntry(gpu: Gpu): FusedKernel<CrossEntropyAttributes> {
  return {
    supports: ([logits, targets]) =>
      logits.shape.length === 2 && sizeOf(logits.shape) > 0 && areStorable(logits.dtype, logits.shape[1]) &&
      targets.dtype === "i32",
    residuals: ([logits]) => [{ shape: [2 * logits.shape[0] + 1], dtype: "f32" }],
    forward: ([logits, targets], { ignoreIndex }, out, [residual]) => {
      const [rows] = logits.shape;
      gpu.withTemporary([rows], "f32", (losses) => {
        scoreRows(gpu, [logits, targets, residual, losses], ignoreIndex);
        const bySubgroups = usesSubgroups(gpu, MEAN_TEAM);
        gpu.run({
          key: `crossEntropy mean${bySubgroups ? " subgroups" : ""}`,
          build: () => meanSource(bySubgroups),
          operands: [losses, targets, residual, out],
          params: {
            rows,
            ignored: ignoreIndex,
            at_targets: targets.offset,
            at_residual: residual.offset,
            at_out: out.offset,
          },
          grid: [1],
        });
      });
    },
    vjp: {
      saves: { inputs: [0, 1], out: false, overwrites: [0] },
      run: (saved, dy, { ignoreIndex }, [dx]) => dx && runGradient(gpu, saved, { dy, dx, ignoreIndex }),
    },
  };
}

function scoreRows(gpu: Gpu, operands: readonly [Operand, Operand, Operand, Operand], ignoreIndex: number): void {
  const [logits, targets, residual] = operands;
  const [rows, columns] = logits.shape;
  const unit = unitOf(columns, [logits]);
  const team = teamFor(columns / unit.width);
  const variant: RowVariant = { dtype: logits.dtype, unit, team, bySubgroups: usesSubgroups(gpu, team) };
  gpu.run({
    key: `crossEntropy ${logits.dtype} ${unit.width} ${team.lanes}${variant.bySubgroups ? " subgroups" : ""}`,
    build: () => rowSource(variant),
    operands,
    params: {
      rows,
      units: columns / unit.width,
      columns,
      ignored: ignoreIndex,
      at_x: logits.offset,
      at_targets: targets.offset,
      at_residual: residual.offset,
      nan_bits: NAN_BITS,
    },
    grid: flatGrid(Math.ceil(rows / (team.size / team.lanes))),
  });
}

function runGradient(
  gpu: Gpu,
  { inputs: [logits, targets], residuals: [residual] }: FusedSaved,
  { dy, dx, ignoreIndex }: { readonly dy: Operand; readonly dx: Operand; readonly ignoreIndex: number },
): void {
  const [rows, columns] = dx.shape;
  const unit = unitOf(columns, [logits!, dx]);
  const isInPlace = logits!.buffer === dx.buffer && logits!.offset === dx.offset;
  gpu.run({
    key: `crossEntropy gradient ${dx.dtype} ${unit.width}${isInPlace ? " in place" : ""}`,
    build: () => gradientSource(dx.dtype, unit, isInPlace),
    operands: [...(isInPlace ? [] : [logits!]), targets!, residual, dy, dx],
    params: {
      rows,
      units: columns / unit.width,
      columns,
      ignored: ignoreIndex,
      at_x: logits!.offset,
      at_targets: targets!.offset,
      at_residual: residual.offset,
      at_dy: dy.offset,
      at_dx: dx.offset,
      nan_bits: NAN_BITS,
    },
    grid: flatGrid(Math.ceil(rows * columns / unit.width / 256)),
  });
}
