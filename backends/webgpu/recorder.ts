/**
 * Commands on their way to the device: recorded into one encoder and one compute pass, submitted in portions.
 *
 * Order is the whole contract. `writeBuffer` overtakes what is recorded and not yet submitted, so a write into a buffer
 * that the recording uses travels through an upload buffer and a recorded copy. A portion is submitted when somebody
 * reads, or when its estimated time reaches a limit: Windows kills a submission that runs for seconds, and a shorter
 * one keeps the screen alive. The estimate is learnt from the time between reads.
 */
import { COPY_DST, COPY_SRC, MAP_MODE_READ, MAP_READ, UNIFORM } from "./constants.ts";
import { DeviceError } from "../../core/errors.ts";
import { Estimate } from "./estimate.ts";
import { type Faults, oneLine } from "./faults.ts";
import { PARAMS_BYTES, type Pipeline, type Pipelines } from "./pipelines.ts";
import type { Block } from "./pool.ts";
import type { Profile } from "./profile.ts";

/** Uniform bytes that one portion may use: 4096 dispatches at an alignment of 256. */
const RING_BYTES = 2 ** 20;
/** Bytes that one portion may upload by recorded copies. Larger writes submit first. */
const UPLOAD_BYTES = 2 ** 20;
/** Aim for the time of a portion; half of what must never be exceeded. */
const PORTION_SECONDS = 0.05;
/** Staging buffers kept for reads. */
const MAX_STAGING = 8;

/** What has been done so far, for budgets and benchmarks. */
export interface RecorderCounters {
  dispatches: number;
  submissions: number;
  /** Times that the host waited for the device; reads of one moment count once. */
  readbacks: number;
  /** Bytes that kernels were asked to move, by their own account. */
  workBytes: number;
  flops: number;
}

/** One kernel call. */
export interface Dispatch {
  readonly pipeline: Pipeline;
  readonly blocks: readonly Block[];
  readonly params: Readonly<Record<string, number>>;
  readonly grid: readonly [number, number, number];
  /** Bytes read and written. */
  readonly bytes: number;
  /** Floating-point operations. */
  readonly flops: number;
}

/** Records, submits and reads. */
export class Recorder {
  readonly counters: RecorderCounters = { dispatches: 0, submissions: 0, readbacks: 0, workBytes: 0, flops: 0 };
  /** Grows with each submission; a block whose epoch equals it is used by what is recorded. */
  epoch = 0;
  /** Times each kernel, for benches. */
  profile: Profile | undefined;
  readonly #device: GPUDevice;
  readonly #faults: Faults;
  readonly #pipelines: Pipelines;
  readonly #align: number;
  readonly #ring: GPUBuffer;
  readonly #ringData = new DataView(new ArrayBuffer(RING_BYTES));
  #ringUsed = 0;
  readonly #ringGroup: GPUBindGroup;
  readonly #upload: GPUBuffer;
  readonly #uploadData = new Uint8Array(UPLOAD_BYTES);
  #uploadUsed = 0;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #current: GPUComputePipeline | undefined;
  #doomed: GPUBuffer[] = [];
  #staging: GPUBuffer[] = [];
  #waiting: Promise<void> | undefined;
  readonly #estimate = new Estimate();
  /** Estimated seconds of what is recorded and not submitted. */
  #recorded = 0;
  /** When the device was last known to be idle, and what it was given since. */
  #idleAt = 0;
  #since = { bytes: 0, flops: 0, dispatches: 0 };

