/**
 * A few small texts in files of a folder: what a backend wants to know again the next time, such as an autotune's findings.
 * It refuses to be in the way: what cannot be read is not there, what cannot be written is forgotten.
 */
import { join } from "./files.ts";

/** What a backend is handed. */
export interface SmallStore {
  get(key: string): Promise<string | undefined>;
  set(key: string, value: string): Promise<void>;
}

/** Where caches lie, from where a command stands. */
export const CACHE_FOLDER = ".lowrank";

/** Texts in `FOLDER/KEY.json`. */
export function fileStore(folder: string = CACHE_FOLDER): SmallStore {
  return {
    get: async (key) => {
      try {
        return await Deno.readTextFile(join(folder, fileName(key)));
      } catch {
        return undefined; // not there, or no permission: `plan` and `generate` may run without
      }
    },
    set: async (key, value) => {
      const path = join(folder, fileName(key));
      const aside = `${path}.${crypto.randomUUID()}`;
      try {
        await Deno.mkdir(folder, { recursive: true });
        await Deno.writeTextFile(aside, value);
        await Deno.rename(aside, path); // two runs at once write one whole file
      } catch {
        await Deno.remove(aside).catch(() => {});
      }
    },
  };
}

/** A key as a plain name: letters, digits, dots and dashes, cut; a hash keeps keys apart that look alike then. */
function fileName(key: string): string {
  const plain = key.replace(/[^A-Za-z0-9.]+/g, "-").replace(/^[-.]+|[-.]+$/g, "");
  const hash = [...key].reduce((sum, letter) => Math.imul(sum ^ letter.codePointAt(0)!, 0x01000193), 0x811c9dc5);
  return `${plain.slice(0, 80) || "key"}-${(hash >>> 0).toString(16).padStart(8, "0")}.json`;
}
