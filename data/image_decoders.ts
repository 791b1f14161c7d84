/**
 * Threads that decode image files, each in the order it was asked, so that reading files, decoding and resizing leave the
 * main thread free and use every processor. With none, it happens here.
 */

import { unpackError } from "./errors.ts";
import type { DecodeAnswer, DecodeRequest } from "./image_decode_worker.ts";
import { readImageFile } from "./image_file.ts";
import type { ImageShape } from "./image_source.ts";
import type { Image } from "./images.ts";

interface Waiting {
  readonly resolve: (image: Image) => void;
  readonly reject: (error: unknown) => void;
}

interface Decoder {
  readonly worker: Worker;
  readonly waiting: Waiting[];
  /** Why it answers no more. */
  stopped?: Error;
}

/** A number of decoding threads. Dispose it. */
export class ImageDecoders implements Disposable {
  readonly #decoders: Decoder[];

  constructor(threads: number) {
    this.#decoders = Array.from({ length: threads }, startDecoder);
  }

  /**
   * Reads an image file on the thread that has the least to do.
   *
   * @throws {SyntaxError} when it cannot be decoded; `Error` once disposed.
   */
  read(path: string, shape: ImageShape): Promise<Image> {
    if (this.#decoders.length === 0) return readImageFile(path, shape);
    const decoder = this.#decoders.reduce((least, next) => next.waiting.length < least.waiting.length ? next : least);
    if (decoder.stopped) return Promise.reject(decoder.stopped);
    return new Promise((resolve, reject) => {
      decoder.waiting.push({ resolve, reject });
      const request: DecodeRequest = { path, shape };
      decoder.worker.postMessage(request);
    });
  }

  /** Ends the threads; a `read` that is waiting throws. */
  [Symbol.dispose](): void {
    for (const decoder of this.#decoders) {
      decoder.worker.terminate();
      stop(decoder, new Error("Cannot decode images: the decoders were closed"));
    }
  }
}

function startDecoder(): Decoder {
  const worker = new Worker(new URL("./image_decode_worker.ts", import.meta.url), { type: "module" });
  const decoder: Decoder = { worker, waiting: [] };
  worker.onmessage = ({ data }: MessageEvent<DecodeAnswer>) => {
    const { resolve, reject } = decoder.waiting.shift()!;
    if ("image" in data) resolve(data.image);
    else reject(unpackError(data.error));
  };
  worker.onerror = (event) => {
    event.preventDefault();
    stop(decoder, new Error(`Cannot decode images: a thread stopped: ${event.message}`));
  };
  return decoder;
}

function stop(decoder: Decoder, error: Error): void {
  decoder.stopped = error;
  for (const { reject } of decoder.waiting.splice(0)) reject(error);
}
