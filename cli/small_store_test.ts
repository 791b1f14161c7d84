/** The small store: what is set is there again, keys stay apart, and nothing that goes wrong is thrown. */
import assert from "node:assert/strict";
import { fileStore } from "./small_store.ts";

Deno.test("fileStore() gives back what was set, for keys of any letters", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const store = fileStore(`${folder}/cache`);
    const keys = [
      "autotune-NVIDIA H200 (driver 1.2)",
      "autotune-NVIDIA/H200 (driver 1.2)",
      "../../etc",
      "",
      "x".repeat(999),
    ];
    for (const key of keys) assert.equal(await store.get(key), undefined);
    for (const [index, key] of keys.entries()) await store.set(key, `{"value":${index}}`);
    await store.set(keys[0], "again");
    const found = await Promise.all(keys.map((key) => fileStore(`${folder}/cache`).get(key)));
    assert.deepEqual(found, ["again", ...[1, 2, 3, 4].map((index) => `{"value":${index}}`)]);
    const names = [...Deno.readDirSync(`${folder}/cache`)].map(({ name }) => name);
    assert.equal(names.length, keys.length);
    for (const name of names) assert.match(name, /^[\w.-]+-[0-9a-f]{8}\.json$/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("fileStore() forgets what it cannot write", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/taken`, "a file");
    const store = fileStore(`${folder}/taken`);
    await store.set("key", "value");
    assert.equal(await store.get("key"), undefined);
    assert.equal(await Deno.readTextFile(`${folder}/taken`), "a file");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
