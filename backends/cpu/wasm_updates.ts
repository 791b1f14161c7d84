/**
 * Fused optimizer updates on compiled SIMD code: Adam on f32 leaves and on block-wise 8-bit moments, and that storage
 * by itself. The corrections that depend on the step are computed here, in f64; the formulas stand in
 * wasm/assembly/optimizer.ts and blockwise.ts.
 */
import type { AdamUpdate, Blockwise, Operand, ParameterUpdate, UpdateKernels } from "../../core/backend.ts";
import { sizeOf } from "../../core/shape.ts";
import { SCRATCH_BYTES } from "./wasm/load.ts";
import { chunks, type WasmDevice } from "./wasm_kernels.ts";

/** Elements of a task of whole blocks: CHUNK in assembly/blockwise.ts. */
const CHUNK = 8192;
/** The largest block whose moments lie in a thread's scratch. */
const MAX_BLOCK = SCRATCH_BYTES / 8;

/** All fused updates over `device`. */
export function wasmUpdates(device: WasmDevice): UpdateKernels {
  const { runner, memory } = device;
  const address = (operand: Operand | undefined) => operand ? memory.address(operand) : 0;
  return {
    quantizeBlockwise(x, { codes, absmax }, kind, { blockSize, rounding }) {
      const size = sizeOf(x.shape);
      const flags = [kind === "signed" ? 1 : 0, rounding === "stock" ? 1 : 0];
      const args = [...[x, codes, absmax].map(address), size, blockSize, ...flags];
      runner.run("quantizeBlockwise", blockTasks(size, blockSize), args);
    },
    dequantizeBlockwise({ codes, absmax }, out, kind, blockSize) {
      const size = sizeOf(out.shape);
      const args = [...[codes, absmax, out].map(address), size, blockSize, kind === "signed" ? 1 : 0];
      runner.run("dequantizeBlockwise", blockTasks(size, blockSize), args);
    },
    adamBlockwise({ grad, mu, nu, factor, param, out }, update, parameter) {
      const coefficients = coefficientsOf("adamBlockwise", param, update, parameter);
      if (isShut(device, factor, out)) return;
      const size = sizeOf(grad.shape);
      const state = [mu, nu].flatMap(({ codes, absmax }: Blockwise) => [codes, absmax]);
      const addresses = [grad, ...state, factor, param, out].map(address);
      const { blockSize, rounding } = update;
      const args = [...addresses, size, blockSize, rounding === "stock" ? 1 : 0, ...coefficients];
      runner.run("adamBlockwise", blockTasks(size, blockSize), args);
    },
    adam({ grad, mu, nu, factor, param, out }, update, parameter) {
      const coefficients = coefficientsOf("adam", param, update, parameter);
      if (isShut(device, factor, out)) return;
      const size = sizeOf(grad.shape);
      runner.run("adam", chunks(size), [...[grad, mu, nu, factor, param, out].map(address), size, ...coefficients]);
    },
  };
}

/** Tasks of a kernel over whole blocks, so that no block is split whatever the number of threads. */
function blockTasks(size: number, blockSize: number): number {
  if (!Number.isInteger(blockSize) || blockSize < 1 || blockSize > MAX_BLOCK) {
    throw new RangeError(`Cannot store in blocks: a block has 1 to ${MAX_BLOCK} elements: got ${blockSize}`);
  }
  return Math.ceil(size / (blockSize * Math.max(1, Math.floor(CHUNK / blockSize))));
}

/** The last arguments of either Adam: from beta1 on. */
function coefficientsOf(
  kernel: string,
  param: Operand | undefined,
  { beta1, beta2, eps, step, epsPlacement }: AdamUpdate,
  parameter: ParameterUpdate | undefined,
): number[] {
  if (param && !parameter) {
    throw new TypeError(`Cannot update in ${kernel}(): a param needs its learning rate and decay`);
  }
  const { learningRate, weightDecay, decayPlacement } = parameter ??
    { learningRate: 0, weightDecay: 0, decayPlacement: "before" };
  const [bias1, bias2] = [1 - beta1 ** step, 1 - beta2 ** step];
  const corrections = epsPlacement === "corrected" ? [1 / bias1, 1 / bias2] : [Math.sqrt(bias2) / bias1, 1];
  return [
    ...[beta1, 1 - beta1, beta2, 1 - beta2],
    ...corrections,
    eps,
    learningRate,
    weightDecay,
    learningRate * weightDecay,
    decayPlacement === "after" ? 1 : 0,
  ];
}

/** Whether the finite-gate of a guarded optimizer is shut; then `out` is 0. */
function isShut({ memory }: WasmDevice, factor: Operand | undefined, out: Operand | undefined): boolean {
  if (!factor || !(memory.view(factor.buffer, factor.dtype)[factor.offset] < 0)) return false;
  if (out) memory.view(out.buffer, out.dtype).fill(0, out.offset, out.offset + sizeOf(out.shape));
  return true;
}
