/**
 * The fused kernels of the seam on compiled SIMD code, f32: forward and gradients of softmax, cross-entropy, the norms, the
 * activations, rotary positions and attention. Definitions: the composed forms in core/ops; formulas: wasm/assembly.
 */
import type { FusedKernel, FusedKernels, Operand, Spec } from "../../core/backend.ts";
import { UnsupportedError } from "../../core/errors.ts";
import { sizeOf } from "../../core/shape.ts";
import { chunks, joinBlocks, rowTasks, type WasmDevice, withWorkspace } from "./wasm_kernels.ts";

/** Rows of a task of the norms: ROWS in assembly/norms.ts. */
const NORM_ROWS = 32;
/** The widest head that the tiles of assembly/attention.ts hold. */
const MAX_HEAD_SIZE = 512;

/** All fused kernels over `device`. */
export function wasmFused(device: WasmDevice): FusedKernels {
  return {
    softmax: softmax(device),
    crossEntropy: crossEntropy(device),
    rmsNorm: rmsNorm(device),
    layerNorm: layerNorm(device),
    gelu: activation(device, ({ approximate }) => approximate === "none" ? 0 : 1),
    silu: activation(device, () => 2),
    swiglu: swiglu(device),
    rope: rope(device),
    attention: attention(device),
  };
}

function areF32(inputs: readonly Spec[]): boolean {
  return inputs.every(({ dtype, shape }) => dtype === "f32" && sizeOf(shape) > 0);
}

/** x [.., D] as rows. */
function matrix({ shape }: Spec): { rows: number; columns: number } {
  const columns = shape[shape.length - 1];
  return { rows: sizeOf(shape) / columns, columns };
}

/** 0 stands for an operand that is not wanted. */
function addressOf({ memory }: WasmDevice, operand: Operand | undefined): number {
  return operand ? memory.address(operand) : 0;
}

function softmax(device: WasmDevice): FusedKernel<Record<never, never>> {
  const run = (name: string, operands: readonly Operand[]) => {
    const { rows, columns } = matrix(operands[0]);
    const addresses = operands.map((operand) => addressOf(device, operand));
    device.runner.run(name, rowTasks(rows, columns), [...addresses, rows, columns]);
  };
  return {
    supports: ([x]) => areF32([x]) && x.shape.length > 0,
    forward: ([x], _, out) => run("softmax", [x, out]),
    vjp: {
      saves: { inputs: [], out: true },
      run: ({ out }, gradient, _, [dx]) => dx && run("softmaxGradient", [out!, gradient, dx]),
    },
  };
}

/** Residual [2 N + 1]: the largest logit of each row, the log of its sum of e^(x - largest), the number of kept rows. */
function crossEntropy(device: WasmDevice): FusedKernel<{ readonly ignoreIndex: number }> {
  const { runner } = device;
  const parts = (residual: Operand, rows: number) => {
    const shifts = addressOf(device, residual);
    return [shifts, shifts + 4 * rows, shifts + 8 * rows];
  };
  return {
    supports: ([logits, targets]) => areF32([logits]) && logits.shape.length === 2 && targets.dtype === "i32",
    residuals: ([logits]) => [{ shape: [2 * logits.shape[0] + 1], dtype: "f32" }],
    forward: ([logits, targets], { ignoreIndex }, out, [residual]) => {
      const [rows, columns] = logits.shape;
      checkTargets(device, targets, columns, ignoreIndex);
      const [shifts, logSums, count] = parts(residual, rows);
      const [x, labels] = [addressOf(device, logits), addressOf(device, targets)];
      runner.run("crossEntropyRows", rowTasks(rows, columns), [x, shifts, logSums, rows, columns]);
      const args = [x, labels, shifts, logSums, addressOf(device, out), count, rows, columns, ignoreIndex];
      runner.run("crossEntropyMean", 1, args);
    },
    vjp: {
      saves: { inputs: [0, 1], out: false, overwrites: [0] },
      run: ({ inputs: [logits, targets], residuals: [residual] }, gradient, { ignoreIndex }, [dx]) => {
        if (!dx) return;
        const [rows, columns] = dx.shape;
        const addresses = [addressOf(device, logits), addressOf(device, targets), ...parts(residual, rows)];
        const args = [...addresses, addressOf(device, gradient), addressOf(device, dx), rows, columns, ignoreIndex];
        runner.run("crossEntropyGradient", rowTasks(rows, columns), args);
      },
    },
  };
}

