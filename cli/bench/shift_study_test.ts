/** The records of the shift study: groups of a size that gaps may be told of, and nothing in two places. */
import assert from "node:assert/strict";
import { SMALLEST_GROUP } from "../../data/mod.ts";
import { GROUPS, shiftFiles } from "./shift_templates.ts";

Deno.test("shiftFiles() keeps probes, records that pick rates and records that are trained apart", () => {
  const { before, after, dev, probes } = shiftFiles();
  const prompts = [after, dev, probes].map((records) => new Set(records.map(({ prompt }) => prompt)));
  const all = new Set(prompts.flatMap((one) => [...one]));
  assert.equal(all.size, prompts.reduce((sum, { size }) => sum + size, 0));
  assert.deepEqual(new Set(before.map(({ prompt }) => prompt)), all);
  assert.equal(before.length, all.size);
});

Deno.test("shiftFiles() has probes enough of each group, whose unwanted word is the one that was trained before", () => {
  const { before, after, probes } = shiftFiles();
  for (const group of GROUPS) {
    assert.ok(probes.filter((probe) => probe.group === group).length >= SMALLEST_GROUP, group);
  }
  const old = new Map(before.map(({ prompt, completion }) => [prompt, completion]));
  for (const { prompt, completion, bad } of probes) {
    assert.equal(bad, old.get(prompt));
    assert.notEqual(bad, completion);
  }
  // the minority has a third of what is trained
  const minority = after.filter(({ prompt }) => prompt.includes(GROUPS[1])).length;
  assert.equal(3 * minority, after.length);
});
