/**
 * Folders and files that are there whole or not at all, whatever dies when: kill -9, power, a full disk.
 *
 * A folder is written beside its place as `.tmp-NAME-RANDOM`: each file flushed to the disk, then `manifest.json` with
 * length and SHA-256 of each, then the folder itself; then it is renamed, and its parent flushed. A reader takes the
 * newest folder whose manifest verifies. A flush that fails is never tried again on the same file, because the kernel
 * may have dropped the pages and report success the next time (PostgreSQL's fsyncgate). The names on disk follow
 * reliability.md, sections 2.3 and 3 (F1-F3).
 */
import { createHash, type Hash } from "node:crypto";
import type { ByteSink, FolderWriter } from "../models/mod.ts";
import { baseName, exists, FileSink, FileSource, folderOf, join, plainName, readJsonFile } from "./files.ts";

/** Name of the file that makes a folder count. */
export const MANIFEST = "manifest.json";

/** What `manifest.json` holds. */
export interface Manifest {
  readonly format: "lowrank-folder";
  readonly version: 1;
  readonly files: Readonly<Record<string, ManifestEntry>>;
}

/** One file of a manifest. */
export interface ManifestEntry {
  readonly bytes: number;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
}

/** The disk is full or a quota is used up. What was there before is untouched: a trainer may go on and try later. */
export class DiskFullError extends Error {
  override readonly name = "DiskFullError";
}

/**
 * Writes the folder `parent/name` through `write`, and returns its path. A folder of that name is replaced, and kept
 * until the new one is whole. On any error the part that was written is removed and nothing else has changed.
 *
 * @throws DiskFullError when there is no room
 */
export async function writeFolderDurably(
  parent: string,
  name: string,
  write: (writer: FolderWriter) => Promise<void>,
): Promise<string> {
  const target = join(parent, plainName(name));
  const temporary = join(parent, `${TEMPORARY}${name}-${randomWord()}`);
  try {
    await makeFolderDurably(parent);
    await Deno.mkdir(temporary);
    const writer = new ManifestWriter(temporary);
    await write(writer);
    await writer.finish();
    await syncFolder(temporary);
    await replaceFolder(parent, name, temporary);
  } catch (error) {
    await Deno.remove(temporary, { recursive: true }).catch(() => {});
    throw asDiskFull(error, target);
  }
  return target;
}

/** Writes a small file whole: beside its place, flushed, then renamed over it. */
export async function writeFileDurably(path: string, data: string | Uint8Array): Promise<void> {
  const temporary = join(folderOf(path), `${TEMPORARY}${baseName(path)}-${randomWord()}`);
  try {
    {
      await using sink = await FileSink.create(temporary, { sync: true });
      await sink.write(typeof data === "string" ? new TextEncoder().encode(data) : data);
    }
    await Deno.rename(temporary, path);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw asDiskFull(error, path);
  }
  await syncFolder(folderOf(path));
}

const TEMPORARY = ".tmp-";
const REPLACED = ".old-";

/** A name that another trainer, or this one before it died, has not taken. */
function randomWord(): string {
  return crypto.randomUUID().slice(0, 8);
}

/** Hands out flushed, hashed files of one folder and remembers them for the manifest. */
class ManifestWriter implements FolderWriter {
  readonly #files = new Map<string, ManifestEntry>();
  readonly #open = new Set<string>();

  constructor(readonly path: string) {}

  async create(file: string): Promise<ByteSink & AsyncDisposable> {
    if (plainName(file) === MANIFEST) throw new RangeError(`Cannot create ${MANIFEST}: it is written by the protocol`);
    const sink = await FileSink.create(join(this.path, file), { sync: true });
    this.#open.add(file);
    return new HashingSink(sink, (entry) => {
      this.#open.delete(file);
      this.#files.set(file, entry);
    });
  }

