/**
 * The one error class of `data`: stored tokens that cannot be trusted. Everything else uses built-in classes
 * (`TypeError` wrong kind, `RangeError` wrong value, `SyntaxError` unreadable file, `Deno.errors.*` from the system).
 * An error crosses a worker's boundary as plain data, because structured cloning drops classes and fields.
 */

/** Where in a store a fault was found. */
export interface CorruptDataFields {
  /** The store's folder or URL, without its query string. */
  readonly store: string;
  /** The shard's key inside the store, such as `train/c/3/0`; absent when the fault is in the metadata. */
  readonly shard?: string;
  /** The number of the inner chunk, counted over the whole array; absent when the whole shard is at fault. */
  readonly chunk?: number;
  /** What is wrong, without the place. */
  readonly reason: string;
}

/**
 * Stored data that is missing, damaged, or not what was promised. Nothing is ever filled in for it.
 * The caller can act on the fields: name the file, fetch it again, or leave it out.
 */
export class CorruptDataError extends Error {
  /** The class, as it is printed. */
  override readonly name: string = "CorruptDataError";
  /** The store's folder or URL, without its query string. */
  readonly store: string;
  /** The shard's key inside the store, such as `train/c/3/0`, when one is at fault. */
  readonly shard: string | undefined;
  /** The number of the inner chunk, counted over the whole array, when one is at fault. */
  readonly chunk: number | undefined;
  /** What is wrong, without the place. */
  readonly reason: string;

  /** The message names chunk, shard and store, then the reason. */
  constructor(fields: CorruptDataFields, options?: ErrorOptions) {
    const chunk = fields.chunk === undefined ? "" : `chunk ${fields.chunk} of `;
    const shard = fields.shard === undefined ? "" : `shard "${fields.shard}" of `;
    super(`Cannot read ${chunk}${shard}store "${fields.store}": ${fields.reason}`, options);
    this.store = fields.store;
    this.shard = fields.shard;
    this.chunk = fields.chunk;
    this.reason = fields.reason;
  }
}

/** An error as plain data, for a message between threads. */
export interface PackedError {
  readonly name: string;
  readonly message: string;
  readonly fields?: CorruptDataFields;
}

const CLASSES: Record<string, new (message: string) => Error> = {
  TypeError,
  RangeError,
  SyntaxError,
  NotFound: Deno.errors.NotFound,
  PermissionDenied: Deno.errors.PermissionDenied,
  NotCapable: Deno.errors.NotCapable,
};

/** An error made ready for `postMessage`. */
export function packError(error: unknown): PackedError {
  if (!(error instanceof Error)) return { name: "Error", message: String(error) };
  if (!(error instanceof CorruptDataError)) return { name: error.name, message: error.message };
  const { store, shard, chunk, reason } = error;
  return { name: error.name, message: error.message, fields: { store, shard, chunk, reason } };
}

/** The error that `packError` packed, of the same class and message; a class that is not known here becomes `Error`. */
export function unpackError(packed: PackedError): Error {
  if (packed.fields) return new CorruptDataError(packed.fields);
  return new (CLASSES[packed.name] ?? Error)(packed.message);
}
