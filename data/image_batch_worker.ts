/**
 * The other side of an `ImageBatches`: a worker that reads the batches it is asked for, in the order asked. It ends when it
 * is terminated. A failure is sent back as data; the worker goes on.
 */

import { packError } from "./errors.ts";
import { type ImageBatch, ImageBatchReader, type ImageBatchReaderOptions } from "./image_batch_reader.ts";
import type { ReadAnswer, ReadRequest } from "./thread_reader.ts";

interface WorkerScope {
  onmessage: ((event: MessageEvent<ReadRequest<ImageBatchReaderOptions>>) => void) | null;
  postMessage(message: ReadAnswer<ImageBatch>, transfer: Transferable[]): void;
}

const scope = self as unknown as WorkerScope;
let reader: Promise<ImageBatchReader> | undefined;
let turn: Promise<void> = Promise.resolve();

scope.onmessage = ({ data }) => {
  if ("open" in data) {
    reader = ImageBatchReader.open(data.open);
    reader.catch(() => {}); // answered with the first number
  } else {
    turn = turn.then(() => answer(data.index));
  }
};

async function answer(index: number): Promise<void> {
  try {
    const batch = await (await reader!).read(index);
    scope.postMessage({ batch }, [batch.pixels.buffer, batch.labels.buffer, batch.rows.buffer]);
  } catch (error) {
    scope.postMessage({ error: packError(error) }, []);
  }
}
