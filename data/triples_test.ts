/** `readTriples()`: headers or none, labels of any kind, files larger than a piece, and every kind of bad file. */
import assert from "node:assert/strict";
import { readTriples, type ReadTriplesOptions, type Triples } from "./triples.ts";

async function read(text: string, { name = "data.csv", ...options }: ReadTriplesOptions & { name?: string } = {}) {
  const folder = await Deno.makeTempDir({ prefix: "lowrank-triples-" });
  try {
    await Deno.writeTextFile(`${folder}/${name}`, text);
    return await readTriples(`${folder}/${name}`, options);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function entries({ rows, columns, row, column, value }: Triples): [string, string, number][] {
  return Array.from(value, (number, i) => [rows[row[i]], columns[column[i]], number]);
}

const EXPECTED = [["ann", "m1", 4], ["bob", "m1", -2.5], ["ann", "m, 2", 1e-3]];

const GIVEN: Readonly<Record<string, [text: string, options?: ReadTriplesOptions & { name?: string }]>> = {
  "no header": ['ann,m1,4\nbob,m1,-2.5\nann,"m, 2",1e-3\n'],
  "a header of its own": ['user,film,stars,when\nann,m1,4,9\nbob,m1,-2.5,9\nann,"m, 2",1e-3,9\n'],
  "the usual names in another order": ['value,row,column\n4,ann,m1\n-2.5,bob,m1\n1e-3,ann,"m, 2"'],
  "named fields": ['when,film,user,stars\n9,m1,ann,4\n9,m1,bob,-2.5\n9,"m, 2",ann,1e-3\n', {
    fields: ["user", "film", "stars"],
  }],
  "a byte order mark, carriage returns and blank lines": ['\ufeffann,m1,4\r\n\r\nbob, m1 ,-2.5\r\nann,"m, 2",.001\r\n'],
  "tabs": ["ann\tm1\t4\nbob\tm1\t-2.5\nann\tm, 2\t0.001\n", { name: "u.tsv" }],
};

for (const [what, [text, options]] of Object.entries(GIVEN)) {
  Deno.test(`readTriples() reads a file with ${what}`, async () => {
    const triples = await read(text, options);
    assert.deepEqual(entries(triples), EXPECTED);
    assert.deepEqual([triples.rows, triples.columns], [["ann", "bob"], ["m1", "m, 2"]]);
  });
}

Deno.test("readTriples() keeps labels that look like numbers apart as text", async () => {
  const triples = await read("1,01,5\n1.0,1,6\n");
  assert.deepEqual(entries(triples), [["1", "01", 5], ["1.0", "1", 6]]);
});

Deno.test("readTriples() reads entries that are asked for without a value", async () => {
  const triples = await read("row,column\nann,m1\nbob,m2\n", { withoutValues: true });
  assert.deepEqual(entries(triples), [["ann", "m1", 0], ["bob", "m2", 0]]);
  const fields = ["user", "film"];
  for (const text of ["ann,m1\n", "film,user\nm1,ann\n"]) {
    assert.deepEqual(entries(await read(text, { withoutValues: true, fields })), [["ann", "m1", 0]]);
  }
});

Deno.test("readTriples() reads a file of many pieces", async () => {
  const lines = Array.from({ length: 30_000 }, (_, i) => `r${i % 250},c${Math.floor(i / 250)},${i}\n`);
  const { rows, columns, value } = await read(lines.join(""));
  assert.deepEqual([rows.length, columns.length, value.length, value[29_999]], [250, 120, 30_000, 29_999]);
});

const BAD: readonly (readonly [when: string, text: string, message: RegExp, options?: ReadTriplesOptions])[] = [
  ["it is empty", "", /the file is empty$/],
  ["it has names alone", "row,column,value\n", /it has names and no entry$/],
  ["a value is a word", "a,b,1\na,c,much\n", /line 2: value must be a finite number: got "much"$/],
  ["a value is missing", "a,b,1\na,c,\n", /line 2: value must be a finite number: got ""$/],
  ["a value is not a number", "u,f,stars\na,c,NaN\n", /line 2: stars must be a finite number: got "NaN"$/],
  ["the first value is not a number", "a,c,NaN\n", /line 1: value must be a finite number: got "NaN"$/],
  ["a value is too large", "a,b,1\na,c,1e999\n", /line 2: .*finite number: got "1e999"$/],
  ["a pair has two values", "a,b,1\nc,b,2\na,b,3\n", /line 3: it is a second value for "a", "b", after line 1$/],
  ["a line is short", "a,b,1\na,c\n", /line 2: it must have a field for value: got 2 fields$/],
  ["the first line is short", "a,b\n", /line 1 must have 3 fields, row, column and value: got 2$/],
  ["a label is empty", "a,b,1\n,c,2\n", /line 2: row must not be empty$/],
  ["a quote is open", 'a,b,1\na,"c,2\n', /it is not sound CSV \(/],
  ["a field is not there", "a,b,c\n1,2,3\n", /must name "film" and "stars": got "a", "b", "c"$/, {
    fields: ["a", "film", "stars"],
  }],
];

for (const [when, text, message, options] of BAD) {
  Deno.test(`readTriples() fails in one line when ${when}`, async () => {
    await assert.rejects(read(text, options), (error: Error) => {
      assert.match(error.message, message);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
  });
}

Deno.test("readTriples() fails in one line when there is no such file, or it is no table", async () => {
  await assert.rejects(readTriples("nowhere.csv"), /^NotFound: Cannot read "nowhere\.csv": there is no such file$/);
  await assert.rejects(readTriples("data.xlsx"), /its name must end in \.csv, \.tsv or \.txt$/);
  const folder = await Deno.makeTempDir({ suffix: ".csv" });
  await assert.rejects(readTriples(folder), /expected a file, got a folder or a device$/);
  await Deno.remove(folder);
});
