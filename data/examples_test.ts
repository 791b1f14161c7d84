/**
 * Reading GLUE and other labelled sentences. The Parquet files of `testdata/glue` were written by pyarrow 25.0.1; the text files
 * are written here as GLUE distributes them: same header lines, same quirks.
 */

import assert from "node:assert/strict";
import { readClassNames, readExamples } from "./examples.ts";
import { GLUE_TASKS, type GlueName, glueTask, ownTask, type SentenceTask } from "./glue_tasks.ts";
import { withFolder } from "./testing/store_fixture.ts";

const TESTDATA = new URL("./testdata/glue", import.meta.url).pathname;

async function withFiles(files: Record<string, string>, body: (folder: string) => Promise<void>): Promise<void> {
  await withFolder(async (folder) => {
    for (const [name, text] of Object.entries(files)) {
      const inner = name.split("/").slice(0, -1).join("/");
      await Deno.mkdir(`${folder}/${inner}`, { recursive: true });
      await Deno.writeTextFile(`${folder}/${name}`, text);
    }
    await body(folder);
  });
}

const lines = (...rows: (string | number)[][]): string => rows.map((row) => row.join("\t")).join("\n") + "\n";

/** Each task's training file as distributed, and the sentences and labels that it holds. */
const DISTRIBUTED: Record<GlueName, { file: string; text: string; want: [string[], number][] }> = {
  cola: {
    file: "CoLA/train.tsv",
    text: lines(["gj04", 1, "", "It's fine."], ["gj04", 0, "*", 'The "more.']),
    want: [[["It's fine."], 1], [['The "more.'], 0]],
  },
  sst2: {
    file: "SST-2/train.tsv",
    text: lines(["sentence", "label"], ["hide new secretions ", 0], ["a fine film", 1]),
    want: [[["hide new secretions "], 0], [["a fine film"], 1]],
  },
  mrpc: {
    file: "MRPC/train.tsv",
    text: "\ufeff" +
      lines(["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], [1, 7, 8, '"He said', "He" + ' said"'], [
        0,
        1,
        2,
        "a",
        "b",
      ])
        .replaceAll("\n", "\r\n"),
    want: [[['"He said', 'He said"'], 1], [["a", "b"], 0]],
  },
  stsb: {
    file: "STS-B/train.tsv",
    text: lines(
      ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
      [0, "main", "MSRvid", "2012test", "0001", "none", "none", "A plane.", "An air plane.", "5.000"],
      [1, "main", "MSRvid", "2012test", "0004", "none", "none", "A man.", "A flute.", "0.25"],
    ),
    want: [[["A plane.", "An air plane."], 5], [["A man.", "A flute."], 0.25]],
  },
  qqp: {
    file: "QQP/train.tsv",
    text: lines(
      ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
      [1, 2, 3, 'Why is " a quote?', "Why?", 0],
      [2, 3, 4, "A broken"],
      [" line?", "Yes?", 1],
      [3, 5, 6, "How?", "How so?", 1],
    ),
    want: [[['Why is " a quote?', "Why?"], 0], [["How?", "How so?"], 1]],
  },
  mnli: {
    file: "MNLI/train.tsv",
    text: lines(
      "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label"
        .split(" "),
      [0, 1, "1n", "fiction", "( a )", "( b )", "(R a)", "(R b)", 'He said "', "He spoke", "neutral", "neutral"],
      [1, 2, "2e", "fiction", "( a )", "( b )", "(R a)", "(R b)", "n/a", "c", "neutral", "entailment"],
      [2, 3, "3c", "fiction", "( a )", "( b )", "(R a)", "(R b)", "d", "e", "neutral", "contradiction"],
    ),
    want: [[['He said "', "He spoke"], 1], [["n/a", "c"], 0], [["d", "e"], 2]],
  },
  qnli: {
    file: "QNLI/train.tsv",
    text: lines(
      ["index", "question", "sentence", "label"],
      [0, "When?", "In 1999.", "entailment"],
      [1, "Who?", "Then.", "not_entailment"],
    ),
    want: [[["When?", "In 1999."], 0], [["Who?", "Then."], 1]],
  },
  rte: {
    file: "RTE/train.tsv",
    text: lines(["index", "sentence1", "sentence2", "label"], [0, "a", "b", "not_entailment"], [
      1,
      "c",
      "d",
      "entailment",
    ]),
    want: [[["a", "b"], 1], [["c", "d"], 0]],
  },
  wnli: {
    file: "WNLI/train.tsv",
    text: lines(["index", "sentence1", "sentence2", "label"], [0, "a", "b", 1], [1, "c", "d", 0]),
    want: [[["a", "b"], 1], [["c", "d"], 0]],
  },
};

