/** Backends with made-up fused entries, and a look at which entries ran. Only tests import this. */
import type { Backend, FusedKernel, FusedKernels, FusedName } from "../backend.ts";

/** A backend like `backend`, with other fused kernels. It shares the storage: dispose one of them. */
export function withFused(backend: Backend, fused: FusedKernels): Backend {
  return new Proxy(backend, {
    get(target, key) {
      if (key === "fused") return fused;
      const value = Reflect.get(target, key);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** How often each part of an entry has run. */
export interface Runs {
  forward: number;
  vjp: number;
}

/** A backend that counts the runs of one of its entries. */
export function counted(backend: Backend, name: FusedName): { backend: Backend; runs: Runs } {
  const runs: Runs = { forward: 0, vjp: 0 };
  const entry = backend.fused[name] as FusedKernel<unknown> | undefined;
  if (!entry) return { backend, runs };
  const { vjp } = entry;
  const counting: FusedKernel<unknown> = {
    supports: (...args) => entry.supports(...args),
    residuals: entry.residuals && ((...args) => entry.residuals!(...args)),
    forward: (...args) => {
      runs.forward++;
      entry.forward(...args);
    },
    vjp: vjp && {
      saves: vjp.saves,
      run: (...args) => {
        runs.vjp++;
        vjp.run(...args);
      },
    },
  };
  return { backend: withFused(backend, { ...backend.fused, [name]: counting }), runs };
}
