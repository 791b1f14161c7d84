/**
 * What every backend must do: a table of cases for each kernel, and the tests that hold a backend to it.
 *
 * The references are plain f64 arithmetic on lists, written without the loops; `conformance/check.ts` holds a backend to
 * one. Fused entries are not tested here but above the seam, against the composed ops. Test support: no module imports
 * this.
 */
import type { Backend } from "../core/backend.ts";
import type { DType } from "../core/dtype.ts";
import { casesOf, checkCases, checkIndex, KERNELS } from "./conformance/check.ts";
import type { Device } from "./conformance/samples.ts";

/** What a backend's test can say of it. */
export interface ConformanceOptions {
  /** Whose tolerances hold; `cpu` by default. */
  readonly device?: Device;
  /** The dtypes that the backend has; all by default. */
  readonly dtypes?: readonly DType[];
  /** False where the host cannot see an index that lies outside, so that none can throw. */
  readonly checksIndices?: boolean;
}

/** A backend, or the reason why this machine has none. */
export type Made = Backend | { readonly ignored: string };

const ALL: readonly DType[] = ["f32", "f64", "bf16", "f16", "i32", "u32", "u8"];

/**
 * Registers one Deno test for each kernel of a backend. Where `make` gives a reason instead, they are ignored.
 *
 * @param make called once to see whether there is one, then once a test; what it makes is disposed
 * @example
 * ```ts ignore
 * import { conformance } from "../conformance.ts";
 * import { myBackend } from "./mod.ts";
 * await conformance("mine", () => myBackend());
 * ```
 */
export async function conformance(
  name: string,
  make: () => Made | Promise<Made>,
  { device = "cpu", dtypes = ALL, checksIndices = true }: ConformanceOptions = {},
): Promise<void> {
  const probe = await make();
  const reason = "ignored" in probe ? probe.ignored : undefined;
  if (!("ignored" in probe)) probe[Symbol.dispose]();
  const register = (title: string, fn: (backend: Backend, t: Deno.TestContext) => Promise<void>) =>
    Deno.test({
      name: `${title} on ${name}${reason === undefined ? "" : ` (ignored: ${reason})`}`,
      ignore: reason !== undefined,
      fn: async (t) => {
        using backend = await make() as Backend;
        await fn(backend, t);
      },
    });
  for (const kernel of KERNELS) {
    register(`${kernel}() gives the reference's values`, async (backend, t) => {
      for (const [step, group] of casesOf(kernel, dtypes)) {
        await t.step(step, () => checkCases(backend, group, device));
      }
    });
  }
  if (!checksIndices) return;
  register("takeRows() throws a RangeError when an index lies outside", (backend) => {
    for (const index of [-1, 3]) checkIndex(backend, index);
    return Promise.resolve();
  });
}
