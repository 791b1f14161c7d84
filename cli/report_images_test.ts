/** Pictures and confusion matrices in reports: every text escaped, a matrix while it can be read, then a list of mistakes. */
import assert from "node:assert/strict";
import { openImageStore } from "../data/mod.ts";
import { imagesHtml } from "./report_images.ts";
import { STRIPES, writeTinyImages } from "./testing/tiny_images.ts";
import { Workspace } from "./testing/workspace.ts";
import { measureImages } from "./vision_evaluation.ts";
import { illustrate } from "./vision_report.ts";

const HOSTILE = `<script>alert("x")</script>`;

Deno.test("imagesHtml() escapes names and captions", () => {
  const picture = { address: "data:image/png;base64,AA==", caption: HOSTILE, detail: HOSTILE, isRight: true };
  const html = imagesHtml(
    { note: HOSTILE, groups: [{ title: HOSTILE, pictures: [picture] }] },
    { classes: [HOSTILE, "b"], counts: [[1, 0], [1, 2]] },
  );
  assert.doesNotMatch(html, /<script/);
  assert.match(html, /<figure class="right"><img src="data:image\/png;base64,AA=="/);
  assert.match(html, /<title>b taken for &#60;script.*?: 1 of 3<\/title>/);
});

Deno.test("imagesHtml() lists the mistakes that are made most when there are too many classes for a matrix", () => {
  const classes = Array.from({ length: 41 }, (_, i) => `c${i}`);
  const counts = classes.map((_, i) => classes.map((_, j) => i === j ? 9 : i === 3 && j === 5 ? 7 : j === 0 ? 1 : 0));
  const html = imagesHtml(undefined, { classes, counts });
  assert.doesNotMatch(html, /<svg/);
  assert.match(html, /<tr><td>c3<\/td><td>c5<\/td><td class="r">7<\/td><\/tr><tr><td>c1<\/td><td>c0<\/td>/);
  assert.equal(html.match(/<tr><td>/g)!.length, 20);
});

Deno.test("imagesHtml() is empty when there is nothing to show", () => {
  assert.equal(imagesHtml(), "");
});

Deno.test("illustrate() shows no image twice when a model knows few", async () => {
  await using _ = await Workspace.open();
  await writeTinyImages("stripes.zarr", { count: 30 });
  const judged = [0, 1, 2, 4].map((row) => ({
    row,
    label: 0,
    prediction: row === 4 ? 1 : 0,
    confidence: row / 9,
    loss: 1,
  }));
  const { pictures } = await illustrate(await openImageStore("stripes.zarr"), judged, measureImages(judged, STRIPES));
  const [wrong, right] = pictures!.groups.map(({ pictures }) => pictures.map(({ detail }) => detail));
  assert.deepEqual([wrong, right], [["44%, is 0"], ["0%", "11%", "22%"]]);
});