  constructor(device: GPUDevice, faults: Faults, pipelines: Pipelines) {
    this.#device = device;
    this.#faults = faults;
    this.#pipelines = pipelines;
    this.#align = Math.max(64, device.limits.minUniformBufferOffsetAlignment);
    this.#ring = device.createBuffer({
      size: RING_BYTES + PARAMS_BYTES,
      usage: UNIFORM | COPY_DST,
      label: "parameters",
    });
    this.#ringGroup = pipelines.uniformGroup(this.#ring);
    this.#upload = device.createBuffer({ size: UPLOAD_BYTES, usage: COPY_SRC | COPY_DST, label: "uploads" });
  }

  /** Records a kernel call. */
  dispatch({ pipeline, blocks, params, grid, bytes, flops }: Dispatch): void {
    const needed = Math.ceil(Math.max(4, 4 * pipeline.params.length) / this.#align) * this.#align;
    if (this.#ringUsed + needed > RING_BYTES || this.profile?.isFull) this.flush();
    const group = this.#pipelines.group(pipeline, blocks);
    if (this.profile) this.#endPass();
    const pass = this.#pass ??= this.#encode().beginComputePass(this.profile?.pass(pipeline.pipeline.label));
    this.#writeParams(pipeline, params);
    if (this.#current !== pipeline.pipeline) pass.setPipeline(this.#current = pipeline.pipeline);
    pass.setBindGroup(0, this.#ringGroup, [this.#ringUsed]);
    pass.setBindGroup(1, group);
    pass.dispatchWorkgroups(...grid);
    this.#ringUsed += needed;
    for (const block of blocks) block.epoch = this.epoch;
    this.counters.dispatches++;
    this.#count(bytes, flops);
    if (this.#recorded > PORTION_SECONDS) this.flush();
  }

  #count(bytes: number, flops: number): void {
    this.counters.workBytes += bytes;
    this.counters.flops += flops;
    this.#since.bytes += bytes;
    this.#since.flops += flops;
    this.#since.dispatches++;
    this.#recorded += this.seconds(bytes, flops);
  }

  /** Seconds that a dispatch of this size is expected to take. */
  seconds(bytes: number, flops: number): number {
    return this.#estimate.seconds({ bytes, flops, dispatches: 1 });
  }

  #writeParams({ params: types }: Pipeline, values: Readonly<Record<string, number>>): void {
    let at = this.#ringUsed;
    for (const [name, type] of types) {
      const value = values[name];
      if (value === undefined) throw new TypeError(`Cannot run a kernel: parameter ${name} is missing`);
      if (type === "f32") this.#ringData.setFloat32(at, value, true);
      else this.#ringData.setInt32(at, value, true); // the same bits for u32
      at += 4;
    }
  }

  #encode(): GPUCommandEncoder {
    this.#faults.check();
    if (!this.#encoder && this.#since.dispatches === 0) this.#idleAt = performance.now();
    return this.#encoder ??= this.#device.createCommandEncoder();
  }

  /** Records a copy between buffers; offsets and size are multiples of 4. */
  copy(from: Block, fromOffset: number, to: Block, toOffset: number, bytes: number): void {
    this.#copyRaw(from.buffer, fromOffset, to.buffer, toOffset, bytes);
    from.epoch = to.epoch = this.epoch;
  }

  #copyRaw(from: GPUBuffer, fromOffset: number, to: GPUBuffer, toOffset: number, bytes: number): void {
    this.#endPass();
    this.#encode().copyBufferToBuffer(from, fromOffset, to, toOffset, bytes);
    this.#count(2 * bytes, 0);
  }

  /** Writes host bytes in order with what is recorded. `offset` and the length are multiples of 4. */
  write(block: Block, offset: number, data: Uint8Array): void {
    if (data.length === 0) return;
    this.#faults.check();
    if (block.epoch === this.epoch && data.length <= UPLOAD_BYTES / 4) {
      if (this.#uploadUsed + data.length > UPLOAD_BYTES) this.flush();
      else {
        this.#uploadData.set(data, this.#uploadUsed);
        this.#copyRaw(this.#upload, this.#uploadUsed, block.buffer, offset, data.length);
        this.#uploadUsed += data.length;
        return;
      }
    }
    if (block.epoch === this.epoch) this.flush();
    this.#device.queue.writeBuffer(block.buffer, offset, data as Uint8Array<ArrayBuffer>);
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = this.#current = undefined;
  }

  /** Submits what is recorded. */
  flush(): void {
    this.#endPass();
    if (this.#encoder) {
      this.profile?.end(this.#encoder);
      const { queue } = this.#device;
      if (this.#ringUsed > 0) queue.writeBuffer(this.#ring, 0, this.#ringData.buffer, 0, this.#ringUsed);
      if (this.#uploadUsed > 0) queue.writeBuffer(this.#upload, 0, this.#uploadData, 0, this.#uploadUsed);
      queue.submit([this.#encoder.finish()]);
      this.#encoder = undefined;
      this.counters.submissions++;
    }
    this.#ringUsed = this.#uploadUsed = 0;
    this.#recorded = 0;
    this.epoch++;
    for (const buffer of this.#doomed) buffer.destroy();
    this.#doomed = [];
  }

  /** Destroys a block once nothing recorded uses it. */
  destroy(block: Block): void {
    this.#pipelines.forget(block);
    if (block.epoch === this.epoch) this.#doomed.push(block.buffer);
    else block.buffer.destroy();
  }

  /**
   * The bytes of a buffer as of now. All reads of one moment share one submission and one wait.
   *
   * @throws DeviceError when the device failed before
   */
  async read(block: Block, offset: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    const begin = Math.floor(offset / 4) * 4;
    const size = Math.ceil((offset + bytes - begin) / 4) * 4;
    const staging = this.#takeStaging(Math.max(4, size));
    if (size > 0) this.#copyRaw(block.buffer, begin, staging, 0, size);
    block.epoch = this.epoch;
    this.#waiting ??= Promise.resolve().then(() => this.#startWait());
    await this.#waiting;
    await this.#map(staging, Math.max(4, size));
    const result = new Uint8Array(staging.getMappedRange(0, Math.max(4, size))).slice(
      offset - begin,
      offset - begin + bytes,
    );
    staging.unmap();
    if (this.#staging.length < MAX_STAGING) this.#staging.push(staging);
    else staging.destroy();
    return result;
  }

  /** Runs once for all reads of a moment, after the last of them was recorded. */
  #startWait(): void {
    this.#waiting = undefined;
    this.flush();
    this.counters.readbacks++;
  }

  async #map(staging: GPUBuffer, size: number): Promise<void> {
    const mapped = staging.mapAsync(MAP_MODE_READ, 0, size).catch((error: Error) => {
      // a lost device reports itself a moment later, with the reason
      return new Promise<void>((resolve) => setTimeout(resolve, 50)).then(() => {
        this.#faults.check();
        throw new DeviceError(`Cannot read from the GPU: ${oneLine(error.message)}`);
      });
    });
    await this.#faults.unlessFaulty(mapped);
    this.#learn();
    await this.#faults.settled();
  }

  /** The device is idle now: what it did since the last time took this long. */
  #learn(): void {
    this.#estimate.learn(this.#since, (performance.now() - this.#idleAt) / 1000);
    this.#since = { bytes: 0, flops: 0, dispatches: 0 };
    this.#idleAt = performance.now();
  }

  #takeStaging(size: number): GPUBuffer {
    const index = this.#staging.findIndex((buffer) => buffer.size >= size && buffer.size <= 4 * size + 4096);
    if (index >= 0) return this.#staging.splice(index, 1)[0];
    const what = `allocate ${size} bytes to read from the GPU`;
    const usage = MAP_READ | COPY_DST;
    return this.#faults.scoped(
      this.#device,
      what,
      () => this.#device.createBuffer({ size: Math.max(4096, size), usage, label: "readback" }),
    );
  }

  /** Drops what is recorded and destroys the recorder's own buffers. */
  dispose(): void {
    this.#pass?.end();
    this.#pass = this.#encoder = undefined;
    for (const buffer of [this.#ring, this.#upload, ...this.#doomed, ...this.#staging]) buffer.destroy();
    this.#doomed = [];
    this.#staging = [];
  }
}
