/**
 * Deno's files behind the interfaces that models and data ask for. Reads loop until every byte is there, and the end of
 * a file before that is an error: a short read would be a tail of zeros. Refuses names that are paths, and links that
 * leave their folder.
 */
import type { ByteSink, ByteSource, Folder } from "../models/mod.ts";

/** A file that can be read at any place. Closed on disposal. */
export class FileSource implements ByteSource, AsyncDisposable {
  readonly #file: Deno.FsFile;
  #turn: Promise<void> = Promise.resolve();

  private constructor(readonly name: string, readonly size: number, file: Deno.FsFile) {
    this.#file = file;
  }

  /** Opens a regular file. */
  static async open(path: string): Promise<FileSource> {
    const file = await explained(path, () => Deno.open(path, { read: true }));
    const { isFile, size } = await file.stat();
    if (isFile) return new FileSource(path, size, file);
    file.close();
    throw new TypeError(`Cannot read ${path}: it is not a file`);
  }

  /** Exactly `length` bytes from `offset`. @throws RangeError beyond the end, SyntaxError when the file got shorter. */
  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new RangeError(`Cannot read ${length} bytes at ${offset} of ${this.name}: it has ${this.size}`);
    }
    // A file has one position, so that reads asked for together take turns.
    const turn = this.#turn.then(() => this.#readAt(offset, length));
    this.#turn = turn.then(() => {}, () => {});
    return await turn;
  }

  async #readAt(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    await this.#file.seek(offset, Deno.SeekMode.Start);
    for (let at = 0; at < length;) {
      const read = await this.#file.read(bytes.subarray(at));
      if (read === null) throw endOfFile(this.name, length, offset, at);
      at += read;
    }
    return bytes;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#file.close();
    return Promise.resolve();
  }
}

function endOfFile(name: string, length: number, offset: number, got: number): SyntaxError {
  return new SyntaxError(`Cannot read ${length} bytes at ${offset} of ${name}: the file ended after ${got} of them`);
}

/** A new file that is written front to back. `sync` flushes it to the disk on disposal. */
export class FileSink implements ByteSink, AsyncDisposable {
  readonly #file: Deno.FsFile;
  readonly #sync: boolean;
  /** Bytes written so far. */
  bytes = 0;

  private constructor(readonly name: string, file: Deno.FsFile, sync: boolean) {
    this.#file = file;
    this.#sync = sync;
  }

  /** Creates a file that must not be there yet. */
  static async create(path: string, { sync = false }: { sync?: boolean } = {}): Promise<FileSink> {
    return new FileSink(path, await explained(path, () => Deno.open(path, { write: true, createNew: true })), sync);
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.#file.write(bytes.subarray(at));
    this.bytes += bytes.length;
  }

  /** @throws when the disk refuses the flush; the file must then be taken as lost, not flushed again. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#sync) await this.#file.sync();
    } finally {
      this.#file.close();
    }
  }
}

/** A folder of files by plain name. */
export class FileFolder implements Folder {
  /** @param name Path of the folder. */
  constructor(readonly name: string) {}

  async has(file: string): Promise<boolean> {
    try {
      return (await Deno.stat(join(this.name, plainName(file)))).isFile;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return false;
      throw error;
    }
  }

  /** @throws TypeError for a link whose target lies outside the folder. */
  async open(file: string): Promise<FileSource> {
    const path = join(this.name, plainName(file));
    await refuseEscape(this.name, path);
    return await FileSource.open(path);
  }

  async text(file: string): Promise<string> {
    const path = join(this.name, plainName(file));
    await refuseEscape(this.name, path);
    return await readTextFile(path);
  }
}

/**
 * A link may point within the folder, or within the folder two levels up that holds `snapshots/` and `blobs/`: so
 * Hugging Face's own cache lies on the disk.
 */
async function refuseEscape(folder: string, path: string): Promise<void> {
  const info = await explained(path, () => Deno.lstat(path));
  if (!info.isSymlink) return;
  const [root, target] = await explained(path, () => Promise.all([Deno.realPath(folder), Deno.realPath(path)]));
  if (isWithin(target, root)) return;
  const [, cache] = /^(.*)[\\/]snapshots[\\/][^\\/]+$/.exec(root) ?? [];
  if (cache !== undefined && isWithin(target, join(cache, "blobs"))) return;
  throw new TypeError(`Cannot read ${path}: it is a link that leaves the folder, to ${target}`);
}

function isWithin(path: string, folder: string): boolean {
  return path.startsWith(folder) && /^[\\/]/.test(path.slice(folder.length));
}

/** Refuses everything but a file name: no separators, no `..`, no drive, no control characters. */
export function plainName(name: string): string {
  // deno-lint-ignore no-control-regex
  if (/^[^/\\:\x00-\x1f\x7f]{1,255}$/.test(name) && name !== "." && name !== "..") return name;
  throw new RangeError(`Cannot use ${JSON.stringify(name)} as a file name: expected a name without a path`);
}

/** A path below a folder. */
export function join(folder: string, name: string): string {
  return /[/\\]$/.test(folder) ? folder + name : `${folder}/${name}`;
}

/** The last part of a path. */
export function baseName(path: string): string {
  return path.replace(/[/\\]+$/, "").split(/[/\\]/).pop() ?? path;
}

/** The folder that a path lies in. */
export function folderOf(path: string): string {
  const parts = path.replace(/[/\\]+$/, "").split(/(?=[/\\])/);
  return parts.length === 1 ? (/^[/\\]/.test(path) ? "/" : ".") : parts.slice(0, -1).join("") || "/";
}

/** Whether anything lies at a path. */
export async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return false;
    throw error;
  }
}

/** A text file, strictly UTF-8. @throws SyntaxError when it is not. */
export async function readTextFile(path: string): Promise<string> {
  const bytes = await explained(path, () => Deno.readFile(path));
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new SyntaxError(`Cannot read ${path}: it is not UTF-8 text`);
  }
}

/** A JSON file. @throws SyntaxError with the path when it is not one. */
export async function readJsonFile(path: string): Promise<unknown> {
  const text = await readTextFile(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`Cannot read ${path}: ${(error as Error).message}`);
  }
}

/** Runs a file operation; what the system refuses is thrown again with the path, in one line. */
export async function explained<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    const why = reason(cause);
    if (why === undefined) throw cause;
    throw new Error(`Cannot open ${path}: ${why}`, { cause });
  }
}

function reason(error: unknown): string | undefined {
  const { NotFound, PermissionDenied, NotADirectory, IsADirectory, AlreadyExists, FilesystemLoop } = Deno.errors;
  if (error instanceof NotFound) return "there is no such file";
  if (error instanceof PermissionDenied) return "the system does not permit it";
  if (error instanceof NotADirectory) return "part of the path is not a folder";
  if (error instanceof IsADirectory) return "it is a folder, not a file";
  if (error instanceof AlreadyExists) return "it is there already";
  if (error instanceof FilesystemLoop) return "its links form a loop";
  return undefined;
}
