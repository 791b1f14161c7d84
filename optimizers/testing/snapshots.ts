/** A snapshot as bytes, as a checkpoint would hold it, and back. Test support. */
import { type Backend, empty, own, type Shape, type Tensor } from "../../core/mod.ts";
import { flattenState, type Optimizer, type OptimizerSnapshot, type Plain, unflattenState } from "../mod.ts";

/** A snapshot as a checkpoint holds it: bytes and plain values. */
export interface StoredSnapshot {
  readonly step: number;
  readonly leaves: Readonly<Record<string, StoredLeaf>>;
}

interface StoredTensor {
  readonly shape: Shape;
  readonly dtype: Tensor["dtype"];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

interface StoredLeaf {
  readonly tensors: Readonly<Record<string, StoredTensor>>;
  readonly values: Readonly<Record<string, Plain>>;
  readonly staged?: StoredTensor;
  readonly square?: StoredTensor;
  readonly master?: StoredTensor;
  readonly count: number;
}

/** Reads a snapshot to bytes. */
export async function store({ step, leaves }: OptimizerSnapshot): Promise<StoredSnapshot> {
  const stored: Record<string, StoredLeaf> = {};
  for (const [name, { state, staged, square, master, count }] of leaves) {
    const { tensors, values } = flattenState(state);
    const entries: [string, StoredTensor][] = [];
    for (const [path, part] of tensors) entries.push([path, await bytesOf(part)]);
    stored[name] = {
      tensors: Object.fromEntries(entries),
      values: JSON.parse(JSON.stringify(values)),
      staged: staged && await bytesOf(staged),
      square: square && await bytesOf(square),
      master: master && await bytesOf(master),
      count,
    };
  }
  return { step, leaves: stored };
}

async function bytesOf(tensor: Tensor): Promise<StoredTensor> {
  const data = await tensor.read();
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
  return { shape: tensor.shape, dtype: tensor.dtype, bytes };
}

/** Puts stored bytes into an optimizer made for the same parameters and rules. */
export function load(backend: Backend, { step, leaves }: StoredSnapshot, optimizer: Optimizer): void {
  const made = new Map(
    [...optimizer.snapshot().leaves].map(([name, { state }]) => {
      const { tensors, values, staged, square, master, count } = leaves[name];
      const parts = new Map(Object.entries(tensors).map(([path, part]) => [path, tensorOf(backend, part)]));
      return [name, {
        state: unflattenState(state, parts, values),
        staged: staged && tensorOf(backend, staged),
        square: square && tensorOf(backend, square),
        master: master && tensorOf(backend, master),
        count,
      }];
    }),
  );
  optimizer.restore({ step, leaves: made });
}

function tensorOf(backend: Backend, { shape, dtype, bytes }: StoredTensor): Tensor {
  const out = own(empty(backend, shape, dtype));
  backend.write(out.buffer, 0, bytes);
  return out;
}
