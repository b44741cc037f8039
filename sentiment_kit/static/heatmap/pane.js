// One pane on the screen: a text in rows, of which only those exist that can be seen.

import { accountLine } from "./account.js";
import { element, key, words } from "./basics.js";
import { bars, picture, tint } from "./colour.js";
import { moved } from "./input.js";
import { GAP, LINE, SPARE, rowOf, strip, wrap } from "./layout.js";

export class Pane {
  constructor(app, i) {
    this.app = app;
    this.i = i;
    this.rows = new Map(); // number of a row → its element
    this.at = 0; // the mark where the keys are
    this.sheet = element("div", "skh-sheet");
    const attributes = { role: "group", "aria-roledescription": "heatmap" };
    this.view = element("div", "skh-view", { tabIndex: 0, attributes }, this.sheet);
    this.title = element("div", "skh-title");
    this.account = element("div", "skh-account");
    this.kept = undefined; // of a ledger: the marks that its account tells
    this.box = element("div", "skh-pane", {}, this.title, this.account, this.view);
    this.listen();
  }

  listen() {
    const on = (name, act) => this.view.addEventListener(name, act);
    const onMark = (name, act) =>
      on(name, (event) => {
        const span = event.target.closest("[data-g]");
        if (span) act(Number(span.dataset.g));
      });
    on("scroll", () => {
      this.draw();
      this.app.follow(this);
    });
    onMark("pointerover", (g) => this.app.inspect(this, g, "off"));
    onMark("click", (g) => this.app.pick(this, g));
    on("keydown", (event) => this.press(event));
    on("focus", () => this.app.inspect(this, this.at, "polite"));
    on("blur", () => this.mark());
  }

  // What stands above the text; `first` is the unit that colours it.
  entitle(title, colours, first) {
    this.title.replaceChildren(words("span", "", title), " ", words("span", "skh-note", colours));
    this.kept = undefined;
    this.account.replaceChildren(...(first?.ledger ? accountLine(this, first) : []));
  }

  set(text) {
    const { scrollTop, clientHeight, scrollHeight } = this.view;
    const atEnd = this.size && scrollTop > 0 && scrollTop + clientHeight > scrollHeight - 4;
    const grew = atEnd && text.size > this.size;
    this.text = text;
    this.size = text.size;
    this.view.dir = text.direction();
    this.at = Math.min(this.at, Math.max(0, text.size - 1));
    this.lay();
    if (grew) this.view.scrollTop = this.view.scrollHeight; // follows a text that is being written
  }

  get strips() {
    const units = this.app.drawn.length;
    return units * strip(units);
  }

  get height() {
    return LINE + this.strips + GAP;
  }

  get gutter() {
    return this.app.drawn.length > 1 ? 46 : 0;
  }

  // Rows for the present width. Before the page shows the pane there is none, and the app asks
  // again when there is.
  lay() {
    this.width = this.view.clientWidth;
    this.starts = [];
    if (!this.width) return;
    const style = getComputedStyle(this.view);
    const room = this.width - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    this.starts = wrap(this.text, Math.max(room, 80) - this.gutter, this.app.measure(style));
    this.clear();
    this.draw();
  }

  clear() {
    this.rows.clear();
    this.sheet.replaceChildren();
    this.sheet.style.height = `${this.starts.length * this.height}px`;
  }

  // A new row with its characters, not yet coloured.
  row(r) {
    const stop = this.starts[r + 1] ?? this.text.size;
    const line = element("div", "skh-row");
    line.style.top = `${r * this.height}px`;
    line.style.height = `${this.height}px`;
    line.style.setProperty("--skh-strips", `${this.strips}px`);
    line.marks = [];
    for (let g = this.starts[r]; g < stop; g++) {
      const faint = this.text.special.get(g)?.faint;
      const span = words("span", faint ? "skh-mark skh-faint" : "skh-mark", this.text.shown(g));
      span.dataset.g = g;
      line.marks.push(span);
    }
    line.append(...line.marks);
    if (this.gutter) this.nameStrips(line);
    return line;
  }

