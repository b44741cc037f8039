// The grid: only the rows in sight are elements. One element has the focus; it names the cell that
// is meant (aria-activedescendant), so that rows may come and go.

import { element, number, words } from "../heatmap/basics.js";
import { tint } from "../heatmap/colour.js";

const HIGH = 30; // px of a row
const BEYOND = 8; // rows drawn above and below those in sight
const WIDTHS = { index: 64, word: 104, number: 112 }; // px
const LEAST = [200, 320]; // px of the text: on a narrow and on a wide page

// A number as its column writes it.
export function written(column, value) {
  if (Number.isNaN(value)) return "–";
  if (column.form === "whole") return value.toLocaleString("en");
  return column.form === "signed" ? number(value) : value.toFixed(3);
}

export class Grid {
  constructor(app) {
    this.app = app;
    this.at = { row: 0, column: 1 }; // the cell that is meant; row -1 is the head
    const attributes = { role: "grid", tabindex: "0", "aria-label": "texts and their scores" };
    this.head = element("div", "skt-row skt-head", { attributes: { role: "row" } });
    this.head.setAttribute("aria-rowindex", "1");
    const top = element("div", "skt-top", { attributes: { role: "rowgroup" } }, this.head);
    this.sheet = element("div", "skt-sheet", { attributes: { role: "rowgroup" } });
    this.view = element("div", "skt-view", { attributes }, top, this.sheet);
    this.view.addEventListener("scroll", () => this.draw());
    this.view.addEventListener("keydown", (event) => this.press(event));
    this.view.addEventListener("click", (event) => this.click(event));
  }

  get columns() {
    return [{ key: "", kind: "index", title: "#" }, ...this.app.rows.columns];
  }

  // New columns, or another order of them.
  build() {
    const { columns, view } = this;
    const text = Math.max(LEAST[0], Math.min(LEAST[1], 0.38 * view.clientWidth));
    const wide = ({ kind }) => (kind === "text" ? `minmax(${text}px, 1fr)` : `${WIDTHS[kind]}px`);
    const least = columns.reduce((sum, { kind }) => sum + (WIDTHS[kind] ?? text), 0);
    view.style.setProperty("--skt-columns", columns.map(wide).join(" "));
    view.style.setProperty("--skt-least", `${least}px`);
    view.setAttribute("aria-colcount", columns.length);
    this.head.replaceChildren(...columns.map((column, k) => this.headCell(column, k)));
  }

  headCell(column, k) {
    const way = { "-1": "descending", 1: "ascending" };
    const [key, sense] = this.app.sort;
    const sort = key === column.key && key ? way[sense] : "none";
    const attributes = { role: "columnheader", "aria-colindex": k + 1, "aria-sort": sort };
    const mark = { none: "", descending: " ▼", ascending: " ▲" }[sort];
    const ends = column.low ? `: ${column.low} (blue) … ${column.high} (orange)` : "";
    const properties = { id: this.id(-1, k), title: column.title + ends, attributes };
    const cell = element("div", `skt-cell skt-${column.kind}`, properties);
    cell.append(words("span", "skt-title", column.title), words("span", "skt-mark", mark));
    return cell;
  }

  id(row, column) {
    return `skt-${this.app.id}-${row}-${column}`;
  }

  // The rows that are shown have changed.
  fill(toTop) {
    const { shown } = this.app;
    this.view.setAttribute("aria-rowcount", shown.length + 1);
    this.sheet.style.height = `${shown.length * HIGH}px`;
    const all = Math.max(4, this.app.rows.n) * HIGH + 76; // with the head and a scroll bar
    this.view.style.setProperty("--skt-high", `${all}px`);
    if (toTop) {
      this.view.scrollTop = 0;
      this.at.row = Math.min(this.at.row, 0, shown.length - 1); // the head stays meant
    }
    this.build();
    this.draw();
  }

  draw() {
    const { shown } = this.app;
    const { scrollTop, clientHeight } = this.view;
    const first = Math.max(0, Math.floor(scrollTop / HIGH) - BEYOND);
    const last = Math.min(shown.length, Math.ceil((scrollTop + clientHeight) / HIGH) + BEYOND);
    const drawn = [];
    for (let r = first; r < last; r++) drawn.push(this.row(r));
    const { at } = this;
    const far = at.row >= 0 && at.row < shown.length && (at.row < first || at.row >= last);
    if (far) drawn.push(this.row(at.row)); // the cell that is meant exists always
    this.sheet.replaceChildren(...drawn);
    this.mean();
  }

