// Choosing units: the buttons of the units that are drawn, and the list in which others are
// searched.

import { MOST, button, copied, element, has, key, number, words } from "./basics.js";

const LISTED = 60; // units offered at a time

export class Picker {
  constructor(app) {
    this.app = app;
    this.id = `skh-${app.id}-units`;
    this.order = element("select", "skh-control", {
      attributes: { "aria-label": "order of the list" },
    });
    this.search = element("input", "skh-control skh-search", {
      type: "text",
      placeholder: "number or name of a unit",
      autocomplete: "off",
      spellcheck: false,
      attributes: {
        role: "combobox",
        "aria-label": "search units",
        "aria-expanded": "true",
        "aria-autocomplete": "list",
        "aria-controls": this.id,
      },
    });
    this.list = element("ul", "skh-list", {
      id: this.id,
      attributes: { role: "listbox", "aria-label": "units" },
    });
    this.note = element("div", "skh-note");
    const line = element("div", "skh-line", {}, this.search, this.order);
    this.box = element("div", "skh-picker", { hidden: true }, line, this.list, this.note);
    this.listen();
  }

  listen() {
    this.search.addEventListener("input", () => this.offer());
    this.order.addEventListener("change", () => this.offer());
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.choose(Number(option.dataset.n));
    });
    this.box.addEventListener("keydown", (event) => this.press(event));
    this.box.addEventListener("focusout", (event) => {
      const inside = this.box.contains(event.relatedTarget);
      if (event.relatedTarget && !inside) this.close(false);
    });
  }

  // For a place among the units drawn; `opener` is the button that asked.
  open(slot, opener) {
    const { choices, isPage } = this.app;
    this.slot = slot;
    this.button = opener;
    this.weight = choices.weight && copied(Float32Array, choices.weight);
    this.stars = choices.stars && copied(Float32Array, choices.stars);
    const orders = [["recorded first", ""]];
    if (this.weight) orders.push(["probe weight", "weight"]);
    if (this.stars) orders.push(["r with stars", "stars"]);
    const chosen = this.order.value || (this.weight ? "weight" : "");
    this.order.replaceChildren(...orders.map(([name, value]) => new Option(name, value)));
    this.order.value = orders.some(([, value]) => value === chosen) ? chosen : "";
    this.order.hidden = orders.length < 2 || isPage;
    this.search.value = "";
    this.box.hidden = false;
    opener.setAttribute("aria-expanded", "true");
    this.offer();
    this.search.focus();
  }

  close(back = true) {
    if (this.box.hidden) return;
    this.box.hidden = true;
    this.button?.setAttribute("aria-expanded", "false");
    if (back) this.button?.focus();
  }

  toggle(slot, opener) {
    if (!this.box.hidden && this.slot === slot) this.close();
    else this.open(slot, opener);
  }

  candidates() {
    const { picture, choices, isPage } = this.app;
    const word = this.search.value.trim();
    const small = word.toLowerCase();
    const isCalled = (unit) => small && this.app.label(unit).toLowerCase().includes(small);
    const recorded = picture.units.filter((unit) => key(unit).includes(word) || isCalled(unit));
    const named = (choices.named ?? []).filter((name) => name.includes(word));
    if (isPage || !choices.n_units) return recorded;
    const numbers = [];
    for (let unit = 0; unit < choices.n_units; unit++) {
      if (String(unit).startsWith(word) || isCalled(unit)) numbers.push(unit);
    }
    const by = this.order.value && this[this.order.value];
    const bySize = (a, b) => Math.abs(by[b]) - Math.abs(by[a]) || a - b;
    const others = () => [...named, ...numbers].filter((unit) => !has(recorded, unit));
    const all = by ? [...named, ...numbers.sort(bySize)] : [...recorded, ...others()];
    const exact = (unit) => key(unit) === word;
    return all.sort((a, b) => exact(b) - exact(a)); // stable: what was typed comes first
  }

  offer() {
    this.found = this.candidates();
    const listed = this.found.slice(0, LISTED);
    this.list.replaceChildren(...listed.map((unit, n) => this.option(unit, n)));
    const more = this.found.length - listed.length;
    let said = "";
    if (!listed.length) said = this.nothing();
    else if (more > 0) said = `${more.toLocaleString("en")} more: type a number`;
    this.note.textContent = said;
    this.point(0);
  }

  option(unit, n) {
    const facts = [];
    if (typeof unit === "number") {
      if (this.weight) facts.push(`weight ${number(this.weight[unit])}`);
      if (this.stars) facts.push(`r ★ ${number(this.stars[unit])}`);
    }
    if (has(this.app.picture.units, unit)) facts.push("recorded");
    const parts = facts.map((fact) => words("span", "skh-fact", fact));
    const properties = { id: `${this.id}-${n}`, attributes: { role: "option" } };
    const name = words("span", "skh-name", this.app.label(unit));
    const option = element("li", "skh-option", properties, name, ...parts);
    option.dataset.n = n;
    return option;
  }

  nothing() {
    if (this.app.isPage) return "This file holds no such unit.";
    return `There is no such unit; this model has 0 … ${this.app.choices.n_units - 1}.`;
  }

  // Move to option n, and bring it into sight.
  point(n) {
    const { list, search } = this;
    this.n = Math.max(0, Math.min(list.children.length - 1, n));
    [...list.children].forEach((option, i) => {
      option.setAttribute("aria-selected", String(i === this.n));
    });
    const option = list.children[this.n];
    if (!option) {
      search.removeAttribute("aria-activedescendant");
      return;
    }
    search.setAttribute("aria-activedescendant", option.id);
    const lowest = option.offsetTop + option.offsetHeight - list.clientHeight;
    list.scrollTop = Math.min(option.offsetTop, Math.max(list.scrollTop, lowest));
  }

  press(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    if (event.key === "Escape") this.close();
    else if (event.target !== this.search) return;
    else if (steps[event.key]) this.point(this.n + steps[event.key]);
    else if (event.key === "Enter") this.choose(this.n);
    else return;
    event.preventDefault();
  }

  choose(n) {
    if (this.found[n] === undefined) return;
    this.close();
    this.app.choose(this.slot, this.found[n]);
  }
}

