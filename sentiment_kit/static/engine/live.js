// What a heatmap asks Python for, answered in the page: texts are read, units recorded, ledgers and
// top units found by the engine. The names are the traits of HeatmapWidget.

import { readingOf, turnOf } from "../heatmap/readings.js";
import { encode, encodePrompt, paneOf } from "./texts.js";
import { MOST_BYTES, Reader, write } from "./reader.js";

function largestOf(values, stops) {
  return stops.reduce((most, stop) => Math.max(most, Math.abs(values[stop - 1])), 0);
}

export class LiveModel {
  isLive = true;

  constructor(told, engine) {
    this.told = told; // see live_page in Python
    this.engine = engine;
    this.reader = new Reader(engine);
    this.listeners = {};
    this.changed = new Set();
    this.scales = {};
    const { texts, units, shown, palette, words } = told;
    const choices = { n_units: engine.hidden };
    this.state = { texts, units, shown, choices, flipped: [], view: "state", ledgers: {}, error: "" };
    this.words = { ...palette, ...words, typed: true, ledger: false }; // names, counts, readings
  }

  get(name) {
    return this.state[name];
  }

  set(name, value) {
    this.state[name] = value;
    this.changed.add(name);
    for (const listener of [...(this.listeners[`change:${name}`] ?? [])]) listener();
  }

  on(name, listener) {
    (this.listeners[name] ??= []).push(listener);
  }

  off(name, listener) {
    this.listeners[name] = (this.listeners[name] ?? []).filter((other) => other !== listener);
  }

  send() {}

  save_changes() {
    const changed = this.changed;
    this.changed = new Set();
    if (changed.has("texts")) this.read();
    else if (changed.has("units")) this.publish();
    else if (changed.has("shown") || changed.has("view")) this.account();
    if (changed.has("picked")) this.look();
  }

  // Read what was typed; true when all of it is read and nothing else was typed meanwhile.
  async read() {
    const bytes = encode(this.state.texts[0], this.told.preset);
    const long = bytes.length > MOST_BYTES;
    const said = `${bytes.length.toLocaleString("en")} bytes; this page reads up to ${MOST_BYTES.toLocaleString("en")}`;
    this.set("error", long ? said : "");
    if (long) return false;
    this.set("top", {});
    this.pane = paneOf(bytes);
    const start = performance.now();
    const known = this.reader.states.length;
    const done = await this.reader.read(bytes, () => this.publish());
    const seconds = (performance.now() - start) / 1000;
    const read = this.reader.states.length - known; // more, where some was read again
    if (done && read > 100) this.speed = Math.max(this.speed ?? 0, read / seconds);
    return done;
  }

  values(unit) {
    const { reader, pane } = this;
    return unit === "surprise" ? reader.surprise(pane.stops) : reader.unit(unit);
  }

  // As they are drawn: turned by the reading of the unit.
  drawn(unit) {
    const { sign, middle } = turnOf(readingOf(this.words, unit), 0, false);
    return this.values(unit).map((value) => sign * (value - middle));
  }

  publish() {
    if (!this.pane) return;
    const { units } = this.state;
    const size = this.pane.bytes.length;
    const values = new Float32Array(units.length * size);
    units.forEach((unit, u) => {
      const row = this.values(unit);
      values.set(row, u * size);
      this.scales[unit] = Math.max(this.scales[unit] ?? 0, largestOf(this.drawn(unit), this.pane.stops));
    });
    const panes = [{ ...this.pane, values }];
    this.account();
    this.set("picture", { ...this.words, panes, units, scales: { ...this.scales } });
  }

  ledger(unit) {
    const { reader } = this;
    if (unit === "surprise") {
      const write = Float32Array.from(reader.bits);
      const total = write.reduce((sum, bits) => sum + bits, 0);
      return { write, survive: new Float32Array(write.length).fill(1), total };
    }
    return reader.ledger(unit);
  }

  account() {
    if (!this.pane || this.state.view !== "ledger" || this.reader.bits.length < this.pane.bytes.length) return;
    const found = this.state.shown.map((unit) => [unit, [this.ledger(unit)]]);
    this.set("ledgers", Object.fromEntries(found));
  }

  look() {
    const { pane, start, stop } = this.state.picked;
    if (stop > this.reader.states.length) return;
    this.set("top", { pane, start, stop, ...this.reader.top(start, stop) });
  }

  // The likeliest continuations before a byte of the text.
  guesses(_, start) {
    return start <= this.reader.states.length ? this.reader.guesses(start) : [];
  }

  // The share of a unit's account that is older than the last dozen bytes: what it remembers.
  memory(unit) {
    const { write, survive } = this.reader.ledger(unit);
    const left = write.map((value, t) => Math.abs(value * survive[t]));
    const sum = (row) => row.reduce((total, value) => total + value, 0);
    return [sum(left.subarray(0, Math.max(0, left.length - 12))), sum(left)];
  }

  // The unit whose account is worth reading: the one that was found, if it keeps half of its
  // last value for a dozen bytes, else the one that keeps the most of this text.
  keeper() {
    const { neuron } = this.told;
    const [old, all] = neuron ? this.memory(neuron.unit) : [0, 1];
    if (neuron && old > all / 2) return neuron.unit;
    let best = 0;
    let most = 0;
    for (let unit = 0; unit < this.engine.hidden; unit++) {
      const [kept] = this.memory(unit);
      if (kept > most) [best, most] = [unit, kept];
    }
    return best;
  }

  // The model writes on; `take` is given the text so far until it says stop.
  async write(how, take) {
    const prompt = encodePrompt(this.state.texts[0], this.told.preset);
    const written = [];
    for (const byte of write(this.engine, prompt, how)) {
      written.push(byte);
      const text = new TextDecoder().decode(Uint8Array.from(written));
      if (!take(text)) return;
      await new Promise((done) => setTimeout(done, 4));
    }
  }
}
