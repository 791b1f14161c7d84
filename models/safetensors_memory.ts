/** A folder in memory: for tests, and for hosts without files, such as a browser that fetched its checkpoint. */
import type { FolderWriter } from "./safetensors_shards.ts";
import type { Folder } from "./checkpoint_folder.ts";
import type { ByteSource } from "./safetensors.ts";
import type { ByteSink } from "./safetensors_write.ts";

/** Files by name, to read and to write. */
export class MemoryFolder implements Folder, FolderWriter {
  /** The files; add to them freely while none is open. */
  readonly files: Map<string, Uint8Array>;
  #numOpen = 0;

  /** @param name for messages */
  constructor(readonly name: string, files: Iterable<readonly [string, Uint8Array]> = []) {
    this.files = new Map(files);
  }

  /** Files that were opened or created and not yet disposed. */
  get numOpen(): number {
    return this.#numOpen;
  }

  has(file: string): Promise<boolean> {
    return Promise.resolve(this.files.has(file));
  }

  /** @throws RangeError when there is no such file */
  open(file: string): Promise<ByteSource & AsyncDisposable> {
    const bytes = this.files.get(file);
    if (!bytes) return Promise.reject(new RangeError(`Cannot open ${file}: ${this.name} has no such file`));
    return Promise.resolve({ ...memorySource(file, bytes), ...this.#opened() });
  }

  /** @throws RangeError when there is no such file */
  async text(file: string): Promise<string> {
    await using source = await this.open(file);
    return new TextDecoder().decode(await source.read(0, source.size));
  }

  create(file: string): Promise<ByteSink & AsyncDisposable> {
    const parts: Uint8Array[] = [];
    const write = (bytes: Uint8Array) => Promise.resolve(void parts.push(bytes.slice()));
    return Promise.resolve({ write, ...this.#opened(() => this.files.set(file, concatenate(parts))) });
  }

  #opened(close: () => void = () => {}): AsyncDisposable {
    this.#numOpen++;
    return {
      [Symbol.asyncDispose]: () => {
        this.#numOpen--;
        return Promise.resolve(close());
      },
    };
  }
}

/** Bytes in memory as a file to read. A read past the end is a RangeError. */
export function memorySource(name: string, bytes: Uint8Array): ByteSource {
  return {
    name,
    size: bytes.length,
    read(offset: number, length: number): Promise<Uint8Array> {
      if (offset + length <= bytes.length) return Promise.resolve(bytes.slice(offset, offset + length));
      return Promise.reject(
        new RangeError(`Cannot read ${length} bytes at ${offset} of ${name}: it has ${bytes.length} bytes`),
      );
    },
  };
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
