// The browser half of HeatmapWidget, and of the files it saves. Python sends bytes and float32 values of whole units;
// what a mouse, a scroll bar or another unit needs is computed here. Whatever comes from a text goes in as
// textContent, never as markup.

const LINE = 21, GAP = 5; // px: a line of text, air below it
const strip = (units) => units > 1 ? 14 : 18; // px: the bars of one unit below a line
const SPARE = 6; // rows drawn above and below the visible ones
const LIVE = 5000; // bytes up to which every key is sent
const MOST = 4; // units at once
const LISTED = 60; // units offered at a time
const SHEET = 12000; // px of text in a PNG

// ---- small things

function element(tag, className = "", properties = {}, ...children) {
  const { attributes = {}, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function number(value) {
  if (!value) return "0";
  const size = Math.abs(value);
  const digits = size >= 1e-3 && size < 1e5 ? String(Number(size.toPrecision(3))) : size.toExponential(2);
  return (value < 0 ? "−" : "+") + digits;
}

const key = (unit) => Array.isArray(unit) ? unit.join(", ") : String(unit);
const label = (unit) => typeof unit === "string" ? unit : `unit ${Array.isArray(unit) ? unit.join(" / ") : unit}`;
const has = (units, unit) => units.some((other) => key(other) === key(unit));
const hex = (bytes, between = "") => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join(between);
const copied = (Type, view) => new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

// ---- one text: its marks, their values, their rows

class Text {
  constructor(pane) {
    this.title = pane.title;
    this.bytes = copied(Uint8Array, pane.bytes);
    this.stops = copied(Uint32Array, pane.stops);
    this.values = copied(Float32Array, pane.values); // a row of bytes.length for each recorded unit
    this.special = new Map(pane.special.map(([g, shown, faint]) => [g, { shown, faint }]));
    this.breaks = new Set(pane.breaks);
    this.size = this.stops.length;
  }
  start(g) { return g ? this.stops[g - 1] : 0; }
  piece(g) { return this.bytes.subarray(this.start(g), this.stops[g]); }
  plain(g) { // a printable ASCII character, the common case
    const start = this.start(g), byte = this.bytes[start];
    return this.stops[g] === start + 1 && byte > 31 && byte < 127 && !this.special.has(g);
  }
  shown(g) {
    if (this.plain(g)) return String.fromCharCode(this.bytes[this.start(g)]);
    return this.special.get(g)?.shown ?? decoder.decode(this.piece(g));
  }
  direction() { // of the first letter that has one, as dir="auto" would find it if all rows were there
    const letter = decoder.decode(this.bytes.subarray(0, 4000)).match(/\p{L}/u)?.[0] ?? "a";
    return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/.test(letter) ? "rtl" : "ltr";
  }
  equals(other) {
    return this.bytes.length === other.bytes.length && this.bytes.every((byte, t) => byte === other.bytes[t]);
  }
}

// A value for every mark: the state after its last byte; in the ledger what is left of its bytes at the end.
function channel(text, row, sign, ledger) {
  const { size, stops, bytes } = text, value = new Float32Array(size);
  if (!ledger) {
    for (let g = 0; g < size; g++) value[g] = sign * text.values[row * bytes.length + stops[g] - 1];
    return { value };
  }
  const wrote = new Float32Array(size), write = copied(Float32Array, ledger.write), survive = copied(Float32Array, ledger.survive);
  for (let g = 0; g < size; g++) {
    for (let t = text.start(g); t < stops[g]; t++) {
      wrote[g] += sign * write[t];
      value[g] += sign * write[t] * survive[t];
    }
  }
  return { value, wrote, total: sign * ledger.total };
}

function largest(values) {
  let most = 0;
  for (const value of values) if (value > most) most = value; else if (-value > most) most = -value;
  return most;
}

// Where the rows begin: after the last space that fits, else anywhere.
function wrap(text, width, measure) {
  const starts = text.size ? [0] : [];
  let used = 0, after = 0, before = 0;
  for (let g = 0; g < text.size; g++) {
    const wide = measure(text, g), first = starts[starts.length - 1];
    if (used + wide > width && g > first) {
      starts.push(after > first ? after : g);
      used = after > first ? used - before : 0;
    }
    used += wide;
    if (text.bytes[text.stops[g] - 1] === 32) [after, before] = [g + 1, used];
    if (text.breaks.has(g) && g + 1 < text.size) {
      starts.push(g + 1);
      used = 0;
    }
  }
  return starts;
}

// ---- colour, and a second cue: a tint behind the character, below it a bar up or down

const tints = new Map();
function tint(level, palette) {
  level = Math.round(level * 40) / 40;
  if (!level) return "";
  const name = `${level} ${palette.negative} ${palette.positive}`;
  if (!tints.has(name)) {
    const rgb = (level > 0 ? palette.positive : palette.negative).join(" ");
    tints.set(name, `rgb(${rgb} / ${(palette.opacity * Math.abs(level)).toFixed(3)})`);
  }
  return tints.get(name);
}

// The bars of a row as SVG paths, one for each class: a strip for each unit, its bars up or down from a line (in the
// ledger a grey one behind for what was written). Levels are in [-1, 1]; edges are [left, width] of each mark.
function bars(units, edges) {
  const high = strip(units.length), paths = { wrote: "", pos: "", neg: "", axis: "" };
  const add = (name, level, n, middle) => {
    const size = Math.round((high - 2) * Math.abs(level)) / 2, [left, width] = edges[n];
    if (size) paths[name] += `M${left} ${middle}v${level > 0 ? -size : size}h${width}V${middle}z`;
  };
  units.forEach(({ levels, wrote }, k) => {
    const middle = k * high + high / 2;
    for (let n = 0; n < levels.length; n++) {
      if (wrote) add("wrote", wrote[n], n, middle);
      add(levels[n] > 0 ? "pos" : "neg", levels[n], n, middle);
      paths.axis += `M${edges[n][0]} ${middle - 0.5}h${edges[n][1]}v1h${-edges[n][1]}z`;
    }
  });
  return paths;
}

function picture(className, height, paths) { // an SVG of such paths
  const make = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
    return node;
  };
  const svg = make("svg", { class: className, height, "aria-hidden": "true" });
  svg.append(...Object.entries(paths).map(([name, d]) => make("path", { class: `skh-${name}`, "data-name": name, d })));
  return svg;
}

// ---- one pane on the screen: only the rows that can be seen exist

class Pane {
  constructor(app, i, title) {
    this.app = app;
    this.i = i;
    this.rows = new Map();
    this.at = 0;
    this.sheet = element("div", "skh-sheet");
    this.view = element("div", "skh-view", { tabIndex: 0, attributes: { role: "group", "aria-roledescription": "heatmap" } }, this.sheet);
    this.box = element("div", "skh-pane", {}, ...(title ? [element("div", "skh-title", { textContent: title })] : []), this.view);
    this.view.addEventListener("scroll", () => { this.draw(); this.app.follow(this); });
    this.view.addEventListener("pointerover", (event) => {
      const span = event.target.closest("[data-g]");
      if (span) this.app.inspect(this, Number(span.dataset.g), "off");
    });
    this.view.addEventListener("click", (event) => {
      const span = event.target.closest("[data-g]");
      if (span) this.app.pick(this, Number(span.dataset.g));
    });
    this.view.addEventListener("keydown", (event) => this.press(event));
    this.view.addEventListener("focus", () => this.app.inspect(this, this.at, "polite"));
    this.view.addEventListener("blur", () => this.mark());
  }
  set(text) {
    const end = this.text && this.view.scrollTop > 0 && this.view.scrollTop + this.view.clientHeight > this.view.scrollHeight - 4;
    const grew = end && text.size > this.text.size;
    this.text = text;
    this.view.dir = text.direction();
    this.at = Math.min(this.at, Math.max(0, text.size - 1));
    this.lay();
    if (grew) this.view.scrollTop = this.view.scrollHeight; // follows a text that is being written
  }
  lay() { // rows for the present width; before the page shows the pane there is none, and `resized` will ask again
    this.width = this.view.clientWidth;
    this.starts = [];
    if (!this.width) return;
    const style = getComputedStyle(this.view), room = this.width - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    this.starts = wrap(this.text, Math.max(room, 80) - this.gutter, this.app.measure(style));
    this.clear();
    this.draw();
  }
  get strips() { return this.app.drawn.length * strip(this.app.drawn.length); }
  get height() { return LINE + this.strips + GAP; }
  get gutter() { return this.app.drawn.length > 1 ? 34 : 0; }
  clear() {
    this.rows.clear();
    this.sheet.replaceChildren();
    this.sheet.style.height = `${this.starts.length * this.height}px`;
  }
  row(r) {
    const stop = this.starts[r + 1] ?? this.text.size, line = element("div", "skh-row");
    line.style.top = `${r * this.height}px`;
    line.style.height = `${this.height}px`;
    line.style.setProperty("--skh-strips", `${this.strips}px`);
    line.marks = [];
    for (let g = this.starts[r]; g < stop; g++) {
      const span = element("span", this.text.special.get(g)?.faint ? "skh-mark skh-faint" : "skh-mark", { textContent: this.text.shown(g) });
      span.dataset.g = g;
      line.marks.push(span);
    }
    line.append(...line.marks);
    if (this.gutter) {
      line.style.paddingInlineStart = `${this.gutter}px`;
      this.app.drawn.forEach(({ unit }, k) => {
        const name = element("span", "skh-gutter", { textContent: key(unit), attributes: { "aria-hidden": "true" } });
        name.style.top = `${LINE + k * strip(2)}px`;
        line.append(name);
      });
    }
    return line;
  }
  place(lines) { // where the marks of new rows lie: all are asked at once, for each asking after a change is slow
    for (const line of lines) {
      const { left } = line.getBoundingClientRect();
      line.edges = line.marks.map((span) => {
        const box = span.getBoundingClientRect();
        return [Math.round(4 * (box.left - left)) / 4, Math.round(4 * box.width) / 4];
      });
    }
  }
  colour(line) {
    if (!line.marks.length) return;
    const first = Number(line.marks[0].dataset.g), levels = (values, scale) => Array.from(
      values.subarray(first, first + line.marks.length), (value) => Math.max(-1, Math.min(1, value / scale)));
    const units = this.app.drawn.map(({ panes, scale }) => {
      const { value, wrote } = panes[this.i];
      return { levels: levels(value, scale), wrote: wrote && levels(wrote, scale) };
    });
    line.marks.forEach((span, n) => {
      const colour = tint(units[0].levels[n], this.app.palette);
      if (span.colour !== colour) span.style.backgroundColor = span.colour = colour;
    });
    const paths = bars(units, line.edges);
    if (line.strips) for (const path of line.strips.children) path.setAttribute("d", paths[path.dataset.name]);
    else line.append(line.strips = picture("skh-strips", this.strips, paths));
  }
  draw() { // make the rows that came into sight, drop those that left
    const first = Math.max(0, Math.floor(this.view.scrollTop / this.height) - SPARE), made = [];
    const stop = Math.min(this.starts.length, Math.ceil((this.view.scrollTop + this.view.clientHeight) / this.height) + SPARE);
    for (const [r, line] of this.rows) {
      if (r < first || r >= stop) {
        line.remove();
        this.rows.delete(r);
      }
    }
    for (let r = stop - 1; r >= first; r--) {
      if (this.rows.has(r)) continue;
      made.push(this.row(r));
      this.rows.set(r, made[made.length - 1]);
      this.sheet.insertBefore(this.rows.get(r), this.rows.get(r + 1) ?? null);
    }
    this.place(made);
    for (const line of made) this.colour(line);
  }
  paint() { // other values, same rows
    for (const line of this.rows.values()) this.colour(line);
  }
  mark(g) { // the outline of the character under mouse or keys
    for (const span of this.sheet.querySelectorAll(".skh-at")) span.classList.remove("skh-at");
    if (g !== undefined) this.sheet.querySelector(`[data-g="${g}"]`)?.classList.add("skh-at");
  }
  rowOf(g) {
    let low = 0, high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= g) low = middle; else high = middle - 1;
    }
    return low;
  }
  press(event) {
    const r = this.rowOf(this.at), last = this.text.size - 1, page = Math.max(1, Math.floor(this.view.clientHeight / this.height) - 1);
    const lines = (n) => {
      const to = Math.max(0, Math.min(this.starts.length - 1, r + n));
      return Math.min(this.starts[to] + this.at - this.starts[r], (this.starts[to + 1] ?? this.text.size) - 1);
    };
    const moves = {
      ArrowLeft: () => this.at - 1, ArrowRight: () => this.at + 1, ArrowUp: () => lines(-1), ArrowDown: () => lines(1),
      PageUp: () => lines(-page), PageDown: () => lines(page),
      Home: () => event.ctrlKey ? 0 : this.starts[r], End: () => event.ctrlKey ? last : (this.starts[r + 1] ?? last + 1) - 1,
    };
    if (event.key === "Enter" || event.key === " ") this.app.pick(this, this.at);
    else if (moves[event.key] && last >= 0) this.go(Math.max(0, Math.min(last, moves[event.key]())));
    else return;
    event.preventDefault();
  }
  go(g) {
    const top = this.rowOf(g) * this.height, { scrollTop, clientHeight } = this.view;
    if (top < scrollTop) this.view.scrollTop = top;
    if (top + this.height > scrollTop + clientHeight) this.view.scrollTop = top + this.height - clientHeight;
    this.draw();
    this.app.inspect(this, g, "polite");
  }
}

