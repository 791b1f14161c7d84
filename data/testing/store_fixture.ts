/**
 * Small stores for tests, ways to damage them, and a web server for them that can misbehave. Only tests import this.
 */

import { writeStore, type WriteStoreOptions } from "../write_store.ts";

/** The stream of every fixture: no two neighbouring stretches are alike, all ids below `vocabSize`. */
export function fixtureToken(i: number, vocabSize: number): number {
  return (Math.imul(i, 2654435761) >>> 7) % vocabSize;
}

/** Rows `start` on of the token stream, by definition. */
export function expectedRows(start: number, count: number, seq: number, vocabSize: number): number[] {
  return Array.from({ length: count * (seq + 1) }, (_, i) => {
    const row = start + Math.floor(i / (seq + 1));
    return fixtureToken(row * seq + i % (seq + 1), vocabSize);
  });
}

/** How a fixture differs from the usual one: 1000 tokens, seq 8, 4 rows a chunk, 3 chunks a shard, vocabulary 257. */
export interface FixtureOptions extends Partial<Omit<WriteStoreOptions, "tokens" | "tokenizer">> {
  readonly tokens?: number;
  readonly vocabSize?: number;
}

/** Writes a store of known tokens. */
export async function writeFixture(
  out: string,
  { tokens = 1000, vocabSize = 257, ...rest }: FixtureOptions = {},
): Promise<void> {
  async function* stream(): AsyncGenerator<Uint32Array> {
    for (let at = 0; at < tokens; at += 100_000) {
      const ids = new Uint32Array(Math.min(100_000, tokens - at));
      for (let i = 0; i < ids.length; i++) ids[i] = fixtureToken(at + i, vocabSize);
      yield ids;
    }
  }
  const tokenizer = { name: "fixture", hash: "0".repeat(64), vocabSize, eosId: vocabSize - 1 };
  const layout = { seq: 8, rowsPerChunk: 4, chunksPerShard: 3, holdOut: 0.2, ...rest };
  await writeStore({ ...layout, tokens: stream(), tokenizer, out });
}

/** Runs a test with a fresh folder, which is removed. */
export async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Runs a test with a fixture in a fresh folder. */
export async function withFixture(options: FixtureOptions, body: (store: string) => Promise<void>): Promise<void> {
  await withFolder(async (folder) => {
    await writeFixture(`${folder}/store`, options);
    await body(`${folder}/store`);
  });
}

/** Changes a file's bytes in place; what `change` returns, if anything, replaces them. */
export async function damage(path: string, change: (bytes: Uint8Array) => Uint8Array | void): Promise<void> {
  const bytes = await Deno.readFile(path);
  await Deno.writeFile(path, change(bytes) ?? bytes);
}

/** Changes a `zarr.json`. */
// deno-lint-ignore no-explicit-any -- tests reach into metadata of any shape.
export async function editJson(path: string, change: (json: any) => void): Promise<void> {
  const json = JSON.parse(await Deno.readTextFile(path));
  change(json);
  await Deno.writeTextFile(path, JSON.stringify(json));
}

/** A request to a store's server: the file, and the range's first byte and length where one was asked for. */
export interface ServedRequest {
  readonly key: string;
  /** The query string, with its question mark. */
  readonly search: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly range?: { readonly offset: number; readonly length: number };
  /** The honest answer. */
  answer(): Response;
}

/** Serves a folder with ranges on 127.0.0.1; `intercept` may answer in its place. */
export async function withServer(
  folder: string,
  intercept: (request: ServedRequest) => Response | undefined | Promise<Response | undefined>,
  body: (url: string, requests: string[]) => Promise<void>,
): Promise<void> {
  const requests: string[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { pathname, search } = new URL(request.url);
    const key = pathname.slice(1);
    requests.push(`${key} ${request.headers.get("range") ?? ""}`.trim());
    const bytes = await Deno.readFile(`${folder}/${key}`).catch(() => undefined);
    if (!bytes) return new Response(null, { status: 404 });
    const match = /^bytes=(\d*)-(\d*)$/.exec(request.headers.get("range") ?? "");
    const range = match ? parseRange(match[1], match[2], bytes.length) : undefined;
    const answer = (): Response => range ? partial(bytes, range) : new Response(bytes);
    return await intercept({ key, search, bytes, range, answer }) ?? answer();
  });
  try {
    await body(`http://127.0.0.1:${(server.addr as Deno.NetAddr).port}`, requests);
  } finally {
    await server.shutdown();
  }
}

function parseRange(first: string, last: string, size: number): { offset: number; length: number } {
  if (first === "") return { offset: size - Number(last), length: Number(last) };
  return { offset: Number(first), length: Number(last) - Number(first) + 1 };
}

/** An honest 206. */
export function partial(
  bytes: Uint8Array<ArrayBuffer>,
  { offset, length }: { offset: number; length: number },
): Response {
  const headers = { "content-range": `bytes ${offset}-${offset + length - 1}/${bytes.length}` };
  return new Response(bytes.slice(offset, offset + length), { status: 206, headers });
}
