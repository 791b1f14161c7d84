/**
 * Reverse-mode differentiation over a tape of nodes.
 *
 * A tensor made from something that needs a gradient carries a node. Ids grow, so descending id is reverse order. A
 * node's vjp returns one thunk per input: a frozen input costs nothing. `backward` pushes each *finished* leaf gradient
 * to a sink and frees it when the sink returns, so that collecting, accumulating and updating per layer are sinks, not
 * modes. Two invariants, each with a test: a leaf is finished only when no pending node uses it (tied embeddings,
 * checkpointed segments); the sink runs only after all vjps of the current node (it may overwrite the parameter).
 *
 * A gradient has its tensor's dtype, with one exception: that of a leaf stored in 16 bits may reach the sink in f32 (from
 * a matmul, whose sums are f32 anyway) or in its own dtype (from everything else). Parts that differ add up in f32.
 *
 * It refuses to differentiate twice: vjps run without a tape.
 */
import { isHalf } from "./dtype.ts";
import { add, cast, stopGradient } from "./ops/elementwise.ts";
import { contiguous } from "./ops/layout.ts";
import { fill } from "./ops/create.ts";
import { currentScope, own, type Owned, scope } from "./scope.ts";
import type { Tensor } from "./tensor.ts";
import { describe } from "./shape.ts";

/** Gives the gradient of one input; undefined where none flows. */
export type Thunk = (() => Tensor | undefined) | undefined;

/** From the output's gradient and the saved tensors to one thunk per input. */
export type Vjp = (gradient: Tensor, saved: readonly Tensor[]) => readonly Thunk[];

let nextId = 1;
let recording = true;
let watcher: Set<Node> | undefined;

/** One operation on the tape, a leaf, or an input of a segment that is run again (both without a vjp). */
export class Node implements Owned {
  readonly id: number = nextId++;
  #saved: Tensor[];
  #released = false;
  readonly #tapeScope = currentScope();

  constructor(
    readonly op: string,
    readonly inputs: readonly (Node | undefined)[],
    saved: readonly Tensor[],
    readonly vjp: Vjp | undefined,
    /** The name that the sink hears; leaves only. */
    readonly leafName?: string,
  ) {
    this.#saved = saved.map((tensor) => tensor.retained());
    if (vjp) this.#tapeScope?.ownTape(this);
  }

  /** The saved tensors. @throws Error when the graph has been freed. */
  saved(): readonly Tensor[] {
    if (this.#released) {
      throw new Error(`Cannot run backward() through ${this.op} again: its graph has been freed`);
    }
    return this.#saved;
  }

