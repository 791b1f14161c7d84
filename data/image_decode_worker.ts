/**
 * The other side of `ImageDecoders`: a worker that decodes the files it is asked for, in the order asked. A failure is sent
 * back as data; the worker goes on.
 */

import { type PackedError, packError } from "./errors.ts";
import { readImageFile } from "./image_file.ts";
import type { ImageShape } from "./image_source.ts";
import type { Image } from "./images.ts";

/** What the worker is sent. */
export interface DecodeRequest {
  readonly path: string;
  readonly shape: ImageShape;
}

/** What it answers to each. */
export type DecodeAnswer = { readonly image: Image } | { readonly error: PackedError };

interface WorkerScope {
  onmessage: ((event: MessageEvent<DecodeRequest>) => void) | null;
  postMessage(message: DecodeAnswer, transfer: Transferable[]): void;
}

const scope = self as unknown as WorkerScope;
let turn: Promise<void> = Promise.resolve();

scope.onmessage = ({ data }) => {
  turn = turn.then(() => answer(data));
};

async function answer({ path, shape }: DecodeRequest): Promise<void> {
  try {
    const image = await readImageFile(path, shape);
    scope.postMessage({ image }, [image.pixels.buffer]);
  } catch (error) {
    scope.postMessage({ error: packError(error) }, []);
  }
}
