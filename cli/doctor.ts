/** `doctor`: what this machine offers a training run. */
import { formatBytes } from "../core/mod.ts";
import { defineVerb, parseVerb } from "./arguments.ts";
import { availableMemory, type Device, largestTensorOf, openDevice, openWebgpu } from "./device.ts";
import { deviceFlags } from "./flags.ts";
import { formatTable, type Output } from "./log.ts";
import { matmulSpeed, peakSpeed } from "./matmul_speed.ts";

/** The verb's flags. */
export const doctorVerb = defineVerb({
  name: "doctor",
  summary: "what this machine offers: threads, SIMD, BLAS, memory, GPU, and how fast each multiplies",
  example: "deno task doctor",
  flags: { ...deviceFlags },
});

/** Runs the verb. */
export async function doctor(argv: readonly string[], output: Output): Promise<void> {
  const { options } = parseVerb(doctorVerb, argv);
  const rows = [
    ["deno", `${Deno.version.deno}, V8 ${Deno.version.v8}, ${Deno.build.target}`],
    ...await cpuRows(await openDevice({ ...options, device: "cpu" })),
    ...await webgpuRows(options),
  ];
  for (const line of formatTable(rows)) output.out(line);
}

async function cpuRows(device: Device): Promise<string[][]> {
  using backend = device;
  const { blas } = backend;
  const memory = availableMemory();
  return [
    ["threads", `${backend.threads} of ${navigator.hardwareConcurrency}`],
    ["kernels", backend.kernelPath],
    ["BLAS", blas?.found ? `${blas.name} (${blas.path})` : `none: ${blas?.reason}`],
    [
      "memory",
      `${Number.isFinite(memory) ? formatBytes(memory) : "unknown"} free, tensors may take ${
        formatBytes(backend.memory().limit)
      }`,
    ],
    ["matmul 512", `${(await matmulSpeed(backend, 512)).toFixed(1)} GFLOP/s`],
    ["matmul 1024", `${(await matmulSpeed(backend, 1024)).toFixed(1)} GFLOP/s`],
  ];
}

/** The GPU, or why there is none: whatever the run asked for, so that one look tells all. */
async function webgpuRows(options: Parameters<typeof openWebgpu>[0]): Promise<string[][]> {
  try {
    using device = await openWebgpu(options);
    const { name, vendor, architecture, isSoftware, limits, features, subgroups } = device.adapter!;
    const by = [vendor, architecture].filter((text) => /[a-z]/i.test(text)).join(", "); // some drivers give numbers
    const kind = isSoftware ? "in software: the CPU is faster" : "hardware";
    return [
      ["WebGPU", `${name}${by ? ` (${by})` : ""}, ${kind}`],
      ["  one tensor", `at most ${formatBytes(largestTensorOf(device))}`],
      [
        "  buffer",
        `at most ${formatBytes(limits.maxBufferSize)}, bound ${formatBytes(limits.maxStorageBufferBindingSize)}`,
      ],
      [
        "  workgroup",
        `${limits.maxComputeInvocationsPerWorkgroup} invocations, ${
          formatBytes(limits.maxComputeWorkgroupStorageSize)
        } of memory`,
      ],
      ["  features", features.join(", ") || "none"],
      ["  subgroups", subgroups ? "yes" : "no"],
      ["  matmul", `${(await peakSpeed(device)).toFixed(1)} GFLOP/s`],
    ];
  } catch (error) {
    return [["WebGPU", `none: ${(error as Error).message.replace(/^Cannot start the webgpu backend: /, "")}`]];
  }
}
