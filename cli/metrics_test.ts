import assert from "node:assert/strict";
import { isStepRow, MetricsWriter, readMetrics } from "./metrics.ts";

const row = (step: number, loss = 2) => ({ step, loss, lr: 0.01, tokens: step * 10, tokensPerSecond: 100, stepMs: 5 });

async function inFile(test: (path: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-" });
  try {
    await test(`${folder}/metrics.jsonl`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("MetricsWriter.append() writes one object a line, at once", () =>
  inFile(async (path) => {
    using writer = await MetricsWriter.open(path);
    writer.append(row(1));
    assert.equal(
      await Deno.readTextFile(path),
      '{"step":1,"loss":2,"lr":0.01,"tokens":10,"tokensPerSecond":100,"stepMs":5}\n',
    );
    writer.append({ step: 1, validationLoss: 2.5 });
    const rows = await readMetrics(path);
    assert.deepEqual(rows, [row(1), { step: 1, validationLoss: 2.5 }]);
    assert.deepEqual(rows.map(isStepRow), [true, false]);
  }));

Deno.test("readMetrics() gives back numbers that are not finite", () =>
  inFile(async (path) => {
    const rows = [row(1, NaN), row(2, Infinity), { ...row(3), gradNorm: -Infinity }];
    {
      using writer = await MetricsWriter.open(path);
      for (const each of rows) writer.append(each);
    }
    assert.match(await Deno.readTextFile(path), /"loss":"NaN"[^]*"loss":"Infinity"[^]*"gradNorm":"-Infinity"/);
    assert.deepEqual(await readMetrics(path), rows);
  }));

Deno.test("MetricsWriter.open() drops rows after the checkpoint's step and a torn last line", () =>
  inFile(async (path) => {
    const lines = [row(1), row(2), { step: 2, validationLoss: 3 }, row(3), row(4)].map((each) => JSON.stringify(each));
    await Deno.writeTextFile(path, lines.join("\n") + '\n{"step":5,"lo');
    using writer = await MetricsWriter.open(path, { resumeAfterStep: 2 });
    writer.append(row(3, 1.5));
    assert.deepEqual(await readMetrics(path), [row(1), row(2), { step: 2, validationLoss: 3 }, row(3, 1.5)]);
    assert.equal([...Deno.readDirSync(path.replace(/[^/]+$/, ""))].length, 1);
  }));

Deno.test("MetricsWriter.open() starts a file when there is none to resume", () =>
  inFile(async (path) => {
    using _writer = await MetricsWriter.open(path, { resumeAfterStep: 7 });
    assert.deepEqual(await readMetrics(path), []);
  }));

Deno.test("readMetrics() names the line that is unreadable when it is not the last", () =>
  inFile(async (path) => {
    await Deno.writeTextFile(path, `${JSON.stringify(row(1))}\n{"step":\n${JSON.stringify(row(3))}\n`);
    await assert.rejects(readMetrics(path), /metrics.jsonl: line 2 is not a row of metrics/);
    await Deno.writeTextFile(path, `null\n${JSON.stringify(row(3))}\n`);
    await assert.rejects(readMetrics(path), SyntaxError);
  }));
