// The whole: filters above, the grid, what is known of the answers below. Python sends columns and
// texts once; which row is open it is told.

import { button, copied, element, words } from "../heatmap/basics.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { confusionTable, sliceTable, sumUp } from "./judge.js";
import { Rows } from "./rows.js";

class TableApp {
  constructor(model, el) {
    this.model = model;
    this.id = Math.random().toString(36).slice(2);
    el.classList.add("skh", "skt");
    el.addEventListener("focusin", ({ target }) => {
      target.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keys
    });
    this.filters = new Filters(this);
    this.grid = new Grid(this);
    this.told = element("div", "skt-told", { attributes: { role: "status" } });
    this.legend = element("div", "skt-legend");
    this.note = element("div", "skh-note");
    this.error = element("div", "skh-error", { attributes: { role: "alert" } });
    this.whole = element("div", "skt-whole");
    this.judgement = element("div", "skt-judgement");
    const open = !this.alive; // beside Python the text that is open comes first
    const summary = words("summary", "", "Where is it right? Labels by answers, and slices");
    this.fold = element("details", "skt-fold", { open, hidden: true }, summary, this.judgement);
    this.makeActs();
    const bar = element("div", "skh-bar", {}, this.filters.line, this.acts);
    el.append(bar, this.filters.chips, this.told, this.error, this.grid.view, this.legend, this.note, this.whole, this.fold);
    this.listen();
    this.read();
  }

  get alive() {
    return !this.model.isPage;
  }

  // Another unit as a column, and the table as a file: both are asked of Python.
  makeActs() {
    this.acts = element("div", "skh-saves");
    if (!this.alive) return;
    const list = element("datalist", "", { id: `skt-${this.id}-units` });
    const attributes = { "aria-label": "unit to add, by number or name", list: list.id };
    const properties = { placeholder: "add a unit", autocomplete: "off", attributes };
    this.unit = element("input", "skh-control skt-unit", properties);
    this.list = list;
    const add = () => {
      if (this.unit.value.trim()) this.model.send({ kind: "unit", unit: this.unit.value.trim() });
      this.unit.value = "";
    };
    this.unit.addEventListener("keydown", (event) => event.key === "Enter" && add());
    this.unit.addEventListener("change", () => {
      if ([...list.children].some(({ value }) => value === this.unit.value)) add();
    });
    const csv = button("CSV", "save the texts shown, with their scores, as CSV", () => {
      this.model.send({ kind: "csv" }, undefined, [this.shown.slice().buffer]);
    });
    this.acts.append(this.unit, list, csv);
  }

  listen() {
    const show = () => this.show(true);
    this.changes = {
      "change:table": () => this.read(),
      "change:sort": show,
      "change:where": show,
      "change:row": () => this.mark(),
      "change:error": () => this.say(),
      "change:busy": () => this.say(),
      "msg:custom": (message, buffers) => this.receive(message, buffers),
    };
    for (const [name, change] of Object.entries(this.changes)) this.model.on(name, change);
    this.resized = new ResizeObserver(() => this.rows && this.grid.fill(false));
    this.resized.observe(this.grid.view);
  }

  stop() {
    this.resized.disconnect();
    for (const [name, change] of Object.entries(this.changes)) this.model.off(name, change);
  }

  get sort() {
    return this.model.get("sort") ?? [];
  }

  get where() {
    return this.model.get("where") ?? [];
  }

  get open() {
    return this.model.get("row") ?? -1;
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  // These conditions take the place of others on the same columns.
  only(...filters) {
    const key = (filter) => filter.column ?? Object.keys(filter)[0];
    const mine = new Set(filters.map(key));
    this.set({ where: [...this.where.filter((other) => !mine.has(key(other))), ...filters] });
  }

  read() {
    const table = this.model.get("table");
    if (!table?.columns) return;
    this.rows = new Rows(table);
    this.judged = table.judged;
    this.palette = table.palette;
    this.slices = table.slices ?? [];
    this.slicesDrawn = null;
    this.note.textContent = table.said;
    if (this.list) {
      const names = Object.entries(table.titles ?? {});
      const option = ([unit, title]) => new Option(title, unit);
      this.list.replaceChildren(...names.map(option));
    }
    this.filters.fill();
    this.explain();
    this.show(false);
    this.say();
  }

  // What the two colours mean in every column.
  explain() {
    const coloured = this.rows.columns.filter(({ scale }) => scale);
    const one = ({ title, low, high }) =>
      element("span", "", {}, words("b", "", title), " ", words("i", "skt-blue", low), " ", words("i", "skt-orange", high));
    this.legend.replaceChildren(...coloured.map(one));
  }

  show(toTop) {
    if (!this.rows) return;
    this.shown = this.rows.order(this.sort, this.where, this.judged);
    this.grid.fill(toTop);
    this.filters.show();
    this.told.textContent = sumUp(this);
    const focus = this.judgement.contains(document.activeElement);
    const parts = this.judged ? [confusionTable(this)] : [];
    this.slicesDrawn ??= this.slices.length ? sliceTable(this) : null;
    if (this.slicesDrawn) parts.push(element("div", "skt-scroll", {}, this.slicesDrawn));
    const scrolled = this.judgement.querySelector(".skt-scroll")?.scrollTop ?? 0;
    this.judgement.replaceChildren(...parts);
    this.fold.hidden = !parts.length;
    const list = this.judgement.querySelector(".skt-scroll");
    if (list) list.scrollTop = scrolled;
    if (focus) this.grid.view.focus({ preventScroll: true });
    this.mark();
  }

  isWrong(i) {
    const { rows, judged } = this;
    const label = rows.value(judged.label, i);
    const answer = rows.value(judged.answer, i);
    return label >= 0 && answer >= 0 && judged.places[label] !== answer;
  }

  pick(i) {
    if (i !== undefined) this.set({ row: i });
  }

  mark() {
    if (!this.rows) return;
    this.grid.draw();
    if (this.alive || this.open < 0) return;
    const text = this.rows.text(this.open); // nobody colours it here
    this.whole.replaceChildren(
      words("div", "skh-title", `text ${(this.open + 1).toLocaleString("en")}`),
      element("div", "skt-text-whole", { dir: "auto", textContent: text }),
    );
  }

  say() {
    this.error.textContent = this.model.get("error") ?? "";
    const busy = this.model.get("busy") ?? "";
    this.grid.view.setAttribute("aria-busy", String(!!busy));
    this.told.textContent = busy || (this.rows ? sumUp(this) : "");
  }

  receive(message, buffers) {
    if (message.kind !== "csv") return;
    const blob = new Blob([copied(Uint8Array, buffers[0])], { type: "text/csv" });
    const link = element("a", "", { href: URL.createObjectURL(blob), download: "texts.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

export function renderTable({ model, el }) {
  const app = new TableApp(model, el);
  return () => app.stop();
}

export default { render: renderTable };
