/**
 * The seam: what a backend is. Types only; this file computes nothing.
 *
 * A backend is storage (untyped bytes behind opaque handles), an exhaustive table of kernels, and optional fused
 * kernels and updates. It never sees a Tensor, a gradient tape, a model or an optimizer: shapes are checked, outputs
 * allocated and masks broadcast above it. Kernels only *enqueue*: a value exists on the host after `read`.
 */
import type { SlotKind } from "./codebook.ts";
import type { DType } from "./dtype.ts";
import type { Shape } from "./shape.ts";

/** An opaque handle of device memory. Nothing above the seam looks inside. */
export type BufferHandle = object;

/** Shape and dtype: what can be known of an operand before it exists. */
export interface Spec {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** A kernel's operand. `offset` and `strides` count elements. Contiguous unless the kernel says that it takes strides. */
export interface Operand extends Spec {
  readonly buffer: BufferHandle;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** What a backend's allocator says of itself, in bytes; `live` counts buffers. */
export interface MemoryReport {
  /** Bytes handed out and not freed. */
  readonly inUse: number;
  /** Bytes held from the system, pools included. */
  readonly reserved: number;
  /** The largest `inUse` so far (or since `resetPeak`). */
  readonly peak: number;
  /** Number of buffers handed out and not freed. */
  readonly live: number;
  /** The most that may be in use. */
  readonly limit: number;
}

/** Bytes on a device. */
export interface Storage {
  readonly name: string;
  /** New memory of at least `bytes`, contents undefined. @throws OutOfMemoryError beyond the limit. */
  alloc(bytes: number, label?: string): BufferHandle;
  free(buffer: BufferHandle): void;
  write(buffer: BufferHandle, byteOffset: number, data: Uint8Array): void;
  /** The only promise below `read()`: resolves when everything enqueued before it has run. */
  read(buffer: BufferHandle, byteOffset: number, bytes: number): Promise<Uint8Array<ArrayBuffer>>;
  /** Offered where the host sees the memory (CPU); returns a copy. */
  readSync?(buffer: BufferHandle, byteOffset: number, bytes: number): Uint8Array<ArrayBuffer>;
  memory(): MemoryReport;
  resetPeak(): void;
}

export type UnaryOp =
  | "neg"
  | "abs"
  | "exp"
  | "log"
  | "sqrt"
  | "rsqrt"
  | "recip"
  | "tanh"
  | "erf"
  | "sin"
  | "cos"
  | "floor"
  | "sign";

/** `less` and `equal` write u32 masks (0 or 1); the others keep the operands' dtype. */
export type BinaryOp = "add" | "sub" | "mul" | "div" | "max" | "min" | "pow" | "less" | "equal";

export type ReduceOp = "sum" | "max" | "argmax";

export interface MatmulOptions {
  /** `a` is stored [.., K, M] instead of [.., M, K]. */
  readonly transposeA: boolean;
  /** `b` is stored [.., N, K] instead of [.., K, N]. */
  readonly transposeB: boolean;
}

export interface AddIntoOptions {
  /** How the sum is rounded to a 16-bit parameter. */
  readonly rounding: "nearest" | "stochastic";
  /** Key of the random bits for stochastic rounding: element i takes word i of `randomBits`. */
  readonly key?: readonly [number, number];
  /**
   * A 16-bit parameter's exact value: f32, contiguous, of its shape, with `rounding` "nearest". It is advanced in place
   * (master += delta in f32), and the parameter becomes the master rounded to nearest even, whatever it held before.
   */
  readonly master?: Operand;
  /** A u32 scalar on the device: where it is 0, nothing changes. */
  readonly gate?: Operand;
}

/**
 * The kernels that every backend has. Outputs are allocated by the caller, contiguous, and never alias an input.
 * Elementwise operands have the output's shape (broadcast operands of `binary` have stride 0). A missing entry is a
 * compile error. The living definition of each is `backends/cpu/loops`.
 */
export interface Kernels {
  /** out[i] = op(x[i]). Contiguous; floats, and neg/abs/sign on i32. */
  unary(op: UnaryOp, x: Operand, out: Operand): void;
  /** out = op(a, b). a and b may have any strides; same dtype (float, i32, u32). */
  binary(op: BinaryOp, a: Operand, b: Operand, out: Operand): void;
  /** out = mask ? a : b. mask u32. All contiguous, all of the output's shape. */
  where(mask: Operand, a: Operand, b: Operand, out: Operand): void;
  /** Value conversion. float -> int truncates toward zero; float -> bf16/f16 rounds to nearest even. */
  cast(x: Operand, out: Operand): void;
  fill(value: number, out: Operand): void;
  /** out[i] = start + i * step. */
  iota(start: number, step: number, out: Operand): void;
  /**
   * Over the last `axes` axes of x (any strides). out has the remaining axes. `argmax` (axes = 1) writes u32, first of
   * equals. Sums of f32 accumulate so that the error grows as log n or better; the order depends on sizes alone.
   */
  reduce(op: ReduceOp, x: Operand, axes: number, out: Operand): void;
  /**
   * out[.., M, N] = a @ b with f32 accumulation (f64 for f64). The innermost stride of a and b is 1, the row stride at
   * least the row length, batch strides anything (0 broadcasts); batch axes equal the output's. a and b have one dtype;
   * out has it too, or is f32 where they are 16-bit: then the sums are stored as they are.
   */
  matmul(a: Operand, b: Operand, out: Operand, options: MatmulOptions): void;
  /** Copies between any two views of the same shape and dtype: makes contiguous, and writes the parts of a concat. */
  copyStrided(x: Operand, out: Operand): void;
  /** out[n, :] = table[indices[n], :]. table [V, D], indices i32/u32 [N]. @throws RangeError for an index outside. */
  takeRows(table: Operand, indices: Operand, out: Operand): void;
  /**
   * out[v, :] = sum of rows[n, :] where indices[n] == v, in order of n; every other row is 0. Deterministic. 16-bit rows
   * are added in f32, and each sum is rounded once.
   */
  scatterAddRows(rows: Operand, indices: Operand, out: Operand): void;
  /** out (u32) = the words of threefry-2x32-20 under `key`: word i is component i % 2 of block floor(i / 2). */
  randomBits(key: readonly [number, number], out: Operand): void;
  /**
   * The one in-place op: param += delta. delta f32 (f64 for f64); param f32, bf16, f16 or f64; both contiguous. The sum
   * is taken in f32 and rounded to a 16-bit parameter as the options say; f16 is not rounded stochastically.
   */
  addInto(param: Operand, delta: Operand, options: AddIntoOptions): void;
}

export type KernelName = keyof Kernels;

/**
 * Attributes of each fused op. Inputs and meaning stand with the composed definition in `core/ops`; in short:
 *
 * | op | inputs | out | residuals are the backend's own |
 * |---|---|---|---|
 * | softmax | x [.., D] | [.., D] | |
 * | crossEntropy | logits [N, V], targets i32 [N] | [] mean over targets != ignoreIndex (0 when there is none) | |
 * | rmsNorm | x [.., D], weight [D] | [.., D] | |
 * | layerNorm | x [.., D], weight [D], bias [D] | [.., D] | |
 * | gelu | x | as x | |
 * | silu | x | as x | |
 * | swiglu | gate, up | silu(gate) * up | |
 * | rope | x [B, T, H, K], cos [T, K/2], sin [T, K/2] | half-split rotation, as x | |
 * | attention | q [B, T, H, K], k [B, S, G, K], v [B, S, G, K], mask u32 [B, S]? | [B, T, H, K] | |
 * | sumOfSquares | x, any shape | [], not finite when an element is infinite or NaN | |
 *
 * Over 16-bit operands the definition is: widen the float operands to f32, run the composed form there, round the result
 * once to the output's dtype; gradients likewise, each once to its operand's dtype. All 16-bit operands of a call are of
 * one dtype, and the output is of that dtype as well. Exceptions: the tables of `rope` stay f32, and `crossEntropy` and
 * `sumOfSquares` write f32, so that the gradient that their vjp gets is f32.
 */
export interface FusedAttributes {
  softmax: Record<never, never>;
  crossEntropy: { readonly ignoreIndex: number };
  rmsNorm: { readonly eps: number };
  layerNorm: { readonly eps: number };
  gelu: { readonly approximate: "none" | "tanh" };
  silu: Record<never, never>;
  swiglu: Record<never, never>;
  rope: Record<never, never>;
  /** Query t sees key s when mask[b, s] is 1 (if given) and, if causal, s <= t + S - T. Head h reads group h * G / H. */
  attention: { readonly causal: boolean; readonly scale: number };
  sumOfSquares: Record<never, never>;
}

export type FusedName = keyof FusedAttributes;

/** What a fused vjp gets back: only the inputs and output that it asked to have saved, and its residuals. */
export interface FusedSaved {
  readonly inputs: readonly (Operand | undefined)[];
  readonly out?: Operand;
  readonly residuals: readonly Operand[];
}

/** A declared speed-up of a composed op. All operands contiguous. */
export interface FusedKernel<Attributes> {
  /** Whether this entry takes operands like these; if not, the composed form runs. */
  supports(inputs: readonly Spec[], attributes: Attributes): boolean;
  /** Further outputs that `forward` writes for the vjp (log-sum-exp, 1/rms). */
  residuals?(inputs: readonly Spec[], attributes: Attributes): readonly Spec[];
  forward(
    inputs: readonly Operand[],
    attributes: Attributes,
    out: Operand,
    residuals: readonly Operand[],
  ): void;
  /** Without it, backward re-runs the composed form from the inputs. */
  readonly vjp?: {
    /** Indices of the inputs to keep until backward, and whether to keep the output. */
    readonly saves: {
      readonly inputs: readonly number[];
      readonly out: boolean;
      /**
       * Saved inputs whose gradient may take their memory where nobody else holds it: `run` then gets one buffer and
       * offset for both.
       */
      readonly overwrites?: readonly number[];
    };
    /** Writes the gradient of each input that has an entry in `grads` (undefined: not wanted). */
    run(
      saved: FusedSaved,
      gradient: Operand,
      attributes: Attributes,
      grads: readonly (Operand | undefined)[],
    ): void;
  };
}

export type FusedKernels = { readonly [Name in FusedName]?: FusedKernel<FusedAttributes[Name]> };

/** One step of Adam on one leaf. m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2, g = factor * grad. */
export interface AdamUpdate {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** 1 at the first step. */
  readonly step: number;
  /**
   * `corrected` (Kingma & Ba, torch): u = mHat / (sqrt(vHat) + eps). `uncorrected` (the released GaLore, from HF's
   * AdamW): u = m / (sqrt(v) + eps) * sqrt(1 - b2^t) / (1 - b1^t).
   */
  readonly epsPlacement: "corrected" | "uncorrected";
}

/** What happens to the parameter, where the whole AdamW chain is fused. */
export interface ParameterUpdate {
  readonly learningRate: number;
  readonly weightDecay: number;
  /** `before`: p -= lr (u + wd p). `after` (the released GaLore): p -= lr u, then p -= lr wd p. */
  readonly decayPlacement: "before" | "after";
}

/**
 * A tensor in block-wise 8-bit storage. Blocks are runs of `blockSize` elements in row-major order, the last one may be
 * short. Element i is `codebook(kind)[codes[i]] * absmax[floor(i / blockSize)]`.
 */
export interface Blockwise {
  /** u8, of the tensor's shape, at the start of its buffer. */
  readonly codes: Operand;
  /** f32 [blocks]: the largest magnitude of each block. */
  readonly absmax: Operand;
}

/** How block-wise codes are made. */
export interface BlockwiseOptions {
  readonly blockSize: number;
  /**
   * Which code x gets, whose share of its block's absmax is s = x * (1 / absmax), both in f32. First the number of
   * `codeLimits(kind)` below s, or the code of 0 where absmax is 0. Then, `safe`: a nonnegative x > 0 gets at least code 1,
   * so that nothing is ever divided by a second moment that was rounded away. `stock` (bitsandbytes): a signed x whose
   * sign bit differs from its code's value's (+0 has none) gets the next code, up if x > 0, else down.
   */
  readonly rounding: "safe" | "stock";
}

/**
 * Fused optimizer updates, in place on slots that the driver donates. All contiguous f32, moments too unless said
 * otherwise.
 */
export interface UpdateKernels {
  /** Writes codes and absmax of x, which is contiguous f32. */
  quantizeBlockwise?(x: Operand, to: Blockwise, kind: SlotKind, options: BlockwiseOptions): void;
  /** Writes the values that codes stand for to `out`, contiguous f32. */
  dequantizeBlockwise?(from: Blockwise, out: Operand, kind: SlotKind, blockSize: number): void;
  /**
   * `adam` on moments stored block-wise (mu signed, nu nonnegative): decoded, advanced, used for the update as they are in
   * f32, and encoded again with the absmax of their new values. Factor, param and out as for `adam`.
   */
  adamBlockwise?(
    operands: {
      readonly grad: Operand;
      readonly mu: Blockwise;
      readonly nu: Blockwise;
      readonly factor?: Operand;
      readonly param?: Operand;
      readonly out?: Operand;
    },
    update: AdamUpdate & BlockwiseOptions,
    parameter?: ParameterUpdate,
  ): void;
  /**
   * Advances mu and nu in place. With `param`, applies the update to it in place; with `out`, writes u there.
   * `factor` (f32 scalar on the device) multiplies the gradient first: the clip factor. A negative factor leaves param,
   * mu and nu as they are and writes 0 to `out`: the finite-gate of a guarded optimizer, shut.
   */
  adam?(
    operands: {
      readonly grad: Operand;
      readonly mu: Operand;
      readonly nu: Operand;
      readonly factor?: Operand;
      readonly param?: Operand;
      readonly out?: Operand;
    },
    update: AdamUpdate,
    parameter?: ParameterUpdate,
  ): void;
}

/** A device that computes. Disposing it frees everything it holds. */
export interface Backend extends Storage, Disposable {
  readonly kernels: Kernels;
  readonly fused: FusedKernels;
  readonly updates: UpdateKernels;
}
