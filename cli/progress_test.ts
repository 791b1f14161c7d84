import assert from "node:assert/strict";
import { memoryOutput } from "./log.ts";
import { showProgress } from "./progress.ts";

/** What a terminal shows after some text with carriage returns and line clears. */
function screenOf(text: string): string[] {
  const lines = [""];
  let column = 0;
  // deno-lint-ignore no-control-regex
  for (const [piece] of text.matchAll(/\x1b\[(?:\?25[hl]|2?K)|[^]/gu)) {
    const line = lines.length - 1;
    if (piece === "\r") column = 0;
    else if (piece === "\n") [column] = [0, lines.push("")];
    else if (piece === "\x1b[K") lines[line] = lines[line].slice(0, column);
    else if (piece === "\x1b[2K") lines[line] = "";
    else if (!piece.startsWith("\x1b")) {
      lines[line] = lines[line].padEnd(column).slice(0, column) + piece + lines[line].slice(column + 1);
      column++;
    }
  }
  return lines;
}

Deno.test("showProgress() keeps the bar below log lines on a terminal, and takes it away at the end", () => {
  const output = memoryOutput(100);
  let now = 0;
  {
    using progress = showProgress(output, { label: "train", total: 200, clock: () => now });
    output.err("first line");
    now = 5000;
    progress.update(50, { tokensPerSecond: 8312.3, note: "loss 2.35" });
    output.err("second line that is longer than the first");
    const shown = screenOf(output.errText);
    assert.deepEqual(shown.slice(0, 2), ["first line", "second line that is longer than the first"]);
    assert.match(shown[2], /^train [━╌]+ +\d+% \| /u);
    assert.equal(shown.length, 3);
  }
  output.err("after");
  assert.deepEqual(screenOf(output.errText), [
    "first line",
    "second line that is longer than the first",
    "after",
    "",
  ]);
});

Deno.test("showProgress() shows count, note, speed and time left, and fits the line", async () => {
  const output = memoryOutput(80);
  let now = 0;
  using progress = showProgress(output, { label: "train", total: 200, start: 100, clock: () => now });
  await new Promise((done) => setTimeout(done, 250));
  now = 10_000;
  progress.update(150, { tokensPerSecond: 8312.3, note: "loss 2.35" });
  const [line] = screenOf(output.errText);
  assert.match(line, /^train ━+╌+ 75% \| 150\/200 \| loss 2.35 \| 8,312 tok\/s \| 10.0 s left$/u);
  assert.ok(line.length < 80);
});

Deno.test("showProgress() writes plain lines by time and by percent when there is no terminal", () => {
  const output = memoryOutput();
  let now = 0;
  using progress = showProgress(output, { label: "train", total: 1000, everyPercent: 25, clock: () => now });
  for (let step = 1; step <= 1000; step++) {
    now += step <= 20 ? 1000 : 1;
    progress.update(step, { tokensPerSecond: 99.6 });
  }
  assert.deepEqual(output.errText.split("\n").map((line) => line.slice(0, 28)), [
    "train   1% | 10/1,000 | 100 ",
    "train   2% | 20/1,000 | 100 ",
    "train  27% | 270/1,000 | 100",
    "train  52% | 520/1,000 | 100",
    "train  77% | 770/1,000 | 100",
    "train 100% | 1,000/1,000 | 1",
    "",
  ]);
  assert.ok(!output.errText.includes("\x1b") && !output.errText.includes("\r"));
});

Deno.test("showProgress() tells the speed in its unit", () => {
  const output = memoryOutput();
  using progress = showProgress(output, { label: "train", total: 2 });
  progress.update(1, { tokensPerSecond: 99_000, speedUnit: { tokens: 50, short: "img/s", long: "" } });
  assert.match(output.errText, / 1\/2 \| 1,980 img\/s \| /);
});

Deno.test("showProgress() says nothing when plain lines are off", () => {
  const output = memoryOutput();
  using progress = showProgress(output, { label: "train", total: 2, plain: false });
  progress.update(2);
  assert.equal(output.errText, "");
});
