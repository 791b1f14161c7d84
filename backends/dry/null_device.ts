/**
 * A GPU that is not there: what pool, pipelines and recorder of the WebGPU backend ask of a device, answered with nothing.
 * So their code runs as it is, and only counts. It refuses to compute: kernels are named, and never compiled.
 */
import { Faults } from "../webgpu/faults.ts";
import type { Pipelines } from "../webgpu/pipelines.ts";
import { Recorder } from "../webgpu/recorder.ts";

/** Answers every call that makes an object with an empty one. */
export function nullDevice(): GPUDevice {
  const nothing = () => ({});
  const device = {
    limits: { minUniformBufferOffsetAlignment: 256 },
    createBuffer: () => ({ destroy: () => {} }),
    createBindGroupLayout: nothing,
    createBindGroup: nothing,
    createPipelineLayout: nothing,
    createShaderModule: nothing,
    createComputePipeline: nothing,
  };
  return device as unknown as GPUDevice;
}

/** Nothing goes wrong on a device that does nothing. */
export class NoFaults extends Faults {
  override scoped<T>(_device: GPUDevice, _what: string, make: () => T): T {
    return make();
  }
}

/** Records nothing. A kernel takes no time, so that none is enqueued in parts. */
export class NullRecorder extends Recorder {
  constructor(device: GPUDevice, faults: Faults, pipelines: Pipelines) {
    super(device, faults, pipelines);
  }
  override dispatch(): void {}
  override copy(): void {}
  override write(): void {}
  override seconds(): number {
    return 0;
  }
}