for (const [name, { file, text, want }] of Object.entries(DISTRIBUTED)) {
  Deno.test(`readExamples() reads ${file} as GLUE distributes it`, async () => {
    await withFiles({ [file]: text }, async (folder) => {
      const skipped: number[] = [];
      const onSkip = (_file: string, line: number) => skipped.push(line);
      const examples = await readExamples(folder, glueTask(name), { onSkip });
      assert.deepEqual(examples.map(({ sentences, label }) => [sentences, label]), want);
      assert.deepEqual(skipped, name === "qqp" ? [3, 4] : []);
    });
  });

  Deno.test(`readExamples() reads ${name} as JSONL with the Hub's columns and numbers`, async () => {
    const { columns } = GLUE_TASKS[name as GlueName];
    const records = want.map(([sentences, label], idx) => {
      const pair = columns.sentence2 ? { [columns.sentence2[0]]: sentences[1] } : {};
      return JSON.stringify({ [columns.sentence[0]]: sentences[0], ...pair, label, idx });
    });
    await withFiles({ "train.jsonl": records.join("\n\n") }, async (folder) => {
      const examples = await readExamples(folder, glueTask(name));
      assert.deepEqual(examples.map(({ sentences, label }) => [sentences, label]), want);
      assert.deepEqual(examples.map(({ row }) => row), want.map((_, i) => 2 * i + 1));
    });
  });
}

Deno.test("readExamples() reads the Hub's Parquet, plain and compressed", async () => {
  const sst2 = await readExamples(`${TESTDATA}/sst2-snappy.parquet`, glueTask("sst2"));
  const texts = ["a fine film", 'dull , "flat"', "été 日本 👍", "no\ttab\nno line"];
  assert.deepEqual(sst2, texts.map((text, i) => ({ sentences: [text], label: [1, 0, 1, 0][i], row: i + 1 })));
  for (const codec of ["zstd", "gzip", "brotli"]) {
    const mnli = await readExamples(`${TESTDATA}/mnli-${codec}.parquet`, glueTask("mnli"));
    assert.equal(mnli.length, 60);
    assert.deepEqual(mnli[58], { sentences: ["he sings", "he is mute"], label: 2, row: 59 });
  }
  const stsb = await readExamples(`${TESTDATA}/stsb.parquet`, glueTask("stsb"));
  assert.deepEqual(stsb.map(({ label }) => label), [0, Math.fround(4.4)]);
});

