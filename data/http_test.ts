/** Stores over HTTP: the same rows, every wrong answer refused by shard and chunk, passing failures outlasted. */

import assert from "node:assert/strict";
import { Batches } from "./batches.ts";
import { CorruptDataError } from "./errors.ts";
import { openStore, type StoreOptions } from "./store.ts";
import { editJson, partial, type ServedRequest, withFixture, withServer } from "./testing/store_fixture.ts";
import { verifyStore } from "./verify.ts";

const NO_WAIT: StoreOptions = { sleep: () => Promise.resolve() };

const isChunk = ({ key, range }: ServedRequest): boolean => key === "train/c/1/0" && range?.offset === 0;

Deno.test("openStore() reads the same rows over HTTP, one request for each chunk and shard index", async () => {
  await withFixture({}, async (folder) => {
    const expected = await (await openStore(folder)).split("train").readRows(0, 99);
    await withServer(folder, () => undefined, async (url, requests) => {
      const split = (await openStore(url)).split("train");
      assert.deepEqual(await split.readRows(0, 99), expected);
      assert.equal(requests.length, 3 + 9 + 25);
      assert.ok(requests.slice(3).every((request) => / bytes=\d+-\d+$/.test(request)), requests.join("\n"));
      assert.deepEqual((await verifyStore(url)).faults, []);
    });
  });
});

Deno.test("openStore() reads shards whose sizes are not listed by asking for their end", async () => {
  await withFixture({}, async (folder) => {
    await editJson(`${folder}/train/zarr.json`, (json) => delete json.attributes.shard_bytes);
    const expected = await (await openStore(folder)).split("train").readRows(0, 20);
    await withServer(folder, () => undefined, async (url, requests) => {
      assert.deepEqual(await (await openStore(url)).split("train").readRows(0, 20), expected);
      assert.ok(requests.includes("train/c/0/0 bytes=-52"));
    });
  });
});

Deno.test("Batches reads a URL in a worker", async () => {
  await withFixture({}, async (folder) => {
    using local = new Batches(folder, { batch: 30, seed: 2, readers: 0 });
    await withServer(folder, () => undefined, async (url) => {
      using remote = new Batches(url, { batch: 30, seed: 2 });
      for (let i = 0; i < 4; i++) assert.deepEqual(await remote.next(), await local.next());
    });
  });
});

function shortBody({ bytes, range }: ServedRequest): Response {
  const { offset, length } = range!;
  const headers = { "content-range": `bytes ${offset}-${offset + length - 1}/${bytes.length}` };
  return new Response(bytes.slice(offset, offset + length - 5), { status: 206, headers });
}

function flipped(request: ServedRequest): Response {
  const bytes = request.bytes.slice();
  bytes[request.range!.offset + 20] ^= 4;
  return partial(bytes, request.range!);
}

function withContentRange(header: string | null): (request: ServedRequest) => Response {
  return ({ bytes, range }) => {
    const headers: HeadersInit = header === null ? {} : { "content-range": header };
    return new Response(bytes.slice(range!.offset, range!.offset + range!.length), { status: 206, headers });
  };
}

