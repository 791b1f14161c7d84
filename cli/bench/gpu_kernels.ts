/**
 * What single kernels reach on a GPU: matrix products by design, a copy, and the fused kernels that memory limits.
 *
 * Reads cost 10 ms and more, so a measurement is many calls between two reads, less the time of an empty read.
 */
import type { WebgpuBackend } from "../../backends/webgpu/mod.ts";
import { TILES } from "../../backends/webgpu/kernels/matmul_plan.ts";
import type { FusedKernel, Operand, Spec } from "../../core/backend.ts";
import { bytesFor, bytesPerElement, type DType } from "../../core/dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";

/** Milliseconds of device work between two reads. */
const LONG_MS = 60;

/** Times what is enqueued on one backend, and holds its operands. */
export class Stopwatch implements Disposable {
  readonly #backend: WebgpuBackend;
  readonly #held: Operand[] = [];
  readonly #witness: Operand;
  #emptyMs: number | undefined;

  constructor(backend: WebgpuBackend) {
    this.#backend = backend;
    this.#witness = this.operand([1], "f32");
  }

  /** A contiguous operand; floats are `value`, others 0. */
  operand(shape: Shape, dtype: DType, value = 0.5): Operand {
    const buffer = this.#backend.alloc(bytesFor(dtype, sizeOf(shape)), "a bench's operand");
    const operand: Operand = { buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype };
    this.#held.push(operand);
    const isFloat = dtype === "f32" || dtype === "bf16" || dtype === "f16";
    if (isFloat || dtype === "i32" || dtype === "u32") this.#backend.kernels.fill(isFloat ? value : 0, operand);
    return operand;
  }

  /** Milliseconds of one call of `enqueue`, which may use memory of its own. */
  async time(enqueue: () => void): Promise<number> {
    this.#emptyMs ??= Math.min(await this.#wait(() => {}, 3), await this.#wait(() => {}, 3)) / 3;
    await this.#wait(enqueue, 1); // compiles
    const once = Math.max(0.02, await this.#wait(enqueue, 1) - this.#emptyMs);
    const count = Math.max(1, Math.min(500, Math.ceil(LONG_MS / once)));
    let best = Infinity;
    for (let round = 0; round < (once > 500 ? 1 : 3); round++) {
      const ms = await this.#wait(() => {
        for (let i = 0; i < count; i++) enqueue();
      }, 1);
      best = Math.min(best, Math.max(0.001, ms - this.#emptyMs) / count);
    }
    return best;
  }

  async #wait(enqueue: () => void, rounds: number): Promise<number> {
    await this.#backend.read(this.#witness.buffer, 0, 4);
    const start = performance.now();
    for (let i = 0; i < rounds; i++) {
      enqueue();
      await this.#backend.read(this.#witness.buffer, 0, 4);
    }
    return performance.now() - start;
  }

