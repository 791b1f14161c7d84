/**
 * Tables of bad input: each is made in a workspace, met by a command line, and refused in one line with nothing written or
 * lost. Only tests import this.
 */
import assert from "node:assert/strict";
import { byteTokenizer, prepareStore } from "../../data/mod.ts";
import { fingerprint, trainFlags, Workspace } from "./workspace.ts";

/** A kind of bad input, and what must be said of it. */
export interface BadInput {
  /** Completes "fails when". */
  readonly when: string;
  /** Makes the input. */
  readonly make?: () => Promise<unknown>;
  /** The command line; `train` adds those of a usual run. */
  readonly argv: readonly string[];
  readonly message: RegExp;
  /** Default 1. */
  readonly code?: number;
  /** Found out only while training, after some steps: the run is left, saved. */
  readonly leavesRun?: boolean;
}

/** A command line for a usual run with more flags, into the folder `run`. */
export function train(...flags: readonly string[]): string[] {
  return ["train", ...trainFlags("--out", "run", ...flags)];
}

/** One test an input. */
export function testBadInputs(inputs: readonly BadInput[]): void {
  for (const { when, make, argv, message, code = 1, leavesRun = false } of inputs) {
    Deno.test(`main() fails in one line when ${when}`, async () => {
      await using workspace = await Workspace.open();
      await make?.();
      const before = await fingerprint();
      const outcome = await workspace.run(...argv);
      assert.equal(outcome.code, code, outcome.err);
      const lines = outcome.err.trimEnd().split("\n");
      assert.match(lines[lines.length - 1], message);
      assert.deepEqual(lines.filter((line) => /^\s+at |^\w*Error/.test(line)), [], "a stack trace");
      const after = await fingerprint();
      for (const path of Object.keys(after)) {
        const isRun = leavesRun && path.startsWith("run/");
        if (isRun || path === "run/.lock" || path.startsWith(".lowrank/")) delete after[path];
      }
      assert.deepEqual(after, before);
    });
  }
}

/** Changes a JSON file. */
export async function editJson(path: string, change: (json: Record<string, unknown>) => void): Promise<void> {
  const json = JSON.parse(await Deno.readTextFile(path));
  change(json);
  await Deno.writeTextFile(path, JSON.stringify(json));
}

/** The corpus as a store, one row a chunk, with a change to one of its files. */
export async function makeStore(change?: () => Promise<unknown>): Promise<void> {
  const inputs = "corpus.txt";
  await prepareStore({ inputs, tokenizer: byteTokenizer(), seq: 16, out: "store", holdOut: 0.1, rowsPerChunk: 1 });
  await change?.();
}

/** Flips a bit of a file. */
export async function flipByte(path: string, at: number): Promise<void> {
  const bytes = await Deno.readFile(path);
  bytes[at] ^= 1;
  await Deno.writeFile(path, bytes);
}