// ---- the list of units: search, order, choose

class Picker {
  constructor(app) {
    this.app = app;
    this.id = `skh-${app.id}-units`;
    this.order = element("select", "skh-control", { attributes: { "aria-label": "order of the list" } });
    this.search = element("input", "skh-control skh-search", {
      type: "text", placeholder: "number of a unit", autocomplete: "off", spellcheck: false,
      attributes: { role: "combobox", "aria-label": "search units", "aria-expanded": "true", "aria-autocomplete": "list", "aria-controls": this.id },
    });
    this.list = element("ul", "skh-list", { id: this.id, attributes: { role: "listbox", "aria-label": "units" } });
    this.note = element("div", "skh-note");
    this.box = element("div", "skh-picker", { hidden: true }, element("div", "skh-line", {}, this.search, this.order), this.list, this.note);
    this.search.addEventListener("input", () => this.offer());
    this.order.addEventListener("change", () => this.offer());
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.choose(Number(option.dataset.n));
    });
    this.box.addEventListener("keydown", (event) => this.press(event));
    this.box.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !this.box.contains(event.relatedTarget)) this.close(false);
    });
  }
  open(slot, button) {
    const { choices, model } = this.app;
    this.slot = slot;
    this.button = button;
    this.weight = choices.weight && copied(Float32Array, choices.weight);
    this.stars = choices.stars && copied(Float32Array, choices.stars);
    const orders = [["recorded first", ""], ...(this.weight ? [["probe weight", "weight"]] : []), ...(this.stars ? [["r with stars", "stars"]] : [])];
    const chosen = this.order.value || (this.weight ? "weight" : "");
    this.order.replaceChildren(...orders.map(([name, value]) => new Option(name, value)));
    this.order.value = orders.some(([, value]) => value === chosen) ? chosen : "";
    this.order.hidden = orders.length < 2 || !!model.isPage;
    this.search.value = "";
    this.box.hidden = false;
    button.setAttribute("aria-expanded", "true");
    this.offer();
    this.search.focus();
  }
  close(back = true) {
    if (this.box.hidden) return;
    this.box.hidden = true;
    this.button?.setAttribute("aria-expanded", "false");
    if (back) this.button?.focus();
  }
  candidates() {
    const { picture, choices, model } = this.app, word = this.search.value.trim();
    const recorded = picture.units.filter((unit) => key(unit).includes(word));
    if (model.isPage || !choices.n_units) return recorded;
    const others = [];
    const by = this.order.value && this[this.order.value];
    for (let unit = 0; unit < choices.n_units; unit++) if (String(unit).startsWith(word)) others.push(unit);
    const all = by ? others.sort((a, b) => Math.abs(by[b]) - Math.abs(by[a]) || a - b) : [...recorded, ...others.filter((unit) => !has(recorded, unit))];
    const exact = (unit) => key(unit) === word;
    return all.sort((a, b) => exact(b) - exact(a)); // stable: what was typed comes first
  }
  offer() {
    this.found = this.candidates();
    const { picture } = this.app, listed = this.found.slice(0, LISTED);
    this.list.replaceChildren(...listed.map((unit, n) => {
      const facts = [];
      if (this.weight && typeof unit === "number") facts.push(["weight", number(this.weight[unit])]);
      if (this.stars && typeof unit === "number") facts.push(["r ★", number(this.stars[unit])]);
      if (has(picture.units, unit)) facts.push(["", "recorded"]);
      const option = element("li", "skh-option", { id: `${this.id}-${n}`, attributes: { role: "option" } }, element("span", "skh-name", { textContent: label(unit) }),
        ...facts.map(([name, value]) => element("span", "skh-fact", { textContent: `${name} ${value}`.trim() })));
      option.dataset.n = n;
      return option;
    }));
    const more = this.found.length - listed.length;
    this.note.textContent = !listed.length ? this.nothing() : more > 0 ? `${more.toLocaleString("en")} more: type a number` : "";
    this.point(0);
  }
  nothing() {
    return this.app.model.isPage ? "This file holds no such unit." : `There is no such unit; this model has 0 … ${this.app.choices.n_units - 1}.`;
  }
  point(n) {
    this.n = Math.max(0, Math.min(this.list.children.length - 1, n));
    [...this.list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === this.n)));
    const option = this.list.children[this.n];
    if (option) this.search.setAttribute("aria-activedescendant", option.id); else this.search.removeAttribute("aria-activedescendant");
    if (option) this.list.scrollTop = Math.min(option.offsetTop, Math.max(this.list.scrollTop, option.offsetTop + option.offsetHeight - this.list.clientHeight));
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

