/**
 * The other side of a `Batches`: a worker that reads the batches it is asked for, in the order asked. It ends when it is
 * terminated. A failure is sent back as data; the worker goes on.
 */

import { type Batch, BatchReader } from "./batch_reader.ts";
import { packError } from "./errors.ts";
import type { StoreToRead } from "./read_ahead.ts";
import type { ReadAnswer, ReadRequest } from "./thread_reader.ts";

interface WorkerScope {
  onmessage: ((event: MessageEvent<ReadRequest<StoreToRead>>) => void) | null;
  postMessage(message: ReadAnswer<Batch>, transfer: Transferable[]): void;
}

const scope = self as unknown as WorkerScope;
let reader: Promise<BatchReader> | undefined;
let turn: Promise<void> = Promise.resolve();

scope.onmessage = ({ data }) => {
  if ("open" in data) {
    reader = BatchReader.open(data.open);
    reader.catch(() => {}); // answered with the first index
  } else {
    turn = turn.then(() => answer(data.index));
  }
};

async function answer(index: number): Promise<void> {
  try {
    const batch = await (await reader!).read(index);
    scope.postMessage({ batch }, [batch.tokens.buffer]);
  } catch (error) {
    scope.postMessage({ error: packError(error) }, []);
  }
}
