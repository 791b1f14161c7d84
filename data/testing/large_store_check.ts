/**
 * Measures memory and speed on a store of 1 GB (raw tokens), which is too slow and too large for the tests. Linux only: peak
 * memory is VmHWM, the process's own, so run the parts as processes of their own:
 *
 *     deno run -A data/testing/large_store_check.ts write /tmp/large-store     # makes it, about 1.0 GB on disk, twice that meanwhile
 *     deno run -A data/testing/large_store_check.ts read /tmp/large-store 1    # one epoch of batches, with 1 reader
 *     deno run -A data/testing/large_store_check.ts verify /tmp/large-store
 */

import { Batches, openStore, verifyStore, writeStore } from "../mod.ts";

const TOKENS = 500_000_000;
const VOCAB_SIZE = 50_257;
const SEQ = 1024;
const BATCH = 32;

/** Tokens of a skewed distribution, so that zstd has work to do. */
async function* randomTokens(): AsyncGenerator<Uint16Array> {
  let state = 12345;
  for (let at = 0; at < TOKENS; at += 1_000_000) {
    const ids = new Uint16Array(1_000_000);
    for (let i = 0; i < ids.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const u = state / 2 ** 32;
      ids[i] = Math.floor(u * u * u * VOCAB_SIZE);
    }
    yield ids;
  }
}

function peakMiB(): number {
  const match = /VmHWM:\s+(\d+) kB/.exec(Deno.readTextFileSync("/proc/self/status"));
  return Math.round(Number(match?.[1] ?? NaN) / 1024);
}

async function write(out: string): Promise<string> {
  const tokenizer = { name: "random", hash: "0".repeat(64), vocabSize: VOCAB_SIZE, eosId: VOCAB_SIZE - 1 };
  const info = await writeStore({ tokens: randomTokens(), tokenizer, seq: SEQ, out, holdOut: 0.01 });
  return `${info.tokens} tokens`;
}

async function read(store: string, readers: number): Promise<string> {
  const { rows } = (await openStore(store)).split("train");
  using batches = new Batches(store, { batch: BATCH, seed: 1, readers });
  let sum = 0;
  for (let index = 0; index < rows; index += BATCH) {
    const { tokens } = await batches.next();
    sum = (sum + tokens[0] + tokens[tokens.length - 1]) >>> 0;
  }
  return `${Math.ceil(rows / BATCH)} batches of ${BATCH} x ${SEQ + 1}, check sum ${sum}`;
}

async function verify(store: string): Promise<string> {
  const { chunks, faults } = await verifyStore(store);
  return `${chunks} chunks, ${faults.length} faults`;
}

if (import.meta.main) {
  const [verb, folder, readers = "1"] = Deno.args;
  const started = performance.now();
  const result = verb === "write"
    ? await write(folder)
    : verb === "read"
    ? await read(folder, Number(readers))
    : await verify(folder);
  const seconds = (performance.now() - started) / 1000;
  console.log(
    `${verb}: ${result}, ${seconds.toFixed(1)} s, ${
      (TOKENS * 2 / 1e6 / seconds).toFixed(0)
    } MB/s, peak RSS ${peakMiB()} MiB`,
  );
}
