import assert from "node:assert/strict";
import { reportHtml, smooth } from "./report.ts";
import { axis } from "./report_axis.ts";
import { compact, escapeText, plotSvg, type Point, thin } from "./report_plot.ts";

const steps = Array.from({ length: 100 }, (_, i) => ({
  ...{ step: i + 1, loss: 5 - i / 50, lr: 0.01, gradNorm: 1, tokens: 2048 * (i + 1) },
  ...{ tokensPerSecond: 8000, stepMs: 250, memoryBytes: 4e8 },
}));
const rows = [...steps, { step: 100, validationLoss: 3.2 }];

Deno.test("reportHtml() holds headline, plots, tables, samples and configuration", () => {
  const html = reportHtml({
    title: "my run",
    rows,
    config: { rank: 64 },
    verdicts: [{ ok: true, text: "Better than bigrams." }],
    baselines: [{ name: "bigram", loss: 3.5 }],
    tables: [{ title: "Parameters", head: ["Name", "Bytes"], rows: [["wte", "1"]], align: "lr" }],
    samples: [{ prompt: "Once", text: " upon a time" }],
  });
  assert.equal(html.match(/<svg /g)?.length, 6); // loss twice, linear and log, and four small ones
  for (const text of ["3.2000", "204,800", "25.0 s", "400 MB", "bigram 3.50", "Better than bigrams.", "wte"]) {
    assert.ok(html.includes(text), text);
  }
  assert.match(html, /<span class="prompt">Once<\/span> upon a time/);
  assert.match(html, /&#34;rank&#34;: 64/);
});

Deno.test("reportHtml() plots each measure of evaluations, and names what the loss is in", () => {
  const scored = [1, 2].map((step) => ({ step, validationLoss: 1 / step, scores: { accuracy: step / 4, f1: 0.5 } }));
  const html = reportHtml({ title: "my run", rows: [...steps, ...scored], lossUnit: "loss" });
  assert.equal(html.match(/<svg /g)?.length, 8);
  for (const name of ["accuracy", "f1"]) assert.ok(html.includes(`<h3>${name}</h3>`), name);
  assert.doesNotMatch(html, /nats a token/);
});

Deno.test("reportHtml() plots the speed in its unit", () => {
  const html = reportHtml({ title: "x", rows, speedUnit: { tokens: 50, short: "img/s", long: "Images a second" } });
  assert.match(html, /<h3>Images a second<\/h3>/);
  assert.match(html, /value: 160 at 1, 160 at 100/);
  assert.doesNotMatch(html, /<h3>Tokens a second/);
});

Deno.test("reportHtml() asks nothing of the network and runs no script but its own", () => {
  const html = reportHtml({ title: "x", rows });
  assert.match(html, /default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]{44}'/);
  assert.equal(html.match(/<script/g)?.length, 1);
  assert.doesNotMatch(html.replaceAll("http://www.w3.org/2000/svg", ""), /https?:|url\(|@import|<link|src=/);
});

Deno.test("reportHtml() escapes every text", () => {
  const evil = `</pre><script>alert("1")</script>'"&\0`;
  const html = reportHtml({
    ...{ title: evil, subtitle: evil, rows, config: { [evil]: evil }, footer: evil, facts: [[evil, evil]] },
    verdicts: [{ text: evil }],
    baselines: [{ name: evil, loss: 3 }],
    tables: [{ title: evil, note: evil, head: [evil], rows: [[evil]] }],
    samples: [{ title: evil, prompt: evil, text: evil }],
    markers: [{ x: 3, label: evil }],
  });
  assert.equal(html.match(/<script/g)?.length, 1);
  assert.equal(html.match(/alert\("/g), null);
  assert.ok(!html.includes("\0"));
});

Deno.test("reportHtml() shows what there is when rows are missing or not finite", () => {
  assert.doesNotMatch(reportHtml({ title: "x", rows: [] }), /<svg|NaN|undefined/);
  assert.doesNotMatch(reportHtml({ title: "x", rows: [{ step: 1, validationLoss: 3 }] }), /NaN|undefined/);
  const diverged = steps.map((row) => row.step > 50 ? { ...row, loss: NaN, gradNorm: Infinity } : row);
  assert.doesNotMatch(reportHtml({ title: "x", rows: diverged }), /[dx12y]="[^"]*(NaN|Infinity)/);
});

Deno.test("plotSvg() writes a file of its own when standalone", () => {
  const svg = plotSvg({
    series: [{ name: "a<b", points: [[1, 2], [2, 4]] }, { name: "c", points: [[1, 1], [2, NaN], [3, 3]] }],
    ...{ xLabel: "size", yLabel: "GFLOP/s", standalone: true },
  });
  assert.match(svg, /^<svg [^>]*width="720" height="320"/);
  assert.match(svg, /prefers-color-scheme:dark/);
  assert.match(svg, /a&#60;b/);
  assert.doesNotMatch(svg, /data-plot|NaN/);
});

Deno.test("plotSvg() draws gaps, no values, and one value", () => {
  const of = (points: readonly Point[]) => plotSvg({ series: [{ name: "", points }], xLabel: "x", yLabel: "y" });
  assert.equal(of([[1, 1], [2, NaN], [3, 3], [4, 4]]).match(/ d="([^"]*)"/)?.[1].match(/M/g)?.length, 2);
  assert.match(of([]), /no values/);
  assert.match(of([[5, 5]]), /<circle/);
});

Deno.test("thin() keeps ends, spikes and gaps of a long series", () => {
  const points = Array.from({ length: 10_000 }, (_, i): Point => [i, i === 5000 ? 99 : i === 7000 ? NaN : 1]);
  const kept = thin(points, 100);
  assert.ok(kept.length <= 210);
  assert.deepEqual([kept[0][0], kept.at(-1)![0]], [0, 9999]);
  assert.ok(kept.some(([, y]) => y === 99));
  assert.ok(kept.some(([, y]) => Number.isNaN(y)));
  assert.deepEqual(kept.map(([x]) => x), kept.map(([x]) => x).sort((a, b) => a - b));
});

Deno.test("axis() covers its values with round ticks", () => {
  const linear = axis([0, 8300], { pad: 0, ticks: 4 });
  assert.deepEqual(linear.ticks, [0, 2000, 4000, 6000, 8000]);
  assert.deepEqual([linear.place(0), linear.place(8300)], [0, 1]);
  assert.deepEqual(axis([0.001, 1000], { scale: "log", pad: 0, ticks: 7 }).ticks, [0.001, 0.01, 0.1, 1, 10, 100, 1000]);
  assert.deepEqual(axis([1.5, 6], { scale: "log", pad: 0, ticks: 5 }).ticks, [2, 3, 4, 5, 6]);
  assert.ok(Number.isNaN(axis([1, 10], { scale: "log", pad: 0, ticks: 5 }).place(0)));
  assert.deepEqual(axis([0.1, 0.3], { pad: 0, ticks: 4 }).ticks, [0.1, 0.15, 0.2, 0.25, 0.3]);
});

Deno.test("smooth() follows a line exactly and passes over what is not finite", () => {
  const line = Array.from({ length: 200 }, (_, i): Point => [i, 3 - i / 100]);
  smooth(line).forEach(([, y], i) => assert.ok(Math.abs(y - line[i][1]) < 1e-9));
  const gaps = line.map(([x, y]): Point => [x, x % 7 === 0 ? NaN : y]);
  smooth(gaps).forEach(([, y], i) => assert.ok(Math.abs(y - line[i][1]) < 1e-9));
  assert.deepEqual(smooth([]), []);
  assert.ok(Number.isNaN(smooth([[0, NaN]])[0][1]));
});

Deno.test("compact() and escapeText() write what people and parsers read", () => {
  assert.deepEqual([0, 0.1 + 0.2, 5000, 15_000, 2.5e6, 1e-5, -3].map(compact), [
    ...["0", "0.3", "5,000", "15k", "2.5M", "1e-5", "-3"],
  ]);
  assert.equal(escapeText(`<a href="x">'&\x07\ud800`), "&#60;a href=&#34;x&#34;&#62;&#39;&#38;\ufffd\ufffd");
});