Deno.test("readExamples() finds shards in order, and both of MNLI's dev sets", async () => {
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/mnli`);
    for (const name of ["train-00001-of-00002", "train-00000-of-00002", "validation_matched-00000-of-00001"]) {
      await Deno.copyFile(`${TESTDATA}/mnli-zstd.parquet`, `${folder}/mnli/${name}.parquet`);
    }
    await Deno.writeTextFile(
      `${folder}/mnli/dev_mismatched.tsv`,
      lines(["sentence1", "sentence2", "gold_label"], ["a", "b", "neutral"]),
    );
    const task = glueTask("MNLI");
    assert.equal((await readExamples(folder, task)).length, 120);
    const [matched, mismatched] = task.devSplits;
    assert.equal((await readExamples(folder, task, { split: matched })).length, 60);
    const own = await readExamples(folder, task, { split: mismatched });
    assert.deepEqual(own, [{ sentences: ["a", "b"], label: 1, row: 2 }]);
  });
});

Deno.test("readExamples() reads files without a header when a label stands where it must", async () => {
  const files = { "train.tsv": "a stirring film\t1\nlabel\t0\n", "dev.tsv": "dull\t0" };
  await withFiles(files, async (folder) => {
    const train = await readExamples(folder, glueTask("sst2"));
    assert.deepEqual(train, [{ sentences: ["a stirring film"], label: 1, row: 1 }, {
      sentences: ["label"],
      label: 0,
      row: 2,
    }]);
    const dev = await readExamples(folder, glueTask("sst2"), { split: "validation" });
    assert.deepEqual(dev, [{ sentences: ["dull"], label: 0, row: 1 }]);
  });
  await withFiles({ "train.tsv": "a\tb\t4.5\nc\td\t0" }, async (folder) => {
    const train = await readExamples(folder, glueTask("stsb"));
    assert.deepEqual(train[0], { sentences: ["a", "b"], label: 4.5, row: 1 });
  });
});

const OWN = ownTask({ columns: { sentence: "review", label: "stars" }, labels: ["1", "2", "3"] });

Deno.test("readExamples() reads one's own columns from TSV, CSV and JSONL alike", async () => {
  const files = {
    "a.tsv": 'id\treview\tstars\n7\tsays "no\t1\n8\tfair\t2\n9\tgood\t3\n',
    "a.csv": '\ufeffid,review,stars\r\n7,"says ""no",1\r\n8,fair,2\r\n9,good,3\r\n',
    "a.jsonl":
      '{"id":7,"review":"says \\"no","stars":1}\n{"stars":"2","review":"fair"}\n{"id":9,"review":"good","stars":3}\n',
  };
  await withFiles(files, async (folder) => {
    for (const name of Object.keys(files)) {
      const examples = await readExamples(`${folder}/${name}`, OWN);
      const got = examples.map(({ sentences, label }) => [sentences[0], label]);
      assert.deepEqual(got, [['says "no', 0], ["fair", 1], ["good", 2]], name);
    }
  });
});

Deno.test("readExamples() tells the line of CSV whose fields hold line ends", async () => {
  const text = 'review,stars\n"two\nlines, one\nfield",1\nfair,2\ngood,4\n';
  await withFiles({ "a.csv": text }, async (folder) => {
    await assert.rejects(readExamples(`${folder}/a.csv`, OWN), /line 6: the label must be one of .*got "4"/);
  });
});

Deno.test("classes with blanks around their names are read as those without", async () => {
  const columns = { sentence: "text", label: "kind" };
  const text = lines(["text", "kind"], ["fine", "good "], ["warm", " good"], ["dull", "bad"]);
  await withFiles({ "a.tsv": text }, async (folder) => {
    const names = await readClassNames(`${folder}/a.tsv`, ownTask({ columns, labels: "score" }).columns);
    assert.deepEqual(names, ["bad", "good"]);
    for (const labels of [names, ["bad", "good "]]) {
      const examples = await readExamples(`${folder}/a.tsv`, ownTask({ columns, labels }));
      assert.deepEqual(examples.map(({ label }) => label), [1, 1, 0]);
    }
  });
});

Deno.test("readClassNames() sorts names, and numbers by size", async () => {
  const columns = OWN.columns;
  await withFiles(
    { "a.tsv": "review\tstars\na\t10\nb\t9\nc\t-1\nd\t9\n", "b.tsv": "review\tstars\na\tspam\nb\tham\n" },
    async (folder) => {
      assert.deepEqual(await readClassNames(`${folder}/a.tsv`, columns), ["-1", "9", "10"]);
      assert.deepEqual(await readClassNames(`${folder}/b.tsv`, columns), ["ham", "spam"]);
    },
  );
});

Deno.test("glueTask() knows a task by any spelling, and lists all when there is none", () => {
  assert.equal(glueTask("STS-B"), GLUE_TASKS.stsb);
  assert.equal(glueTask("sst_2"), GLUE_TASKS.sst2);
  assert.throws(() => glueTask("toString"), /expected one of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli/);
});

Deno.test("GLUE_TASKS measure what their selectBy names", () => {
  for (const { metrics, selectBy, labels } of Object.values(GLUE_TASKS)) {
    assert.ok(metrics.includes(selectBy));
    // F1 and Matthews' correlation count two classes only
    if (metrics.includes("f1") || metrics.includes("matthews")) assert.equal(labels.length, 2);
  }
});

Deno.test("ownTask() refuses classes that cannot be told apart", () => {
  const columns = OWN.columns as unknown as { sentence: string; label: string };
  assert.throws(() => ownTask({ columns, labels: ["a"] }), /at least two classes.*got \[a\]/);
  assert.throws(() => ownTask({ columns, labels: ["a", "a"] }), /each of its own name/);
});

const SST2 = glueTask("sst2");
for (
  const [condition, task, name, text, error] of [
    [
      "a label is outside the task's set",
      SST2,
      "x.tsv",
      "sentence\tlabel\na\t1\nb\t2\n",
      /^RangeError: Cannot read ".*x.tsv": line 3: the label must be one of 0 \(negative\), 1 \(positive\): got "2"$/,
    ],
    ["a label is a half", SST2, "x.jsonl", '{"sentence":"a","label":0.5}', /line 1: .*got 0.5$/],
    ["a label is empty", SST2, "x.tsv", "sentence\tlabel\na\t\n", /line 2: .*got ""$/],
    [
      "labels are not given",
      SST2,
      "x.jsonl",
      '{"sentence":"a","label":-1}',
      /got -1; -1 marks a split whose labels are not given$/,
    ],
    [
      "a score is out of range",
      glueTask("stsb"),
      "x.tsv",
      "a\tb\t0\nc\td\t5.1\n",
      /line 2: the label must be a score from 0 to 5: got "5.1"$/,
    ],
    [
      "an own score is not a number",
      ownTask({ columns: { sentence: "s", label: "y" }, labels: "score" }),
      "x.tsv",
      "s\ty\na\tNaN\n",
      /a finite score: got "NaN"$/,
    ],
    [
      "a number stands for a class named by another",
      OWN,
      "x.tsv",
      "review\tstars\na\t0\n",
      /one of 0 \(1\), 1 \(2\), 2 \(3\): got "0"$/,
    ],
    [
      "a column is missing",
      SST2,
      "x.tsv",
      "id\tsentence\tclass\n1\ta\t1\n",
      /^SyntaxError: .*for sst2: it needs a column "label": its columns are "id", "sentence", "class"$/,
    ],
    [
      "the sentence's column is missing",
      SST2,
      "x.jsonl",
      '{"review":"a","label":1}',
      /it needs a column "sentence" or "text": its columns are "review", "label"$/,
    ],
    [
      "a pair task is given single sentences",
      glueTask("mrpc"),
      "x.tsv",
      "sentence\tlabel\na\t1\n",
      /^SyntaxError: .*for mrpc: it takes pairs, sentence1 and sentence2: got single sentences, "sentence"$/,
    ],
    [
      "QNLI is given single sentences",
      glueTask("qnli"),
      "x.tsv",
      "sentence\tlabel\na\t1\n",
      /it takes pairs, question and sentence2?: got single sentences/,
    ],
    ["a pair task is given lines without a header", glueTask("rte"), "x.tsv", "a\t1\nb\t0\n", /it takes pairs/],
    [
      "a class is empty",
      SST2,
      "x.tsv",
      "a\t1\nb\t1\n",
      /^RangeError: Cannot train on ".*" for sst2: every class needs an example: "negative" has none among 2 examples$/,
    ],
    ["a file is empty", SST2, "x.tsv", "", /^SyntaxError: .*the file is empty$/],
    ["a file is blank", SST2, "x.jsonl", "\n \n", /the file is empty$/],
    ["a file has a header only", SST2, "x.tsv", "sentence\tlabel\n", /the file holds no examples$/],
    [
      "a line has a field too many",
      SST2,
      "x.tsv",
      "sentence\tlabel\na\tb\t1\n",
      /line 2 must have 2 fields, as the first line has: got 3$/,
    ],
    [
      "a record lacks its label",
      SST2,
      "x.jsonl",
      '{"sentence":"a","label":1}\n{"sentence":"b"}',
      /line 2 has no "label"$/,
    ],
    ["a sentence is a number", SST2, "x.jsonl", '{"sentence":5,"label":1}', /line 1: "sentence" must be text, got 5$/],
    ["a line is not JSON", SST2, "x.jsonl", '{"sentence":"a","label":1}\n{', /line 2 is not JSON/],
    ["CSV ends inside quotes", SST2, "x.csv", 'sentence,label\n"a,1\n', /it is not sound CSV/],
    ["Parquet is none", SST2, "x.parquet", "PAR1 but not really", /^SyntaxError: .*it is not sound Parquet/],
    ["the kind is unknown", SST2, "x.xlsx", "a", /^TypeError: .*must end in .tsv, .csv, .jsonl, .parquet or .txt$/],
  ] as [string, SentenceTask, string, string, RegExp][]
) {
  Deno.test(`readExamples() throws when ${condition}`, async () => {
    await withFiles({ [name]: text }, async (folder) => {
      await assert.rejects(readExamples(`${folder}/${name}`, task), (thrown: Error) => {
        assert.match(String(thrown), error);
        assert.equal(thrown.message.includes("\n"), false);
        return true;
      });
    });
  });
}

Deno.test("readExamples() throws when there is no such split, with what there is", async () => {
  await withFiles({ "train.tsv": "a\t1\n", "notes.md": "x" }, async (folder) => {
    const error =
      /^NotFound: Cannot find the split "validation" of sst2 in .*expected validation or dev or .*holds notes.md, train.tsv$/;
    await assert.rejects(readExamples(folder, SST2, { split: "validation" }), error);
    await assert.rejects(readExamples(`${folder}/none`, SST2), /^NotFound: .*there is no such file or folder$/);
  });
});
