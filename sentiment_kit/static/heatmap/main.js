// The whole: the parts of a widget, and how they follow its traits. Python sends bytes and float32
// values of whole units; what a mouse, a scroll bar or another unit needs is computed here.

import { MOST, button, element, has, key, label, words } from "./basics.js";
import { Silence, typingBox } from "./input.js";
import { measureIn } from "./layout.js";
import { Text, channel, largest } from "./marks.js";
import { Picker, fillSlots } from "./menu.js";
import { Pane } from "./pane.js";
import { colourWords, readingOf, turnOf } from "./readings.js";
import { receive, saveButtons } from "./saving.js";
import { explain, inspect, tellTop } from "./told.js";

const LEDGER = "what each character wrote into the unit, and how much of it is left at the end";
const SURPRISED = "what each character cost the model, and what it expected in its place";
const HELP =
  "Point at a character, or move with the arrow keys; click it for its top units.";

class App {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.id = Math.random().toString(36).slice(2);
    this.panes = [];
    this.texts = [];
    this.drawn = []; // of each unit that is drawn: its scale, and its values in every pane
    this.widths = new Map(); // of characters
    this.by = "word"; // what an account is told by: word or character
    this.silence = new Silence((said) => this.say(said));
    this.makeParts();
    this.listen();
    this.open();
  }

  makeParts() {
    const { el } = this;
    el.classList.add("skh");
    el.addEventListener("focusin", ({ target }) => {
      target.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keys
    });
    this.picker = new Picker(this);
    this.slots = element("div", "skh-slots");
    this.ledger = button("Ledger", LEDGER, () => {
      this.set({ view: this.model.get("view") === "ledger" ? "state" : "ledger" });
    });
    this.ledger.hidden = true;
    this.surprise = button("Surprise", SURPRISED, () => this.toggleSurprise());
    this.surprise.hidden = true;
    this.error = element("div", "skh-error", { attributes: { role: "alert" } });
    this.why = words("div", "skh-note skh-why", this.model.get("why") ?? "");
    this.stage = element("div", "skh-stage");
    this.legend = element("div", "skh-legend");
    this.told = element("div", "skh-told", { attributes: { role: "status" } });
    this.tops = element("div", "skh-tops");
    const views = [this.surprise, this.ledger];
    const bar = element("div", "skh-bar", {}, this.slots, ...views, saveButtons(this));
    const below = [this.stage, this.legend, this.told, this.tops];
    el.append(bar, this.picker.box, this.error, this.why, ...below);
  }

  listen() {
    const refresh = () => this.refresh();
    this.changes = {
      "change:picture": () => this.open(),
      "change:texts": () => this.fill(),
      "change:error": () => this.say(),
      "change:top": () => tellTop(this),
      "msg:custom": (message, buffers) => receive(this, message, buffers),
      "change:shown": refresh,
      "change:flipped": refresh,
      "change:view": refresh,
      "change:ledgers": refresh,
    };
    for (const [name, change] of Object.entries(this.changes)) this.model.on(name, change);
    this.resized = new ResizeObserver(() => {
      for (const pane of this.panes) {
        const { clientWidth } = pane.view;
        if (pane.text && clientWidth && clientWidth !== pane.width) pane.lay();
      }
    });
  }

  stop() {
    this.resized.disconnect();
    this.silence.answered();
    for (const [name, change] of Object.entries(this.changes)) this.model.off(name, change);
  }

  // -- the traits

  get isPage() {
    return !!this.model.isPage;
  }

  get choices() {
    return this.model.get("choices") ?? {};
  }

  get shown() {
    return this.model.get("shown") ?? [];
  }

  get flipped() {
    return this.model.get("flipped") ?? [];
  }

  get typed() {
    return this.model.get("texts") ?? [];
  }

  set(values) {
    const asks = !this.isPage && !this.model.isLive && (values.texts || values.units);
    if (asks) this.silence.asked();
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  flip(unit) {
    const { flipped } = this;
    const others = flipped.filter((other) => key(other) !== key(unit));
    this.set({ flipped: has(flipped, unit) ? others : [...flipped, unit] });
  }

  choose(slot, unit) {
    const shown = [...this.shown];
    const units = this.model.get("units") ?? this.picture.units;
    const twin = shown.findIndex((other) => key(other) === key(unit));
    if (twin < 0 || twin === slot) {
      shown[slot] = unit;
    } else if (slot < shown.length) {
      [shown[slot], shown[twin]] = [shown[twin], shown[slot]]; // already there: they change places
    }
    this.set(has(units, unit) ? { shown } : { units: [...units, unit], shown });
  }

  // The text in the colours of the surprise; again: of the unit before.
  toggleSurprise() {
    const [first] = this.shown;
    if (first !== "surprise") this.unitBefore = first;
    const back = this.unitBefore ?? this.picture.units.find((unit) => unit !== "surprise");
    this.choose(0, first === "surprise" ? (back ?? first) : "surprise");
  }

  // -- from the picture to the panes

  open() {
    this.picture = this.model.get("picture");
    this.say();
    if (!this.picture?.panes) {
      this.told.replaceChildren(words("span", "skh-note", "Nothing to draw yet."));
      return;
    }
    this.palette = this.picture;
    this.texts = this.picture.panes.map((pane) => new Text(pane));
    const titles = this.texts.map((text) => text.title);
    const form = JSON.stringify([this.picture.typed, titles, this.typed.length]);
    if (form !== this.form) this.build();
    this.form = form;
    this.refresh(true);
    this.fill();
  }

  // Boxes to type in and panes, side by side.
  build() {
    const { typed } = this;
    const can = this.picture.typed && !this.isPage;
    const several = can && typed.length;
    const each = several ? Math.max(1, this.texts.length / typed.length) : this.texts.length;
    for (const pane of this.panes) this.resized.unobserve(pane.view);
    this.panes = this.texts.map((_, i) => new Pane(this, i));
    this.boxes = [];
    this.stage.replaceChildren();
    for (let i = 0; i < this.panes.length; i += each) {
      const name = typed.length > 1 ? `text ${i / each + 1}` : "text";
      const part = element("section", "skh-text", { attributes: { "aria-label": name } });
      if (can) {
        const { box, fold } = typingBox(this, i / each, typed);
        this.boxes.push(box);
        part.append(fold);
      }
      const panes = this.panes.slice(i, i + each).map((pane) => pane.box);
      part.append(element("div", "skh-panes", {}, ...panes));
      this.stage.append(part);
    }
    for (const pane of this.panes) this.resized.observe(pane.view);
  }

  // The boxes follow Python, but never under the typist's hands.
  fill() {
    const { typed } = this;
    this.boxes?.forEach((box, n) => {
      const differs = typed[n] !== undefined && box.value !== typed[n];
      if (differs && document.activeElement !== box) box.value = typed[n];
    });
  }

  // -- from the traits to the colours

  refresh(texts = false) {
    if (!this.picture?.panes) return;
    const before = this.drawn.length;
    this.chooseDrawn(texts);
    for (const [i, pane] of this.panes.entries()) {
      if (texts) pane.text = this.texts[i];
      this.entitle(pane);
      if (texts) pane.set(this.texts[i]);
      else if (this.drawn.length !== before) pane.lay();
      else pane.paint();
      this.describe(pane);
    }
    this.showControls();
    explain(this);
    if (this.hovered && this.panes.includes(this.hovered[0])) this.inspect(...this.hovered);
    else this.told.replaceChildren(words("span", "skh-note", HELP));
    tellTop(this);
  }

  // The units whose values are here, and those that are waited for.
  chooseDrawn(texts) {
    const { picture, shown } = this;
    const ledgers = this.model.get("view") === "ledger" && (this.model.get("ledgers") ?? {});
    const ready = shown.filter((unit) => {
      return has(picture.units, unit) && (!ledgers || this.fits(ledgers[key(unit)]));
    });
    this.waiting = shown.filter((unit) => !has(ready, unit));
    if (ready.length) {
      this.drawn = ready.slice(0, MOST).map((unit) => this.channels(unit, ledgers));
    } else if (texts) {
      this.drawn = picture.units.slice(0, 1).map((unit) => this.channels(unit, false));
    }
  }

  // Is a ledger of these texts? It may still be that of the text before.
  fits(ledger) {
    if (!ledger || ledger.length !== this.texts.length) return false;
    return ledger.every((part, i) => part.write.byteLength === 4 * this.texts[i].bytes.length);
  }

  channels(unit, ledgers) {
    const row = this.picture.units.findIndex((other) => key(other) === key(unit));
    const reading = readingOf(this.picture, unit);
    const flipped = has(this.flipped, unit);
    const ledger = ledgers && ledgers[key(unit)];
    const panes = this.texts.map((text, i) => {
      return channel(text, row, turnOf(reading, i, flipped), ledger && ledger[i]);
    });
    const sizes = panes.flatMap(({ value, wrote }) => [largest(value), wrote ? largest(wrote) : 0]);
    const most = Math.max(...sizes, 0);
    const known = ledger ? 0 : (this.picture.scales[key(unit)] ?? 0);
    const full = this.picture.counts?.[key(unit)]; // a row that is never below 0
    const scale = full ?? (Math.max(most, known) || 1);
    const counts = !!full || !reading.ends[0];
    return { unit, reading, flipped, panes, ledger: !!ledger, scale, full, counts };
  }

  measure(style) {
    return measureIn(style, this.widths);
  }

  // What a unit is called: by its source, such as "logit of positive", or by its number.
  label(unit) {
    return this.picture?.names?.[key(unit)] ?? this.choices.names?.[key(unit)] ?? label(unit);
  }

  // What a screen reader says of a pane.
  describe(pane) {
    const { title, size } = pane.text;
    const names = this.drawn.map(({ unit, flipped }) => {
      return this.label(unit) + (flipped ? ", flipped" : "");
    });
    const said =
      `${title || "text"}, ${size} characters, in the colours of ${names.join(", ")}; ` +
      "arrow keys move, Enter asks for top units";
    pane.view.setAttribute("aria-label", said);
  }

  // What stands above a pane: the text's name, the units drawn, the colours in words; and of a
  // ledger the account.
  entitle(pane) {
    const [first] = this.drawn;
    const several = this.panes.length > 1 ? `text ${pane.i + 1}` : "";
    const names = this.drawn.map(({ unit }) => this.label(unit)).join(", ");
    const title = [pane.text.title || several, names].filter(Boolean).join(" · ");
    pane.entitle(title, first ? colourWords(first.reading, first.flipped) : "", first);
  }

  // Accounts are told by word or by character.
  accountBy(by) {
    this.by = by;
    this.refresh();
    for (const pane of this.panes) pane.box.querySelector(".skh-ways [aria-pressed=true]")?.focus();
  }

  showControls() {
    fillSlots(this);
    const ledgers = this.model.get("ledgers") ?? {};
    this.ledger.hidden = this.isPage ? !Object.keys(ledgers).length : !this.picture.ledger;
    const named = has(this.choices.named ?? [], "surprise") && !this.isPage;
    this.surprise.hidden = !named;
    this.surprise.setAttribute("aria-pressed", String(this.shown[0] === "surprise"));
    this.ledger.setAttribute("aria-pressed", String(this.model.get("view") === "ledger"));
    this.el.setAttribute("aria-busy", String(this.waiting.length > 0));
  }

  // An error of Python's, which is an answer; or that there is none.
  say(silent = "") {
    if (!silent) this.silence.answered();
    this.error.textContent = silent || (this.model.get("error") ?? "");
  }

  // -- what panes ask for

  // Panes of the same text scroll together.
  follow(pane) {
    const { scrollTop } = pane.view;
    for (const other of this.panes) {
      if (other === pane || !other.text || !pane.text.equals(other.text)) continue;
      if (other.view.scrollTop !== scrollTop) other.view.scrollTop = scrollTop;
    }
  }

  inspect(pane, g, live) {
    inspect(this, pane, g, live);
  }

  pick(pane, g) {
    if (!pane.text.size) return;
    this.inspect(pane, g, "polite");
    if (!this.choices.n_units || this.isPage) return;
    const picked = { pane: pane.i, start: pane.text.start(g), stop: pane.text.stops[g] };
    this.set({ picked });
  }
}

export function render({ model, el }) {
  const app = new App(model, el);
  return () => app.stop();
}

export default { render };
