/** What kernels see of the device: run this text over these operands. Everything else is behind it. */
import type { BufferHandle, Operand } from "../../core/backend.ts";
import { bytesFor, bytesPerElement, type DType } from "../../core/dtype.ts";
import { contiguousStrides, type Shape, sizeOf } from "../../core/shape.ts";
import type { KernelSource, Pipelines } from "./pipelines.ts";
import type { Allocation, Block, BufferPool } from "./pool.ts";
import type { Recorder } from "./recorder.ts";
import type { TileChoice } from "./tiles.ts";

/** A kernel call in terms of operands. */
export interface Call {
  /** Names the text: the kernel and every constant it depends on. */
  readonly key: string;
  /** Makes the text; called once for a key. */
  readonly build: () => KernelSource;
  /** In the order of the source's bindings. Whole buffers are bound: offsets travel as parameters. */
  readonly operands: readonly Operand[];
  readonly params: Readonly<Record<string, number>>;
  /** Workgroups in x, y and z. */
  readonly grid: readonly [number, number?, number?];
  /** Bytes read and written; by default those of the operands. */
  readonly bytes?: number;
  /** Floating-point operations; 0 by default. */
  readonly flops?: number;
}

const WRITE_WORD: KernelSource = {
  bindings: [{ name: "out", type: "array<u32>", access: "read_write" }],
  params: { bits: "u32" },
  code: /* wgsl */ `@compute @workgroup_size(1) fn main() { out[0] = params.bits; }`,
};

/** A device as kernels see it. */
export class Gpu {
  constructor(
    readonly pool: BufferPool,
    readonly recorder: Recorder,
    readonly pipelines: Pipelines,
    /** Limits granted. */
    readonly limits: Readonly<Record<string, number>>,
    /** True where kernels may use subgroup operations. */
    readonly subgroups: boolean,
    /** Which matmul tile to use where. */
    readonly tiles: TileChoice,
  ) {}

  /** Enqueues a kernel. An input that shares its buffer with an output is copied first: WebGPU forbids the pair. */
  run({ key, build, operands, params, grid: [x, y = 1, z = 1], bytes, flops = 0 }: Call): void {
    if (x === 0 || y === 0 || z === 0) return;
    const pipeline = this.pipelines.get(key, build);
    const blocks = operands.map(({ buffer }) => this.settled(buffer).block);
    const copies: Allocation[] = [];
    blocks.forEach((block, i) => {
      if (pipeline.writes[i] || !blocks.some((other, j) => pipeline.writes[j] && other === block)) return;
      const copy = this.pool.alloc(block.capacity, "a copy of an input");
      this.recorder.copy(block, 0, copy.block, 0, block.capacity);
      copies.push(copy);
      blocks[i] = copy.block;
    });
    this.recorder.dispatch({ pipeline, blocks, params, grid: [x, y, z], bytes: bytes ?? bytesOf(operands), flops });
    for (const copy of copies) this.pool.free(copy);
  }

  /**
   * Notes that a tensor of one 32-bit element has these bits. They are written when a kernel binds it; one that takes the
   * number as a parameter spares the kernel that would have written it, and most scalars in a training step are so used.
   */
  hold(out: Operand, bits: number): boolean {
    const allocation = this.pool.own(out.buffer, "use");
    if (allocation.bytes !== 4 || out.offset !== 0 || bytesPerElement(out.dtype) !== 4) return false;
    allocation.constant = bits;
    return true;
  }

  /** The bits of a held constant. */
  heldBits({ buffer }: Operand): number | undefined {
    return this.pool.own(buffer, "use").constant;
  }

  /** The allocation behind a handle, with its held constant written. */
  settled(buffer: BufferHandle, verb = "use"): Allocation {
    const allocation = this.pool.own(buffer, verb);
    const bits = allocation.constant;
    if (bits === undefined) return allocation;
    allocation.constant = undefined;
    const pipeline = this.pipelines.get("word", () => WRITE_WORD);
    this.recorder.dispatch({
      pipeline,
      blocks: [allocation.block],
      params: { bits },
      grid: [1, 1, 1],
      bytes: 4,
      flops: 0,
    });
    return allocation;
  }

  /** Memory for the time of `use`: what is enqueued inside may read and write it. */
  withTemporary<T>(shape: Shape, dtype: DType, use: (temporary: Operand) => T): T {
    const buffer = this.pool.alloc(bytesFor(dtype, sizeOf(shape)), "a temporary");
    try {
      return use({ buffer, offset: 0, shape, strides: contiguousStrides(shape), dtype });
    } finally {
      this.pool.free(buffer);
    }
  }
}

function bytesOf(operands: readonly Operand[]): number {
  let bytes = 0;
  for (const { shape, strides, dtype } of operands) {
    let size = bytesPerElement(dtype);
    for (let axis = 0; axis < shape.length; axis++) if (strides[axis] !== 0) size *= shape[axis];
    bytes += size;
  }
  return bytes;
}

/** The most workgroups along one axis. */
export const MAX_GRID = 65535;

/** A grid of at least `groups` workgroups over x and y: a kernel counts them by `GROUP_INDEX`. */
export function flatGrid(groups: number): [number, number] {
  if (groups <= MAX_GRID) return [groups, 1];
  const y = Math.ceil(groups / MAX_GRID);
  return [Math.ceil(groups / y), y];
}

/** The index of a workgroup in a `flatGrid`; `group` and `groups` are the builtins workgroup_id and num_workgroups. */
export const GROUP_INDEX = "(group.x + group.y * groups.x)";

/** The block of the pool behind an operand: for copies and reads. */
export function blockOf(gpu: Gpu, { buffer }: Operand): Block {
  return gpu.settled(buffer).block;
}
