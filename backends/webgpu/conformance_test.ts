/** The WebGPU backend against the conformance table. */
import { conformance } from "../conformance.ts";
import { webgpuOrReason } from "./testing.ts";

await conformance("webgpu", () => webgpuOrReason(), {
  device: "webgpu",
  dtypes: ["f32", "bf16", "f16", "i32", "u32", "u8"],
  checksIndices: false,
});