/** How a server may be wrong about chunk 3, how often that is asked for, and what is said. */
const WRONG: [string, (request: ServedRequest) => Response, number, RegExp][] = [
  ["ignores the range", ({ bytes }) => new Response(bytes), 1, /answered 200 to a range request/],
  ["sends a short body", shortBody, 5, /sent \d+ of \d+ bytes \(tried 5 times\)$/],
  [
    "sends a long body",
    ({ bytes, range }) => {
      const headers = { "content-range": `bytes 0-${range!.length - 1}/${bytes.length}` };
      return new Response(bytes, { status: 206, headers });
    },
    1,
    /sent more than the \d+ bytes/,
  ],
  [
    "sends another range",
    ({ bytes, range }) => partial(bytes, { offset: 1, length: range!.length }),
    1,
    /with Content-Range "bytes 1-/,
  ],
  ["sends no Content-Range", withContentRange(null), 1, /with Content-Range missing/],
  ["does not know the length", withContentRange("bytes 0-9/*"), 1, /with Content-Range "bytes 0-9\/\*"/],
  [
    "has a longer file",
    ({ bytes, range }) =>
      withContentRange(`bytes 0-${range!.length - 1}/${bytes.length + 1}`)({ bytes, range } as ServedRequest),
    1,
    /the file must have \d+ bytes, got \d+$/,
  ],
  ["flips a bit every time", flipped, 5, /checksum does not match.*\(tried 5 times\)$/],
  ["has no such file", () => new Response(null, { status: 404 }), 1, /answered 404/],
  ["forbids it", () => new Response(null, { status: 403 }), 1, /answered 403/],
  ["fails for ever", () => new Response(null, { status: 500 }), 5, /answered 500.*\(tried 5 times\)$/],
];
for (const [condition, answer, tries, reason] of WRONG) {
  Deno.test(`readChunk() throws CorruptDataError when the server ${condition}`, async () => {
    await withFixture({}, async (folder) => {
      let asked = 0;
      const intercept = (request: ServedRequest): Response | undefined => {
        if (!isChunk(request)) return undefined;
        asked++;
        return answer(request);
      };
      await withServer(folder, intercept, async (url) => {
        const split = (await openStore(`${url}/?signature=secret`, NO_WAIT)).split("train");
        await assert.rejects(split.readChunk(3), (error) => {
          assert.ok(error instanceof CorruptDataError, String(error));
          assert.match(error.reason, reason);
          assert.deepEqual([error.store, error.shard, error.chunk], [`${url}/`, "train/c/1/0", 3]);
          assert.doesNotMatch(error.message, /secret/);
          return true;
        });
        assert.equal(asked, tries);
        assert.equal((await split.readRows(0, 4)).length, 36);
      });
    });
  });
}

/** What may go wrong once. */
const PASSING: [string, (request: ServedRequest) => Response | Promise<Response>][] = [
  ...[408, 425, 429, 500, 503].map((status): [string, () => Response] => [
    `answers ${status}`,
    () => new Response(null, { status, headers: { "retry-after": "0" } }),
  ]),
  ["flips a bit", flipped],
  ["sends a short body", shortBody],
  ["breaks off", ({ bytes, range }) => {
    const headers = {
      "content-range": `bytes 0-${range!.length - 1}/${bytes.length}`,
      "content-length": `${range!.length}`,
    };
    return new Response(ReadableStream.from([bytes.slice(0, 10)]), { status: 206, headers });
  }],
  ["stalls", async ({ answer }) => {
    await new Promise((resolve) => setTimeout(resolve, 400));
    return answer();
  }],
];
for (const [condition, answer] of PASSING) {
  Deno.test(`readChunk() gives the right ids when the server ${condition} three times`, async () => {
    await withFixture({}, async (folder) => {
      const expected = await (await openStore(folder)).split("train").readChunk(3);
      let failures = 0;
      const waits: number[] = [];
      const intercept = (request: ServedRequest): Response | Promise<Response> | undefined =>
        isChunk(request) && failures++ < 3 ? answer(request) : undefined;
      await withServer(folder, intercept, async (url) => {
        const sleep = (ms: number): Promise<void> => {
          waits.push(ms);
          return Promise.resolve();
        };
        const split = (await openStore(url, { sleep, noProgressMs: condition === "stalls" ? 150 : undefined })).split(
          "train",
        );
        assert.deepEqual(await split.readChunk(3), expected);
        assert.equal(failures, 4);
        assert.equal(waits.length, 3);
        assert.ok(waits.every((ms, i) => ms >= 0 && ms <= 500 * 2 ** i), `${waits}`);
      });
    });
  });
}

