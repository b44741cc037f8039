// Which texts are shown: a word that is searched, and conditions on columns.

import { button, element, words } from "../heatmap/basics.js";

function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

// A condition in words.
export function said(filter, rows) {
  if (filter.find !== undefined) return `contains “${filter.find}”`;
  if (filter.wrong !== undefined) return filter.wrong ? "answered wrongly" : "answered rightly";
  const column = rows.column(filter.column);
  const title = column?.title ?? filter.column;
  if (filter.is !== undefined) return `${title}: ${column?.words?.[filter.is] ?? "–"}`;
  const digits = (x) => (column?.form === "whole" ? String(x) : Number(x).toPrecision(3));
  const low = filter.low ?? null;
  const high = filter.high ?? null;
  if (low !== null && high !== null) return `${title}: ${digits(low)} to ${digits(high)}`;
  return low !== null ? `${title} ≥ ${digits(low)}` : `${title} ≤ ${digits(high)}`;
}

export class Filters {
  constructor(app) {
    this.app = app;
    const control = (tag, label, properties = {}) =>
      element(tag, "skh-control", { ...properties, attributes: { "aria-label": label } });
    const quiet = { autocomplete: "off", spellcheck: false };
    this.search = control("input", "search the texts", { type: "search", placeholder: "search", ...quiet });
    this.search.classList.add("skt-search");
    this.column = control("select", "column to filter by");
    this.word = control("select", "value that is kept");
    this.low = control("input", "at least", { type: "number", step: "any", placeholder: "from" });
    this.high = control("input", "at most", { type: "number", step: "any", placeholder: "to" });
    this.add = button("Filter", "keep the texts of this value or range", () => this.take());
    this.chips = element("div", "skt-chips", { attributes: { role: "group", "aria-label": "filters" } });
    const parts = [this.column, this.word, this.low, this.high, this.add];
    this.line = element("div", "skh-line", {}, this.search, ...parts);
    this.search.addEventListener("input", () => this.find());
    this.column.addEventListener("change", () => this.ask());
    for (const box of [this.low, this.high]) {
      box.addEventListener("keydown", (event) => event.key === "Enter" && this.take());
    }
  }

  // The columns have changed.
  fill() {
    const { app, column } = this;
    const chosen = column.value;
    const known = app.rows.columns.filter(({ kind }) => kind !== "text");
    const options = known.map(({ key, title }) => new Option(title, key));
    if (app.judged) options.unshift(new Option("right or wrong", ":wrong"));
    column.replaceChildren(...options);
    if ([...column.options].some(({ value }) => value === chosen)) column.value = chosen;
    this.ask();
  }

  ask() {
    const key = this.column.value;
    const found = this.app.rows.column(key);
    const list = key === ":wrong" ? ["wrong", "right"] : found?.words;
    this.word.hidden = !list;
    this.low.hidden = !!list;
    this.high.hidden = !!list;
    this.word.replaceChildren(...(list ?? []).map((name, code) => new Option(name, code)));
  }

  find() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      const others = this.app.where.filter(({ find }) => find === undefined);
      const find = this.search.value;
      this.app.set({ where: find ? [...others, { find }] : others });
    }, 80);
  }

  take() {
    const key = this.column.value;
    const bound = (box) => (box.value === "" ? null : Number(box.value));
    const [low, high] = [bound(this.low), bound(this.high)];
    if (key === ":wrong") this.app.only({ wrong: this.word.value === "0" });
    else if (!this.word.hidden) this.app.only({ column: key, is: Number(this.word.value) });
    else if (low !== null || high !== null) this.app.only({ column: key, low, high });
  }

  // A button for every condition: it takes the condition away.
  show() {
    const { app } = this;
    const find = app.where.find((filter) => filter.find !== undefined)?.find ?? "";
    if (document.activeElement !== this.search && this.search.value !== find) this.search.value = find;
    const nodes = app.where.map((filter) => {
      const name = said(filter, app.rows);
      const drop = () => app.set({ where: app.where.filter((other) => !same(other, filter)) });
      return button(`${name} ×`, `take away: ${name}`, drop, { "aria-label": `take away: ${name}` });
    });
    if (nodes.length > 1) nodes.push(button("all texts", "take all filters away", () => app.set({ where: [] })));
    const focus = this.chips.contains(document.activeElement);
    this.chips.replaceChildren(...nodes);
    if (focus) (nodes[0] ?? this.search).focus();
  }
}
