/**
 * Dynamic code-books of block-wise 8-bit storage (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization",
 * section 1.3 and appendix F): 256 values whose gaps shrink towards 0, where moments crowd.
 *
 * In decade i = 0 ... 6, of size 10^(i - 6), lie the mid-points of 2^i equal cells of [0.1, 1] with either sign
 * (`signed`), or of 2^(i + 1) cells (`nonnegative`); 0 and +1 complete the 256. So the signed map has no -1: its least
 * value is -0.993.
 * Tables only: what a backend does with them is `quantizeBlockwise` in `backend.ts`.
 */

/** What a slot of state holds, which picks its code-book when it is stored in 8 bits. */
export type SlotKind = "signed" | "nonnegative";

const DECADES = 7;

/** The code of 0 in each map. */
export const ZERO_CODE: Readonly<Record<SlotKind, number>> = { signed: 127, nonnegative: 0 };

/** The 256 values of a map, ascending. */
export function codebook(kind: SlotKind): Float32Array<ArrayBuffer> {
  const values = [0, 1];
  for (let decade = 0; decade < DECADES; decade++) {
    const cells = kind === "signed" ? 2 ** decade : 2 ** (decade + 1);
    for (let cell = 0; cell < cells; cell++) {
      const value = 10 ** (decade - DECADES + 1) * (0.1 + 0.9 * (cell + 0.5) / cells);
      values.push(value);
      if (kind === "signed") values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

/**
 * The 255 limits between neighbours: the code of x is the number of limits below x. Each is the mid-point rounded down
 * to f32, so that every f32 gets the code of the nearest value, and a mid-point that is an f32 that of the smaller one.
 */
export function codeLimits(kind: SlotKind): Float32Array<ArrayBuffer> {
  const values = codebook(kind);
  return Float32Array.from({ length: values.length - 1 }, (_, code) => {
    const middle = (values[code] + values[code + 1]) / 2; // exact in f64
    const rounded = Math.fround(middle);
    return rounded > middle ? previousFloat(rounded) : rounded;
  });
}

/** The next f32 below x, x not 0. */
function previousFloat(x: number): number {
  const bits = new Uint32Array(1);
  const floats = new Float32Array(bits.buffer);
  floats[0] = x;
  bits[0] += x > 0 ? -1 : 1;
  return floats[0];
}
