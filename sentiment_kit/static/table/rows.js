// The numbers and words of all texts, and the order in which a table shows them. Everything is
// here, so that sorting, filtering and scrolling ask nobody.

import { copied, decoder } from "../heatmap/basics.js";

const READERS = { number: Float32Array, word: Int32Array };

export class Rows {
  constructor({ n, blob, stops, columns }) {
    this.n = n;
    this.blob = copied(Uint8Array, blob);
    this.stops = copied(Uint32Array, stops);
    this.columns = columns;
    this.cells = new Map();
    for (const { key, kind, cells } of columns) {
      if (READERS[kind]) this.cells.set(key, copied(READERS[kind], cells));
    }
  }

  column(key) {
    return this.columns.find((column) => column.key === key);
  }

  text(i) {
    return decoder.decode(this.blob.subarray(i ? this.stops[i - 1] : 0, this.stops[i]));
  }

  // All texts in small letters, made when somebody first searches or sorts by them.
  get small() {
    this.lowered ??= Array.from({ length: this.n }, (_, i) => this.text(i).toLowerCase());
    return this.lowered;
  }

  value(key, i) {
    return this.cells.get(key)[i];
  }

  // What a filter keeps, as a function of the row.
  keeps(filter, judged) {
    if (filter.find !== undefined) {
      const word = filter.find.toLowerCase();
      return (i) => this.small[i].includes(word);
    }
    if (filter.wrong !== undefined) {
      const [label, answer] = [this.cells.get(judged.label), this.cells.get(judged.answer)];
      const differs = (i) => judged.places[label[i]] !== answer[i];
      return (i) => label[i] >= 0 && answer[i] >= 0 && differs(i) === filter.wrong;
    }
    const cells = this.cells.get(filter.column);
    if (!cells) return () => true; // of a column that is no more
    if (filter.is !== undefined) return (i) => cells[i] === filter.is;
    const { low = null, high = null } = filter;
    const above = low === null ? () => true : (x) => x >= low;
    const below = high === null ? () => true : (x) => x <= high;
    return (i) => above(cells[i]) && below(cells[i]);
  }

  kept(where, judged) {
    const tests = where.map((filter) => this.keeps(filter, judged));
    const found = new Uint32Array(this.n);
    let count = 0;
    for (let i = 0; i < this.n; i++) {
      if (tests.every((test) => test(i))) found[count++] = i;
    }
    return found.subarray(0, count);
  }

  // The rows that are shown, in order. What has no number, or no word, comes last either way.
  order(sort, where, judged) {
    const found = this.kept(where, judged);
    const [key, way] = sort;
    if (!key) return found;
    if (key === "text") {
      const { small } = this;
      return found.sort((a, b) => (small[a] < small[b] ? -way : small[a] > small[b] ? way : a - b));
    }
    const cells = this.cells.get(key);
    if (!cells) return found;
    const none = this.column(key).kind === "word" ? (x) => x < 0 : Number.isNaN;
    const size = Float64Array.from(cells, (x) => (none(x) ? Infinity : way * x));
    return found.sort((a, b) => (size[a] < size[b] ? -1 : size[a] > size[b] ? 1 : a - b));
  }
}

// A share of right answers with its 95% interval (Wilson), as `accuracy` in Python.
export function wilson(right, n) {
  const z = 1.959964;
  const p = right / n;
  const middle = p + (z * z) / (2 * n);
  const half = z * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  const whole = 1 + (z * z) / n;
  return [p, Math.max(0, (middle - half) / whole), Math.min(1, (middle + half) / whole)];
}

// How often each label was answered with each class, among some rows.
export function confusion(rows, shown, judged) {
  const label = rows.cells.get(judged.label);
  const answer = rows.cells.get(judged.answer);
  const counts = judged.places.map(() => judged.classes.map(() => 0));
  for (const i of shown) {
    if (label[i] >= 0 && answer[i] >= 0) counts[label[i]][answer[i]] += 1;
  }
  return counts;
}

export function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}
