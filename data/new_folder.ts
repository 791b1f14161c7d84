/** A folder that is there whole or not at all: written under another name beside it, and renamed at the end. */

/**
 * Has `write` fill a new folder.
 *
 * @param out what the folder is called in the end; folders above it are made
 * @throws {Deno.errors.AlreadyExists} when `out` exists; whatever `write` throws, and nothing is left then
 */
export async function inNewFolder<T>(out: string, write: (folder: string) => Promise<T>): Promise<T> {
  const path = out.replace(/[/\\]+$/, "");
  await refuseExisting(path);
  const parent = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) || "/" : ".";
  await Deno.mkdir(parent, { recursive: true });
  const folder = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  await Deno.mkdir(folder);
  try {
    const result = await write(folder);
    await refuseExisting(path);
    await Deno.rename(folder, path);
    return result;
  } catch (error) {
    await Deno.remove(folder, { recursive: true });
    throw error;
  }
}

async function refuseExisting(out: string): Promise<void> {
  try {
    await Deno.lstat(out);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  throw new Deno.errors.AlreadyExists(
    `Cannot prepare a store in "${out}": it exists already; remove it, or choose another name`,
  );
}
