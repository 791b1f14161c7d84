/**
 * The page around a report: its style, light and dark, and the script that tells values under the pointer. The page's
 * policy admits nothing from outside and no script but this one, which it names by hash.
 */
import { createHash } from "node:crypto";
import { escapeText, PLOT_CSS } from "./report_plot.ts";

const CSS = `
:root{color-scheme:light dark;--paper:#fdfcfa;--ink:#23211e;--soft:#5d5a54;--rule:#e4e0d8;--wash:#f5f2ec;
--accent:#1d5fb8;--good:#16795a;--bad:#b3341f;
--sans:ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;
--serif:ui-serif,"Iowan Old Style",Charter,"Source Serif 4",Georgia,"DejaVu Serif",serif;
--mono:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){:root{--paper:#141517;--ink:#e8e5df;--soft:#a29f98;--rule:#2b2e33;--wash:#1b1d20;
--accent:#79aeff;--good:#5fcda3;--bad:#ff8f7a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--sans);-webkit-text-size-adjust:100%}
main{max-width:1064px;margin:0 auto;padding:56px 32px 40px}
h1,h2{font-family:var(--serif);font-weight:600;line-height:1.2;text-wrap:balance}
h1{font-size:34px;letter-spacing:-.01em;margin:0;overflow-wrap:anywhere}
h2{font-size:22px;margin:0 0 10px}h3{font-size:14px;font-weight:600;margin:0 0 4px}
section{margin-top:52px}
.kind{margin:0 0 6px;color:var(--soft);font-size:13px;letter-spacing:.08em;text-transform:uppercase}
.subtitle{margin:8px 0 0;color:var(--soft);max-width:70ch}
.facts{display:flex;flex-wrap:wrap;gap:20px 44px;margin:30px 0 0;padding:20px 0 18px;
border-top:1px solid var(--rule);border-bottom:1px solid var(--rule)}
.facts dt{color:var(--soft);font-size:13px}
.facts dd{margin:2px 0 0;font-size:22px;font-variant-numeric:tabular-nums;letter-spacing:-.01em;white-space:nowrap}
.verdicts{list-style:none;margin:26px 0 0;padding:0;max-width:80ch}
.verdicts li{display:flex;gap:10px;padding:4px 0}
.verdicts b{flex:0 0 16px;font-weight:700;color:var(--soft);text-align:center}
.verdicts .good b{color:var(--good)}.verdicts .bad b{color:var(--bad)}
.note{margin:-4px 0 12px;color:var(--soft);font-size:14px}
figure{margin:0;position:relative}
.plot{display:block;width:100%;height:auto;overflow:visible}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:36px 40px}
.switch{position:relative}.switch h2{display:inline-block;margin-right:22px}
.switch input{position:absolute;opacity:0}
.switch label{font-size:13px;color:var(--soft);padding:3px 10px;border-radius:99px;cursor:pointer}
.switch input:checked+label{background:var(--wash);color:var(--ink);box-shadow:inset 0 0 0 1px var(--rule)}
.switch input:focus-visible+label{outline:2px solid var(--accent);outline-offset:1px}
.switch figure{margin-top:6px}
.switch:has(#linear:checked) .log,.switch:has(#log:checked) .linear{display:none}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:7px 20px 7px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{color:var(--soft);font-weight:500;white-space:nowrap;border-bottom-color:var(--soft)}
.r{text-align:right}th:last-child,td:last-child{padding-right:0}
.own td{font-weight:600;color:var(--accent)}
article{margin-top:16px}
pre{margin:0;padding:16px 18px;background:var(--wash);border-radius:6px;font:13px/1.6 var(--mono);
white-space:pre-wrap;overflow-wrap:anywhere;tab-size:2}
.prompt{text-decoration:underline;text-decoration-color:var(--accent);text-underline-offset:3px}
summary{cursor:pointer;font:600 22px/1.2 var(--serif);margin-bottom:10px}
footer{margin-top:56px;padding-top:14px;border-top:1px solid var(--rule);color:var(--soft);font-size:13px}
.tip{position:absolute;pointer-events:none;background:var(--paper);border:1px solid var(--rule);border-radius:6px;
padding:6px 10px;font-size:12px;line-height:1.5;white-space:nowrap;font-variant-numeric:tabular-nums;
box-shadow:0 2px 10px #0002;z-index:1}
.tip i{display:inline-block;width:8px;height:8px;border-radius:4px;margin-right:6px;background:currentColor}
.t1{color:#1d5fb8}.t2{color:#c24a0a}.t3{color:#16795a}.t4{color:#7646b4}.t5{color:#0d7685}.t6{color:#6c6a66}
.tip span{color:var(--ink)}
@media (prefers-color-scheme:dark){.t1{color:#79aeff}.t2{color:#ff9a5a}.t3{color:#5fcda3}.t4{color:#bb9af7}
.t5{color:#5cc8d8}.t6{color:#a3a09a}}
@media (max-width:760px){.switch figure{overflow-x:auto}.switch .plot{min-width:680px}}
@media (max-width:640px){main{padding:32px 18px}h1{font-size:26px}.facts{gap:16px 28px}}
@media print{main{padding:0}.switch input,.switch label{display:none}section,figure,article{break-inside:avoid}}
`.trim();

