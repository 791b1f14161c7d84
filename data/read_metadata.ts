/** A store's metadata, read with retries; whatever is wrong with it is a `CorruptDataError` that names the store. */
import { CorruptDataError } from "./errors.ts";
import { type RetryOptions, withRetries } from "./retry.ts";
import { type ByteSource, ReadFault } from "./source.ts";
import { MAX_METADATA_BYTES, MetadataError } from "./zarr_check.ts";

/**
 * The bytes of a metadata file; undefined when there is none.
 *
 * @throws {CorruptDataError} when it cannot be read
 * @throws {Deno.errors.NotFound} when there is no such folder
 */
export async function readMetadata(
  source: ByteSource,
  key: string,
  retry: RetryOptions,
): Promise<Uint8Array | undefined> {
  try {
    return await withRetries(() => source.readFile(key, MAX_METADATA_BYTES), retry);
  } catch (cause) {
    if (cause instanceof ReadFault) {
      throw new CorruptDataError({ store: source.name, reason: `${key}: ${cause.message}` }, { cause });
    }
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Deno.errors.NotFound(`Cannot open the store "${source.name}": there is no such folder`);
  }
}

/** What `check` finds, or a `CorruptDataError` of the store in place of its `MetadataError`. */
export function checkedMetadata<T>(source: ByteSource, check: () => T): T {
  try {
    return check();
  } catch (cause) {
    if (!(cause instanceof MetadataError)) throw cause;
    throw new CorruptDataError({ store: source.name, reason: cause.message }, { cause });
  }
}
