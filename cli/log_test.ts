import assert from "node:assert/strict";
import { explainError, formatDuration, formatNumber, formatStep, formatTable, memoryOutput } from "./log.ts";

Deno.test("formatStep() writes llm.c's line", () => {
  const line = { step: 40, steps: 1000, loss: 2.34561, gradNorm: 0.81234, lr: 0.01, stepMs: 123.41, mfu: 0.1234 };
  assert.equal(
    formatStep({ ...line, tokensPerSecond: 8312.4 }),
    "step   40/1000 | loss 2.3456 | norm 0.8123 | lr 1.00e-02 | 123.4 ms | 8312 tok/s | 12.3% mfu",
  );
});

Deno.test("formatStep() tells the speed in its unit", () => {
  const line = { step: 1, steps: 2, loss: 1, lr: 0, stepMs: 5, speedUnit: { tokens: 5, short: "img/s", long: "" } };
  assert.match(formatStep({ ...line, tokensPerSecond: 2060 }), / \| 412 img\/s$/);
  assert.match(formatStep({ ...line, tokensPerSecond: 2.34 }), / \| 0\.47 img\/s$/);
});

Deno.test("formatStep() leaves out what is not known", () => {
  const line = { step: 12345, steps: 20000, loss: NaN, lr: 0, stepMs: 5, tokensPerSecond: 1 };
  assert.equal(formatStep(line), "step 12345/20000 | loss NaN | lr 0.00e+00 | 5.0 ms | 1 tok/s");
});

Deno.test.each(
  [[0, "0"], [1234567, "1,234,567"], [12.3456, "12.35"], [0.00012345, "1.234e-4"], [1234.56, "1,235"]] as const,
)(
  "formatNumber() writes %s as %s",
  (value, text) => assert.equal(formatNumber(value), text),
);

Deno.test.each(
  [
    [0, "0 ms"],
    [999.4, "999 ms"],
    [12_340, "12.3 s"],
    [59_999, "1 min 00 s"],
    [185_000, "3 min 05 s"],
    [3_599_900, "1 h 00 min"],
    [7_384_000, "2 h 03 min"],
    [NaN, "?"],
  ] as const,
)("formatDuration() writes %s as %s", (ms, text) => assert.equal(formatDuration(ms), text));

Deno.test("formatTable() aligns columns", () => {
  assert.deepEqual(formatTable([["name", "size"], ["a", "1"], ["long name", "1,000"]], "lr"), [
    "name        size",
    "a              1",
    "long name  1,000",
  ]);
});

Deno.test("explainError() names the exact flag when a permission is missing", () => {
  const of = (message: string) => explainError(new Deno.errors.NotCapable(message));
  assert.equal(
    of('Requires read access to "/data/x y.txt", run again with the --allow-read flag'),
    "Cannot go on without read access to /data/x y.txt: add --allow-read=/data/x y.txt to the deno command",
  );
  assert.equal(
    of('Requires net access to "example.com:443", run again with the --allow-net flag'),
    "Cannot go on without net access to example.com:443: add --allow-net=example.com:443 to the deno command",
  );
  assert.match(of('Requires sys access to "systemMemoryInfo", run again'), /add --allow-sys=systemMemoryInfo to/);
  assert.match(of("Requires write access to <CWD>, run again with the --allow-write flag"), /add --allow-write to/);
  assert.match(of('Requires all access to "/dev/full", run again'), /add --allow-all to/);
  assert.match(
    of("Requires env access, run again with the --allow-env flag"),
    /without env access: add --allow-env to/,
  );
  assert.equal(of("Something new"), "Something new");
});

Deno.test("explainError() gives one line for any error", () => {
  assert.equal(explainError(new RangeError("Cannot x\n  at y")), "Cannot x");
  assert.equal(explainError("words"), "Cannot go on: words");
  assert.equal(explainError(new TypeError()), "TypeError");
  assert.equal(explainError(new AggregateError([new Error("one"), new Error("two")])), "one (and 1 more)");
  assert.equal(explainError(new SuppressedError(new Error("on close"), new Error("first"))), "first");
  const full = Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" });
  assert.match(explainError(full), /^Cannot write: the disk is full/);
});

Deno.test("memoryOutput() keeps results and the rest apart", () => {
  const output = memoryOutput();
  output.out("result");
  output.err("work");
  output.write("te");
  output.write("xt");
  assert.equal(output.outText, "result\ntext");
  assert.equal(output.errText, "work\n");
});
