// A byte-level mLSTM or LSTM that reads one byte at a time. What it is told about the weights
// (`sizes` and `arrays`) is written by live_weights in Python; the weights themselves are codes of
// 16 or 8 bits with a factor for each column.

import { bestKernels, fromHalf } from "./kernels.js";

const whole = (n) => 32 * Math.ceil(n / 32); // columns as whole panels

export class Engine {
  constructor(told, weights, code, kernelsOf = bestKernels) {
    Object.assign(this, told.sizes); // cell, layers, hidden, embed, vocab, bits
    this.told = told.arrays;
    this.weights = weights;
    const size = Math.max(...Object.values(told.arrays).map((one) => one.factors + one.bytes));
    if (weights.length !== size) throw new Error(`${weights.length} bytes of weights, not ${size}`);
    this.width = whole(this.hidden);
    const { layers, hidden, embed, vocab, width } = this;
    const matrices = (hidden + embed + (layers - 1) * 2 * hidden) * 5 * width;
    const head = hidden * whole(vocab);
    const largest = Math.max(...Object.values(told.arrays).map(({ bytes }) => bytes));
    const room = 4 * (matrices + head + layers * 20 * width + 4 * whole(vocab) + 16 * width);
    this.kernels = kernelsOf(code, room + largest + 65536);
    this.free = Math.ceil(this.kernels.heap_base() / 16) * 16;
    this.float = new Float32Array(this.kernels.memory.buffer);
    this.load();
  }

  // Room for some numbers, all 0: what was unpacked may have lain there.
  take(count) {
    const at = this.free;
    this.free += 4 * Math.ceil(count / 4) * 4;
    this.at(at, count).fill(0);
    return at;
  }

  at(pointer, count) {
    return this.float.subarray(pointer / 4, pointer / 4 + count);
  }

  // A matrix in panels: blocks of `columns` columns, each filled up to whole panels.
  matrix(name, columns) {
    const { rows, factors, codes, bytes } = this.told[name];
    const total = this.told[name].columns;
    const panels = whole(columns) / 32;
    const to = this.take((total / columns) * rows * panels * 32);
    const raw = this.free; // only while it is unpacked
    const memory = new Uint8Array(this.kernels.memory.buffer);
    memory.set(this.weights.subarray(factors, factors + bytes), raw);
    const size = this.bits / 8;
    const unpack = this.bits === 16 ? this.kernels.unpack_half : this.kernels.unpack_byte;
    const code = raw + codes - factors;
    for (let first = 0; first < total; first += columns) {
      const there = to + (first / columns) * rows * panels * 128;
      unpack(there, code + first * size, raw + first * 4, rows, columns, total);
    }
    return { at: to, rows, panels: (total / columns) * panels };
  }

  // Numbers in single precision, a row of `columns` numbers in each block of whole panels.
  floats(name, columns) {
    const { factors, columns: total } = this.told[name];
    const own = new Float32Array(this.weights.slice(factors, factors + 4 * total).buffer);
    const to = this.take((total / columns) * whole(columns));
    for (let first = 0; first < total; first += columns) {
      const block = own.subarray(first, first + columns);
      this.float.set(block, to / 4 + (first / columns) * whole(columns));
    }
    return to;
  }

  // The embedding of one symbol.
  embedding(symbol) {
    const { factors, codes, columns } = this.told.embed;
    const view = new DataView(this.weights.buffer, this.weights.byteOffset);
    return Float32Array.from({ length: columns }, (_, k) => {
      const place = symbol * columns + k;
      const half = () => fromHalf(view.getUint16(codes + 2 * place, true));
      const value = this.bits === 16 ? half() : view.getInt8(codes + place);
      return value * view.getFloat32(factors + 4 * k, true);
    });
  }

