/** Axes of plots: where a value lies, and which values get a tick. Linear ticks step by 1, 2 or 5 times a power of ten. */

/** How values spread over an axis. */
export type Scale = "linear" | "log";

/** An axis that covers some values. */
export interface Axis {
  /** 0 at the low end, 1 at the high end; NaN for what the scale cannot show. */
  place(value: number): number;
  readonly ticks: readonly number[];
}

/** What an axis is made for. */
export interface AxisOptions {
  readonly scale?: Scale;
  /** The axis reaches down to this. */
  readonly from?: number;
  /** Room at both ends, as a part of the range. */
  readonly pad: number;
  /** About how many ticks to draw. */
  readonly ticks: number;
}

/** An axis over values; one value gets room on both sides, none gets 0 to 1. */
export function axis(values: readonly number[], { scale = "linear", from, pad, ticks }: AxisOptions): Axis {
  const isLog = scale === "log" && values.some((value) => value > 0);
  const warp = isLog ? Math.log10 : (value: number) => value;
  let [low, high] = range(values.map(warp).filter(Number.isFinite));
  const room = (high - low) * pad;
  [low, high] = [low - room, high + room];
  if (from !== undefined && !isLog) low = Math.min(from, low + room);
  const place = (value: number) => {
    const at = (warp(value) - low) / (high - low);
    return Number.isFinite(at) ? at : NaN;
  };
  const ends = (at: number) => at >= low - 1e-9 * (high - low) && at <= high + 1e-9 * (high - low);
  const candidates = isLog ? logTicks(low, high, ticks) : linearTicks(low, high, ticks);
  return { place, ticks: candidates.filter((tick) => ends(warp(tick))) };
}

function range(values: readonly number[]): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  if (low < high) return [low, high];
  const room = Math.abs(low) / 10 || 1;
  return [low - room, low + room];
}

function linearTicks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  // A third more ticks than asked for is better than a half fewer.
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.75) ?? rough;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  // Multiples, not sums: sums drift.
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Powers of ten; with 2 and 5 where there are few; linear steps within a decade. */
function logTicks(low: number, high: number, count: number): number[] {
  if (high - low < 0.7) return linearTicks(10 ** low, 10 ** high, count);
  const factors = high - low < count / 2 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil((high - low) / count));
  const ticks: number[] = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += every) {
    for (const factor of factors) ticks.push(Number((factor * 10 ** power).toPrecision(12)));
  }
  return ticks;
}
