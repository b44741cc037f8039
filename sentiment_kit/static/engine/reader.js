// One text as the engine reads it. What is known of every byte is kept, so that after an edit it goes
// on at the first byte that differs, and any unit, any guess and any ledger is there at once.

import { logProbabilities } from "./engine.js";

export const MOST_BYTES = 8000; // of a text; a byte keeps 9 KB at 768 units
const TURN = 12; // ms of reading between two looks at what was typed

const pause = () => new Promise((done) => setTimeout(done));

export class Reader {
  constructor(engine) {
    this.engine = engine;
    this.bytes = new Uint8Array();
    this.states = []; // after each byte
    this.bits = []; // what each byte cost
    this.turn = 0; // counts texts: an older one stops when a newer one comes
  }

  // Read a text; `progress` is called now and then, and at the end. False where a newer one came.
  async read(bytes, progress) {
    const turn = ++this.turn;
    let same = 0;
    while (same < this.states.length && this.bytes[same] === bytes[same]) same++;
    same = Math.min(same, bytes.length);
    this.states.length = same;
    this.bits.length = same;
    this.bytes = bytes;
    let shown = performance.now();
    while (this.states.length < bytes.length) {
      const start = performance.now();
      this.go(same);
      do this.step();
      while (this.states.length < bytes.length && performance.now() - start < TURN);
      same = this.states.length;
      if (same === bytes.length) break;
      if (performance.now() - shown > 150) {
        progress();
        shown = performance.now();
      }
      await pause();
      if (turn !== this.turn) return false;
    }
    progress();
    return true;
  }

  // The engine as it was before byte t.
  go(t) {
    if (t) this.engine.restore(this.states[t - 1]);
    else this.engine.reset();
  }

  step() {
    const t = this.states.length;
    const byte = this.bytes[t];
    this.bits.push(-logProbabilities(this.engine.logits())[byte]);
    this.engine.read(byte);
    this.states.push(this.engine.state());
  }

  // The cell of the top layer after byte t.
  cell(t) {
    return this.states[t].c[this.engine.layers - 1];
  }

  // A value for each byte, 0 where it is not read yet.
  values(of) {
    const row = new Float32Array(this.bytes.length);
    for (let t = 0; t < this.states.length; t++) row[t] = of(t);
    return row;
  }

  unit(unit) {
    return this.values((t) => this.cell(t)[unit]);
  }

  // What each character cost, at its last byte.
  surprise(stops) {
    const row = new Float32Array(this.bytes.length);
    let start = 0;
    for (const stop of stops) {
      let sum = 0;
      for (let t = start; t < stop; t++) sum += this.bits[t] ?? 0;
      row[stop - 1] = sum;
      start = stop;
    }
    return row;
  }

  // What every byte wrote into a cell, and which share of it is left after the last.
  ledger(unit) {
    const top = this.engine.layers - 1;
    const size = this.states.length;
    const write = new Float32Array(this.bytes.length);
    const survive = new Float32Array(this.bytes.length);
    let left = 1;
    for (let t = size - 1; t >= 0; t--) {
      const { c, f } = this.states[t];
      const before = t ? this.cell(t - 1)[unit] : 0;
      survive[t] = left;
      write[t] = c[top][unit] - f[top][unit] * before;
      left *= f[top][unit];
    }
    return { write, survive, total: size ? this.cell(size - 1)[unit] : 0 };
  }

  // The likeliest bytes at place t, given those before it: rows [byte, probability].
  guesses(t, most = 5) {
    const { engine } = this;
    this.go(t);
    const p = Array.from(logProbabilities(engine.logits()), (log, byte) => [byte, 2 ** log]);
    return p.sort((a, b) => b[1] - a[1]).slice(0, most);
  }

  // As top_units in Python: the units that bytes start … stop moved, and the largest after them.
  top(start, stop, most = 6) {
    const after = this.cell(stop - 1);
    const before = start ? this.cell(start - 1) : new Float32Array(after.length);
    const rows = Array.from(after, (value, unit) => [unit, value, value - before[unit]]);
    const by = (n) => [...rows].sort((a, b) => Math.abs(b[n]) - Math.abs(a[n])).slice(0, most);
    return { moved: by(2), largest: by(1) };
  }
}

// Numbers from a seed, the same in every browser (mulberry32).
export function chance(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// One byte from logits at a temperature; at 0 the likeliest one.
export function pick(logits, temperature, random) {
  let best = 0;
  let most = -Infinity;
  logits.forEach((logit, byte) => {
    const noise = temperature ? -Math.log(-Math.log(random() || 1e-300)) : 0;
    const value = logit + temperature * noise;
    if (value > most) [best, most] = [byte, value];
  });
  return best;
}

// What the model writes after a prompt, byte by byte; `held` is {unit, value} or nothing.
export function* write(engine, prompt, { count, temperature, seed, held }) {
  const random = chance(seed);
  engine.reset();
  for (const byte of prompt) engine.read(byte);
  for (let n = 0; n < count; n++) {
    if (held) engine.hold(held.unit, held.value);
    const byte = pick(engine.logits(), temperature, random);
    const state = engine.state(); // others may read meanwhile
    yield byte;
    engine.restore(state);
    engine.read(byte);
  }
}