  row(r) {
    const i = this.app.shown[r];
    const open = this.app.open === i;
    const attributes = { role: "row", "aria-rowindex": r + 2, "aria-selected": String(open) };
    const row = element("div", "skt-row", { attributes });
    row.dataset.r = r;
    row.style.transform = `translateY(${r * HIGH}px)`;
    row.append(...this.columns.map((column, k) => this.cell(column, i, r, k)));
    return row;
  }

  cell(column, i, r, k) {
    const { rows, palette } = this.app;
    const attributes = { role: "gridcell", "aria-colindex": k + 1 };
    const cell = element("div", `skt-cell skt-${column.kind}`, { id: this.id(r, k), attributes });
    if (column.kind === "index") cell.textContent = (i + 1).toLocaleString("en");
    if (column.kind === "text") {
      cell.dir = "auto";
      cell.textContent = rows.text(i).replace(/[\0-\x1f\x7f\u2028\u2029]+/g, " ");
    }
    if (column.kind === "word") {
      const code = rows.value(column.key, i);
      cell.dir = "auto";
      cell.textContent = code < 0 ? "–" : column.words[code];
      const { judged } = this.app;
      if (column.key === judged?.answer && this.app.isWrong(i)) cell.classList.add("skt-wrong");
    }
    if (column.kind === "number") {
      const value = rows.value(column.key, i);
      cell.append(words("span", "", written(column, value)));
      if (column.scale && !Number.isNaN(value)) {
        const level = Math.max(-1, Math.min(1, (value - column.middle) / column.scale));
        cell.style.backgroundColor = tint(level, palette);
        const bar = element("i", level < 0 ? "skt-below" : "skt-above");
        bar.style.width = `${50 * Math.abs(level)}%`;
        cell.append(bar);
      }
    }
    return cell;
  }

  // Show which cell is meant.
  mean() {
    for (const cell of this.view.querySelectorAll(".skt-at")) cell.classList.remove("skt-at");
    const id = this.id(this.at.row, this.at.column);
    const cell = document.getElementById(id);
    if (cell) this.view.setAttribute("aria-activedescendant", id);
    else this.view.removeAttribute("aria-activedescendant");
    cell?.classList.add("skt-at");
    return cell;
  }

  // Bring the cell that is meant into sight.
  reach() {
    const { view, at } = this;
    const top = this.head.offsetHeight;
    const lowest = (at.row + 1) * HIGH + top - view.clientHeight;
    if (at.row >= 0) view.scrollTop = Math.max(lowest, Math.min(view.scrollTop, at.row * HIGH));
    this.draw();
    const cell = this.mean();
    if (!cell) return;
    const right = cell.offsetLeft + cell.offsetWidth - view.clientWidth;
    view.scrollLeft = Math.max(right, Math.min(view.scrollLeft, cell.offsetLeft));
  }

  press(event) {
    const last = this.app.shown.length - 1;
    const page = Math.max(1, Math.floor(this.view.clientHeight / HIGH) - 2);
    const wide = this.columns.length - 1;
    const moves = {
      ArrowDown: (at) => ({ row: at.row + 1 }),
      ArrowUp: (at) => ({ row: at.row - 1 }),
      PageDown: (at) => ({ row: at.row + page }),
      PageUp: (at) => ({ row: Math.max(0, at.row - page) }),
      ArrowRight: (at) => ({ column: at.column + 1 }),
      ArrowLeft: (at) => ({ column: at.column - 1 }),
      Home: () => (event.ctrlKey ? { row: 0, column: 0 } : { column: 0 }),
      End: () => (event.ctrlKey ? { row: last, column: wide } : { column: wide }),
    };
    if (event.key === "Enter" || event.key === " ") this.use();
    else if (!moves[event.key]) return;
    else {
      const to = { ...this.at, ...moves[event.key](this.at) };
      this.at.row = Math.max(-1, Math.min(last, to.row));
      this.at.column = Math.max(0, Math.min(wide, to.column));
      this.reach();
    }
    event.preventDefault();
  }

  // Enter, or a click: the head sorts, a row opens.
  use() {
    const { row, column } = this.at;
    const { key, kind } = this.columns[column];
    if (row >= 0) return this.app.pick(this.app.shown[row]);
    const [sorted, way] = this.app.sort;
    const first = kind === "number" ? -1 : 1; // numbers: the largest first
    const sort = sorted !== key ? [key, first] : way === first ? [key, -first] : [];
    return this.app.set({ sort: key ? sort : [] });
  }

  click(event) {
    const cell = event.target.closest(".skt-cell");
    if (!cell) return;
    const [row, column] = cell.id.split(/-(-?\d+)-(\d+)$/).slice(1, 3).map(Number);
    this.at = { row, column };
    this.mean();
    this.use();
  }
}