  nameStrips(line) {
    line.style.paddingInlineStart = `${this.gutter}px`;
    this.app.drawn.forEach(({ unit }, k) => {
      const label = this.app.label?.(unit) ?? key(unit);
      const short = label.replace(/^unit /, "").split(" · ")[0]; // its note has no room here
      const name = words("span", "skh-gutter", short);
      name.setAttribute("aria-hidden", "true");
      name.style.top = `${LINE + k * strip(2)}px`;
      line.append(name);
    });
  }

  // Where the marks of new rows lie. All are asked at once: each asking after a change is slow.
  place(lines) {
    const quarter = (px) => Math.round(4 * px) / 4;
    for (const line of lines) {
      const { left } = line.getBoundingClientRect();
      line.edges = line.marks.map((span) => {
        const box = span.getBoundingClientRect();
        return [quarter(box.left - left), quarter(box.width)];
      });
    }
  }

  // The levels of a row's marks for each unit that is drawn.
  levels(line) {
    const first = Number(line.marks[0].dataset.g);
    const stop = first + line.marks.length;
    return this.app.drawn.map(({ panes, scale }) => {
      const level = (value) => Math.max(-1, Math.min(1, value / scale));
      const { value, wrote } = panes[this.i];
      return {
        levels: Array.from(value.subarray(first, stop), level),
        wrote: wrote && Array.from(wrote.subarray(first, stop), level),
      };
    });
  }

  colour(line) {
    if (!line.marks.length) return;
    const units = this.levels(line);
    line.marks.forEach((span, n) => {
      const told = !this.kept || this.kept.has(Number(span.dataset.g));
      span.classList.toggle("skh-dim", !told);
      const colour = told ? tint(units[0].levels[n], this.app.palette) : "";
      if (span.colour !== colour) {
        span.colour = colour;
        span.style.backgroundColor = colour;
      }
    });
    const paths = bars(units, line.edges);
    if (line.strips) {
      for (const path of line.strips.children) path.setAttribute("d", paths[path.dataset.name]);
    } else {
      line.strips = picture("skh-strips", this.strips, paths);
      line.append(line.strips);
    }
  }

  // Make the rows that came into sight, drop those that left.
  draw() {
    const { scrollTop, clientHeight } = this.view;
    const first = Math.max(0, Math.floor(scrollTop / this.height) - SPARE);
    const last = Math.ceil((scrollTop + clientHeight) / this.height) + SPARE;
    const stop = Math.min(this.starts.length, last);
    for (const [r, line] of this.rows) {
      if (r < first || r >= stop) {
        line.remove();
        this.rows.delete(r);
      }
    }
    const made = [];
    for (let r = stop - 1; r >= first; r--) {
      if (this.rows.has(r)) continue;
      const line = this.row(r);
      made.push(line);
      this.rows.set(r, line);
      this.sheet.insertBefore(line, this.rows.get(r + 1) ?? null);
    }
    this.place(made);
    for (const line of made) this.colour(line);
  }

  // Other values, same rows.
  paint() {
    for (const line of this.rows.values()) this.colour(line);
  }

  // The outline of the character under mouse or keys.
  mark(g) {
    for (const span of this.sheet.querySelectorAll(".skh-at")) span.classList.remove("skh-at");
    if (g !== undefined) this.sheet.querySelector(`[data-g="${g}"]`)?.classList.add("skh-at");
  }

  press(event) {
    const to = moved(event, this);
    if (event.key === "Enter" || event.key === " ") this.app.pick(this, this.at);
    else if (to !== undefined) this.go(to);
    else return;
    event.preventDefault();
  }

  go(g) {
    const top = rowOf(this.starts, g) * this.height;
    const { scrollTop, clientHeight } = this.view;
    const bottom = top + this.height;
    if (top < scrollTop) this.view.scrollTop = top;
    if (bottom > scrollTop + clientHeight) this.view.scrollTop = bottom - clientHeight;
    this.draw();
    this.app.inspect(this, g, "polite");
  }
}
