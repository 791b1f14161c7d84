/** The command line as a whole: help, tokenizers, stores at a URL, samples that follow their seed. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { withServer } from "../data/testing/store_fixture.ts";
import { stepRows, Workspace } from "./testing/workspace.ts";

const VERBS = ["train", "prepare", "eval", "generate", "plan", "verify", "doctor"];

Deno.test("main() prints the verbs when it is asked for help", async () => {
  await using workspace = await Workspace.open();
  for (const argv of [[], ["--help"], ["help"]]) {
    const { code, out, err } = await workspace.run(...argv);
    assert.deepEqual([code, err], [0, ""]);
    for (const verb of VERBS) assert.match(out, new RegExp(`^ {2}${verb} `, "m"));
  }
});

for (const verb of VERBS) {
  Deno.test(`${verb} --help shows an example and every flag`, async () => {
    await using workspace = await Workspace.open();
    const { code, out, err } = await workspace.run(verb, "--help");
    assert.deepEqual([code, err], [0, ""]);
    assert.match(out, new RegExp(`Examples?\\n {2}deno task ${verb}`));
    const tasks = JSON.parse(await Deno.readTextFile(new URL("../deno.json", import.meta.url))).tasks;
    assert.ok(tasks[verb].description, `deno.json has no task ${verb}`);
    assert.ok(out.split("\n").every((line) => line.length <= 140), out);
  });
}

Deno.test("main() prints a stack trace when it is given --debug", async () => {
  await using workspace = await Workspace.open();
  const { code, err } = await workspace.run("train", "--data", "none.txt", "--debug");
  assert.equal(code, 1);
  assert.match(err, /there is no such file\n\s+at /);
});

Deno.test("doctor() tells threads, kernels and speed", async () => {
  await using workspace = await Workspace.open();
  const { code, out, err } = await workspace.run("doctor", "--threads", "1", "--blas", "off");
  assert.equal(code, 0, err);
  assert.match(out, /^threads +1 of \d+$/m);
  assert.match(out, /^kernels +\S+$/m);
  assert.match(out, /^matmul 512 +[\d.]+ GFLOP\/s$/m);
});

Deno.test("prepare(), train() and generate() keep to a tokenizer of one's own", async () => {
  await using workspace = await Workspace.open();
  const tokenizer = fileURLToPath(new URL("../data/testdata/tiny-bpe", import.meta.url));
  const made = await workspace.run(
    ...["prepare", "--input", "corpus.txt", "--tokenizer", tokenizer, "--seq", "16", "--out", "store"],
  );
  assert.equal(made.code, 0, made.err);
  const flags = ["--data", "store", "--model", "llama-9m", "--out", "run", "--steps", "2", "--rank", "4"];
  const trained = await workspace.train(...flags, "--tokenizer", tokenizer);
  assert.equal(trained.code, 0, trained.err);
  assert.match(trained.err, /nats a token/);
  // the checkpoint's own tokenizer is found without a flag, and is the one that made the store
  const evaluated = await workspace.run("eval", "--model", "run", "--data", "store", "--seq", "16", "--threads", "1");
  assert.equal(evaluated.code, 0, evaluated.err);
  const generated = await workspace.run("generate", "--model", "run", "--prompt", "the cat", "--tokens", "4");
  assert.equal(generated.code, 0, generated.err);
  assert.match(generated.out, /^the cat/);
});

Deno.test("train() reads a store at a URL as it reads one in a folder", async () => {
  await using workspace = await Workspace.open();
  assert.equal((await workspace.run("prepare", "--input", "corpus.txt", "--seq", "16", "--out", "store")).code, 0);
  assert.equal((await workspace.train("--data", "store", "--out", "near")).code, 0);
  await withServer(`${workspace.path}/store`, () => undefined, async (url) => {
    const { code, err } = await workspace.train("--data", url, "--out", "far");
    assert.equal(code, 0, err);
  });
  const losses = async (run: string) => (await stepRows(run)).map(({ loss }) => loss);
  assert.deepEqual(await losses("far"), await losses("near"));
});

Deno.test("generate() gives the same text for the same seed, and another for another", async () => {
  await using workspace = await Workspace.open();
  const sample = async (...flags: string[]) => {
    const argv = ["--model", "tiny", "--prompt", "a", "--tokens", "30", "--threads", "1", "--blas", "off", ...flags];
    const { code, out, err } = await workspace.run("generate", ...argv);
    assert.equal(code, 0, err);
    return out;
  };
  const first = await sample("--seed", "1");
  assert.equal(await sample("--seed", "1"), first);
  assert.notEqual(await sample("--seed", "2"), first);
  assert.equal(await sample("--temperature", "0", "--seed", "1"), await sample("--temperature", "0", "--seed", "2"));
  assert.equal(await sample("--top-k", "1"), await sample("--temperature", "0"));
});
