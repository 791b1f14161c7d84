/**
 * The thread pool: runs numbered tasks of a kernel on the calling thread and on workers that share its memory.
 *
 * A job lies in a control block in the shared memory: kernel, arguments, number of tasks, and a counter from which every
 * thread claims its next tasks. SEQUENCE is odd while a job is open. A worker first joins (ACTIVE + 1) and then looks
 * whether a job is open; the caller closes the job and then waits until nobody is inside. So the caller never waits for
 * a worker that has not started, sleeps, or came too late, and a worker never sees half a job.
 * Idle workers spin for tens of microseconds, then sleep in Atomics.wait: a dispatch costs about a microsecond in a busy
 * stretch, and nothing burns in a long idle one.
 * Which thread runs which task is free; what the tasks are, is not: see runner.ts.
 */
import { Worker } from "node:worker_threads";
import { blasKernels, type BlasLibrary } from "./blas.ts";
import type { Runner } from "./runner.ts";
import { instantiateKernels, type KernelFunction, SCRATCH_BYTES, STATIC_BYTES } from "./wasm/load.ts";

/** Bytes of the control block, which follows the constants. */
const CONTROL_BYTES = 65_536;
/** Byte addresses inside the control block: each contended word has a cache line (two, for the prefetcher) of its own. */
const ARGUMENTS = 1024;
const MESSAGE = 2048;
const MESSAGE_BYTES = 4096;
/** Arguments that a job may have, beside begin and end. */
const MAX_ARGUMENTS = 24;

/** Indices into the control block's Int32Array. */
const SEQUENCE = 0;
const NEXT = 32;
const ACTIVE = 64;
const SLEEPERS = 96;
const WAITING = 128;
const STOP = 160;
/** Written by the caller while no worker is inside, read inside. */
const KERNEL = 192;
const TASKS = 193;
const BATCH = 194;
const COUNT = 195;
/** Bytes of the failure's message, or 0. */
const FAILED = 224;

/** How long an idle worker spins before it sleeps: longer than the host needs between two kernels. */
const SPIN_MS = 0.06;
/** How long the caller spins for the workers' last tasks before it sleeps. */
const CALLER_SPIN_MS = 0.1;

// Newer than the type declarations: tells the core that this is a spin loop.
const pause = (Atomics as unknown as { pause?: () => void }).pause ?? (() => {});

/** Where a pool of `threads` threads keeps its scratch, and where the memory is free behind it. */
export function poolLayout(threads: number): { readonly scratch: number; readonly end: number } {
  const scratch = STATIC_BYTES + CONTROL_BYTES;
  return { scratch, end: scratch + threads * SCRATCH_BYTES };
}

/** What a worker needs to become a thread of the pool. */
export interface WorkerStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly scratch: number;
  readonly blas?: BlasLibrary;
}

/** The kernels of one thread by index, the same order in every thread. */
interface KernelTable {
  readonly names: readonly string[];
  readonly functions: readonly KernelFunction[];
}

function kernelTable({ module, memory, scratch, blas }: WorkerStart): KernelTable {
  const kernels = instantiateKernels(module, memory, scratch);
  if (blas) { for (const [name, kernel] of blasKernels(blas, memory)) kernels.set(name, kernel); }
  return { names: [...kernels.keys()], functions: [...kernels.values()] };
}

/** The words of the control block. */
class Control {
  readonly words: Int32Array;
  readonly arguments: Float64Array;
  readonly #message: Uint8Array;

  constructor(memory: WebAssembly.Memory) {
    this.words = new Int32Array(memory.buffer, STATIC_BYTES, ARGUMENTS / 4);
    this.arguments = new Float64Array(memory.buffer, STATIC_BYTES + ARGUMENTS, MAX_ARGUMENTS);
    this.#message = new Uint8Array(memory.buffer, STATIC_BYTES + MESSAGE, MESSAGE_BYTES);
  }

