/**
 * One training step of a LLaMA-shaped transformer in jax-js: RMSNorm, RoPE, causal attention, SwiGLU, cross-entropy, and
 * AdamW written out (its optax is not on npm), all under one `jit`. The peer of `webgpu_peers.ts`.
 *
 * jax-js counts references: an operation consumes its operands, and `.ref` keeps one.
 */

// deno-lint-ignore no-explicit-any
type Any = any;

/** The shape of the model and of a batch. */
export interface PeerShape {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly heads: number;
  readonly layers: number;
  readonly batch: number;
  readonly seq: number;
}

/** A step that trains on the same tokens again and gives the loss when it is done. */
export function peerStep(jax: Any, shape: PeerShape, tokens: Int32Array, gather: boolean): () => Promise<number> {
  const { numpy: np, jit, valueAndGrad } = jax;
  const { batch, seq } = shape;
  const ids = np.array(tokens, { shape: [batch * seq], dtype: np.int32 });
  const next = np.array(tokens.map((_, i) => tokens[(i + 1) % tokens.length]), {
    shape: [batch * seq],
    dtype: np.int32,
  });
  const tables = rotaryTables(np, shape);
  const loss = (params: Any[], ids: Any, next: Any, cos: Any, sin: Any) =>
    lossOf(jax, shape, params, { ids, next, cos, sin, gather });
  const update = jit((params: Any[], mu: Any[], nu: Any[], ids: Any, next: Any, cos: Any, sin: Any, scale: Any) => {
    const [value, grads] = valueAndGrad(loss)(params.map((p) => p.ref), ids, next, cos, sin);
    const nextMu = mu.map((m, i) => m.mul(0.9).add(grads[i].ref.mul(0.1)));
    const nextNu = nu.map((v, i) => v.mul(0.999).add(grads[i].ref.mul(grads[i]).mul(0.001)));
    const moved = params.map((p, i) => {
      const direction = nextMu[i].ref.div(np.sqrt(nextNu[i].ref).add(1e-8));
      return p.mul(1 - 1e-5).sub(direction.mul(scale.ref));
    });
    scale.dispose();
    return [moved, nextMu, nextNu, value];
  });
  let params = initial(np, shape);
  let mu: Any[] = params.map((p: Any) => np.zeros(p.shape));
  let nu: Any[] = params.map((p: Any) => np.zeros(p.shape));
  let count = 0;
  return async () => {
    count++;
    const scale = np.array([1e-3 * Math.sqrt(1 - 0.999 ** count) / (1 - 0.9 ** count)]);
    const [p, m, v, value] = update(params, mu, nu, ids.ref, next.ref, tables.cos.ref, tables.sin.ref, scale);
    [params, mu, nu] = [p, m, v];
    const [result] = await value.data();
    await jax.blockUntilReady(params);
    return result;
  };
}

function rotaryTables(np: Any, { hidden, heads, seq }: PeerShape): { cos: Any; sin: Any } {
  const half = hidden / heads / 2;
  const angle = (i: number) => Math.floor(i / half) / 10000 ** ((i % half) / half);
  const table = (f: (x: number) => number) =>
    np.array(Float32Array.from({ length: seq * half }, (_, i) => f(angle(i))), { shape: [1, seq, 1, half] });
  return { cos: table(Math.cos), sin: table(Math.sin) };
}

/** Embedding, head, last norm; then nine to a layer: two norms, q, k, v, o, gate, up, down. */
function initial(np: Any, { vocab, hidden, inner, layers }: PeerShape): Any[] {
  let state = 1;
  const drawn = (...shape: number[]) => {
    const values = new Float32Array(shape.reduce((a, b) => a * b));
    for (let i = 0; i < values.length; i++) {
      state = (Math.imul(1664525, state) + 1013904223) >>> 0;
      values[i] = 0.07 * (state / 2 ** 32 - 0.5);
    }
    return np.array(values, { shape });
  };
  const square = () => drawn(hidden, hidden);
  const params = [drawn(vocab, hidden), drawn(hidden, vocab), np.ones([hidden])];
  for (let layer = 0; layer < layers; layer++) {
    params.push(np.ones([hidden]), np.ones([hidden]), square(), square(), square(), square());
    params.push(drawn(hidden, inner), drawn(hidden, inner), drawn(inner, hidden));
  }
  return params;
}

interface Batch {
  readonly ids: Any;
  readonly next: Any;
  readonly cos: Any;
  readonly sin: Any;
  /** Looks tokens up; else multiplies by one-hot rows. */
  readonly gather: boolean;
}

function lossOf({ numpy: np, nn }: Any, shape: PeerShape, params: Any[], { ids, next, cos, sin, gather }: Batch): Any {
  const { vocab, hidden, heads, layers, batch, seq } = shape;
  const [embedding, head, lastNorm, ...rest] = params;
  const norm = (x: Any, weight: Any) => {
    const scale = np.sqrt(np.mean(x.ref.mul(x.ref), -1, { keepdims: true }).add(1e-6));
    return x.div(scale).mul(weight);
  };
  const rotate = (x: Any) => {
    const [a, b] = np.split(x, 2, -1);
    return np.concatenate([
      a.ref.mul(cos.ref).sub(b.ref.mul(sin.ref)),
      b.mul(cos.ref).add(a.mul(sin.ref)),
    ], -1);
  };
  const split = (x: Any) => x.reshape([batch, seq, heads, hidden / heads]);
  let x = gather ? np.take(embedding, ids, 0) : np.matmul(nn.oneHot(ids, vocab), embedding);
  for (let layer = 0; layer < layers; layer++) {
    const [normA, normB, q, k, v, o, gate, up, down] = rest.slice(9 * layer, 9 * layer + 9);
    const y = norm(x.ref, normA);
    const queries = rotate(split(np.matmul(y.ref, q)));
    const keys = rotate(split(np.matmul(y.ref, k)));
    const values = split(np.matmul(y, v));
    const seen = nn.dotProductAttention(queries, keys, values, { isCausal: true }).reshape([batch * seq, hidden]);
    x = x.add(np.matmul(seen, o));
    const z = norm(x.ref, normB);
    const open = nn.silu(np.matmul(z.ref, gate));
    x = x.add(np.matmul(open.mul(np.matmul(z, up)), down));
  }
  cos.dispose();
  sin.dispose();
  const logits = np.matmul(norm(x, lastNorm), head);
  const chosen = nn.logSoftmax(logits, -1).mul(nn.oneHot(next, vocab));
  return chosen.sum().mul(-1 / (batch * seq));
}