  dispose(): void {
    if (this.#released) return;
    this.#released = true;
    this.#tapeScope?.forgetTape(this);
    for (const tensor of this.#saved) tensor.dispose();
    this.#saved = [];
  }
}

/** Makes `tensor` a leaf: its gradient goes to the sink under `name`. */
export function asLeaf(tensor: Tensor, name: string): Tensor {
  tensor.node = new Node("leaf", [], [], undefined, name);
  return tensor;
}

/** True for a leaf stored in 16 bits: the one kind of tensor whose gradient may be f32 beside it. */
export function isHalfLeaf(x: Tensor): boolean {
  return x.node?.op === "leaf" && isHalf(x.dtype);
}

/** Runs `fn` without recording: nothing made inside needs a gradient. */
export function noGrad<T>(fn: () => T): T {
  return withRecording(false, fn);
}

function withRecording<T>(value: boolean, fn: () => T): T {
  const before = recording;
  recording = value;
  try {
    return fn();
  } finally {
    recording = before;
  }
}

/** True when an op over these inputs would be recorded. */
export function needsGradient(inputs: readonly (Tensor | undefined)[]): boolean {
  if (watcher) { for (const input of inputs) if (input?.node) watcher.add(input.node); }
  return recording && inputs.some((input) => input?.node !== undefined);
}

/**
 * Records how `out` came from `inputs`, if one of them needs a gradient. `saved` names the tensors that the vjp reads;
 * they live until backward has passed. Returns `out`.
 */
export function record(
  op: string,
  out: Tensor,
  inputs: readonly (Tensor | undefined)[],
  saved: readonly Tensor[],
  vjp: Vjp,
): Tensor {
  if (needsGradient(inputs)) out.node = new Node(op, inputs.map((input) => input?.node), saved, vjp);
  return out;
}

/** Receives each finished gradient. It is freed when the call returns: `retained()` holds on to it. */
export type Sink = (name: string, gradient: Tensor) => void;

/**
 * Walks the tape back from a scalar loss and pushes the gradient of every leaf to `sink`, each as soon as it is
 * finished and contiguous. Frees the graph as it goes.
 *
 * @throws TypeError when the loss is not a scalar or nothing before it needs a gradient
 */
export function backward(loss: Tensor, sink: Sink): void {
  if (loss.size !== 1) throw new TypeError(`Cannot run backward() from ${describe(loss)}: expected a scalar`);
  if (!loss.node) throw new TypeError("Cannot run backward(): nothing before the loss needs a gradient");
  using _ = scope("backward");
  noGrad(() =>
    propagate(loss.node!, fill(loss.backend, 1, loss.shape, loss.dtype), (leaf, gradient) => {
      using _sink = scope(`gradient of ${leaf.leafName}`);
      sink(leaf.leafName!, contiguous(gradient));
    })
  );
}

/** The nodes that `root` depends on, newest first, and how often each leaf is used among them. */
function reachable(root: Node): { order: Node[]; uses: Map<Node, number> } {
  const seen = new Set<Node>([root]);
  const uses = new Map<Node, number>();
  const order: Node[] = [];
  const stack = [root];
  for (let node = stack.pop(); node; node = stack.pop()) {
    order.push(node);
    for (const input of node.inputs) {
      if (!input) continue;
      if (!input.vjp) uses.set(input, (uses.get(input) ?? 0) + 1);
      else if (!seen.has(input)) {
        seen.add(input);
        stack.push(input);
      }
    }
  }
  return { order: order.sort((a, b) => b.id - a.id), uses };
}

/** Carries `seed` from `root` to the leaves. Takes `seed`; frees each leaf gradient when `onLeaf` returns. */
function propagate(root: Node, seed: Tensor, onLeaf: (leaf: Node, gradient: Tensor) => void): void {
  const pending = new Map<Node, Tensor>([[root, own(seed)]]);
  const finish = (node: Node) => {
    pending.get(node)?.dispose();
    pending.delete(node);
  };
  try {
    if (!root.vjp) return onLeaf(root, seed);
    const { order, uses } = reachable(root);
    for (const node of order) {
      const gradient = pending.get(node);
      if (gradient) runVjp(node, gradient, pending);
      finish(node);
      node.dispose();
      for (const input of node.inputs) {
        if (!input || input.vjp) continue;
        const left = uses.get(input)! - 1;
        uses.set(input, left);
        const total = pending.get(input);
        if (left > 0 || !total) continue;
        onLeaf(input, total);
        finish(input);
      }
    }
  } finally {
    for (const gradient of pending.values()) gradient.dispose();
  }
}

/** Runs one node's thunks and adds what they give to `pending`. */
function runVjp(node: Node, gradient: Tensor, pending: Map<Node, Tensor>): void {
  using inner = scope(`backward of ${node.op}`);
  const thunks = node.vjp!(gradient, node.saved());
  node.inputs.forEach((input, index) => {
    if (!input) return;
    const part = thunks[index]?.();
    if (!part) return;
    const before = pending.get(input);
    const total = before ? sumOfParts(before, part) : part;
    // a thunk may hand on the gradient itself, a saved tensor or one of the caller's
    pending.set(input, total.owner === inner ? own(total) : total.retained());
    before?.dispose();
  });
}

/** Parts of one gradient. They differ in dtype only for a 16-bit leaf: a tied embedding gets one from a matmul. */
function sumOfParts(a: Tensor, b: Tensor): Tensor {
  return a.dtype === b.dtype ? add(a, b) : add(cast(a, "f32"), cast(b, "f32"));
}

/**
 * Runs `fn(...inputs)` without keeping its activations; backward runs it once more to have them. The leaves that `fn`
 * reaches through closures count as inputs, so their gradients finish at the right time. `fn` must draw the same random
 * numbers both times (pass keys).
 *
 * Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]): Tensor {
  using inner = scope("checkpoint");
  // off the tape, so that what the watcher sees comes in through closures, even where it is also an input
  const { result, touched } = watch(() => fn(...inputs.map(stopGradient)));
  const captured = touched.find((node) => node.vjp);
  if (captured) {
    throw new TypeError(`Cannot checkpoint(): the function captures the result of ${captured.op}; pass it as an input`);
  }
  const out = inner.keep(stopGradient(result));
  const outside = inputs.map((input) => input.node);
  const nodes = [...outside, ...touched];
  if (!needsGradient(inputs) && !(recording && touched.length > 0)) return out;
  out.node = new Node("checkpoint", nodes, inputs, (gradient, saved) => {
    const gradients = recompose(fn, saved, outside, gradient, touched);
    return nodes.map((_, index) => () => gradients[index]);
  });
  return out;
}

/** Runs `fn` off the tape and lists the nodes that its ops, and its result, depend on. */
function watch(fn: () => Tensor): { result: Tensor; touched: Node[] } {
  const outer = watcher;
  const touched = (watcher = new Set<Node>());
  try {
    const result = noGrad(fn);
    needsGradient([result]);
    return { result, touched: [...touched] };
  } finally {
    watcher = outer;
    for (const node of touched) outer?.add(node);
  }
}

/**
 * Runs a segment again from its saved inputs and gives the gradients of the inputs that have a node outside, then of the
 * leaves that it reaches through closures. Used by checkpoints and by fused ops without a vjp.
 *
 * @param nodes the inputs' nodes outside the segment
 */
export function recompose(
  fn: (...inputs: Tensor[]) => Tensor,
  saved: readonly Tensor[],
  nodes: readonly (Node | undefined)[],
  gradient: Tensor,
  leaves: readonly Node[] = [],
): (Tensor | undefined)[] {
  const inputs = saved.map((tensor, index) => {
    const input = stopGradient(tensor);
    const outside = nodes[index];
    // only what is a leaf outside is one here: else a 16-bit activation's gradient would come in f32
    const op = outside?.op === "leaf" ? "leaf" : "input";
    if (outside) input.node = new Node(op, [], [], undefined, `input ${index}`);
    return input;
  });
  const slots = [...inputs.map((input) => input.node), ...leaves];
  const gradients = new Array<Tensor | undefined>(slots.length).fill(undefined);
  using inner = scope("checkpoint");
  const out = withRecording(true, () => fn(...inputs));
  if (!out.node) return gradients;
  propagate(out.node, gradient.retained(), (leaf, total) => {
    gradients[slots.indexOf(leaf)] = inner.keep(stopGradient(total));
  });
  return gradients;
}
