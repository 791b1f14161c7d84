/** What decides a completion, and whether it can be had here: its rank, its folder, and its memory before it starts. */
import { dryBackend } from "../backends/dry/mod.ts";
import { empty, formatBytes, own, Params } from "../core/mod.ts";
import type { Triples } from "../data/mod.ts";
import { Descent, type Form } from "./complete_model.ts";
import { type Device, type DeviceRequest, largestTensorOf } from "./device.ts";
import { exists, join } from "./files.ts";
import { formatNumber } from "./log.ts";

/** Everything that decides a completion. */
export interface Completion extends DeviceRequest {
  readonly data: string;
  readonly forms: readonly Form[];
  readonly rank: number;
  readonly depth: number;
  readonly gamma: number;
  readonly epsilon: number;
  readonly lr: number;
  readonly steps: number;
  readonly holdOut: number;
  readonly seed: number;
  readonly out?: string;
  readonly logEvery: number;
}

/** A form's factors, by name and shape. */
function factorShapes(form: Form, { rows, columns }: Sizes, { depth, rank }: Completion): [string, number[]][] {
  const width = Math.max(rows, columns);
  const inner = Array.from({ length: depth }, (_, i) => i);
  if (form === "full") {
    return inner.map((i) => [
      `factor_${i + 1}.weight`,
      [i === depth - 1 ? rows : width, i === 0 ? columns : width],
    ]);
  }
  return [
    ["left.weight", [rows, 2 * rank]],
    ...inner.map((i): [string, number[]] => [`inner_${i + 1}.weight`, [2 * rank, 2 * rank]]),
    ["right.weight", [2 * rank, columns]],
  ];
}

interface Sizes {
  readonly rows: number;
  readonly columns: number;
}

/** The most cells whose masks the host can hold in one array. */
const MOST_CELLS = 2 ** 31;

/** Bytes of tensors at the worst moment of a form's descent: counted on the dry backend. */
export function completionBytes(form: Form, sizes: Sizes, run: Completion, policy: "cpu" | "webgpu"): number {
  const { rows, columns } = sizes;
  using backend = dryBackend({ policy });
  using factors = new Params(backend);
  for (const [name, shape] of factorShapes(form, sizes, run)) {
    factors.set(name, own(empty(backend, shape, "f32", name)));
  }
  const mask = new Float32Array(rows * columns); // never touched, and so never in memory
  using descent = new Descent(factors, { rows, columns, mask, seen: mask }, { learningRate: 1, gamma: run.gamma });
  descent.advance();
  return backend.memory().peak;
}

/**
 * Whether a matrix of this size can be completed here.
 *
 * @throws RangeError for a rank that is too large, a folder in use, or more bytes than there may be
 */
export async function checkCompletion(run: Completion, triples: Triples, backend: Device): Promise<void> {
  const sizes = { rows: triples.rows.length, columns: triples.columns.length };
  const { rows, columns } = sizes;
  const what = `a matrix of ${formatNumber(rows)} x ${formatNumber(columns)}`;
  if (run.forms.includes("compressed") && 2 * run.rank > Math.min(rows, columns)) {
    const most = Math.floor(Math.min(rows, columns) / 2);
    throw new RangeError(
      `Cannot complete ${what} in the compressed form: --rank must be at most half the smaller side, ${most}: got ${run.rank}`,
    );
  }
  if (run.out !== undefined && await exists(join(run.out, "metrics.jsonl"))) {
    throw new RangeError(`Cannot complete into ${run.out}: it has metrics.jsonl; choose another --out`);
  }
  const { limit } = backend.memory();
  const cells = rows * columns;
  const width = run.forms.includes("full") ? Math.max(rows, columns) ** 2 : 0;
  const largest = 4 * Math.max(cells, width);
  if (cells > MOST_CELLS || largest > largestTensorOf(backend)) {
    throw new RangeError(`Cannot complete ${what}: one tensor takes ${formatBytes(largest)}, which is too much here`);
  }
  // what is observed alone takes two tensors: no need to count the rest
  const bytes = 8 * cells > limit
    ? 8 * cells
    : Math.max(...run.forms.map((form) => completionBytes(form, sizes, run, backend.kind)));
  if (bytes > limit) {
    throw new RangeError(
      `Cannot complete ${what} in the ${run.forms.join(" and ")} form: its tensors take ${formatBytes(bytes)}, ` +
        `and ${formatBytes(limit)} may be used; see --memory-limit`,
    );
  }
}
