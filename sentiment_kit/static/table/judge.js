// How often the answers are right: over the texts that are shown, by label and answer, in slices.

import { element, words } from "../heatmap/basics.js";
import { confusion, percent, wilson } from "./rows.js";

function shareText([value, low, high]) {
  return `${percent(value)} [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
}

// What is shown, and how much of it is right.
export function sumUp(app) {
  const { rows, shown, judged } = app;
  const count = (n) => n.toLocaleString("en");
  const told = [shown.length === rows.n ? `${count(rows.n)} texts` : `${count(shown.length)} of ${count(rows.n)} texts`];
  if (judged) {
    const counts = confusion(rows, shown, judged);
    const all = counts.flat().reduce((sum, n) => sum + n, 0);
    const right = counts.reduce((sum, row, k) => sum + row[judged.places[k]], 0);
    if (all) told.push(`${shareText(wilson(right, all))} of the ${count(all)} with a label are answered rightly`);
    const sums = counts.map((row) => row.reduce((sum, n) => sum + n, 0));
    const most = sums.indexOf(Math.max(...sums));
    if (all) told.push(`always “${judged.names[most]}” would be ${percent(sums[most] / all)}`);
  }
  return told.join(" · ");
}

// Labels down, answers across; a click keeps the texts of a cell.
export function confusionTable(app) {
  const { rows, shown, judged } = app;
  const counts = confusion(rows, shown, judged);
  const most = Math.max(1, ...counts.flat());
  const table = element("table", "skt-confusion");
  table.append(words("caption", "", "label by answer, of the texts shown"));
  const head = element("tr", "", {}, words("td", "", ""));
  for (const name of judged.classes) head.append(element("th", "", { scope: "col", dir: "auto", textContent: name }));
  table.append(element("thead", "", {}, head));
  const body = element("tbody");
  counts.forEach((row, k) => {
    const line = element("tr", "", {}, element("th", "", { scope: "row", dir: "auto", textContent: judged.names[k] }));
    row.forEach((n, a) => {
      const right = judged.places[k] === a;
      const said = `${n.toLocaleString("en")} texts labelled ${judged.names[k]} and answered ${judged.classes[a]}`;
      const properties = { type: "button", textContent: n.toLocaleString("en"), title: `${said}: show them` };
      const node = element("button", `skt-count ${right ? "skt-right" : "skt-false"}`, properties);
      node.setAttribute("aria-label", said);
      node.style.setProperty("--skt-share", `${(60 * n) / most}%`);
      node.addEventListener("click", () => {
        app.only({ column: judged.label, is: k }, { column: judged.answer, is: a });
      });
      line.append(element("td", "", {}, node));
    });
    body.append(line);
  });
  table.append(body);
  return table;
}

// A line for every slice: its share of right answers as a dot on its interval.
export function sliceTable(app) {
  const table = element("table", "skt-slices");
  table.append(words("caption", "", "slices of all texts: share answered rightly, with its 95% interval"));
  const body = element("tbody");
  let before = "";
  for (const { column, name, n, right, where } of app.slices) {
    const line = element("tr", column !== before && before ? "skt-first" : "");
    line.append(element("th", "", { scope: "row", textContent: column === before ? "" : column }));
    if (column === before) line.firstChild.setAttribute("aria-label", column);
    const pick = element("button", "skt-link", { type: "button", textContent: name, dir: "auto" });
    pick.title = `show the ${n.toLocaleString("en")} texts`;
    pick.addEventListener("click", () => app.set({ where: [where] }));
    line.append(element("td", "", {}, pick));
    line.append(words("td", "skt-figure", n.toLocaleString("en")));
    const [value, low, high] = right;
    const scale = element("div", "skt-scale", { attributes: { "aria-hidden": "true" } });
    const reach = element("span", "skt-reach");
    reach.style.left = `${100 * low}%`;
    reach.style.width = `${100 * (high - low)}%`;
    const dot = element("span", "skt-dot");
    dot.style.left = `${100 * value}%`;
    scale.append(element("span", "skt-half"), reach, dot);
    line.append(element("td", "", {}, scale), words("td", "skt-figure", shareText(right)));
    body.append(line);
    before = column;
  }
  table.append(body);
  return table;
}
