// One text in four views: type, try a suggestion, and see what changes. Python sends the values of
// all rows, the facts and the texts that the suggestions lead to; what is pointed at is told here.

import { guessList, pushLine, short } from "../heatmap/ahead.js";
import { button, element, number, words } from "../heatmap/basics.js";
import { bars, picture, tint } from "../heatmap/colour.js";
import { Silence, typingBox } from "../heatmap/input.js";
import { measureIn, strip } from "../heatmap/layout.js";
import { Text } from "../heatmap/marks.js";
import { Pane } from "../heatmap/pane.js";

const widthsOfMarks = new Map(); // by font and mark

// The value of every mark in one row of a text.
function marksOf(text, row) {
  const first = row * text.bytes.length;
  return Float32Array.from(text.stops, (stop) => text.values[first + stop - 1]);
}

// The scale of a row as swatches, and what blue and orange mean in words.
function colourLine({ scale, low, high }, palette) {
  const steps = Array.from({ length: 11 }, (_, k) => (low ? k / 5 - 1 : k / 10));
  const swatches = steps.map((level) => {
    const swatch = element("span", "skh-swatch");
    swatch.style.backgroundColor = tint(level, palette);
    return swatch;
  });
  const edges = steps.map((_, k) => [11 * k, 11]);
  const drawn = picture("skh-steps", strip(1), bars([{ levels: steps }], edges));
  const attributes = { "aria-hidden": "true" };
  const ramp = element("span", "skh-ramp", { attributes }, ...swatches, drawn);
  const full = Number(scale.toPrecision(2));
  const blue = low ? `blue: ${low} (${number(-full)})` : "no colour: expected (0)";
  const least = words("span", "", blue);
  const most = words("span", "", `orange: ${high} (${number(full)})`);
  const ends = element("div", "skp-ends", {}, least, most);
  return element("div", "skp-colours", {}, ramp, ends);
}

// A number with its name; after an edit what it was, and the difference in its colour.
function factNode({ name, shown, before, change, sign }) {
  const parts = [words("span", "skp-fact-name", name)];
  if (before !== undefined) parts.push(words("span", "skp-before", `${before} →`));
  parts.push(words("span", "skp-value", shown));
  if (before !== undefined) {
    const kind = sign > 0 ? "skp-up" : sign < 0 ? "skp-down" : "skp-same";
    const mark = sign > 0 ? "▲" : sign < 0 ? "▼" : "=";
    parts.push(words("span", `skp-change ${kind}`, sign ? `${mark} ${change}` : "no change"));
  }
  return element("div", "skp-fact", {}, ...parts);
}

// A word of the ledger, in the colour of what is left of it.
function wordNode([word, left], most, palette) {
  const node = element("span", "skp-word", {}, words("bdi", "", word), ` ${short(left)}`);
  node.style.backgroundColor = tint(left / (most || 1), palette);
  return node;
}

// One view: its question, its numbers, the text in its colours. A pane takes it for its app.
class ViewCard {
  constructor(play, n) {
    this.play = play;
    this.drawn = [];
    this.pane = new Pane(this, 0, "");
    this.title = element("h3", "skp-title");
    this.facts = element("div", "skp-facts", { attributes: { "aria-live": "polite" } });
    this.words = element("div", "skp-words");
    this.colours = element("div", "skp-legend");
    this.more = element("div", "skp-more");
    this.said = element("p", "skp-said skh-note");
    const above = [this.title, this.facts, this.words, this.pane.box];
    this.box = element("section", "skp-card", {}, ...above, this.colours, this.more, this.said);
    this.box.dataset.view = n;
  }

  get palette() {
    return this.play.picture;
  }

  measure(style) {
    return measureIn(style, widthsOfMarks);
  }

  inspect(pane, g) {
    this.play.inspect(g, this);
  }

  pick(pane, g) {
    this.play.inspect(g, this);
  }

  follow(pane) {
    this.play.follow(pane);
  }

  show(text, view) {
    const most = Math.max(...view.words.map(([, left]) => Math.abs(left)), 0);
    const name = element("span", "skp-name", {}, view.name);
    this.title.replaceChildren(name, " ", words("span", "skp-question", view.title));
    this.facts.replaceChildren(...view.facts.map(factNode));
    this.words.replaceChildren(...view.words.map((row) => wordNode(row, most, this.palette)));
    this.said.textContent = view.said;
    const channel = (row, unit, scale) => {
      return { unit, scale, panes: [{ value: marksOf(text, row) }] };
    };
    const now = view.rows.map(({ row, name, scale }) => channel(row, name, scale));
    const changed = view.rows.filter(({ change }) => change !== undefined);
    const change = changed.map(({ change, name, scale }) => channel(change, `± ${name}`, scale));
    this.drawn = [...now, ...change];
    this.pane.box.hidden = !view.rows.length;
    const [first, second] = view.rows;
    const notes = second ? [`Colour: unit ${first.name}; bars also: unit ${second.name}.`] : [];
    if (change.length) notes.push("Bars named ±: what the edit changed.");
    const lines = first ? [colourLine(first, this.palette)] : [];
    lines.push(words("span", "skh-note", notes.join(" ")));
    this.colours.replaceChildren(...lines);
    const said = `${view.name}: the text, ${text.size} characters, in colours; arrow keys move`;
    this.pane.view.setAttribute("aria-label", said);
    if (view.rows.length) this.pane.set(text);
  }
}