  /** Claims and runs tasks until none is left. A failure of any thread stops all. */
  work(kernel: KernelFunction, args: readonly number[]): void {
    const { words } = this;
    const tasks = words[TASKS];
    const batch = words[BATCH];
    try {
      while (true) {
        const begin = Atomics.add(words, NEXT, batch);
        if (begin >= tasks) return;
        kernel(begin, Math.min(begin + batch, tasks), ...args);
      }
    } catch (error) {
      Atomics.store(words, NEXT, tasks);
      this.#fail(error instanceof Error ? error.message : String(error));
    }
  }

  /** The message of the thread that failed first. */
  takeFailure(): string | undefined {
    const length = this.words[FAILED];
    if (length === 0) return undefined;
    this.words[FAILED] = 0;
    return new TextDecoder().decode(this.#message.slice(0, length));
  }

  #fail(message: string): void {
    const bytes = new TextEncoder().encode(message || "unknown failure").subarray(0, MESSAGE_BYTES);
    if (Atomics.compareExchange(this.words, FAILED, 0, bytes.length) === 0) this.#message.set(bytes);
  }
}

/** A worker's life: waits for jobs and works on them until the pool stops. Calls `ready` when it can take jobs. */
export function serve(start: WorkerStart, ready: () => void): void {
  const control = new Control(start.memory);
  const { words } = control;
  const { functions } = kernelTable(start);
  ready();
  let seen = 0;
  while (true) {
    awaitChange(words, seen);
    if (Atomics.load(words, STOP) !== 0) return;
    Atomics.add(words, ACTIVE, 1);
    seen = Atomics.load(words, SEQUENCE);
    if (seen & 1) control.work(functions[words[KERNEL]], [...control.arguments.subarray(0, words[COUNT])]);
    if (Atomics.sub(words, ACTIVE, 1) === 1 && Atomics.load(words, WAITING) !== 0) Atomics.notify(words, ACTIVE);
  }
}

/** Returns when SEQUENCE is no longer `seen`: spins for a while, then sleeps. */
function awaitChange(words: Int32Array, seen: number): void {
  const limit = performance.now() + SPIN_MS;
  while (performance.now() < limit) {
    for (let i = 0; i < 32; i++) {
      if (Atomics.load(words, SEQUENCE) !== seen) return;
      pause();
    }
  }
  Atomics.add(words, SLEEPERS, 1);
  Atomics.wait(words, SEQUENCE, seen);
  Atomics.sub(words, SLEEPERS, 1);
}

/** What `ThreadPool.start` needs. */
export interface PoolOptions {
  readonly threads: number;
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly blas?: BlasLibrary;
}

/** A Runner over this thread and `threads - 1` workers. */
export class ThreadPool implements Runner, Disposable {
  readonly #control: Control;
  readonly #names: readonly string[];
  readonly #functions: readonly KernelFunction[];
  readonly #indices: ReadonlyMap<string, number>;
  readonly #workers: Worker[] = [];
  #problem: string | undefined;
  #disposed = false;

  private constructor(start: WorkerStart) {
    this.#control = new Control(start.memory);
    const { names, functions } = kernelTable(start);
    this.#names = names;
    this.#functions = functions;
    this.#indices = new Map(names.map((name, index) => [name, index]));
  }

  /** Starts the workers and resolves when each is ready or has failed to start (see `problem`). */
  static async start({ threads, module, memory, blas }: PoolOptions): Promise<ThreadPool> {
    const { scratch } = poolLayout(threads);
    const pool = new ThreadPool({ module, memory, scratch, blas });
    const starts = Array.from({ length: threads - 1 }, async (_, i) => {
      try {
        const own = scratch + (i + 1) * SCRATCH_BYTES;
        pool.#workers.push(await startWorker({ module, memory, scratch: own, blas }));
      } catch (error) {
        pool.#problem ??= error instanceof Error ? error.message : String(error);
      }
    });
    await Promise.all(starts);
    return pool;
  }

  /** Threads that take part, the caller included. */
  get threads(): number {
    return this.#workers.length + 1;
  }

  /** Why there are fewer threads than asked for, if so. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Whether there is a kernel of this name. */
  has(name: string): boolean {
    return this.#indices.has(name);
  }