const OPENS = { "aria-haspopup": "listbox", "aria-expanded": "false" };

// A button of the slots; `name` tells it apart when all are made anew.
function control(name, text, title, act, attributes = {}) {
  const node = button(text, title, act, { "aria-label": title, ...attributes });
  node.dataset.control = name;
  return node;
}

// The buttons of one unit that is drawn: choose another, flip its sign, take it away.
function slotOf(app, unit, slot) {
  const { shown, flipped, picker } = app;
  const name = app.label(unit);
  const toggle = (node) => picker.toggle(slot, node);
  const flip = () => app.flip(unit);
  const drop = () => app.set({ shown: shown.filter((_, k) => k !== slot) });
  const pressed = { "aria-pressed": String(has(flipped, unit)) };
  const parts = [
    control(`unit ${slot}`, `${name} ▾`, `${name}: choose another`, toggle, OPENS),
    control(`flip ${slot}`, "±", `flip the sign of ${name}`, flip, pressed),
  ];
  if (shown.length > 1) parts.push(control(`drop ${slot}`, "×", `take ${name} away`, drop));
  const attributes = { role: "group", "aria-label": name };
  return element("div", "skh-slot", { attributes }, ...parts);
}

// Make the slots anew; the focus stays where it was among them.
export function fillSlots(app) {
  const { shown, slots, picker } = app;
  const focus = document.activeElement?.dataset?.control;
  const mine = slots.contains(document.activeElement);
  const named = (name) => slots.querySelector(`[data-control="${name}"]`);
  const parts = shown.slice(0, MOST).map((unit, slot) => slotOf(app, unit, slot));
  if (shown.length < MOST) {
    const toggle = (node) => picker.toggle(shown.length, node);
    parts.push(control("add", "+ unit", "add a unit beside these", toggle, OPENS));
  }
  slots.replaceChildren(...parts);
  if (mine && focus) (named(focus) ?? slots.querySelector("button"))?.focus();
  picker.button = named(picker.button?.dataset.control);
}
