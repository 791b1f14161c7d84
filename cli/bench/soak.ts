/**
 * `deno task test:long`: what only minutes can show. 2,000 steps of a tiny model without a byte of drift, and a store of
 * 1 GB (500 million tokens of two bytes, before compression) that is written, read through and trained from in little
 * memory. Prints figures; exit code 1 where one is out of bounds. Needs 2 GB of disk in the temporary folder meanwhile.
 *
 * Peak memory is a process's own, so that each part on the store runs in one of its own: `soak.ts PART FOLDER`.
 */
import { resourceUsage } from "node:process";
import { fileURLToPath } from "node:url";
import { Batches, byteTokenizer, openStore, writeStore } from "../../data/mod.ts";
import { formatBytes, memoryOutput } from "../log.ts";
import { main } from "../main.ts";
import { driftsOf, soak, soakLines } from "../testing/soak.ts";
import { writeTinyModel } from "../testing/workspace.ts";

const STEPS = 2000;
const TOKENS = 500_000_000;
const SMALL_TOKENS = 10_000_000;
const SEQ = 256;
/** Most bytes that reading the large store may add to a training process. */
const LOADER_BYTES = 200e6;

/** Letters in a skewed distribution, so that zstd has work to do. */
async function* letters(count: number): AsyncGenerator<Uint16Array> {
  let state = 12345;
  for (let at = 0; at < count; at += 1_000_000) {
    const ids = new Uint16Array(Math.min(1_000_000, count - at));
    for (let i = 0; i < ids.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      ids[i] = 32 + Math.floor((state / 2 ** 32) ** 3 * 90);
    }
    yield ids;
  }
}

async function write(store: string, count: number, seq = SEQ): Promise<void> {
  const tokenizer = byteTokenizer();
  await writeStore({ tokens: letters(count), tokenizer, seq, out: store, holdOut: 0.01 });
}

/** One epoch of batches. */
async function read(store: string): Promise<void> {
  const { rows } = (await openStore(store)).split("train");
  using batches = new Batches(store, { batch: 32, seed: 1 });
  for (let index = 0; index < rows; index += 32) await batches.next();
}

async function train(store: string, folder: string): Promise<void> {
  const output = memoryOutput();
  const flags = `--model ${folder}/tiny --seq ${SEQ} --batch 8 --steps 200 --rank 4 --eval-batches 2 --blas off`;
  const code = await main(["train", ...flags.split(" "), "--data", store, "--out", `${store}-run`], output);
  if (code !== 0) throw new Error(output.errText);
}

const PARTS: Readonly<Record<string, (folder: string) => Promise<void>>> = {
  "write 1 GB": (folder) => write(`${folder}/large`, TOKENS),
  "read 1 GB": (folder) => read(`${folder}/large`),
  "train from 1 GB": (folder) => train(`${folder}/large`, folder),
  "train from 20 MB": (folder) => train(`${folder}/small`, folder),
};

interface Figures {
  readonly seconds: number;
  readonly peak: number;
}

async function runPart(part: string, folder: string): Promise<void> {
  const started = performance.now();
  await PARTS[part](folder);
  const peak = await peakBytes();
  console.log(JSON.stringify({ seconds: (performance.now() - started) / 1000, peak } satisfies Figures));
}

/** Linux's maxRSS begins with that of the process which started this one; its VmHWM does not. */
async function peakBytes(): Promise<number> {
  const status = await Deno.readTextFile("/proc/self/status").catch(() => "");
  const [, kib] = /VmHWM:\s+(\d+) kB/.exec(status) ?? [];
  return 1024 * (kib === undefined ? resourceUsage().maxRSS : Number(kib));
}

async function spawnPart(part: string, folder: string): Promise<Figures> {
  const args = ["run", "-A", fileURLToPath(import.meta.url), part, folder];
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  if (code !== 0) throw new Error(`${part}: ${new TextDecoder().decode(stderr)}`);
  return JSON.parse(new TextDecoder().decode(stdout));
}

/** Steps on a small store; what drifts. */
async function soakSteps(folder: string): Promise<string[]> {
  const samples = await soak({ store: `${folder}/short`, steps: STEPS, every: 100, threads: 2 });
  for (const line of soakLines(samples)) console.log(line);
  return driftsOf(samples, 1024);
}

async function soakStore(folder: string): Promise<string[]> {
  const found: Record<string, Figures> = {};
  for (const part of Object.keys(PARTS)) {
    found[part] = await spawnPart(part, folder);
    const { seconds, peak } = found[part];
    console.log(`${part.padEnd(18)} ${seconds.toFixed(1).padStart(6)} s   peak ${formatBytes(peak)}`);
  }
  const loader = found["train from 1 GB"].peak - found["train from 20 MB"].peak;
  console.log(`the large store adds ${formatBytes(Math.max(0, loader))} to a training process\n`);
  return loader > LOADER_BYTES ? [`reading 1 GB takes ${formatBytes(loader)} more, expected ${LOADER_BYTES}`] : [];
}

async function soakAll(): Promise<number> {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-soak-" });
  const before = Deno.cwd();
  try {
    Deno.chdir(folder);
    await writeTinyModel("tiny");
    await write(`${folder}/short`, 100_000, 16);
    await write(`${folder}/small`, SMALL_TOKENS);
    const faults = [...await soakSteps(folder), ...await soakStore(folder)];
    for (const fault of faults) console.error(`Cannot pass: ${fault}`);
    return faults.length > 0 ? 1 : 0;
  } finally {
    Deno.chdir(before);
    await Deno.remove(folder, { recursive: true });
  }
}

const [part, folder] = Deno.args;
if (part === undefined) Deno.exit(await soakAll());
await runPart(part, folder);