/** @throws RangeError for a target that is neither `ignoreIndex` nor in [0, classes) */
function checkTargets({ memory }: WasmDevice, targets: Operand, classes: number, ignoreIndex: number): void {
  const labels = memory.view(targets.buffer, "i32");
  const size = sizeOf(targets.shape);
  for (let n = 0; n < size; n++) {
    const label = labels[targets.offset + n];
    if (label !== ignoreIndex && (label < 0 || label >= classes)) {
      throw new RangeError(
        `Cannot score in crossEntropy(): targets must be in [0, ${classes}) or ${ignoreIndex}, got ${label} at row ${n}`,
      );
    }
  }
}

function isNorm([x, ...vectors]: readonly Spec[]): boolean {
  return areF32([x, ...vectors]) && x.shape.length > 0 &&
    vectors.every(({ shape }) => shape.length === 1 && shape[0] === x.shape[x.shape.length - 1]);
}

/** Residual: 1 / rms of each row. */
function rmsNorm(device: WasmDevice): FusedKernel<{ readonly eps: number }> {
  const { runner } = device;
  return {
    supports: isNorm,
    residuals: ([x]) => [{ shape: [matrix(x).rows], dtype: "f32" }],
    forward: ([x, weight], { eps }, out, [rstd]) => {
      const { rows, columns } = matrix(x);
      const addresses = [x, weight, out, rstd].map((operand) => addressOf(device, operand));
      runner.run("rmsNorm", Math.ceil(rows / NORM_ROWS), [...addresses, rows, columns, eps]);
    },
    vjp: {
      saves: { inputs: [0, 1], out: false },
      run: ({ inputs: [x, weight], residuals: [rstd] }, gradient, _, [dx, dw]) => {
        const { rows, columns } = matrix(gradient);
        const blocks = Math.ceil(rows / NORM_ROWS);
        const from = [x, weight, rstd, gradient, dx].map((operand) => addressOf(device, operand));
        const run = (shares: number) => runner.run("rmsNormGradient", blocks, [...from, shares, rows, columns]);
        if (!dw) return run(0);
        withWorkspace(device, 8 * blocks * columns, (shares) => {
          run(shares);
          joinBlocks(device, shares, addressOf(device, dw), { blocks, columns });
        });
      },
    },
  };
}

/** Residual [2, N]: mean and 1 / standard deviation of each row. */
function layerNorm(device: WasmDevice): FusedKernel<{ readonly eps: number }> {
  const { runner } = device;
  return {
    supports: isNorm,
    residuals: ([x]) => [{ shape: [2, matrix(x).rows], dtype: "f32" }],
    forward: ([x, weight, bias], { eps }, out, [residual]) => {
      const { rows, columns } = matrix(x);
      const addresses = [x, weight, bias, out, residual].map((operand) => addressOf(device, operand));
      const rstd = addressOf(device, residual) + 4 * rows;
      runner.run("layerNorm", Math.ceil(rows / NORM_ROWS), [...addresses, rstd, rows, columns, eps]);
    },
    vjp: {
      saves: { inputs: [0, 1], out: false },
      run: ({ inputs: [x, weight], residuals: [residual] }, gradient, _, [dx, dw, db]) => {
        const { rows, columns } = matrix(gradient);
        const blocks = Math.ceil(rows / NORM_ROWS);
        const means = addressOf(device, residual);
        const from = [addressOf(device, x), addressOf(device, weight), means, means + 4 * rows];
        const operands = [...from, addressOf(device, gradient), addressOf(device, dx)];
        const run = (w: number, b: number) =>
          runner.run("layerNormGradient", blocks, [...operands, w, b, rows, columns]);
        if (!dw && !db) return run(0, 0);
        withWorkspace(device, 16 * blocks * columns, (weights) => {
          const biases = weights + 8 * blocks * columns;
          run(weights, biases);
          if (dw) joinBlocks(device, weights, addressOf(device, dw), { blocks, columns });
          if (db) joinBlocks(device, biases, addressOf(device, db), { blocks, columns });
        });
      },
    },
  };
}