  [Symbol.dispose](): void {
    for (const { buffer } of this.#held.splice(0)) this.#backend.free(buffer);
  }
}

/** GFLOP/s of one product. */
export interface ProductSpeed {
  readonly n: number;
  readonly dtype: DType;
  readonly layout: string;
  /** A tile's name, or `standard`: what the backend chooses. */
  readonly design: string;
  readonly gflops: number;
}

/** [n, n] @ [n, n] for each size, dtype and layout on the standard design, and on all designs at the sizes of `designsAt`. */
export async function productSpeeds(
  backend: WebgpuBackend,
  sizes: readonly number[],
  designsAt: readonly number[],
): Promise<ProductSpeed[]> {
  const speeds: ProductSpeed[] = [];
  for (const n of sizes) {
    for (const dtype of ["f32", "bf16"] as const) {
      using watch = new Stopwatch(backend);
      const [a, b, out] = [0, 1, 2].map(() => watch.operand([n, n], dtype));
      for (const layout of dtype === "f32" ? ["nn", "nt", "tn"] : ["nn"]) {
        const options = { transposeA: layout[0] === "t", transposeB: layout[1] === "t" };
        const designs = designsAt.includes(n) && dtype === "f32" ? [undefined, ...TILES.keys()] : [undefined];
        for (const design of designs) {
          backend.gpu.tiles.forced = design;
          const ms = await watch.time(() => backend.kernels.matmul(a, b, out, options));
          backend.gpu.tiles.forced = undefined;
          speeds.push({ n, dtype, layout, design: design ?? "standard", gflops: 2 * n ** 3 / ms / 1e6 });
        }
      }
    }
  }
  return speeds;
}

/** A kernel that memory limits: bytes that it must move, each once, and its time. */
export interface StreamSpeed {
  readonly name: string;
  readonly ms: number;
  readonly gbPerSecond: number;
  /** Where arithmetic counts too. */
  readonly gflops?: number;
}

/** How large the operands of `streamSpeeds` are. */
export interface StreamSizes {
  /** Elements of the copy and of the AdamW update. */
  readonly elements: number;
  readonly rows: number;
  readonly width: number;
  /** Of the attention: batch, tokens, heads, head size. */
  readonly attention: readonly [number, number, number, number];
}

/** A copy, rmsNorm and attention forward and backward, and AdamW. */
export async function streamSpeeds(backend: WebgpuBackend, sizes: StreamSizes): Promise<StreamSpeed[]> {
  const { elements, rows, width, attention: [batch, tokens, heads, size] } = sizes;
  const x: Spec = { shape: [rows, width], dtype: "f32" };
  const norm = await fusedSpeeds(backend, "rmsNorm", [x, { shape: [width], dtype: "f32" }], { eps: 1e-6 });
  const q: Spec = { shape: [batch, tokens, heads, size], dtype: "f32" };
  const flops = 2 * batch * heads * tokens ** 2 * size; // causal: half of two products of 2 T^2 K
  const attention = await fusedSpeeds(backend, "attention", [q, q, q], { causal: true, scale: size ** -0.5 }, flops);
  return [await copySpeed(backend, elements), ...norm, ...attention, ...await adamSpeed(backend, elements)];
}

async function copySpeed(backend: WebgpuBackend, elements: number): Promise<StreamSpeed> {
  using watch = new Stopwatch(backend);
  const [x, out] = [watch.operand([elements], "f32"), watch.operand([elements], "f32")];
  const ms = await watch.time(() => backend.kernels.unary("neg", x, out));
  return streamed("neg (a copy)", ms, 8 * elements);
}

function streamed(name: string, ms: number, bytes: number, flops?: number): StreamSpeed {
  const gflops = flops === undefined ? {} : { gflops: flops / ms / 1e6 };
  return { name, ms, gbPerSecond: bytes / ms / 1e6, ...gflops };
}

async function fusedSpeeds<A>(
  backend: WebgpuBackend,
  name: "rmsNorm" | "attention",
  inputs: readonly Spec[],
  attributes: A,
  flops?: number,
): Promise<StreamSpeed[]> {
  const kernel = backend.fused[name] as unknown as FusedKernel<A> | undefined;
  if (!kernel || !kernel.supports(inputs, attributes)) return [];
  using watch = new Stopwatch(backend);
  const make = ({ shape, dtype }: Spec) => watch.operand(shape, dtype);
  const [given, out] = [inputs.map(make), make(inputs[0])];
  const residuals = (kernel.residuals?.(inputs, attributes) ?? []).map(make);
  const bytes = [...inputs, inputs[0]].reduce((sum, spec) => sum + sizeOf(spec.shape) * bytesPerElement(spec.dtype), 0);
  const forward = await watch.time(() => kernel.forward(given, attributes, out, residuals));
  const speeds = [streamed(`${name} forward`, forward, bytes, flops)];
  const { vjp } = kernel;
  if (!vjp) return speeds;
  const saved = {
    inputs: given.map((operand, i) => vjp.saves.inputs.includes(i) ? operand : undefined),
    out: vjp.saves.out ? out : undefined,
    residuals,
  };
  const [gradient, grads] = [make(inputs[0]), inputs.map(make)];
  const backward = await watch.time(() => vjp.run(saved, gradient, attributes, grads));
  // reads the inputs and the gradient, writes a gradient of each input
  const all = 2 * bytes - sizeOf(inputs[0].shape) * bytesPerElement(inputs[0].dtype);
  return [...speeds, streamed(`${name} backward`, backward, all, flops && 2.5 * flops)];
}

async function adamSpeed(backend: WebgpuBackend, elements: number): Promise<StreamSpeed[]> {
  const { adam } = backend.updates;
  if (!adam) return [];
  using watch = new Stopwatch(backend);
  const [grad, mu, nu, param] = [0, 1, 2, 3].map(() => watch.operand([elements], "f32"));
  const update = { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 10, epsPlacement: "corrected" } as const;
  const parameter = { learningRate: 1e-9, weightDecay: 0.01, decayPlacement: "before" } as const;
  const ms = await watch.time(() => adam({ grad, mu, nu, param }, update, parameter));
  return [streamed("AdamW update", ms, 28 * elements)];
}
