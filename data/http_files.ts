/**
 * A store's files on a web server. One request is one attempt; `retry.ts` repeats it. A range must be answered with 206,
 * the very `Content-Range` and the very number of bytes: a server that ignores `Range` sends the file's first bytes, which
 * would be taken for tokens. A file's length and ETag are pinned by the first answer, so that a file replaced in between is noticed.
 * Query strings (signatures, tokens) go with every request and into no message.
 */

import { type ByteRange, type ByteSource, checkKey, ReadFault } from "./source.ts";

/** Limits of one request. */
export interface HttpOptions {
  /** An attempt ends when no byte came for this long, in milliseconds. Default 10,000. */
  readonly noProgressMs?: number;
  /** An attempt ends after this long in any case, in milliseconds. Default 120,000. */
  readonly attemptMs?: number;
}

const RETRYABLE = new Set([408, 425, 429]);

/** The files under one URL. */
export class HttpFiles implements ByteSource {
  readonly name: string;
  readonly #base: URL;
  readonly #noProgressMs: number;
  readonly #attemptMs: number;
  readonly #pinned = new Map<string, string>();

  constructor(url: URL, { noProgressMs = 10_000, attemptMs = 120_000 }: HttpOptions = {}) {
    this.#base = url;
    this.#noProgressMs = noProgressMs;
    this.#attemptMs = attemptMs;
    this.name = url.origin + url.pathname;
  }

  async readFile(key: string, maxBytes: number): Promise<Uint8Array | undefined> {
    return await this.#request(key, undefined, async (response, progress) => {
      if (response.status === 404) return undefined;
      if (response.status !== 200) refuse(response);
      const length = response.headers.get("content-length");
      const bytes = await readBody(response, maxBytes, progress);
      if (length === null || response.headers.has("content-encoding") || Number(length) === bytes.length) return bytes;
      throw new ReadFault(`the server sent ${bytes.length} of ${length} bytes`, { retryable: true });
    });
  }

  async readRange(key: string, range: ByteRange, size?: number): Promise<Uint8Array> {
    const wanted = "suffixLength" in range && size !== undefined
      ? { offset: size - range.suffixLength, length: range.suffixLength }
      : range;
    const header = "length" in wanted
      ? `bytes=${wanted.offset}-${wanted.offset + wanted.length - 1}`
      : `bytes=-${wanted.suffixLength}`;
    return await this.#request(key, header, async (response, progress) => {
      if (response.status === 200) {
        throw new ReadFault("the server answered 200 to a range request: it does not serve parts of files");
      }
      if (response.status !== 206) refuse(response);
      const total = checkContentRange(response.headers.get("content-range"), wanted, size);
      this.#pin(key, `${total} ${response.headers.get("etag") ?? ""}`);
      const length = "length" in wanted ? wanted.length : wanted.suffixLength;
      const bytes = await readBody(response, length, progress);
      if (bytes.length === length) return bytes;
      throw new ReadFault(`the server sent ${bytes.length} of ${length} bytes`, { retryable: true });
    });
  }

  /** One attempt; the body must be read inside `use`, where time still counts. */
  async #request<T>(
    key: string,
    range: string | undefined,
    use: (response: Response, progress: () => void) => Promise<T>,
  ): Promise<T> {
    const url = new URL(this.#base);
    url.pathname = `${url.pathname.replace(/\/$/, "")}/${checkKey(key)}`;
    const abort = new AbortController();
    let reason = "";
    const stop = (why: string) => () => {
      reason = why;
      abort.abort();
    };
    const total = setTimeout(stop(`the server took longer than ${this.#attemptMs} ms`), this.#attemptMs);
    const stalled = stop(`no byte came for ${this.#noProgressMs} ms`);
    let idle = setTimeout(stalled, this.#noProgressMs);
    const progress = (): void => {
      clearTimeout(idle);
      idle = setTimeout(stalled, this.#noProgressMs);
    };
    let response: Response | undefined;
    try {
      const headers: HeadersInit = range ? { range, "accept-encoding": "identity" } : {};
      response = await fetch(url, { headers, signal: abort.signal });
      progress();
      return await use(response, progress);
    } catch (error) {
      if (reason !== "") throw new ReadFault(reason, { retryable: true, cause: error });
      if (!(error instanceof TypeError)) throw error;
      throw new ReadFault(`the network failed (${describe(error, url)})`, { retryable: true, cause: error });
    } finally {
      clearTimeout(total);
      clearTimeout(idle);
      await response?.body?.cancel().catch(() => {});
    }
  }

  #pin(key: string, state: string): void {
    const first = this.#pinned.get(key);
    if (first === undefined) this.#pinned.set(key, state);
    else if (first !== state) throw new ReadFault("the file was replaced on the server while it was being read");
  }
}

/** Deno's messages name the whole URL. */
function describe(error: Error, url: URL): string {
  return error.message.replaceAll(url.href, url.origin + url.pathname);
}

function refuse(response: Response): never {
  const { status, statusText } = response;
  const seconds = Number(response.headers.get("retry-after"));
  const date = Date.parse(response.headers.get("retry-after") ?? "");
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : Math.max(0, date - Date.now()) || 0;
  const retryable = RETRYABLE.has(status) || status >= 500;
  throw new ReadFault(`the server answered ${`${status} ${statusText}`.trim()}`, { retryable, retryAfterMs });
}

/** The file's length, as the header tells it. */
function checkContentRange(header: string | null, wanted: ByteRange, size: number | undefined): number {
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(header ?? "");
  const [first, last, total] = (match ?? []).slice(1).map(Number);
  const length = "length" in wanted ? wanted.length : wanted.suffixLength;
  const offset = "length" in wanted ? wanted.offset : total - length;
  if (match && first === offset && last === offset + length - 1 && last < total) {
    if (size === undefined || total === size) return total;
    throw new ReadFault(`the file must have ${size} bytes, got ${total}`);
  }
  const asked = "length" in wanted ? `bytes ${offset}-${offset + length - 1}` : `the last ${length} bytes`;
  throw new ReadFault(
    `the server answered a request for ${asked} with Content-Range ${header === null ? "missing" : `"${header}"`}`,
  );
}

/** The body, up to `maxBytes`; one byte more is an error. */
async function readBody(response: Response, maxBytes: number, progress: () => void): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body ?? []) {
    progress();
    length += part.length;
    if (length > maxBytes) throw new ReadFault(`the server sent more than the ${maxBytes} bytes that were asked for`);
    parts.push(part);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