/** gelu and silu. `kindOf` gives the number of assembly/activations.ts. */
function activation<Attributes>(
  device: WasmDevice,
  kindOf: (attributes: Attributes) => number,
): FusedKernel<Attributes> {
  const run = (name: string, attributes: Attributes, operands: readonly (Operand | undefined)[]) => {
    const size = sizeOf(operands[0]!.shape);
    const addresses = operands.map((operand) => addressOf(device, operand));
    device.runner.run(name, chunks(size), [kindOf(attributes), ...addresses, size]);
  };
  return {
    supports: areF32,
    forward: ([x], attributes, out) => run("activation", attributes, [x, out]),
    vjp: {
      saves: { inputs: [0], out: false },
      run: ({ inputs: [x] }, gradient, attributes, [dx]) =>
        dx && run("activationGradient", attributes, [x, gradient, dx]),
    },
  };
}

function swiglu(device: WasmDevice): FusedKernel<Record<never, never>> {
  const run = (name: string, size: number, operands: readonly (Operand | undefined)[]) => {
    device.runner.run(name, chunks(size), [...operands.map((operand) => addressOf(device, operand)), size]);
  };
  return {
    supports: (inputs) => areF32(inputs) && sizeOf(inputs[0].shape) === sizeOf(inputs[1].shape),
    forward: ([gate, up], _, out) => run("swiglu", sizeOf(out.shape), [gate, up, out]),
    vjp: {
      saves: { inputs: [0, 1], out: false },
      run: ({ inputs: [gate, up] }, gradient, _, [dGate, dUp]) =>
        run("swigluGradient", sizeOf(gradient.shape), [gate, up, gradient, dGate, dUp]),
    },
  };
}

/** The tables get no gradient: keeping x for it would cost an activation a layer, and nothing trains them. */
function rope(device: WasmDevice): FusedKernel<Record<never, never>> {
  const run = (x: Operand, cos: Operand, sin: Operand, out: Operand, turn: number) => {
    const [B, T, H, K] = x.shape;
    const addresses = [x, cos, sin, out].map((operand) => addressOf(device, operand));
    device.runner.run("rope", rowTasks(B * T, H * K), [...addresses, B * T, T, H, K, turn]);
  };
  return {
    supports: (inputs) => areF32(inputs) && inputs[0].shape.length === 4 && inputs[0].shape[3] % 2 === 0,
    forward: ([x, cos, sin], _, out) => run(x, cos, sin, out, 1),
    vjp: {
      saves: { inputs: [1, 2], out: false },
      run: ({ inputs: [, cos, sin] }, gradient, _, [dx, dCos, dSin]) => {
        if (dCos || dSin) {
          throw new UnsupportedError("Cannot differentiate rope() by its tables: only x has a gradient");
        }
        if (dx) run(gradient, cos!, sin!, dx, -1);
      },
    },
  };
}

/** Residual [B, H, T]: the log of each query's sum of e^score. */
function attention(device: WasmDevice): FusedKernel<{ readonly causal: boolean; readonly scale: number }> {
  const { runner } = device;
  const sizes = (q: Operand, k: Operand) => [q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3]];
  return {
    supports: ([q, k, v, mask]) => {
      const [B, , H, K] = q.shape;
      return areF32([q, k, v]) && q.shape.length === 4 && K <= MAX_HEAD_SIZE && k.shape[0] === B &&
        H % k.shape[2] === 0 && k.shape[3] === K && v.shape.every((extent, axis) => extent === k.shape[axis]) &&
        (mask === undefined || mask.dtype === "u32");
    },
    residuals: ([q]) => [{ shape: [q.shape[0], q.shape[2], q.shape[1]], dtype: "f32" }],
    forward: ([q, k, v, mask], { causal, scale }, out, [lse]) => {
      const addresses = [q, k, v, mask, out, lse].map((operand) => addressOf(device, operand));
      const tasks = q.shape[0] * q.shape[2];
      runner.run("attention", tasks, [...addresses, ...sizes(q, k), causal ? 1 : 0, scale]);
    },
    vjp: {
      saves: { inputs: [0, 1, 2, 3], out: true },
      run: ({ inputs: [q, k, v, mask], out, residuals: [lse] }, gradient, { causal, scale }, [dq, dk, dv]) => {
        const addresses = [q, k, v, mask, out, lse, gradient, dq, dk, dv].map((operand) => addressOf(device, operand));
        const tasks = k!.shape[0] * k!.shape[2];
        runner.run("attentionGradient", tasks, [...addresses, ...sizes(q!, k!), causal ? 1 : 0, scale]);
      },
    },
  };
}
