/** Bases that a test chooses, and small products on the host to hold projections to. Test support. */
import { fromArray, own } from "../../core/mod.ts";
import type { BasisStrategy } from "../mod.ts";

/** A matrix on the host, row-major. */
export interface HostMatrix {
  readonly shape: readonly [number, number];
  readonly data: ArrayLike<number>;
}

/** a b, in f64. */
export function product(a: HostMatrix, b: HostMatrix): HostMatrix & { readonly data: Float64Array } {
  const [rows, inner] = a.shape;
  const columns = b.shape[1];
  const data = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < inner; k++) {
      for (let j = 0; j < columns; j++) data[i * columns + j] += a.data[i * inner + k] * b.data[k * columns + j];
    }
  }
  return { shape: [rows, columns], data };
}

export function transposed({ shape: [rows, columns], data }: HostMatrix): HostMatrix & { readonly data: Float64Array } {
  const out = Float64Array.from(
    { length: rows * columns },
    (_, i) => data[(i % rows) * columns + Math.floor(i / rows)],
  );
  return { shape: [columns, rows], data: out };
}

/** Rows as one matrix. */
export function stacked(rows: readonly Float64Array[]): HostMatrix & { readonly data: Float64Array } {
  return { shape: [rows.length, rows[0].length], data: Float64Array.from(rows.flatMap((row) => [...row])) };
}

/**
 * Hands out `rowsAt(renewal, size)`, counted from 0 for each strategy; throws the error that it returns instead.
 *
 * @param rowsAt the orthonormal rows of a renewal for a side of `size`
 */
export function givenBasis(rowsAt: (renewal: number, size: number) => readonly Float64Array[] | Error): BasisStrategy {
  let renewal = 0;
  return {
    name: "given",
    options: {},
    // deno-lint-ignore require-yield -- nothing to wait for
    *compute({ backend, shape, dtype }, { side }) {
      const rows = rowsAt(renewal++, shape[side === "left" ? 0 : 1]);
      if (rows instanceof Error) throw rows;
      const { data, shape: size } = stacked(rows);
      return own(fromArray(backend, data, size, dtype));
    },
  };
}