/** Without it the page only lacks the read-out. Sets text only through `textContent`. */
const SCRIPT = `
for (const svg of document.querySelectorAll("svg[data-plot]")) {
  const plot = JSON.parse(svg.dataset.plot), figure = svg.parentNode, view = svg.viewBox.baseVal;
  const cursor = document.createElementNS(svg.namespaceURI, "line"), tip = document.createElement("div");
  cursor.setAttribute("class", "base"); cursor.setAttribute("y1", plot.top); cursor.setAttribute("y2", plot.bottom);
  tip.className = "tip"; tip.hidden = true; figure.append(tip);
  svg.querySelector("title").remove();
  const nearest = (at, x) => {
    let low = 0, high = at.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (at[middle][0] < x) low = middle; else high = middle; }
    return x - at[low][0] < at[high][0] - x ? at[low] : at[high];
  };
  const hide = () => { tip.hidden = true; cursor.remove(); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect(), scale = view.width / frame.width, x = (event.clientX - frame.left) * scale;
    const found = plot.lines.filter((line) => line.at.length).map((line) => ({ line, point: nearest(line.at, x) }));
    if (!found.length) return hide();
    const [first] = found.sort((a, b) => Math.abs(a.point[0] - x) - Math.abs(b.point[0] - x));
    cursor.setAttribute("x1", first.point[0]); cursor.setAttribute("x2", first.point[0]); svg.append(cursor);
    tip.replaceChildren(plot.x + " " + first.point[2]);
    for (const { line, point } of found.sort((a, b) => plot.lines.indexOf(a.line) - plot.lines.indexOf(b.line))) {
      const row = document.createElement("div"), dot = document.createElement("i"), words = document.createElement("span");
      row.className = "t" + line.color; words.textContent = (line.name ? line.name + " " : "") + point[3];
      if (line.name && point[2] !== first.point[2]) words.textContent += " (at " + point[2] + ")";
      row.append(dot, words); tip.append(row);
    }
    tip.hidden = false;
    const left = first.point[0] / scale, flip = left > frame.width / 2;
    tip.style.left = flip ? "auto" : left + 14 + "px"; tip.style.right = flip ? frame.width - left + 14 + "px" : "auto";
    tip.style.top = frame.top - figure.getBoundingClientRect().top + plot.top / scale + "px";
  });
}
`.trim();

/** A whole HTML page around a body that is already HTML. */
export function pageHtml(title: string, body: string): string {
  const hash = createHash("sha256").update(SCRIPT).digest("base64");
  const policy =
    `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${hash}'; base-uri 'none'; img-src data:`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<title>${escapeText(title)}</title>
<style>
${CSS}
${PLOT_CSS}
</style>
</head>
<body>
<main>
${body}
</main>
<script>${SCRIPT}</script>
</body>
</html>
`;
}
