/**
 * Scopes: who frees a tensor. `using step = scope("train step")` owns every tensor made while it is open and frees
 * them when the block ends, on a throw too; `keep` hands a result to the enclosing scope.
 *
 * A scope is synchronous. Held across an `await` it would swallow tensors of unrelated code, so that is an error that
 * names it. Finalizers never free. What a gradient tape saved outlives the scope of the tensor's name and is freed by
 * `backward`, or when the outermost scope closes.
 */

/** What a scope can own. `scopeOf` is the scope's own bookkeeping. */
export interface Owned {
  dispose(): void;
  owner?: Scope;
}

let current: Scope | undefined;
let watching = false;

/** Marks every scope that is still open when the synchronous code that opened it has ended. */
function watch(): void {
  if (watching) return;
  watching = true;
  queueMicrotask(() => {
    watching = false;
    for (let open = current; open; open = open.parent) open.markStale();
  });
}

/** Owner of the tensors made while it is open. Made by `scope()`. */
export class Scope implements Disposable {
  readonly #owned = new Set<Owned>();
  readonly #tape: Set<Owned>;
  #stale = false;
  #told = false;
  #closed = false;

  constructor(readonly name: string, readonly parent: Scope | undefined) {
    this.#tape = parent ? parent.#tape : new Set();
    current = this;
    watch();
  }

  /** Makes this scope the owner of `item`. */
  own(item: Owned): void {
    item.owner = this;
    this.#owned.add(item);
    this.#check(); // last: what was made in vain is freed with the rest
  }

  /** Registers what the outermost scope frees at its end (saved values of the gradient tape). */
  ownTape(item: Owned): void {
    this.#tape.add(item);
  }

  /** Drops an entry of the tape that has been freed. */
  forgetTape(item: Owned): void {
    this.#tape.delete(item);
  }

  /** Takes `item` out without freeing it. */
  forget(item: Owned): void {
    this.#owned.delete(item);
    item.owner = undefined;
  }

  /** Moves a result to the enclosing scope (or, in the outermost one, to the caller, who then disposes it). */
  keep<T extends Owned>(item: T): T {
    if (item.owner === this) {
      this.forget(item);
      this.parent?.own(item);
    }
    return item;
  }

  markStale(): void {
    this.#stale = true;
  }

  #tell(): void {
    this.#told = true;
    if (this.parent) this.parent.#tell();
  }

  #check(): void {
    if (!this.#stale) return;
    this.#tell();
    throw new Error(`Cannot hold scope "${this.name}" across an await: close it first`);
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const item of this.#owned) {
      item.owner = undefined;
      item.dispose();
    }
    this.#owned.clear();
    if (!this.parent) {
      for (const item of [...this.#tape]) item.dispose();
      this.#tape.clear();
    }
    current = this.parent;
    if (!this.#told) this.#check(); // a second error would hide the first in a SuppressedError
  }
}

/**
 * Opens a scope. Close it with `using`, innermost first.
 *
 * @example
 * ```ts
 * import { scope } from "./scope.ts";
 * using step = scope("train step");
 * ```
 */
export function scope(name: string): Scope {
  return new Scope(name, current);
}

/** The innermost open scope. */
export function currentScope(): Scope | undefined {
  return current;
}

/** Takes an item out of whatever scope owns it: the caller disposes it. Returns it. */
export function own<T extends Owned>(item: T): T {
  item.owner?.forget(item);
  return item;
}