  load() {
    const { hidden, vocab, width, cell } = this;
    const multiplicative = cell === "mlstm";
    this.parts = Array.from({ length: this.layers }, (_, k) => ({
      b: this.floats(`${k}.b`, hidden),
      x: this.matrix(`${k}.x`, hidden),
      h: this.matrix(`${k}.h`, hidden),
      mx: multiplicative && this.matrix(`${k}.mx`, hidden),
      mh: multiplicative && this.matrix(`${k}.mh`, hidden),
      state: { h: this.take(width), c: this.take(width), f: this.take(width) },
    }));
    this.head = this.matrix("head", vocab);
    this.headBias = this.floats("head.b", vocab);
    this.z = this.take(4 * width);
    this.m = this.take(width);
    this.m2 = this.take(width);
    this.logit = this.take(whole(vocab));
    this.input = this.take(whole(this.embed));
    this.rows = new Map(); // of the first layer: what a symbol adds to z and to m, made once
  }

  product(y, x, { at, rows, panels }) {
    this.kernels.product(y, x, at, rows, panels);
  }

  // x W_x + b into z, and x W_mx into m.
  inputs(part, x) {
    const { z, m, width } = this;
    this.at(z, 4 * width).set(this.at(part.b, 4 * width));
    this.product(z, x, part.x);
    if (!part.mx) return;
    this.at(m, width).fill(0);
    this.product(m, x, part.mx);
  }

  symbolInputs(symbol) {
    const { z, m, width } = this;
    if (!this.rows.has(symbol)) {
      this.at(this.input, this.embed).set(this.embedding(symbol));
      this.inputs(this.parts[0], this.input);
      this.rows.set(symbol, [this.at(z, 4 * width).slice(), this.at(m, width).slice()]);
    } else {
      const [ofZ, ofM] = this.rows.get(symbol);
      this.at(z, 4 * width).set(ofZ);
      this.at(m, width).set(ofM);
    }
  }

  read(symbol) {
    const { z, m, m2, width, kernels, parts } = this;
    parts.forEach((part, k) => {
      const { h, c, f } = part.state;
      if (k) this.inputs(part, parts[k - 1].state.h);
      else this.symbolInputs(symbol);
      let from = h;
      if (part.mh) {
        this.at(m2, width).fill(0);
        this.product(m2, h, part.mh);
        kernels.multiply(m, m, m2, width);
        from = m;
      }
      this.product(z, from, part.h);
      kernels.cell(z, c, h, f, width);
    });
  }

  // Logits of the next symbol; good until the next call.
  logits() {
    const count = whole(this.vocab);
    this.at(this.logit, count).set(this.at(this.headBias, count));
    this.product(this.logit, this.parts[this.layers - 1].state.h, this.head);
    return this.at(this.logit, this.vocab);
  }

  // -- the state, of all layers: h, c and the forget gates f that led to it

  reset() {
    for (const { state } of this.parts) {
      for (const pointer of Object.values(state)) this.at(pointer, this.width).fill(0);
    }
  }

  state() {
    const rows = (name) => this.parts.map((part) => this.at(part.state[name], this.hidden).slice());
    return { h: rows("h"), c: rows("c"), f: rows("f") };
  }

  restore(state) {
    for (const name of ["h", "c"]) {
      state[name].forEach((row, k) => this.at(this.parts[k].state[name], this.hidden).set(row));
    }
  }

  // Hold a cell of the top layer at a value: c, and h through the same output gate.
  hold(unit, value) {
    const { h, c } = this.parts[this.layers - 1].state;
    const before = Math.tanh(this.float[c / 4 + unit]);
    const open = before === 0 ? 0 : this.float[h / 4 + unit] / before;
    this.float[c / 4 + unit] = value;
    this.float[h / 4 + unit] = open * Math.tanh(value);
  }
}

// log2 of the probabilities that logits stand for.
export function logProbabilities(logits) {
  let most = -Infinity;
  for (const logit of logits) most = Math.max(most, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  const all = most + Math.log(sum);
  return Float64Array.from(logits, (logit) => (logit - all) / Math.LN2);
}