// ---- the whole

class App {
  constructor(model, el) {
    Object.assign(this, { model, el, id: Math.random().toString(36).slice(2), panes: [], texts: [], drawn: [], widths: new Map() });
    el.classList.add("skh");
    el.addEventListener("focusin", ({ target }) => { target.dataset.lmSuppressShortcuts = "true"; }); // JupyterLab's keys
    this.picker = new Picker(this);
    this.slots = element("div", "skh-slots");
    this.ledger = element("button", "skh-button", { type: "button", hidden: true, textContent: "Ledger", title: "what each character wrote into the unit, and how much of it is left at the end" });
    this.ledger.addEventListener("click", () => this.set({ view: model.get("view") === "ledger" ? "state" : "ledger" }));
    const saves = [["HTML", !model.isPage], ["PNG", true], ["JSON", true]].filter(([, offered]) => offered).map(([name]) => {
      const button = element("button", "skh-button", { type: "button", textContent: name, title: `save as ${name}` });
      button.addEventListener("click", () => this.save(name.toLowerCase()));
      return button;
    });
    this.saves = element("div", "skh-saves", { attributes: { role: "group", "aria-label": "save" } }, element("span", "skh-note", { textContent: "Save" }), ...saves);
    this.error = element("div", "skh-error", { attributes: { role: "alert" } });
    this.stage = element("div", "skh-stage");
    this.legend = element("div", "skh-legend");
    this.told = element("div", "skh-told", { attributes: { role: "status" } });
    this.tops = element("div", "skh-tops");
    el.append(element("div", "skh-bar", {}, this.slots, this.ledger, this.saves), this.picker.box, this.error, this.stage, this.legend, this.told, this.tops);
    this.changes = { picture: () => this.open(), texts: () => this.fill(), error: () => this.say(), top: () => this.tell(), "msg:custom": (...parts) => this.receive(...parts) };
    for (const name of ["shown", "flipped", "view", "ledgers"]) this.changes[name] = () => this.refresh();
    this.resized = new ResizeObserver(() => {
      for (const pane of this.panes) if (pane.text && pane.view.clientWidth && pane.view.clientWidth !== pane.width) pane.lay();
    });
    for (const [name, change] of Object.entries(this.changes)) model.on(name.includes(":") ? name : `change:${name}`, change);
    this.open();
    this.say();
  }
  stop() {
    this.resized.disconnect();
    for (const [name, change] of Object.entries(this.changes)) this.model.off(name.includes(":") ? name : `change:${name}`, change);
  }
  set(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }
  get choices() { return this.model.get("choices") ?? {}; }

