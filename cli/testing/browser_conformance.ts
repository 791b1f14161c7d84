/**
 * The tests of the WebGPU backend that a browser can run: the conformance table, and every fused entry against its
 * composed form. Bundled by `cli/browser_test.ts`, which calls what is put on `globalThis` here.
 */
import { casesOf, checkCases, KERNELS } from "../../backends/conformance/check.ts";
import { type WebgpuBackend, webgpuBackend } from "../../backends/webgpu/mod.ts";
import type { FusedName, KernelName } from "../../core/backend.ts";
import { checkFused, PARITY_CASES } from "../../core/testing/parity.ts";

/** The types that the backend has. */
const DTYPES = ["f32", "bf16", "f16", "i32", "u32", "u8"] as const;

/** What became of a kernel or a fused entry. */
export interface Outcome {
  readonly name: string;
  /** Groups of cases that ran. */
  readonly groups: number;
  /** One line each. */
  readonly failures: readonly string[];
  readonly ms: number;
}

/** What is tested on which adapter. */
export interface Inventory {
  readonly adapter: { readonly name: string; readonly isSoftware: boolean; readonly subgroups: boolean };
  readonly kernels: readonly KernelName[];
  readonly fused: readonly FusedName[];
}

type Group = readonly [name: string, run: (backend: WebgpuBackend) => Promise<void>];

async function inventory(): Promise<Inventory> {
  using backend = await webgpuBackend();
  const { name, isSoftware, subgroups } = backend.adapter;
  return { adapter: { name, isSoftware, subgroups }, kernels: KERNELS, fused: FUSED };
}

const FUSED = Object.keys(PARITY_CASES) as FusedName[];

/** Runs every n-th group of a kernel's cases. */
async function checkKernel(name: KernelName, nth: number): Promise<Outcome> {
  const groups = [...casesOf(name, DTYPES)].filter((_, i) => i % nth === 0);
  return await outcome(name, groups.map(([group, cases]): Group => [group, (on) => checkCases(on, cases, "webgpu")]));
}

/** The same of a fused entry's cases, in f32. */
async function checkEntry(name: FusedName, nth: number): Promise<Outcome> {
  const cases = PARITY_CASES[name].filter((_, i) => i % nth === 0);
  return await outcome(name, [["f32", (backend) => checkFused(name, backend, { device: "gpu", cases })]]);
}

async function outcome(name: string, groups: readonly Group[]): Promise<Outcome> {
  const failures: string[] = [];
  const start = performance.now();
  let backend = await webgpuBackend();
  for (const [group, run] of groups) {
    try {
      await run(backend);
    } catch (error) {
      failures.push(`${group}: ${error}`);
      // a device that reported an error is of no use to the next group
      backend[Symbol.dispose]();
      backend = await webgpuBackend();
    }
  }
  backend[Symbol.dispose]();
  return { name, groups: groups.length, failures, ms: Math.round(performance.now() - start) };
}

Object.assign(globalThis, { inventory, checkKernel, checkEntry });
