/**
 * What counting reaches: interpolated Witten-Bell n-gram models, so that a loss of a trained network has something to be
 * compared with. P_n(w | h) = (c(hw) + t(h) P_{n-1}(w | h')) / (c(h) + t(h)), where t(h) is how many different tokens
 * followed h, h' is h without its first token, and P_0 is uniform over the vocabulary. Source: Witten & Bell 1991;
 * Chen & Goodman 1998, section 2.5. Counts live in one open-addressing table of (context, token) pairs.
 */

/** One baseline. */
export interface NgramBaseline {
  /** 1 counts tokens alone, 3 looks at two before, and so on. */
  readonly order: number;
  /** Mean negative log-likelihood of the held-out tokens, in nats per token. */
  readonly nats: number;
}

const MAX_ORDER = 16;

/** A trie of counts: node 0 is the empty context, and each (node, token) pair leads to a node of its own. */
class CountTrie {
  /** Occurrences of a node's tokens as the end of a pair. */
  count = new Uint32Array(1 << 16);
  /** Occurrences of anything after a node. */
  followed = new Uint32Array(1 << 16);
  /** Different tokens after a node. */
  types = new Uint32Array(1 << 16);
  #nodes = 1;
  #parents = new Uint32Array(1 << 17);
  #tokens = new Uint32Array(1 << 17);
  /** Node in a slot; 0 is a free slot, since the root is nobody's child. */
  #children = new Uint32Array(1 << 17);

  /** The child, or 0. */
  find(node: number, token: number): number {
    return this.#children[this.#slot(node, token)];
  }

  /** Counts a token after a node, and gives the child. */
  add(node: number, token: number): number {
    const slot = this.#slot(node, token);
    let child = this.#children[slot];
    this.followed[node]++;
    if (child === 0) {
      this.types[node]++;
      child = this.#nodes++;
      this.#parents[slot] = node;
      this.#tokens[slot] = token;
      this.#children[slot] = child;
      if (this.#nodes === this.count.length) this.#growNodes();
      if (this.#nodes * 2 > this.#children.length) this.#growTable();
    }
    this.count[child]++;
    return child;
  }

  #slot(node: number, token: number): number {
    const mask = this.#children.length - 1;
    let hash = Math.imul(node, 0x9e3779b1) ^ Math.imul(token + 0x7f4a7c15, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & mask;
    while (this.#children[slot] !== 0 && (this.#parents[slot] !== node || this.#tokens[slot] !== token)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  #growNodes(): void {
    const grow = (old: Uint32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> => {
      const larger = new Uint32Array(old.length * 2);
      larger.set(old);
      return larger;
    };
    this.count = grow(this.count);
    this.followed = grow(this.followed);
    this.types = grow(this.types);
  }

  #growTable(): void {
    const [parents, tokens, children] = [this.#parents, this.#tokens, this.#children];
    const size = children.length * 2;
    this.#parents = new Uint32Array(size);
    this.#tokens = new Uint32Array(size);
    this.#children = new Uint32Array(size);
    for (let i = 0; i < children.length; i++) {
      if (children[i] === 0) continue;
      const slot = this.#slot(parents[i], tokens[i]);
      this.#parents[slot] = parents[i];
      this.#tokens[slot] = tokens[i];
      this.#children[slot] = children[i];
    }
  }
}

/**
 * Trains n-gram models on `train` and measures them on `heldOut`, whose first tokens have as much context as there is.
 * A megabyte of English bytes takes 0.1 s at orders 1, 3 and 5; some 40 bytes of memory go to each different n-gram.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 *
 * const text = new TextEncoder().encode("abcabcabcabc".repeat(50));
 * const [first, third] = ngramBaselines(Uint16Array.from(text), Uint16Array.from(text), 256, [1, 3]);
 * assert.ok(third.nats < 0.2 && first.nats > 1);
 * ```
 *
 * @param vocabSize How many ids there are; all of them have a probability.
 * @param orders Each from 1 to 16.
 * @throws {RangeError} when an array is empty, an id is not below `vocabSize`, or an order is out of range.
 */
export function ngramBaselines(
  train: Uint16Array | Uint32Array,
  heldOut: Uint16Array | Uint32Array,
  vocabSize: number,
  orders: readonly number[],
): NgramBaseline[] {
  for (const order of orders) {
    if (Number.isInteger(order) && order >= 1 && order <= MAX_ORDER) continue;
    throw new RangeError(`Cannot count n-grams: an order must be a whole number from 1 to ${MAX_ORDER}, got ${order}`);
  }
  for (const [name, tokens] of [["train", train], ["heldOut", heldOut]] as const) {
    const wrong = tokens.findIndex((id) => id >= vocabSize);
    if (tokens.length > 0 && wrong < 0) continue;
    const got = wrong < 0 ? "none" : `id ${tokens[wrong]}`;
    throw new RangeError(`Cannot count n-grams: ${name} must hold ids below ${vocabSize}, got ${got}`);
  }
  if (orders.length === 0) return [];
  const highest = Math.max(...orders);
  const trie = new CountTrie();
  for (let start = 0; start < train.length; start++) {
    let node = 0;
    const end = Math.min(start + highest, train.length);
    for (let i = start; i < end; i++) node = trie.add(node, train[i]);
  }
  const nats = measure(trie, heldOut, vocabSize, highest);
  return orders.map((order) => ({ order, nats: nats[order - 1] }));
}

/** Nats per token of every order from 1 to `highest`. A context never seen adds nothing, and longer ones were not seen either. */
function measure(trie: CountTrie, heldOut: ArrayLike<number>, vocabSize: number, highest: number): Float64Array {
  const sums = new Float64Array(highest);
  for (let i = 0; i < heldOut.length; i++) {
    let probability = 1 / vocabSize;
    let isSeen = true;
    for (let order = 1; order <= highest; order++) {
      if (isSeen && order - 1 <= i) {
        const node = walk(trie, heldOut, i - order + 1, i);
        isSeen = node >= 0 && trie.followed[node] > 0;
        if (isSeen) {
          const child = trie.find(node, heldOut[i]);
          const seen = child === 0 ? 0 : trie.count[child];
          const types = trie.types[node];
          probability = (seen + types * probability) / (trie.followed[node] + types);
        }
      }
      sums[order - 1] -= Math.log(probability);
    }
  }
  return sums.map((sum) => sum / heldOut.length);
}

/** The node of tokens `start` to `end`, or -1. */
function walk(trie: CountTrie, tokens: ArrayLike<number>, start: number, end: number): number {
  let node = 0;
  for (let i = start; i < end; i++) {
    node = trie.find(node, tokens[i]);
    if (node === 0) return -1;
  }
  return node;
}
