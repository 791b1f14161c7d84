/**
 * Error classes that a caller can act on. Everything else is a built-in: `TypeError` for a wrong dtype, rank or shape,
 * `RangeError` for a wrong value, `SyntaxError` for an unreadable file.
 */

/** A backend cannot give the bytes asked for. Carries the figures, so that a caller can shrink its request. */
export class OutOfMemoryError extends Error {
  override readonly name = "OutOfMemoryError";
  constructor(readonly bytesAsked: number, readonly bytesInUse: number, readonly bytesAllowed: number, label?: string) {
    const what = label ? ` for ${label}` : "";
    super(
      `Cannot allocate ${formatBytes(bytesAsked)}${what}: ${formatBytes(bytesInUse)} of ` +
        `${formatBytes(bytesAllowed)} are in use; use a smaller batch, sequence or model`,
    );
  }
}

/** The operation is well-formed but this backend or build does not offer it. */
export class UnsupportedError extends Error {
  override readonly name = "UnsupportedError";
}

/**
 * The device failed: it was lost, ran out of memory, or refused a kernel. Nothing that it holds can be trusted any more;
 * what was saved before can.
 */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
}

/** A byte count for people: decimal units, three significant digits. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let value = bytes;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : Number(value.toPrecision(3))} ${units[unit]}`;
}
