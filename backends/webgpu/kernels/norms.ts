/**
 * rmsNorm and layerNorm over the last axis, fused. Definitions: `core/ops/norm.ts`.
 *
 *   y = (x - mean) * rstd * weight + bias,  rstd = 1 / sqrt(mean((x - mean)^2) + eps);  rmsNorm: mean and bias are 0
 *   n = (x - mean) * rstd,  g = dy * weight
 *   dx = rstd * (g - mean(g) - n * mean(g * n)),  dweight = sum over rows of dy * n,  dbias = sum over rows of dy
 *
 * x [.., D], weight and bias [D] of one type: f32, bf16 or f16, all arithmetic in f32. Residuals, f32: rstd [N], or mean
 * and rstd [2, N]. A team of 16 to 256 lanes owns a row and holds it in registers, so that each pass reads each operand
 * once; D is at most 8192. In the gradient a team walks a block of rows and sums their shares of dweight and dbias as it
 * goes; the blocks are added by `reduce`. The variance is that of centred values.
 */
import type { FusedKernel, FusedSaved, Operand, Spec } from "../../../core/backend.ts";
import { isHalf } from "../../../core/dtype.ts";
import { sizeOf } from "../../../core/shape.ts";
import { flatGrid, type Gpu } from "../gpu.ts";
import { teamFor, usesSubgroups } from "./groups.ts";
import { forwardSource, gradientSource, type NormVariant } from "./norm_source.ts";
import { reduce } from "./reduce.ts";
import { areStorable, unitOf } from "./units.ts";

type NormAttributes = { readonly eps: number };

/** The longest row that the lanes of a workgroup hold. */
const MAX_COLUMNS = 8192;
/** Workgroups that fill a large GPU. */
const ENOUGH_GROUPS = 512;
/** Rows of a block in the gradient: few enough to be added one by one, enough that their sums are small beside them. */
const BLOCK_ROWS = { least: 8, most: 32 };

/** Residual: 1 / rms of each row. */
export function rmsNormEntry(gpu: Gpu): FusedKernel<NormAttributes> {
  return normEntry(gpu, false);
}

/** Residual: mean and 1 / standard deviation of each row. */
export function layerNormEntry(gpu: Gpu): FusedKernel<NormAttributes> {
  return normEntry(gpu, true);
}

/** x [.., D] as rows. */
function matrixOf({ shape }: Spec): { rows: number; columns: number } {
  const columns = shape[shape.length - 1];
  return { rows: sizeOf(shape) / columns, columns };
}

function normEntry(gpu: Gpu, isCentered: boolean): FusedKernel<NormAttributes> {
  return {
    supports: (inputs) => {
      const [{ dtype, shape }, ...vectors] = inputs;
      const columns = shape[shape.length - 1];
      return shape.length > 0 && sizeOf(shape) > 0 && columns <= MAX_COLUMNS && areStorable(dtype, columns) &&
        vectors.every((v) => v.dtype === dtype && v.shape.length === 1 && v.shape[0] === columns);
    },
    residuals: ([x]) => {
      const { rows } = matrixOf(x);
      return [{ shape: isCentered ? [2, rows] : [rows], dtype: "f32" }];
    },
    forward: (inputs, { eps }, out, [residual]) => {
      const { rows, columns } = matrixOf(out);
      const { variant, key, team } = variantOf(gpu, isCentered, columns, [...inputs, out]);
      const [x, weight, bias] = inputs;
      gpu.run({
        key: `norm ${key}`,
        build: () => forwardSource(variant),
        operands: [...inputs, out, residual],
        params: {
          rows,
          units: columns / variant.unit.width,
          columns,
          eps,
          at_x: x.offset,
          at_weight: weight.offset,
          at_bias: bias?.offset ?? 0,
          at_out: out.offset,
          at_residual: residual.offset,
        },
        grid: flatGrid(Math.ceil(rows / (team.size / team.lanes))),
      });
    },
    vjp: {
      saves: { inputs: [0, 1], out: false },
      run: (saved, gradient, _, grads) => runGradient(gpu, isCentered, saved, gradient, grads),
    },
  };
}

function variantOf(gpu: Gpu, isCentered: boolean, columns: number, operands: readonly Operand[]) {
  const unit = unitOf(columns, operands);
  const units = columns / unit.width;
  const team = teamFor(units);
  const steps = Math.ceil(units / team.lanes);
  const { dtype } = operands[0];
  const bySubgroups = usesSubgroups(gpu, team);
  const variant: NormVariant = { isCentered, dtype, unit, team, steps, bySubgroups };
  const key = [isCentered ? "centered" : "", dtype, unit.width, team.lanes, steps, bySubgroups ? "subgroups" : ""];
  return { variant, team, key: key.filter((part) => part !== "").join(" ") };
}

function runGradient(
  gpu: Gpu,
  isCentered: boolean,
  { inputs: [x, weight], residuals: [residual] }: FusedSaved,
  gradient: Operand,
  [dx, dWeight, dBias]: readonly (Operand | undefined)[],
): void {
  const { rows, columns } = matrixOf(gradient);
  const operands = [x!, weight!, gradient, ...(dx ? [dx] : [])];
  const { variant, key, team } = variantOf(gpu, isCentered, columns, operands);
  const vectors = [dWeight, dBias].filter((vector) => vector !== undefined);
  const teams = team.size / team.lanes;
  const few = Math.ceil(rows / (ENOUGH_GROUPS * teams));
  const share = vectors.length === 0 ? 1 : Math.min(BLOCK_ROWS.most, Math.max(BLOCK_ROWS.least, few));
  const blocks = Math.ceil(rows / share);
  const wants = { dx: dx !== undefined, dWeight: dWeight !== undefined, dBias: dBias !== undefined };
  const run = (shares: readonly Operand[]) =>
    gpu.run({
      key: `norm gradient ${key} ${Object.values(wants).map(Number).join("")}`,
      build: () => gradientSource(variant, wants),
      operands: [x!, weight!, residual, gradient, ...(dx ? [dx] : []), ...shares],
      params: {
        rows,
        units: columns / variant.unit.width,
        columns,
        blocks,
        share,
        at_x: x!.offset,
        at_weight: weight!.offset,
        at_residual: residual.offset,
        at_dy: gradient.offset,
        at_dx: dx?.offset ?? 0,
        at_shares: 0,
      },
      grid: flatGrid(Math.ceil(blocks / teams)),
      bytes: (isHalf(gradient.dtype) ? 2 : 4) * rows * columns * (dx ? 3 : 2),
    });
  if (vectors.length === 0) return run([]);
  gpu.withTemporary([blocks, vectors.length, columns], "f32", (shares) => {
    run([shares]);
    vectors.forEach((vector, i) => {
      const strides = [1, vectors.length * columns];
      reduce(gpu, "sum", { ...shares, offset: i * columns, shape: [columns, blocks], strides }, 1, vector);
    });
  });
}
