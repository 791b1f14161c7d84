/** The study of adapters in a batch at a small size: every way is timed, the rule of the paper, and the program as it is run. */
import assert from "node:assert/strict";
import { loopsBackend } from "../../backends/cpu/mod.ts";
import { crossing, measureAdapters, ruleRatio, WAYS } from "./adapter_speed.ts";

Deno.test("measureAdapters() times every way, and leaves nothing behind", async () => {
  using backend = loopsBackend();
  const plan = { width: 8, examples: 4, tokens: 2, ranks: [1, 2], adapters: [1, 4], seconds: 0, repeats: 1 };
  const { cells, costs } = await measureAdapters(backend, plan);
  assert.equal(cells.length, 2 * 2 * WAYS.length);
  assert.ok(cells.every(({ ms }) => ms > 0 && Number.isFinite(ms)));
  assert.ok(costs.length === 2 && costs.every(({ batched, whole }) => batched > 0 && whole > 0));
  assert.equal(backend.memory().live, 0);
});

Deno.test("ruleRatio() is 1 where the paper's inequality is an equality, and crossing() finds the rank between", () => {
  const width = 64;
  for (const rank of [1, 2, 8]) {
    const batched = 0.5 * width * (1 - 1 / rank);
    assert.ok(Math.abs(ruleRatio({ rank, batched, whole: 1 }, width) - 1) < 1e-12);
  }
  const ratios = (...values: number[]) => values.map((ratio, i) => ({ rank: i + 1, ratio }));
  assert.equal(crossing(ratios(0.5, 0.75, 1.25, 2)), 2.5);
  assert.equal(crossing(ratios(1.25, 2)), 0.8);
  assert.equal(crossing(ratios(0.5, 0.9)), Infinity);
});

Deno.test("bench adapters writes tables and plots", async () => {
  const out = await Deno.makeTempDir({ prefix: "lowrank-" });
  const file = new URL("adapters.ts", import.meta.url).pathname;
  const args = [
    "run",
    "-A",
    "--no-lock",
    file,
    "--small",
    "--device",
    "cpu",
    "--width",
    "32",
    "--threads",
    "1",
    "--out",
    out,
  ];
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  assert.match(new TextDecoder().decode(stdout), /grouped LoRA +2 .*\n.*FLoRA is overtaken at r = /s);
  for (const [plot, line] of [["adapters", "grouped r 2"], ["ranks", "grouped LoRA"]]) {
    assert.match(await Deno.readTextFile(`${out}/${plot}-cpu-32.svg`), new RegExp(`^<svg[^]*${line}[^]*</svg>\n$`));
  }
  const [{ cells }] = JSON.parse(await Deno.readTextFile(`${out}/adapters.json`));
  assert.equal(cells.length, 20);
  await Deno.remove(out, { recursive: true });
});
