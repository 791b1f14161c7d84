/** Pictures and a confusion matrix in a report, as HTML. Their style is here too; every text is escaped. */
import { escapeText } from "./report_plot.ts";

/** A picture with what is said of it. */
export interface ReportPicture {
  /** A `data:` address: the page loads nothing. */
  readonly address: string;
  readonly caption: string;
  readonly detail: string;
  readonly isRight: boolean;
}

/** Pictures in groups. */
export interface ReportPictures {
  readonly note: string;
  readonly groups: readonly { readonly title: string; readonly pictures: readonly ReportPicture[] }[];
}

/** How many of a class (row) were taken for which (column). */
export interface ReportConfusion {
  readonly classes: readonly string[];
  readonly counts: readonly (readonly number[])[];
}

/** Classes that a matrix is still read of; of more only the mistakes that are made most are listed. */
const MOST_CLASSES = 40;
const MOST_MISTAKES = 20;

const CSS = `
.pictures{display:flex;flex-wrap:wrap;gap:14px 12px;margin:8px 0 22px}
.pictures figure{width:72px}.pictures img{display:block;width:72px;height:72px;object-fit:contain;background:#000;
image-rendering:pixelated;border-radius:4px;outline:2px solid var(--good);outline-offset:1px}
.pictures .wrong img{outline-color:var(--bad)}
.pictures figcaption{margin-top:6px;font-size:13px;line-height:1.3;overflow-wrap:anywhere}
.pictures small{display:block;color:var(--soft);font-size:12px}
.confusion{display:block;height:auto;overflow:visible;font:12px var(--sans);font-variant-numeric:tabular-nums}
.confusion text{fill:var(--soft)}.confusion .right{fill:var(--good)}.confusion .wrong{fill:var(--bad)}
.confusion .cell{fill:var(--wash)}.confusion .count{fill:var(--ink)}.confusion .over{fill:var(--paper)}
`.trim();

/** The sections, with their style. Empty where there is nothing to show. */
export function imagesHtml(pictures?: ReportPictures, confusion?: ReportConfusion): string {
  if (!pictures && !confusion) return "";
  return `<style>${CSS}</style>${pictures ? picturesHtml(pictures) : ""}${confusion ? confusionHtml(confusion) : ""}`;
}

function picturesHtml({ note, groups }: ReportPictures): string {
  const parts = groups.map(({ title, pictures }) =>
    `<h3>${escapeText(title)}</h3><div class="pictures">${pictures.map(pictureHtml).join("")}</div>`
  );
  return `<section><h2>Images</h2><p class="note">${escapeText(note)}</p>${parts.join("")}</section>`;
}

function pictureHtml({ address, caption, detail, isRight }: ReportPicture): string {
  const text = escapeText(`${caption} ${detail}`);
  return `<figure class="${isRight ? "right" : "wrong"}"><img src="${escapeText(address)}" alt="${text}">` +
    `<figcaption>${escapeText(caption)}<small>${escapeText(detail)}</small></figcaption></figure>`;
}

function confusionHtml({ classes, counts }: ReportConfusion): string {
  const isSmall = classes.length <= MOST_CLASSES;
  const note = isSmall
    ? "Rows are what images are, columns what they are taken for; the stronger the colour, the larger a part of the row."
    : `The mistakes that are made most, of ${classes.length} classes.`;
  const body = isSmall ? matrixSvg(classes, counts) : mistakesTable(classes, counts);
  return `<section><h2>Confusion</h2><p class="note">${note}</p>${body}</section>`;
}

function matrixSvg(classes: readonly string[], counts: ReportConfusion["counts"]): string {
  const cell = classes.length <= 12 ? 44 : 22;
  const names = classes.map((name) => name.length > 18 ? `${name.slice(0, 17)}…` : name);
  const room = 16 + Math.max(...names.map((name) => 7 * name.length));
  const isTurned = names.some((name) => 7 * name.length > cell - 4);
  const [left, top] = [room, isTurned ? room : 26];
  const [width, height] = [left + cell * classes.length, top + cell * classes.length];
  const middle = (i: number) => (i + 0.5) * cell;
  const labels = names.map((name, i) => {
    const [x, y] = [left + middle(i), top - 8];
    const turn = isTurned
      ? ` transform="rotate(-90 ${x} ${y})" text-anchor="start" dx="0" dy="4"`
      : ' text-anchor="middle"';
    return `<text x="${left - 8}" y="${top + middle(i) + 4}" text-anchor="end">${escapeText(name)}</text>` +
      `<text x="${x}" y="${y}"${turn}>${escapeText(name)}</text>`;
  });
  const cells = counts.flatMap((row, i) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count, j) => {
      const share = total > 0 ? count / total : 0;
      const [x, y] = [left + j * cell, top + i * cell];
      const box = `x="${x + 1}" y="${y + 1}" width="${cell - 2}" height="${cell - 2}" rx="3"`;
      const fill = count === 0
        ? ""
        : `<rect class="${i === j ? "right" : "wrong"}" ${box} fill-opacity="${(0.12 + 0.88 * share).toFixed(3)}"/>`;
      const written = count === 0 || cell < 30 ? "" : `<text class="${share > 0.45 ? "over" : "count"}" ` +
        `x="${x + cell / 2}" y="${y + cell / 2 + 4}" text-anchor="middle">${count}</text>`;
      const said = escapeText(`${classes[i]} taken for ${classes[j]}: ${count} of ${total}`);
      return `<g><title>${said}</title><rect class="cell" ${box}/>${fill}${written}</g>`;
    });
  });
  return `<div class="scroll"><svg class="confusion" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
    `width="${width}" role="img" aria-label="Confusion matrix of ${classes.length} classes">` +
    `${labels.join("")}${cells.join("")}</svg></div>`;
}

function mistakesTable(classes: readonly string[], counts: ReportConfusion["counts"]): string {
  const mistakes = counts.flatMap((row, i) => row.map((count, j) => ({ i, j, count })))
    .filter(({ i, j, count }) => i !== j && count > 0)
    .toSorted((a, b) => b.count - a.count).slice(0, MOST_MISTAKES);
  const rows = mistakes.map(({ i, j, count }) =>
    `<tr><td>${escapeText(classes[i])}</td><td>${escapeText(classes[j])}</td><td class="r">${count}</td></tr>`
  );
  return `<div class="scroll"><table><tr><th>is</th><th>is taken for</th><th class="r">images</th></tr>` +
    `${rows.join("")}</table></div>`;
}