Deno.test("readChunk() waits as long as Retry-After says", async () => {
  await withFixture({}, async (folder) => {
    let failures = 0;
    const waits: number[] = [];
    const busy = (request: ServedRequest): Response | undefined =>
      isChunk(request) && failures++ < 1
        ? new Response(null, { status: 429, headers: { "retry-after": "7" } })
        : undefined;
    await withServer(folder, busy, async (url) => {
      const sleep = (ms: number): Promise<void> => Promise.resolve(void waits.push(ms));
      await (await openStore(url, { sleep })).split("train").readChunk(3);
      assert.deepEqual(waits, [7000]);
    });
  });
});

Deno.test("readChunk() reads the index again when that came damaged", async () => {
  await withFixture({}, async (folder) => {
    const expected = await (await openStore(folder)).split("train").readChunk(3);
    let failures = 0;
    const spoil = (request: ServedRequest): Response | undefined =>
      request.key === "train/c/1/0" && request.range!.length === 52 && failures++ < 2 ? flipped(request) : undefined;
    await withServer(folder, spoil, async (url) => {
      assert.deepEqual(await (await openStore(url, NO_WAIT)).split("train").readChunk(3), expected);
      assert.equal(failures, 3);
    });
  });
});

Deno.test("readChunk() throws when the file is replaced on the server", async () => {
  await withFixture({}, async (folder) => {
    let served = 0;
    const replace = ({ range, answer }: ServedRequest): Response | undefined => {
      if (!range) return undefined;
      const response = answer();
      response.headers.set("etag", `"${served++}"`);
      return response;
    };
    await withServer(folder, replace, async (url) => {
      const split = (await openStore(url, NO_WAIT)).split("train");
      await assert.rejects(split.readChunk(3), /replaced on the server/);
    });
  });
});

Deno.test("openStore() throws when nothing is served, nobody listens, or metadata is huge", async () => {
  await withFixture({}, async (folder) => {
    await withServer(folder, () => new Response(null, { status: 404 }), async (url) => {
      await assert.rejects(openStore(url, NO_WAIT), /^NotFound: .* it has no zarr.json/);
    });
    await withServer(folder, () => new Response(" ".repeat(2 ** 20 + 1)), async (url) => {
      await assert.rejects(openStore(url, NO_WAIT), /^CorruptDataError: .*zarr.json: the server sent more than/);
    });
    let gone = "";
    await withServer(folder, () => undefined, (url) => Promise.resolve(void (gone = url)));
    await assert.rejects(openStore(`${gone}/?key=secret`, NO_WAIT), (error) => {
      assert.ok(error instanceof CorruptDataError);
      assert.match(error.reason, /^zarr.json: the network failed .*\(tried 5 times\)$/);
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  });
});

Deno.test("readRows() gives what a clean read gives when a fifth of all answers is wrong", async () => {
  await withFixture({ tokens: 4000, rowsPerChunk: 1, chunksPerShard: 16 }, async (folder) => {
    const expected = await (await openStore(folder)).split("train").readRows(0, 399);
    let state = 2024;
    const faults = [flipped, shortBody, ...[408, 429, 500, 503].map((status) => () => new Response(null, { status }))];
    let spoilt = 0;
    const flaky = (request: ServedRequest): Response | undefined => {
      state = (state * 48271) % 2147483647;
      if (!request.range || state % 5 > 0) return undefined;
      return faults[spoilt++ % faults.length](request);
    };
    await withServer(folder, flaky, async (url, requests) => {
      // Five tries fail together once in 3,000 chunks; nine, once in two million.
      const split = (await openStore(url, { ...NO_WAIT, tries: 9 })).split("train");
      for (let pass = 0; pass < 4; pass++) {
        split.keepChunks(1);
        assert.deepEqual(await split.readRows(0, 399), expected);
      }
      assert.ok(spoilt > 250 && requests.length > 4 * 399, `${spoilt} of ${requests.length}`);
    });
  });
});
