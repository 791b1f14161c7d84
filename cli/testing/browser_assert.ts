/**
 * What the project's test support uses of `node:assert/strict`, for a bundle that runs in a browser: an import map puts it
 * in that module's place. Where they differ from Node's, the messages are shorter.
 */

/** What a failed assertion throws. */
class AssertionError extends Error {
  override readonly name = "AssertionError";
}

function fail(message: string | undefined, otherwise: string): never {
  throw new AssertionError(message ?? otherwise);
}

function isEqual(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length &&
    keys.every((key) => key in b && isEqual(a[key as keyof typeof a], b[key as keyof typeof b]));
}

function isBytes(value: unknown): value is Uint8Array {
  return value instanceof Uint8Array;
}

const assert = {
  ok(value: unknown, message?: string): void {
    if (!value) fail(message, `expected something true, got ${value}`);
  },
  equal(actual: unknown, expected: unknown, message?: string): void {
    if (!Object.is(actual, expected)) fail(message, `expected ${expected}, got ${actual}`);
  },
  deepEqual(actual: unknown, expected: unknown, message?: string): void {
    // the long ones are bytes
    const same = isBytes(actual) && isBytes(expected)
      ? actual.length === expected.length && actual.every((byte, i) => byte === expected[i])
      : isEqual(actual, expected);
    if (!same) fail(message, `expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`);
  },
  throws(run: () => unknown, kind: new (...args: never[]) => Error): void {
    try {
      run();
    } catch (error) {
      if (error instanceof kind) return;
      throw error;
    }
    fail(undefined, `expected ${kind.name} to be thrown`);
  },
};

export default assert;
