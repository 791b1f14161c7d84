/**
 * A store's files in a folder. Reads until the range is full (one `read` may give less), refuses links and whatever is not
 * a plain file (the real path must be the folder's real path and the key), and compares sizes where they are known.
 */

import { type ByteRange, type ByteSource, checkKey, ReadFault, resolveRange } from "./source.ts";

/** The files under one folder. */
export class LocalFiles implements ByteSource {
  readonly name: string;
  readonly #root: Promise<string>;

  constructor(folder: string) {
    this.name = folder;
    this.#root = Deno.realPath(folder);
    this.#root.catch(() => {}); // reported by the first read
  }

  async readFile(key: string, maxBytes: number): Promise<Uint8Array | undefined> {
    using file = await this.#open(key);
    if (!file) return undefined;
    const { size } = await file.stat();
    if (size > maxBytes) throw new ReadFault(`the file may have at most ${maxBytes} bytes, got ${size}`);
    return await readFully(file, 0, size);
  }

  async readRange(key: string, range: ByteRange, size?: number): Promise<Uint8Array> {
    using file = await this.#open(key);
    if (!file) throw new ReadFault("the file does not exist");
    const found = (await file.stat()).size;
    if (size !== undefined && found !== size) throw new ReadFault(`the file must have ${size} bytes, got ${found}`);
    const { offset, length } = resolveRange(range, found);
    return await readFully(file, offset, length);
  }

  async #open(key: string): Promise<Deno.FsFile | undefined> {
    const root = await this.#root;
    const path = `${root === "/" ? "" : root}/${checkKey(key)}`;
    try {
      const real = (await Deno.realPath(path)).replaceAll("\\", "/");
      if (real !== path.replaceAll("\\", "/")) throw new ReadFault(`the file is a link, which a store must not hold`);
      const file = await Deno.open(path, { read: true });
      if ((await file.stat()).isFile) return file;
      file.close();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
      throw error;
    }
    throw new ReadFault("it is not a plain file");
  }
}

async function readFully(file: Deno.FsFile, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  if (offset > 0) await file.seek(offset, Deno.SeekMode.Start);
  for (let at = 0; at < length;) {
    const got = await file.read(bytes.subarray(at));
    if (got === null) throw new ReadFault(`the file ended ${length - at} bytes early`);
    at += got;
  }
  return bytes;
}