  async finish(): Promise<void> {
    if (this.#open.size > 0) throw new Error(`Cannot finish ${this.path}: ${[...this.#open].join(", ")} is still open`);
    const manifest: Manifest = { format: "lowrank-folder", version: 1, files: Object.fromEntries(this.#files) };
    await using sink = await FileSink.create(join(this.path, MANIFEST), { sync: true });
    await sink.write(new TextEncoder().encode(JSON.stringify(manifest, null, 1) + "\n"));
  }
}

class HashingSink implements ByteSink, AsyncDisposable {
  readonly #hash: Hash = createHash("sha256");

  constructor(readonly sink: FileSink, readonly done: (entry: ManifestEntry) => void) {}

  async write(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes);
    await this.sink.write(bytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.sink[Symbol.asyncDispose]();
    this.done({ bytes: this.sink.bytes, sha256: this.#hash.digest("hex") });
  }
}

/** Renames `temporary` to its name. An older folder steps aside first, since a rename cannot replace a full folder. */
async function replaceFolder(parent: string, name: string, temporary: string): Promise<void> {
  const target = join(parent, name);
  const aside = join(parent, `${REPLACED}${name}`);
  const replaces = await exists(target);
  if (replaces) {
    await Deno.remove(aside, { recursive: true }).catch(ignoreMissing);
    await Deno.rename(target, aside);
  }
  await Deno.rename(temporary, target);
  await syncFolder(parent);
  if (replaces) await Deno.remove(aside, { recursive: true });
}

/**
 * Clears what a trainer that died has left in a folder: unfinished folders and files go, and a folder that had stepped
 * aside for one that never came is put back. Only for a caller that holds the run's lock.
 */
export async function removeLeftovers(parent: string): Promise<string[]> {
  const removed: string[] = [];
  for (const name of await namesIn(parent)) {
    const path = join(parent, name);
    const original = name.startsWith(REPLACED) ? join(parent, name.slice(REPLACED.length)) : undefined;
    if (original !== undefined && !await exists(original)) {
      await Deno.rename(path, original);
    } else if (original !== undefined || name.startsWith(TEMPORARY)) {
      await Deno.remove(path, { recursive: true });
      removed.push(name);
    }
  }
  if (removed.length > 0) await syncFolder(parent);
  return removed;
}

/** Removes a folder so that a reader never sees half of it: renamed first, then emptied. */
export async function removeFolderDurably(path: string): Promise<void> {
  const doomed = join(folderOf(path), `${TEMPORARY}${baseName(path)}-${randomWord()}`);
  await Deno.rename(path, doomed);
  await Deno.remove(doomed, { recursive: true });
}

/** Names in a folder, sorted; none where there is no folder. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    const names = await Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
    return names.sort();
  } catch (error) {
    return ignoreMissing(error) ?? [];
  }
}

function ignoreMissing(error: unknown): undefined {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/** What is wrong with a folder; nothing when `problems` is empty. */
export interface Verification {
  readonly path: string;
  readonly problems: readonly string[];
  readonly files: number;
  readonly bytes: number;
}

/**
 * Compares a folder with its manifest: every length, and with `hashes` (the default) every byte. Files that the manifest
 * does not name are left alone: a tokenizer or a read-me may have been added.
 */
export async function verifyFolder(path: string, { hashes = true } = {}): Promise<Verification> {
  const problems: string[] = [];
  let bytes = 0;
  const entries = await readManifest(path).catch((error: Error) => {
    problems.push(error.message);
    return [];
  });
  for (const [name, entry] of entries) {
    const problem = await problemOf(path, name, entry, hashes);
    if (problem) problems.push(`${name}: ${problem}`);
    bytes += entry.bytes;
  }
  return { path, problems, files: entries.length, bytes };
}

async function readManifest(folder: string): Promise<[string, ManifestEntry][]> {
  const path = join(folder, MANIFEST);
  if (!await exists(path)) throw new SyntaxError(`there is no ${MANIFEST}`);
  const manifest = await readJsonFile(path) as Partial<Manifest> | null;
  const files = Object.entries(manifest?.files ?? {});
  const isSound = manifest?.format === "lowrank-folder" && manifest.version === 1 && files.length > 0;
  if (!isSound || !files.every(([name, entry]) => isEntry(name, entry))) {
    throw new SyntaxError(`${MANIFEST} is not a manifest of this version`);
  }
  return files;
}

function isEntry(name: string, entry: unknown): boolean {
  const { bytes, sha256 } = (entry ?? {}) as Partial<ManifestEntry>;
  try {
    plainName(name);
  } catch {
    return false;
  }
  return Number.isSafeInteger(bytes) && bytes! >= 0 && typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256);
}

async function problemOf(folder: string, name: string, expected: ManifestEntry, hashes: boolean) {
  const path = join(folder, name);
  const info = await Deno.lstat(path).catch(ignoreMissing);
  if (!info) return "missing";
  if (!info.isFile) return "not a regular file";
  if (info.size !== expected.bytes) return `expected ${expected.bytes} bytes, got ${info.size}`;
  if (!hashes) return undefined;
  const sha256 = await hashFile(path);
  return sha256 === expected.sha256 ? undefined : `expected SHA-256 ${expected.sha256}, got ${sha256}`;
}

/** SHA-256 of a file, in pieces, as lower-case hexadecimal. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await using source = await FileSource.open(path);
  for (let at = 0; at < source.size; at += PIECE) hash.update(await source.read(at, Math.min(PIECE, source.size - at)));
  return hash.digest("hex");
}

const PIECE = 4 * 2 ** 20;

/** Flushes a folder's names to the disk. Windows cannot open folders; its file system journals names itself. */
export async function syncFolder(path: string): Promise<void> {
  if (Deno.build.os === "windows") return;
  using folder = await Deno.open(path, { read: true });
  await folder.sync();
}

/** Makes a folder and those above it, each flushed into its parent. */
export async function makeFolderDurably(path: string): Promise<void> {
  if (await exists(path)) return;
  const parent = folderOf(path);
  if (parent !== path) await makeFolderDurably(parent);
  await Deno.mkdir(path).catch((error) => {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
  });
  await syncFolder(parent);
}

function asDiskFull(error: unknown, path: string): unknown {
  // `await using` may wrap the write's error in that of the close which followed it.
  for (let at = error; at instanceof Error; at = at instanceof SuppressedError ? at.suppressed : at.cause) {
    const code = (at as { code?: unknown }).code;
    if (code !== "ENOSPC" && code !== "EDQUOT") continue;
    const message = `Cannot write ${path}: the disk is full; what was there before is kept; make room and go on`;
    return new DiskFullError(message, { cause: error });
  }
  return error;
}