  // -- from the picture to the panes

  open() {
    this.picture = this.model.get("picture");
    if (!this.picture?.panes) {
      this.told.replaceChildren(element("span", "skh-note", { textContent: "Nothing to draw yet." }));
      return;
    }
    this.palette = this.picture;
    this.texts = this.picture.panes.map((pane) => new Text(pane));
    const form = JSON.stringify([this.picture.typed, this.texts.map((text) => text.title), (this.model.get("texts") ?? []).length]);
    if (form !== this.form) this.build();
    this.form = form;
    this.refresh(true);
    this.fill();
  }
  build() { // boxes to type in and panes, side by side
    const typed = this.model.get("texts") ?? [], can = this.picture.typed && !this.model.isPage;
    const each = can && typed.length ? Math.max(1, this.texts.length / typed.length) : this.texts.length;
    for (const pane of this.panes) this.resized.unobserve(pane.view);
    this.panes = this.texts.map((text, i) => new Pane(this, i, text.title));
    this.boxes = [];
    this.stage.replaceChildren();
    for (let i = 0; i < this.panes.length; i += each) {
      const part = element("section", "skh-text", { attributes: { "aria-label": typed.length > 1 ? `text ${i / each + 1}` : "text" } });
      if (can) part.append(this.typing(i / each, typed));
      part.append(element("div", "skh-panes", {}, ...this.panes.slice(i, i + each).map((pane) => pane.box)));
      this.stage.append(part);
    }
    for (const pane of this.panes) this.resized.observe(pane.view);
  }
  typing(n, typed) {
    const box = element("textarea", "skh-control skh-box", { rows: 3, spellcheck: false, value: typed[n], attributes: { "aria-label": typed.length > 1 ? `text ${n + 1}` : "the text" } });
    const live = () => new TextEncoder().encode(box.value).length <= LIVE;
    const note = element("span", "skh-note");
    const send = () => {
      const texts = [...this.model.get("texts")];
      if (texts[n] === box.value) return;
      texts[n] = box.value;
      this.set({ texts });
    };
    const hint = () => { note.textContent = live() ? "" : "Long: it is read when you leave the box or press Ctrl+Enter."; };
    box.addEventListener("input", () => {
      hint();
      if (live()) send();
    });
    box.addEventListener("change", send);
    box.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) send(); });
    this.boxes.push(box);
    hint();
    const fold = element("details", "skh-fold", { open: typed.length < 3 && live() }, element("summary", "", { textContent: "Type" }), box, note);
    return fold;
  }
  fill() { // the boxes follow Python, but never under the typist's hands
    const typed = this.model.get("texts") ?? [];
    this.boxes?.forEach((box, n) => {
      if (typed[n] !== undefined && box.value !== typed[n] && document.activeElement !== box) box.value = typed[n];
    });
  }
  refresh(texts = false) {
    if (!this.picture?.panes) return;
    const before = this.drawn.length, ledgers = this.model.get("view") === "ledger" && (this.model.get("ledgers") ?? {});
    const shown = (this.model.get("shown") ?? []).filter((unit) => has(this.picture.units, unit));
    const ready = shown.filter((unit) => !ledgers || this.fits(ledgers[key(unit)]));
    this.waiting = (this.model.get("shown") ?? []).filter((unit) => !has(ready, unit));
    if (ready.length) this.drawn = ready.slice(0, MOST).map((unit) => this.channels(unit, ledgers));
    else if (texts) this.drawn = this.picture.units.slice(0, 1).map((unit) => this.channels(unit, false));
    for (const [i, pane] of this.panes.entries()) {
      if (texts) pane.set(this.texts[i]);
      else if (this.drawn.length !== before) pane.lay();
      else pane.paint();
      this.describe(pane);
    }
    this.controls();
    this.explain();
    if (this.hovered && this.panes.includes(this.hovered[0])) this.inspect(...this.hovered);
    else this.told.replaceChildren(element("span", "skh-note", { textContent: "Point at a character, or move with the arrow keys; click it for its top units." }));
    this.tell();
  }
  fits(ledger) { // it may still be that of the text before
    return ledger && ledger.length === this.texts.length && ledger.every((part, i) => part.write.byteLength === 4 * this.texts[i].bytes.length);
  }
  channels(unit, ledgers) {
    const row = this.picture.units.findIndex((other) => key(other) === key(unit));
    const sign = has(this.model.get("flipped") ?? [], unit) ? -1 : 1, ledger = ledgers && ledgers[key(unit)];
    const panes = this.texts.map((text, i) => channel(text, row, sign, ledger && ledger[i]));
    const most = Math.max(...panes.flatMap(({ value, wrote }) => [largest(value), wrote ? largest(wrote) : 0]), 0);
    return { unit, sign, panes, ledger: !!ledger, scale: (ledger ? most : Math.max(most, this.picture.scales[key(unit)] ?? 0)) || 1 };
  }
  measure(style) {
    const context = element("canvas").getContext("2d"), font = `${style.fontSize} ${style.fontFamily}`;
    context.font = font;
    const width = (shown) => {
      const name = font + shown;
      if (!this.widths.has(name)) this.widths.set(name, context.measureText(shown).width);
      return this.widths.get(name);
    };
    const one = width("0");
    return (text, g) => text.plain(g) ? one : width(text.shown(g));
  }
  describe(pane) {
    const what = this.drawn.map(({ unit, sign }) => label(unit) + (sign < 0 ? ", flipped" : "")).join(", ");
    pane.view.setAttribute("aria-label", `${pane.text.title || "text"}, ${pane.text.size} characters, in the colours of ${what}; arrow keys move, Enter asks for top units`);
  }
  follow(pane) { // panes of the same text scroll together
    for (const other of this.panes) {
      if (other !== pane && other.text && pane.text.equals(other.text) && other.view.scrollTop !== pane.view.scrollTop) other.view.scrollTop = pane.view.scrollTop;
    }
  }

  // -- controls

  controls() {
    const shown = this.model.get("shown") ?? [], flipped = this.model.get("flipped") ?? [], focus = document.activeElement?.dataset?.control;
    const mine = this.slots.contains(document.activeElement);
    const button = (name, text, title, act, attributes = {}) => {
      const node = element("button", "skh-button", { type: "button", textContent: text, title, attributes: { "aria-label": title, ...attributes } });
      node.dataset.control = name;
      node.addEventListener("click", () => act(node));
      return node;
    };
    const slots = shown.slice(0, MOST).map((unit, slot) => {
      const minus = has(flipped, unit), more = { "aria-haspopup": "listbox", "aria-expanded": "false" };
      const parts = [button(`unit ${slot}`, `${label(unit)} ▾`, `${label(unit)}: choose another`, (node) => this.toggle(slot, node), more),
        button(`flip ${slot}`, "±", `flip the sign of ${label(unit)}`, () => this.flip(unit), { "aria-pressed": String(minus) })];
      if (shown.length > 1) parts.push(button(`drop ${slot}`, "×", `take ${label(unit)} away`, () => this.set({ shown: shown.filter((_, k) => k !== slot) })));
      return element("div", "skh-slot", { attributes: { role: "group", "aria-label": label(unit) } }, ...parts);
    });
    if (shown.length < MOST) slots.push(button("add", "+ unit", "add a unit beside these", (node) => this.toggle(shown.length, node), { "aria-haspopup": "listbox", "aria-expanded": "false" }));
    this.slots.replaceChildren(...slots);
    if (mine && focus) (this.slots.querySelector(`[data-control="${focus}"]`) ?? this.slots.querySelector("button"))?.focus();
    this.picker.button = this.slots.querySelector(`[data-control="${this.picker.button?.dataset.control}"]`);
    const ledgers = this.model.get("ledgers") ?? {}, on = this.model.get("view") === "ledger";
    this.ledger.hidden = this.model.isPage ? !Object.keys(ledgers).length : !this.picture.ledger;
    this.ledger.setAttribute("aria-pressed", String(on));
    this.el.setAttribute("aria-busy", String(this.waiting.length > 0));
  }
  toggle(slot, button) {
    if (!this.picker.box.hidden && this.picker.slot === slot) this.picker.close();
    else this.picker.open(slot, button);
  }
  flip(unit) {
    const flipped = this.model.get("flipped") ?? [];
    this.set({ flipped: has(flipped, unit) ? flipped.filter((other) => key(other) !== key(unit)) : [...flipped, unit] });
  }
  choose(slot, unit) {
    const shown = [...(this.model.get("shown") ?? [])], units = this.model.get("units") ?? this.picture.units;
    const twin = shown.findIndex((other) => key(other) === key(unit));
    if (twin >= 0 && twin !== slot) { // already there: the two change places
      if (slot < shown.length) [shown[slot], shown[twin]] = [shown[twin], shown[slot]];
    } else shown[slot] = unit;
    this.set(has(units, unit) ? { shown } : { units: [...units, unit], shown });
  }
  say() {
    this.error.textContent = this.model.get("error") ?? "";
  }

  // -- what the colours mean

  explain() {
    const rows = this.drawn.map(({ unit, sign, scale, ledger, panes }) => {
      const sums = ledger ? [element("span", "skh-note", { textContent: `all together ${panes.map(({ total }) => number(total)).join(" and ")}` })] : [];
      return element("div", "skh-scale", {}, element("span", "skh-name", { textContent: label(unit) + (sign < 0 ? " (sign flipped)" : "") }),
        element("span", "skh-swatches", {}, element("span", "", { textContent: number(-scale) }), this.ramp(), element("span", "", { textContent: number(scale) })), ...sums);
    });
    if (this.drawn[0]?.ledger) rows.push(element("div", "skh-note", { textContent: "Ledger: colour and coloured bar are what is left of a character in the last value, the grey bar what it wrote." }));
    if (this.waiting.length) rows.push(element("div", "skh-note", { textContent: `reading ${this.waiting.map(label).join(", ")} …` }));
    this.legend.replaceChildren(...rows);
  }
  ramp() { // the scale itself: eleven steps, as tints and as bars
    const steps = Array.from({ length: 11 }, (_, k) => k / 5 - 1), edges = steps.map((_, k) => [11 * k, 11]);
    const swatches = steps.map((level) => {
      const swatch = element("span", "skh-swatch");
      swatch.style.backgroundColor = tint(level, this.palette);
      return swatch;
    });
    return element("span", "skh-ramp", { attributes: { "aria-hidden": "true" } }, ...swatches, picture("skh-steps", strip(1), bars([{ levels: steps }], edges)));
  }
  sorted(drawn) { // all values of a unit, for percentiles; made when first asked for
    drawn.sorted ??= Float32Array.from(drawn.panes.flatMap(({ value }) => [...value])).sort();
    return drawn.sorted;
  }
  percentile(drawn, value) {
    const all = this.sorted(drawn), below = (v, equal) => {
      let low = 0, high = all.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (all[middle] < v || (equal && all[middle] === v)) low = middle + 1; else high = middle;
      }
      return low;
    };
    return 50 * (below(value, false) + below(value, true)) / all.length;
  }
  inspect(pane, g, live) {
    if (!pane.text.size) return;
    g = Math.min(g, pane.text.size - 1);
    this.hovered = [pane, g, live];
    pane.at = g;
    for (const other of this.panes) other.mark();
    const same = this.panes.filter((other) => other === pane || other.text.equals(pane.text));
    for (const other of same) other.mark(g);
    const text = pane.text, shown = text.shown(g).trim() || "␣", start = text.start(g), many = text.stops[g] - start;
    const points = text.special.get(g)?.shown === "\ufffd" ? "not UTF-8" : [...decoder.decode(text.piece(g))].map((c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join(" ");
    const place = many > 1 ? `bytes ${start}–${text.stops[g] - 1}` : `byte ${start}`;
    const ledger = this.drawn.some((drawn) => drawn.ledger);
    const head = ["", "value", "percentile", "change"], left = ["", "wrote", "survives", "left at the end"];
    const cells = (tag, row) => element("tr", "", {}, ...row.map((cell, n) => element(n || tag === "th" ? tag : "th", "", { textContent: cell, attributes: tag === "th" ? { scope: "col" } : n ? {} : { scope: "row" } })));
    const rows = same.flatMap((other) => this.drawn.map((drawn) => {
      const { value, wrote } = drawn.panes[other.i], name = label(drawn.unit) + (drawn.sign < 0 ? " (flipped)" : "") + (same.length > 1 && other.text.title ? `, ${other.text.title}` : "");
      if (wrote) return [name, number(wrote[g]), Math.abs(wrote[g]) > 1e-9 ? `${(100 * value[g] / wrote[g]).toFixed(1)}%` : "–", number(value[g])];
      return [name, number(value[g]), `${this.percentile(drawn, value[g]).toFixed(0)}%`, number(value[g] - (g ? value[g - 1] : 0))];
    }));
    const bytes = text.piece(g).length > 24 ? `${hex(text.piece(g).subarray(0, 24), " ")} …` : hex(text.piece(g), " ");
    this.told.setAttribute("aria-live", live);
    this.told.replaceChildren(
      element("div", "skh-char", {}, element("bdi", "skh-glyph", { textContent: shown }), element("span", "skh-facts", {}, element("code", "", { textContent: bytes }), element("span", "", { textContent: points }), element("span", "", { textContent: `${place} of ${text.bytes.length}` }))),
      element("table", "skh-table", {}, element("thead", "", {}, cells("th", ledger ? left : head)), element("tbody", "", {}, ...rows.map((row) => cells("td", row)))));
  }

  // -- top units of a character

  pick(pane, g) {
    if (!pane.text.size) return;
    this.inspect(pane, g, "polite");
    if (this.choices.n_units && !this.model.isPage) this.set({ picked: { pane: pane.i, start: pane.text.start(g), stop: pane.text.stops[g] } });
  }
  tell() {
    const top = this.model.get("top") ?? {}, text = this.texts[top.pane];
    const rows = text && top.stop <= text.bytes.length && top.moved ? [["moved most by", top.moved, 2], ["largest after", top.largest, 1]] : [];
    const shown = rows.length ? decoder.decode(text.bytes.subarray(top.start, top.stop)).trim() || "␣" : "";
    this.tops.replaceChildren(...rows.map(([name, units, n]) => element("div", "skh-line", {}, element("span", "skh-name", {}, `units ${name} `, element("bdi", "skh-quote", { textContent: shown })),
      ...units.map(([unit, value, change]) => {
        const button = element("button", "skh-button", { type: "button", textContent: `${unit}  ${number(n === 2 ? change : value)}`, title: `unit ${unit}: value ${number(value)}, change ${number(change)}; click to draw it` });
        button.dataset.unit = unit;
        button.addEventListener("click", () => this.choose(0, unit));
        return button;
      }))));
  }

  // -- saving

  receive(message, buffers) {
    if (message.kind === "html") this.download("html", new Blob([copied(Uint8Array, buffers[0])], { type: "text/html" }));
    if (message.kind === "png") this.png().then(async (blob) => this.model.send({ kind: "png" }, undefined, [await blob.arrayBuffer()]));
  }
  save(kind) {
    if (kind === "html") this.model.send({ kind: "html" });
    if (kind === "json") this.download(kind, new Blob([JSON.stringify(this.numbers())], { type: "application/json" }));
    if (kind === "png") this.png().then((blob) => this.download(kind, blob));
  }
  download(kind, blob) {
    const link = element("a", "", { href: URL.createObjectURL(blob), download: `heatmap.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  numbers() { // as heatmap_numbers in Python
    const panes = this.texts.map((text) => {
      const T = text.bytes.length, rows = this.picture.units.map((_, u) => text.values.subarray(u * T, (u + 1) * T));
      return { title: text.title, bytes: hex(text.bytes), stops: [...text.stops], values: rows.map((row) => Array.from(row, (v) => Number(v.toPrecision(7)))) };
    });
    return { units: this.picture.units, panes };
  }
  async png() { // the browser's own drawing of all rows (up to SHEET pixels), through an SVG that holds them
    const style = getComputedStyle(this.el), sheet = element("div", "skh skh-print"), wide = this.stage.clientWidth || 800;
    for (const name of ["--skh-ink", "--skh-paper", "--skh-soft", "--skh-line", "--skh-edge", "--skh-pos", "--skh-neg"]) sheet.style.setProperty(name, style.getPropertyValue(name));
    const stage = this.stage.cloneNode(true);
    for (const fold of stage.querySelectorAll(".skh-fold")) fold.remove();
    const drawn = [];
    let cut = false;
    stage.querySelectorAll(".skh-view").forEach((view, i) => {
      const pane = this.panes[i], most = Math.max(1, Math.floor(SHEET / pane.height)), rows = Math.min(pane.starts.length, most);
      cut ||= pane.starts.length > most;
      const lines = Array.from({ length: rows }, (_, r) => pane.row(r));
      view.firstChild.replaceChildren(...lines);
      drawn.push([pane, lines]);
      view.firstChild.style.height = `${rows * pane.height}px`;
    });
    sheet.append(stage, this.legend.cloneNode(true), ...(cut ? [element("div", "skh-note", { textContent: "only the beginning is drawn here" })] : []));
    sheet.style.cssText += `;width:${wide}px;position:fixed;left:-99999px;top:0`;
    this.el.append(sheet); // off the page, to learn places and height
    for (const [pane, lines] of drawn) {
      pane.place(lines);
      for (const line of lines) pane.colour(line);
    }
    const high = Math.ceil(sheet.getBoundingClientRect().height);
    sheet.remove();
    sheet.style.position = sheet.style.left = "";
    const css = this.model.get("_css") ?? document.querySelector("style").textContent;
    sheet.prepend(element("style", "", { textContent: css }));
    sheet.setAttribute("xmlns", "http://www.w3.org/1999/xhtml");
    const xml = new XMLSerializer().serializeToString(sheet).replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd");
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${wide}" height="${high}"><foreignObject width="100%" height="100%">${xml}</foreignObject></svg>`;
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
    await image.decode();
    const sharp = high > 8000 ? 1 : 2, canvas = element("canvas", "", { width: wide * sharp, height: high * sharp }), context = canvas.getContext("2d");
    context.scale(sharp, sharp);
    context.drawImage(image, 0, 0);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}

function render({ model, el }) {
  const app = new App(model, el);
  return () => app.stop();
}

// A saved file: its state lies in the page, and there is no Python to ask.
function openPage() {
  const revive = (_, value) => {
    if (typeof value?.base64 !== "string") return value;
    const raw = atob(value.base64), bytes = new Uint8Array(raw.length);
    for (let t = 0; t < raw.length; t++) bytes[t] = raw.charCodeAt(t);
    return new DataView(bytes.buffer);
  };
  const state = JSON.parse(document.getElementById("state").textContent, revive), listeners = {};
  const set = (name, value) => {
    state[name] = value;
    for (const listener of listeners[`change:${name}`] ?? []) listener();
  };
  const on = (name, listener) => (listeners[name] ??= []).push(listener);
  render({ model: { isPage: true, get: (name) => state[name], set, on, off() {}, send() {}, save_changes() {} }, el: document.querySelector("main") });
}

export default { render };
