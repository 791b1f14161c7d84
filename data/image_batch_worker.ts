/**
 * The other side of an `ImageBatches`: a worker that reads the batches it is asked for, in the order asked. It ends when it
 * is terminated. A failure is sent back as data; the worker goes on.
 */

import { type PackedError, packError } from "./errors.ts";
import { type ImageBatch, ImageBatchReader, type ImageBatchReaderOptions } from "./image_batch_reader.ts";

/** What the worker is sent: first its options, then numbers of batches. */
export type ImageBatchRequest = { readonly open: ImageBatchReaderOptions } | { readonly index: number };

/** What it answers to each number. */
export type ImageBatchAnswer = { readonly batch: ImageBatch } | { readonly error: PackedError };

interface WorkerScope {
  onmessage: ((event: MessageEvent<ImageBatchRequest>) => void) | null;
  postMessage(message: ImageBatchAnswer, transfer: Transferable[]): void;
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