  run(name: string, tasks: number, args: readonly number[]): void {
    const index = this.#indices.get(name);
    if (index === undefined) throw new Error(`Cannot run kernel ${name}: there is none of this name`);
    if (this.#disposed) throw new Error(`Cannot run kernel ${name}: the cpu backend was disposed`);
    if (args.length > MAX_ARGUMENTS) throw new RangeError(`Cannot run kernel ${name}: ${args.length} arguments`);
    if (tasks <= 0) return;
    if (tasks === 1 || this.#workers.length === 0) this.#runAlone(index, tasks, args);
    else this.#runTogether(index, tasks, args);
  }

  /** Stops the workers. Call it while no job runs. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    const { words } = this.#control;
    Atomics.store(words, STOP, 1);
    Atomics.add(words, SEQUENCE, 2);
    Atomics.notify(words, SEQUENCE);
    for (const worker of this.#workers) void worker.terminate();
    this.#workers.length = 0;
  }

  #runAlone(index: number, tasks: number, args: readonly number[]): void {
    try {
      this.#functions[index](0, tasks, ...args);
    } catch (error) {
      throw failure(this.#names[index], error instanceof Error ? error.message : String(error));
    }
  }

  #runTogether(index: number, tasks: number, args: readonly number[]): void {
    const control = this.#control;
    const { words } = control;
    words[KERNEL] = index;
    words[TASKS] = tasks;
    // A few claims a thread are enough to even out; the counter is contended.
    words[BATCH] = Math.max(1, Math.floor(tasks / (this.threads * 16)));
    words[COUNT] = args.length;
    control.arguments.set(args);
    Atomics.store(words, NEXT, 0);
    Atomics.add(words, SEQUENCE, 1);
    if (Atomics.load(words, SLEEPERS) > 0) Atomics.notify(words, SEQUENCE);
    control.work(this.#functions[index], args);
    Atomics.add(words, SEQUENCE, 1);
    if (Atomics.load(words, ACTIVE) !== 0) awaitAll(words);
    const message = control.takeFailure();
    if (message !== undefined) throw failure(this.#names[index], message);
  }
}

function failure(name: string, message: string): Error {
  return new Error(`Cannot finish kernel ${name}: ${message}`);
}

/** Returns when no worker is inside the job. */
function awaitAll(words: Int32Array): void {
  const limit = performance.now() + CALLER_SPIN_MS;
  while (performance.now() < limit) {
    for (let i = 0; i < 32; i++) {
      if (Atomics.load(words, ACTIVE) === 0) return;
      pause();
    }
  }
  Atomics.store(words, WAITING, 1);
  for (let inside = Atomics.load(words, ACTIVE); inside !== 0; inside = Atomics.load(words, ACTIVE)) {
    Atomics.wait(words, ACTIVE, inside);
  }
  Atomics.store(words, WAITING, 0);
}

/**
 * One worker, resolved when it is ready. node:worker_threads instead of the Web's Worker because only it can be
 * unreferenced: a program that forgets to dispose its backend still ends. It loads files and data URLs alone, so a
 * remote worker module is imported by a data URL.
 */
function startWorker(start: WorkerStart): Promise<Worker> {
  const url = new URL("./worker.ts", import.meta.url);
  const source = `data:text/javascript,import ${encodeURIComponent(JSON.stringify(url.href))}`;
  return new Promise((resolve, reject) => {
    const worker = new Worker(url.protocol === "file:" ? url : new URL(source), { name: "lowrank cpu" });
    worker.once("error", reject);
    worker.once("exit", () => reject(new Error("a worker ended before it was ready")));
    worker.once("message", (reply: { error?: string }) => {
      worker.removeAllListeners();
      worker.on("error", () => {}); // Listened to, a late error (termination) does not end the program.
      worker.unref();
      if (reply.error === undefined) return resolve(worker);
      void worker.terminate();
      reject(new Error(reply.error));
    });
    worker.postMessage(start);
  });
}
