/**
 * Native BLAS through Deno's FFI, where the permission is granted and a library is installed: cblas_sgemm on the same
 * WASM memory that the kernels see. Nothing is bundled, asked for, or required.
 *
 * The library is held to one thread; the pool's threads each call it on their tiles of C. A split that is fixed by shape
 * keeps bits equal for any number of threads, which the library's own threading does not.
 */
import type { KernelFunction } from "./wasm/load.ts";

/** A library that was found: enough for every thread to open it. */
export interface BlasLibrary {
  /** `openblas`, `accelerate`, `mkl` or `blis`. */
  readonly name: string;
  /** What was handed to dlopen. */
  readonly path: string;
  readonly version?: string;
}

/** What the search for a library came to. */
export type BlasReport = ({ readonly found: true } & BlasLibrary) | { readonly found: false; readonly reason: string };

const NAMES: Record<string, readonly (readonly [name: string, path: string])[]> = {
  linux: [
    ["openblas", "libopenblas.so.0"],
    ["openblas", "libopenblas.so"],
    ["mkl", "libmkl_rt.so.3"],
    ["mkl", "libmkl_rt.so.2"],
    ["mkl", "libmkl_rt.so"],
    ["blis", "libblis.so.4"],
    ["blis", "libblis.so"],
  ],
  darwin: [
    ["accelerate", "/System/Library/Frameworks/Accelerate.framework/Accelerate"],
    ["openblas", "/opt/homebrew/opt/openblas/lib/libopenblas.dylib"],
    ["openblas", "/usr/local/opt/openblas/lib/libopenblas.dylib"],
  ],
  windows: [
    ["openblas", "libopenblas.dll"],
    ["openblas", "openblas.dll"],
    ["mkl", "mkl_rt.2.dll"],
    ["mkl", "mkl_rt.dll"],
  ],
};

const SYMBOLS = {
  cblas_sgemm: {
    // Order, transposes, sizes; alpha, A, B, beta, C. Addresses as numbers: the memory's base plus an offset.
    parameters: [
      ...["i32", "i32", "i32", "i32", "i32", "i32", "f32"] as const,
      ...["usize", "i32", "usize", "i32", "f32", "usize", "i32"] as const,
    ],
    result: "void",
  },
  openblas_set_num_threads: { parameters: ["i32"], result: "void", optional: true },
  openblas_get_config: { parameters: [], result: "pointer", optional: true },
  MKL_Set_Threading_Layer: { parameters: ["i32"], result: "i32", optional: true },
  MKL_Set_Num_Threads: { parameters: ["i32"], result: "void", optional: true },
  bli_thread_set_num_threads: { parameters: ["i64"], result: "void", optional: true },
  bli_info_get_version_str: { parameters: [], result: "pointer", optional: true },
  BLASSetThreading: { parameters: ["i32"], result: "i32", optional: true },
} as const;

type Library = Deno.DynamicLibrary<typeof SYMBOLS>;

/** Looks for a library, without ever asking for a permission. */
export function findBlas(): BlasReport {
  if (typeof Deno === "undefined") return { found: false, reason: "this runtime has no FFI of Deno's kind" };
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") {
    return { found: false, reason: "no permission (--allow-ffi)" };
  }
  const candidates = NAMES[Deno.build.os] ?? [];
  for (const [name, path] of candidates) {
    let library: Library;
    try {
      library = Deno.dlopen(path, SYMBOLS);
    } catch {
      continue;
    }
    const version = versionOf(library);
    library.close();
    return { found: true, name, path, ...(version ? { version } : {}) };
  }
  return { found: false, reason: `none of ${candidates.map(([, path]) => path).join(", ")} can be opened` };
}

function versionOf({ symbols }: Library): string | undefined {
  const pointer = symbols.openblas_get_config?.() ?? symbols.bli_info_get_version_str?.();
  if (!pointer) return undefined;
  return /\d+(\.\d+)+/.exec(Deno.UnsafePointerView.getCString(pointer))?.[0];
}

/** Holds the library to the calling thread. */
function forceOneThread({ symbols }: Library): void {
  symbols.openblas_set_num_threads?.(1);
  symbols.MKL_Set_Threading_Layer?.(1); // MKL_THREADING_SEQUENTIAL
  symbols.MKL_Set_Num_Threads?.(1);
  symbols.bli_thread_set_num_threads?.(1n);
  symbols.BLASSetThreading?.(1); // BLAS_THREADING_SINGLE_THREADED
}

const ROW_MAJOR = 101;
const PLAIN = 111;
const TRANSPOSED = 112;

/** The kernels that a thread gets from the library. Called once a thread; the library stays open. */
export function blasKernels(blas: BlasLibrary, memory: WebAssembly.Memory): Map<string, KernelFunction> {
  const library = Deno.dlopen(blas.path, SYMBOLS);
  forceOneThread(library);
  // Addresses go as numbers, which the runtime takes for usize; the declarations know only bigint.
  const sgemm = library.symbols.cblas_sgemm as unknown as (...args: number[]) => void;
  // A shared memory never moves: its base holds for the thread's life.
  const base = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(memory.buffer))));
  /**
   * C = op(A) op(B) for `batches` of matrices. Task: one tile of one C; tasks = batches x column tiles x row tiles, row
   * tiles innermost. Strides between matrices in elements.
   */
  const blasTiles: KernelFunction = (begin, end, ...args) => {
    const [transA, transB, m, n, k, a, lda, strideA, b, ldb, strideB, c, ldc, strideC, rowTiles, columnTiles] = args;
    const perMatrix = rowTiles * columnTiles;
    for (let task = begin; task < end; task++) {
      const batch = Math.floor(task / perMatrix);
      const [i, rows] = span(task % rowTiles, rowTiles, m);
      const [j, columns] = span(Math.floor(task / rowTiles) % columnTiles, columnTiles, n);
      const fromA = base + a + 4 * (batch * strideA + (transA ? i : i * lda));
      const fromB = base + b + 4 * (batch * strideB + (transB ? j * ldb : j));
      const toC = base + c + 4 * (batch * strideC + i * ldc + j);
      const opA = transA ? TRANSPOSED : PLAIN;
      const opB = transB ? TRANSPOSED : PLAIN;
      sgemm(ROW_MAJOR, opA, opB, rows, columns, k, 1, fromA, lda, fromB, ldb, 0, toC, ldc);
    }
  };
  return new Map([["blasTiles", blasTiles]]);
}

/** Tiles begin at multiples of 16: full vectors for every library. */
function span(tile: number, tiles: number, size: number): [start: number, length: number] {
  const units = Math.ceil(size / 16);
  const start = Math.floor(tile * units / tiles) * 16;
  return [start, Math.min(size, Math.floor((tile + 1) * units / tiles) * 16) - start];
}
