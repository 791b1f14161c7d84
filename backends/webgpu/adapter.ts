/**
 * Which GPU, and what is asked of it: limits and features are requested by name, because a device made without asking
 * gets the specification's minimum. Subgroups are found by asking for them: Deno grants them without listing them, and
 * its compiler wants no `enable` line where Chrome's demands one.
 */
import { UnsupportedError } from "../../core/errors.ts";
import { oneLine } from "./faults.ts";

/** What is known of an adapter. */
export interface AdapterReport {
  /** For people: the driver's description, else vendor and architecture. */
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  /** True for a rasteriser on the CPU (llvmpipe, SwiftShader, WARP). */
  readonly isSoftware: boolean;
  /** Limits granted to the device. */
  readonly limits: Readonly<Record<string, number>>;
  /** Features granted to the device. */
  readonly features: readonly string[];
  readonly subgroups: boolean;
}

/** A device with what it was granted. */
export interface OpenedDevice {
  readonly device: GPUDevice;
  readonly report: AdapterReport;
  /** What a shader that uses subgroup operations must begin with; undefined where there are none. */
  readonly subgroupHeader: string | undefined;
}

/** Limits raised to the adapter's own. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupsPerDimension",
] as const;

const SOFTWARE = /llvmpipe|lavapipe|swiftshader|softpipe|microsoft basic render|warp/i;

interface Found {
  readonly adapter: GPUAdapter;
  readonly name: string;
  readonly isSoftware: boolean;
}

async function requestAdapter(): Promise<Found | undefined> {
  const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return undefined;
  const { info } = adapter;
  const name = [info.description, info.device].find((text) => /[a-z]/i.test(text)) ??
    ([info.vendor, info.architecture].filter(Boolean).join(" ") || "unnamed adapter");
  const isFallback = "isFallbackAdapter" in info && info.isFallbackAdapter === true;
  const words = [info.vendor, info.architecture, info.device, info.description].join(" ");
  return { adapter, name, isSoftware: isFallback || SOFTWARE.test(words) };
}

/** The adapter that `webgpuBackend` would take; undefined where the runtime offers none. */
export async function findAdapter(): Promise<{ name: string; isSoftware: boolean } | undefined> {
  const found = await requestAdapter();
  return found && { name: found.name, isSoftware: found.isSoftware };
}

/** Opens a device. @throws UnsupportedError where there is no adapter, or it gives no device */
export async function openDevice(): Promise<OpenedDevice> {
  const found = await requestAdapter();
  if (!found) {
    const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
    const reason = gpu ? "no adapter answers; install a Vulkan, Metal or D3D12 driver" : "this runtime has no WebGPU";
    throw new UnsupportedError(`Cannot start the webgpu backend: ${reason}`);
  }
  const { adapter, name, isSoftware } = found;
  const requiredLimits: Record<string, number> = {};
  for (const limit of WANTED_LIMITS) requiredLimits[limit] = adapter.limits[limit];
  const features = (["timestamp-query"] as GPUFeatureName[]).filter((feature) => adapter.features.has(feature));
  const device = await requestDevice(adapter, name, [...features, "subgroups"], requiredLimits) ??
    await requestDevice(await fresh(adapter), name, features, requiredLimits);
  if (!device) throw new UnsupportedError(`Cannot start the webgpu backend: ${name} gives no device`);
  const subgroupHeader = await findSubgroups(device);
  const limits: Record<string, number> = {};
  for (const limit of WANTED_LIMITS) limits[limit] = device.limits[limit];
  limits.minUniformBufferOffsetAlignment = device.limits.minUniformBufferOffsetAlignment;
  const report: AdapterReport = {
    name,
    vendor: adapter.info.vendor,
    architecture: adapter.info.architecture,
    isSoftware,
    limits,
    features: [...features, ...(subgroupHeader === undefined ? [] : ["subgroups"])],
    subgroups: subgroupHeader !== undefined,
  };
  return { device, report, subgroupHeader };
}

/** An adapter gives one device: after a refusal another must be asked for. */
async function fresh(adapter: GPUAdapter): Promise<GPUAdapter> {
  return (await requestAdapter())?.adapter ?? adapter;
}

async function requestDevice(
  adapter: GPUAdapter,
  name: string,
  features: readonly string[],
  requiredLimits: Record<string, number>,
): Promise<GPUDevice | undefined> {
  try {
    return await adapter.requestDevice({ requiredFeatures: features as GPUFeatureName[], requiredLimits });
  } catch (error) {
    if (features.includes("subgroups")) return undefined;
    throw new UnsupportedError(
      `Cannot start the webgpu backend: ${name} gives no device: ${oneLine((error as Error).message)}`,
      { cause: error },
    );
  }
}

/** Compiles a shader that adds over a subgroup, with and without the `enable` line. */
async function findSubgroups(device: GPUDevice): Promise<string | undefined> {
  for (const header of ["", "enable subgroups;\n"]) {
    const code = header +
      /* wgsl */ `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(32) fn main(@builtin(local_invocation_index) i: u32) { x[i] = subgroupAdd(x[i]); }`;
    device.pushErrorScope("validation");
    device.createComputePipeline({ layout: "auto", compute: { module: device.createShaderModule({ code }) } });
    if (await device.popErrorScope() === null) return header;
  }
  return undefined;
}
