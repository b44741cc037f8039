// One text: its marks (what a reader calls characters), and a value for each of them.

import { unpacked } from "./ahead.js";
import { copied, decoder } from "./basics.js";

export class Text {
  constructor(pane) {
    this.title = pane.title;
    this.bytes = copied(Uint8Array, pane.bytes);
    this.stops = copied(Uint32Array, pane.stops);
    this.values = copied(Float32Array, pane.values); // a row of bytes.length for each unit
    this.special = new Map(pane.special.map(([g, shown, faint]) => [g, { shown, faint }]));
    this.breaks = new Set(pane.breaks);
    this.size = this.stops.length;
    this.ahead = unpacked(pane.ahead); // what was expected at every byte, where that is known
  }

  start(g) {
    return g ? this.stops[g - 1] : 0;
  }

  piece(g) {
    return this.bytes.subarray(this.start(g), this.stops[g]);
  }

  // A printable ASCII character, the common case.
  plain(g) {
    const start = this.start(g);
    const byte = this.bytes[start];
    const printable = byte > 31 && byte < 127;
    return this.stops[g] === start + 1 && printable && !this.special.has(g);
  }

  shown(g) {
    if (this.plain(g)) return String.fromCharCode(this.bytes[this.start(g)]);
    return this.special.get(g)?.shown ?? decoder.decode(this.piece(g));
  }

  // Of the first letter that has one, as dir="auto" would find it if all rows were there.
  direction() {
    const beginning = decoder.decode(this.bytes.subarray(0, 4000));
    const letter = beginning.match(/\p{L}/u)?.[0] ?? "a";
    return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/.test(letter) ? "rtl" : "ltr";
  }

  equals(other) {
    if (this.bytes.length !== other.bytes.length) return false;
    return this.bytes.every((byte, t) => byte === other.bytes[t]);
  }
}

// The state after the last byte of every mark.
function states(text, row, { sign, middle }) {
  const value = new Float32Array(text.size);
  const first = row * text.bytes.length;
  for (let g = 0; g < text.size; g++) {
    value[g] = sign * (text.values[first + text.stops[g] - 1] - middle);
  }
  return { value };
}

// What every mark wrote into the unit, and what is left of that at the end.
function account(text, { sign, middle }, ledger) {
  const value = new Float32Array(text.size);
  const wrote = new Float32Array(text.size);
  const write = copied(Float32Array, ledger.write);
  const survive = copied(Float32Array, ledger.survive);
  for (let g = 0; g < text.size; g++) {
    for (let t = text.start(g); t < text.stops[g]; t++) {
      wrote[g] += sign * write[t];
      value[g] += sign * write[t] * survive[t];
    }
  }
  return { value, wrote, total: sign * (ledger.total - middle), cut: -sign * middle };
}

// What is drawn of one unit over one text, turned as its reading says: its states, or its ledger.
export function channel(text, row, turn, ledger) {
  return ledger ? account(text, turn, ledger) : states(text, row, turn);
}

export function largest(values) {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

// Where a value stands among sorted ones, in percent; half of its equals count as below it.
export function percentile(sorted, value) {
  const before = (stays) => {
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (stays(sorted[middle])) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const below = before((other) => other < value);
  const upTo = before((other) => other <= value);
  return (50 * (below + upTo)) / sorted.length;
}
