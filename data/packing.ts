/**
 * Conversations packed into rows of one length, so that few positions are padding. A token is only ever a target of the token
 * before it in its own conversation: nothing is learned across a border. Attention does see earlier conversations of its row,
 * and positions run on, as in the usual packing; `segments` says whose token each is, for a model that masks.
 * Packing is best fit in the order given: each conversation goes to the fullest row that still has room for it.
 */

import type { EncodedChat } from "./chat_template.ts";
import { foldKey, Permutation } from "./shuffle.ts";

/** The target that no loss counts. */
const NOT_COUNTED = -100;

/** N rows of T tokens. */
export interface PackedRows {
  /** i32 [N, T]. */
  readonly tokens: Int32Array;
  /** i32 [N, T]: the token that follows in the same conversation where it is part of an answer, else -100. */
  readonly targets: Int32Array;
  /** u32 [N, T]: 1, 2, ... for the conversations of a row in order, 0 at padding. */
  readonly segments: Uint32Array;
  /** N. */
  readonly rows: number;
  /** T. */
  readonly seq: number;
  /** Targets that count, over all rows. */
  readonly counted: number;
  /** Conversations that were cut. */
  readonly truncated: number;
}

/** How rows are made. */
export interface PackOptions {
  /** T. */
  readonly seq: number;
  /** The id after the last conversation of a row. */
  readonly padId: number;
  /** Cut the ends of conversations longer than T, rather than refuse them. */
  readonly truncate?: boolean;
}

/**
 * Packs conversations.
 *
 * @throws {RangeError} when one is longer than `seq` and `truncate` is not given, or nothing of its answers is left by the cut;
 * with its line.
 */
export function packChat(chats: readonly EncodedChat[], { seq, padId, truncate = false }: PackOptions): PackedRows {
  let truncated = 0;
  const fitted = chats.map((chat) => {
    const { ids, line } = chat;
    if (ids.length > seq && !truncate) {
      throw new RangeError(
        `Cannot pack the conversation on line ${line}: it has ${ids.length} tokens, and a row has ${seq}`,
      );
    }
    if (!hasAnswerWithin(chat, seq)) {
      const rule = `an answer must lie within the first ${seq} tokens`;
      throw new RangeError(`Cannot pack the conversation on line ${line}: ${rule}: got none`);
    }
    truncated += ids.length > seq ? 1 : 0;
    return ids.length <= seq ? chat : { ids: ids.slice(0, seq), counted: chat.counted.slice(0, seq), line };
  });
  const rows = bestFit(fitted.map(({ ids }) => ids.length), seq);
  const tokens = new Int32Array(rows.length * seq).fill(padId);
  const targets = new Int32Array(rows.length * seq).fill(NOT_COUNTED);
  const segments = new Uint32Array(rows.length * seq);
  let counted = 0;
  for (const [row, members] of rows.entries()) {
    let at = row * seq;
    for (const [segment, member] of members.entries()) {
      const chat = fitted[member];
      tokens.set(chat.ids, at);
      segments.fill(segment + 1, at, at + chat.ids.length);
      for (let i = 1; i < chat.ids.length; i++) {
        if (chat.counted[i] === 0) continue;
        targets[at + i - 1] = chat.ids[i];
        counted++;
      }
      at += chat.ids.length;
    }
  }
  return { tokens, targets, segments, rows: rows.length, seq, counted, truncated };
}

/** Whether something of a conversation's answers lies within its first `seq` tokens, where it can be learned. */
export function hasAnswerWithin({ counted }: EncodedChat, seq: number): boolean {
  // a first token has no token before it
  return counted.subarray(1, seq).includes(1);
}

/** Which conversations stand in each row; rows with equal room are kept in a list, the last one taken first. */
function bestFit(lengths: readonly number[], seq: number): number[][] {
  const rows: number[][] = [];
  const withRoom: number[][] = Array.from({ length: seq + 1 }, () => []);
  for (const [i, length] of lengths.entries()) {
    let room = length;
    while (room <= seq && withRoom[room].length === 0) room++;
    const row = room <= seq ? withRoom[room].pop()! : rows.push([]) - 1;
    rows[row].push(i);
    withRoom[(room <= seq ? room : seq) - length].push(row);
  }
  return rows;
}

/** B rows of T tokens. */
export interface PackedBatch {
  /** i32 [B, T]. */
  readonly tokens: Int32Array;
  /** i32 [B, T], -100 where nothing counts. */
  readonly targets: Int32Array;
  /** u32 [B, T]. */
  readonly segments: Uint32Array;
  /** B, which is less than asked for only in an epoch's last batch. */
  readonly size: number;
  /** Targets that count. */
  readonly counted: number;
}

/** How packed rows are dealt out. */
export interface PackedBatchesOptions {
  /** B. */
  readonly batch: number;
  /** Without a seed rows come in their order. */
  readonly seed?: number;
  /** From 0; another order in each. */
  readonly epoch?: number;
  /** The first batch to give: where a resumed epoch goes on. */
  readonly start?: number;
}

/** The batches of one epoch: every row once, in an order that is a function of (seed, epoch). */
export function* packedBatches(
  packed: PackedRows,
  { batch, seed, epoch = 0, start = 0 }: PackedBatchesOptions,
): Generator<PackedBatch> {
  const { rows, seq } = packed;
  const order = seed === undefined ? undefined : new Permutation(rows, foldKey(seed, epoch, 5));
  for (let first = start * batch; first < rows; first += batch) {
    const size = Math.min(batch, rows - first);
    const tokens = new Int32Array(size * seq);
    const targets = new Int32Array(size * seq);
    const segments = new Uint32Array(size * seq);
    for (let i = 0; i < size; i++) {
      const from = (order ? order.at(first + i) : first + i) * seq;
      tokens.set(packed.tokens.subarray(from, from + seq), i * seq);
      targets.set(packed.targets.subarray(from, from + seq), i * seq);
      segments.set(packed.segments.subarray(from, from + seq), i * seq);
    }
    const counted = targets.reduce((sum, target) => sum + (target === NOT_COUNTED ? 0 : 1), 0);
    yield { tokens, targets, segments, size, counted };
  }
}