class Play {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.cards = [];
    this.silence = new Silence((said) => this.say(said));
    el.classList.add("skh", "skp");
    el.addEventListener("focusin", ({ target }) => {
      target.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keys
    });
    this.makeParts();
    this.changes = {
      "change:picture": () => this.open(),
      "change:text": () => this.fill(),
      "change:error": () => this.say(),
    };
    for (const [name, change] of Object.entries(this.changes)) model.on(name, change);
    this.resized = new ResizeObserver(() => {
      for (const { pane } of this.cards) {
        const { clientWidth } = pane.view;
        if (pane.text && clientWidth && clientWidth !== pane.width) pane.lay();
      }
    });
    this.open();
  }

  makeParts() {
    const typed = { get: () => [this.model.get("text")] };
    const app = { model: typed, set: ({ texts }) => this.set(texts[0], "") };
    const { box, fold } = typingBox(app, 0, typed.get());
    const note = fold.lastChild;
    this.typed = box;
    const isPage = !!this.model.isPage;
    this.head = element("div", "skp-head");
    const attributes = { role: "group", "aria-label": "try" };
    this.tries = element("div", "skp-tries", { attributes });
    this.error = element("div", "skh-error", { attributes: { role: "alert" } });
    this.grid = element("div", "skp-grid");
    const typing = isPage ? [] : [box, note, this.tries];
    this.el.append(this.head, ...typing, this.error, this.grid);
  }

  stop() {
    this.resized.disconnect();
    this.silence.answered();
    for (const [name, change] of Object.entries(this.changes)) this.model.off(name, change);
  }

  // A text, and the one that it is compared with; "" for none.
  set(text, before) {
    this.silence.asked();
    this.model.set("before", before);
    this.model.set("text", text);
    this.model.save_changes();
    this.el.setAttribute("aria-busy", "true");
  }

  open() {
    this.picture = this.model.get("picture");
    this.say();
    if (!this.picture?.views) return;
    this.el.setAttribute("aria-busy", "false");
    this.text = new Text(this.picture.pane);
    if (!this.cards.length) {
      this.cards = this.picture.views.map((_, n) => new ViewCard(this, n));
      this.grid.replaceChildren(...this.cards.map(({ box }) => box));
      for (const { pane } of this.cards) this.resized.observe(pane.view);
    }
    this.head.textContent = this.picture.head;
    this.cards.forEach((card, n) => card.show(this.text, this.picture.views[n]));
    this.offer();
    this.tell(this.text.size - 1, false);
    this.el.dataset.drawn = this.picture.turn;
  }

  // The suggestions; what each would change, it is compared with.
  offer() {
    const focus = document.activeElement?.dataset?.try;
    const text = this.model.get("text");
    const parts = this.picture.tries.map(([name, changed]) => {
      const title = changed ?? "this would change nothing here";
      const node = button(name, title, () => this.set(changed, text));
      node.disabled = changed === null;
      return node;
    });
    const before = this.model.get("before");
    const undo = button("back", "the text as it was", () => this.set(before, ""));
    undo.disabled = !before;
    parts.push(undo);
    parts.forEach((node, n) => (node.dataset.try = n));
    this.tries.replaceChildren(words("span", "skh-note", "Try:"), ...parts);
    if (focus !== undefined) this.tries.querySelector(`[data-try="${focus}"]`)?.focus();
  }

  // The box follows Python, but never under the typist's hands.
  fill() {
    const text = this.model.get("text");
    if (this.typed.value !== text && document.activeElement !== this.typed) this.typed.value = text;
  }

  // An error of Python's, which is an answer; or that there is none.
  say(silent = "") {
    if (!silent) this.silence.answered();
    this.error.textContent = silent || (this.model.get("error") ?? "");
    if (this.error.textContent) this.el.setAttribute("aria-busy", "false");
  }

  follow(pane) {
    const { scrollTop } = pane.view;
    for (const { pane: other } of this.cards) {
      const same = other !== pane && other.height === pane.height && other.text;
      if (same && other.view.scrollTop !== scrollTop) other.view.scrollTop = scrollTop;
    }
  }

  inspect(mark, from) {
    if (!this.text.size) return;
    const g = Math.min(mark, this.text.size - 1);
    from.pane.at = g;
    for (const { pane } of this.cards) pane.mark(g);
    this.tell(g, true);
  }

  // What was expected at mark g: in front of it, or behind the text where nothing is pointed at.
  tell(g, pointed) {
    const [card] = this.cards;
    const { ahead, bytes } = this.text;
    if (g < 0 || !ahead) {
      card.more.replaceChildren();
      return;
    }
    const start = this.text.start(g);
    const came = bytes[start];
    const shown = words("bdi", "skh-quote", this.text.shown(g).trim() || "␣");
    const bits = marksOf(this.text, this.picture.views[0].rows[0].row)[g].toFixed(1);
    const told = pointed
      ? element("div", "", {}, "at ", shown, `, ${bits} bits, it expected`)
      : words("div", "", "What comes next? Its five best guesses:");
    const rows = ahead.guesses(start);
    const list = element("div", "skh-guesses", {}, guessList(rows, pointed ? came : -1));
    const pushes = pointed ? [pushLine(came, ahead.pushes(start), this.picture.hidden, null)] : [];
    const values = pointed ? [this.valuesAt(g)] : [];
    card.more.replaceChildren(told, list, ...pushes, ...values);
  }

  // The values of the other views at mark g, in a line.
  valuesAt(g) {
    const rows = this.picture.views.slice(1).flatMap(({ name, rows }) =>
      rows.map((row) => [`${name.toLowerCase()} ${row.name}`, marksOf(this.text, row.row)[g]]),
    );
    const said = rows.map(([name, value]) => `${name} ${short(value)}`).join(" · ");
    return words("div", "skh-note", said);
  }
}

function renderPlay({ model, el }) {
  const play = new Play(model, el);
  return () => play.stop();
}

export default { render: renderPlay };
