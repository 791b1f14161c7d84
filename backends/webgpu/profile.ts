/**
 * Time on the device by kernel, for benches: each dispatch runs in a pass of its own between two timestamps. Slower than
 * a run without it, because passes keep dispatches apart; shares are what it is for.
 */
import { COPY_DST, COPY_SRC, MAP_MODE_READ, MAP_READ, QUERY_RESOLVE } from "./constants.ts";

/** Timestamps of one portion; the most that WebGPU allows in a set. */
const QUERIES = 4096;

/** What a kernel took. */
export interface KernelTime {
  readonly dispatches: number;
  readonly ms: number;
}

/** Put in `Recorder.profile`, it sees every dispatch. */
export class Profile {
  readonly #device: GPUDevice;
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #portions: { readonly keys: readonly string[]; readonly staging: GPUBuffer }[] = [];
  #keys: string[] = [];

  /** The device must have the feature `timestamp-query`. */
  constructor(device: GPUDevice) {
    this.#device = device;
    this.#queries = device.createQuerySet({ type: "timestamp", count: QUERIES });
    this.#resolved = device.createBuffer({ size: 8 * QUERIES, usage: QUERY_RESOLVE | COPY_SRC });
  }

  /** True where the portion must be submitted before another dispatch. */
  get isFull(): boolean {
    return 2 * this.#keys.length >= QUERIES;
  }

  /** The pass of one dispatch. */
  pass(key: string): GPUComputePassDescriptor {
    const first = 2 * this.#keys.push(key) - 2;
    const querySet = this.#queries;
    return { timestampWrites: { querySet, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 } };
  }

  /** Ends a portion: what it measured goes to a buffer that the host can read. */
  end(encoder: GPUCommandEncoder): void {
    if (this.#keys.length === 0) return;
    const size = 16 * this.#keys.length;
    const staging = this.#device.createBuffer({ size, usage: MAP_READ | COPY_DST });
    encoder.resolveQuerySet(this.#queries, 0, 2 * this.#keys.length, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, staging, 0, size);
    this.#portions.push({ keys: this.#keys, staging });
    this.#keys = [];
  }

  /** Times by kernel, the longest first, of all that was submitted; then starts anew. */
  async totals(): Promise<Map<string, KernelTime>> {
    const totals = new Map<string, KernelTime>();
    for (const { keys, staging } of this.#portions.splice(0)) {
      await staging.mapAsync(MAP_MODE_READ);
      const stamps = new BigUint64Array(staging.getMappedRange().slice(0));
      staging.destroy();
      keys.forEach((key, i) => {
        const { dispatches, ms } = totals.get(key) ?? { dispatches: 0, ms: 0 };
        totals.set(key, { dispatches: dispatches + 1, ms: ms + Number(stamps[2 * i + 1] - stamps[2 * i]) / 1e6 });
      });
    }
    return new Map([...totals].sort(([, a], [, b]) => b.ms - a.ms));
  }

  dispose(): void {
    for (const { staging } of this.#portions) staging.destroy();
    this.#queries.destroy();
    this.#resolved.destroy();
  }
}
