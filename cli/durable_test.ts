import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import {
  DiskFullError,
  hashFile,
  removeLeftovers,
  verifyFolder,
  writeFileDurably,
  writeFolderDurably,
} from "./durable.ts";
import { latestCheckpoint, listCheckpoints, pruneCheckpoints } from "./run_folder.ts";
import { exists, readJsonFile } from "./files.ts";
import type { FolderWriter } from "../models/mod.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

function writing(files: Record<string, string>) {
  return async (writer: FolderWriter) => {
    for (const [name, text] of Object.entries(files)) {
      await using sink = await writer.create(name);
      await sink.write(bytes(text));
    }
  };
}

async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-" });
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}

Deno.test("writeFolderDurably() writes every file with its length and SHA-256", () =>
  inFolder(async (folder) => {
    const path = await writeFolderDurably(`${folder}/a/b`, "step-1", writing({ x: "hello", y: "" }));
    assert.deepEqual(names(`${folder}/a/b`), ["step-1"]);
    assert.deepEqual(names(path), ["manifest.json", "x", "y"]);
    assert.deepEqual(await readJsonFile(`${path}/manifest.json`), {
      format: "lowrank-folder",
      version: 1,
      files: {
        x: { bytes: 5, sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" },
        y: { bytes: 0, sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
      },
    });
    assert.deepEqual(await verifyFolder(path), { path, problems: [], files: 2, bytes: 5 });
  }));

Deno.test("writeFolderDurably() replaces a folder of that name", () =>
  inFolder(async (folder) => {
    await writeFolderDurably(folder, "step-1", writing({ x: "old" }));
    const path = await writeFolderDurably(folder, "step-1", writing({ x: "new" }));
    assert.equal(await Deno.readTextFile(`${path}/x`), "new");
    assert.deepEqual(names(folder), ["step-1"]);
  }));

Deno.test("writeFolderDurably() leaves the old folder and nothing else when writing fails", () =>
  inFolder(async (folder) => {
    await writeFolderDurably(folder, "step-1", writing({ x: "old" }));
    const failing = async (writer: FolderWriter) => {
      await writing({ x: "half" })(writer);
      throw new Error("interrupted");
    };
    await assert.rejects(writeFolderDurably(folder, "step-1", failing), /interrupted/);
    assert.deepEqual(names(folder), ["step-1"]);
    assert.equal(await Deno.readTextFile(`${folder}/step-1/x`), "old");
  }));

Deno.test("writeFolderDurably() throws DiskFullError when the disk is full", () =>
  inFolder(async (folder) => {
    await writeFolderDurably(folder, "step-1", writing({ x: "good" }));
    const full = async (writer: FolderWriter) => {
      await writing({ x: "half" })(writer);
      throw Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" });
    };
    await assert.rejects(writeFolderDurably(folder, "step-2", full), (error: Error) => {
      assert.ok(error instanceof DiskFullError);
      assert.match(error.message, /^Cannot write .*step-2: the disk is full; what was there before is kept/);
      return true;
    });
    assert.deepEqual(names(folder), ["step-1"]);
    assert.deepEqual((await verifyFolder(`${folder}/step-1`)).problems, []);
  }));

Deno.test("writeFolderDurably() refuses paths, its own manifest, and files left open", () =>
  inFolder(async (folder) => {
    await assert.rejects(writeFolderDurably(folder, "../x", writing({})), /as a file name/);
    await assert.rejects(writeFolderDurably(folder, "a", writing({ "../x": "" })), /as a file name/);
    await assert.rejects(writeFolderDurably(folder, "a", writing({ "manifest.json": "" })), /written by the protocol/);
    let open: AsyncDisposable | undefined;
    const leaving = async (writer: FolderWriter) => void (open = await writer.create("x"));
    await assert.rejects(writeFolderDurably(folder, "a", leaving), /x is still open/);
    await open![Symbol.asyncDispose]();
    assert.deepEqual(names(folder), []);
  }));

Deno.test("writeFileDurably() replaces a file whole", () =>
  inFolder(async (folder) => {
    await writeFileDurably(`${folder}/config.json`, "one");
    await writeFileDurably(`${folder}/config.json`, "two");
    assert.equal(await Deno.readTextFile(`${folder}/config.json`), "two");
    assert.deepEqual(names(folder), ["config.json"]);
  }));

Deno.test("hashFile() hashes a file longer than a piece", () =>
  inFolder(async (folder) => {
    const data = new Uint8Array(4 * 2 ** 20 + 5).fill(7);
    await Deno.writeFile(`${folder}/x`, data);
    const expected = new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
    assert.equal(await hashFile(`${folder}/x`), expected);
  }));

Deno.test("verifyFolder() names what is wrong when files changed", () =>
  inFolder(async (folder) => {
    const path = await writeFolderDurably(folder, "step-1", writing({ a: "aaaa", b: "bbbb", c: "cccc" }));
    await Deno.writeTextFile(`${path}/a`, "aaab");
    await Deno.writeTextFile(`${path}/b`, "bb");
    await Deno.remove(`${path}/c`);
    const { problems } = await verifyFolder(path);
    assert.match(problems[0], /^a: expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}$/);
    assert.deepEqual(problems.slice(1), ["b: expected 4 bytes, got 2", "c: missing"]);
    assert.equal((await verifyFolder(path, { hashes: false })).problems.length, 2);
  }));

Deno.test.each([
  ["nothing", undefined],
  ["no JSON", "{"],
  ["null", "null"],
  ["another format", '{"format":"x","version":1,"files":{"a":{"bytes":1,"sha256":"' + "0".repeat(64) + '"}}}'],
  ["no files", '{"format":"lowrank-folder","version":1,"files":{}}'],
  ["a path", '{"format":"lowrank-folder","version":1,"files":{"../a":{"bytes":1,"sha256":"' + "0".repeat(64) + '"}}}'],
  ["no hash", '{"format":"lowrank-folder","version":1,"files":{"a":{"bytes":1}}}'],
  ["no entry", '{"format":"lowrank-folder","version":1,"files":{"a":null}}'],
])("verifyFolder() has a problem when the manifest is %s", (_, manifest) =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/a`, "a");
    if (manifest !== undefined) await Deno.writeTextFile(`${folder}/manifest.json`, manifest);
    assert.equal((await verifyFolder(folder)).problems.length, 1);
  }));

Deno.test("verifyFolder() refuses a link in place of a file", () =>
  inFolder(async (folder) => {
    const path = await writeFolderDurably(folder, "step-1", writing({ a: "aaaa" }));
    await Deno.rename(`${path}/a`, `${folder}/elsewhere`);
    await Deno.symlink(`${folder}/elsewhere`, `${path}/a`);
    assert.deepEqual((await verifyFolder(path)).problems, ["a: not a regular file"]);
  }));

Deno.test("removeLeftovers() removes unfinished folders and puts back one that had stepped aside", () =>
  inFolder(async (folder) => {
    await Deno.mkdir(`${folder}/.tmp-step-3-abcdef01`);
    await writeFolderDurably(folder, ".old-step-2", writing({ x: "two" }));
    await writeFolderDurably(folder, ".old-step-1", writing({ x: "older" }));
    await writeFolderDurably(folder, "step-1", writing({ x: "one" }));
    assert.deepEqual(await removeLeftovers(folder), [".old-step-1", ".tmp-step-3-abcdef01"]);
    assert.deepEqual(names(folder), ["step-1", "step-2"]);
    assert.equal(await Deno.readTextFile(`${folder}/step-1/x`), "one");
  }));

/** Starts the writer, lets it write at least one checkpoint, kills it, and returns the last step that it reported. */
async function writeAndKill(run: string, first: number, afterMs: number): Promise<number> {
  const script = fileURLToPath(new URL("./testdata/checkpoint_writer.ts", import.meta.url));
  const args = ["run", "--no-prompt", "--allow-read", "--allow-write", script, run, String(first)];
  const child = new Deno.Command(Deno.execPath(), { args, stdout: "piped", stderr: "inherit" }).spawn();
  let said = "";
  let timer: ReturnType<typeof setTimeout> | undefined;
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    timer ??= setTimeout(() => child.kill("SIGKILL"), afterMs);
    said += chunk;
  }
  await child.status;
  return Number(said.split("\n").at(-2));
}

Deno.test("latestCheckpoint() finds a whole newest checkpoint when the writer is killed at 30 random times", () =>
  inFolder(async (run) => {
    let next = 1;
    let torn = 0;
    for (let kill = 0; kill < 30; kill++) {
      const reported = await writeAndKill(run, next, Math.random() * 80);
      const { checkpoint, warnings } = await latestCheckpoint(run);
      assert.deepEqual(warnings, []);
      assert.ok(checkpoint && checkpoint.step >= reported, `step ${reported} was reported, got ${checkpoint?.step}`);
      torn += (await removeLeftovers(`${run}/checkpoints`)).length > 0 ? 1 : 0;
      next = checkpoint.step + 1;
    }
    assert.ok(torn >= 10, `expected most kills to strike a checkpoint under way, got ${torn} of 30`);
    await pruneCheckpoints(run, 1);
    assert.equal((await listCheckpoints(run)).length, 1);
    assert.ok(!await exists(`${run}/checkpoints/.old-step-1`));
  }));
