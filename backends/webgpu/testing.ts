/** What the tests of this backend share: a backend, or the reason why the machine has none. Not part of the backend. */
import { registerTest } from "../../core/testing/register.ts";
import { UnsupportedError } from "../../core/errors.ts";
import { webgpuBackend, type WebgpuOptions } from "./mod.ts";
import type { WebgpuBackend } from "./mod.ts";

/** Makes a backend; where the machine has no adapter, a reason, unless `LOWRANK_REQUIRE_WEBGPU` is 1. */
export async function webgpuOrReason(
  options: WebgpuOptions = {},
): Promise<WebgpuBackend | { readonly ignored: string }> {
  try {
    return await webgpuBackend(options);
  } catch (error) {
    if (!(error instanceof UnsupportedError) || Deno.env.get("LOWRANK_REQUIRE_WEBGPU") === "1") throw error;
    return { ignored: error.message };
  }
}

const probe = await webgpuOrReason();
if (!("ignored" in probe)) probe[Symbol.dispose]();

/** Why WebGPU tests are ignored here; undefined where they run. */
export const noWebgpu: string | undefined = "ignored" in probe ? probe.ignored : undefined;

/** Registers a test that is ignored, with the reason in its name, where there is no adapter. */
export function webgpuTest(name: string, fn: (t: Deno.TestContext) => void | Promise<void>): void {
  registerTest(name, fn, noWebgpu);
}

/** Registers a test twice: on a backend that uses subgroups, if there are any, and on one that does not. */
export function bothWays(name: string, fn: (backend: WebgpuBackend) => Promise<void>): void {
  for (const subgroups of [true, false]) {
    webgpuTest(`${name}, ${subgroups ? "by subgroups if there are any" : "without subgroups"}`, async () => {
      using backend = await webgpuBackend({ subgroups });
      await fn(backend);
    });
  }
}
