/** Pictures and confusion matrices in reports: every text escaped, a matrix while it can be read, then a list of mistakes. */
import assert from "node:assert/strict";
import { imagesHtml } from "./report_images.ts";

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
