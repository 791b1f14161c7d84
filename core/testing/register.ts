/** Tests that any backend can register, and that say so where a machine has not got it. */

/** Registers a test. Where `ignore` gives a reason it is ignored, with the reason in its name, and never absent. */
export function registerTest(
  name: string,
  fn: (t: Deno.TestContext) => void | Promise<void>,
  ignore?: string,
): void {
  const title = ignore === undefined ? name : `${name} (ignored: ${ignore})`;
  Deno.test({ name: title, ignore: ignore !== undefined, fn });
}
