/** Which tile a matmul runs on, where several designs fit. */

/** What was measured to be fastest, for classes of shapes; filled by the autotune. */
export class TileChoice {
  readonly #fastest = new Map<string, string>();
  /** A design for every shape: for tests, benches and the autotune itself. */
  forced: string | undefined;

  constructor(
    /** True for a rasteriser on the CPU, whose standard design is another. */
    readonly isSoftware = false,
  ) {}

  /** The design for a class of shapes; undefined where nothing was measured. */
  find(shapeClass: string): string | undefined {
    return this.forced ?? this.#fastest.get(shapeClass);
  }

  /** Records what was measured to be fastest. */
  set(shapeClass: string, design: string): void {
    this.#fastest.set(shapeClass, design);
  }

  /** All that was measured, to be stored. */
  entries(): Record<string, string> {
    return Object.fromEntries(this.#fastest);
  }
}
