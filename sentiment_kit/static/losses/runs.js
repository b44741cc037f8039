// Runs: the columns that Python sent, and the lines that are drawn of them.

import { copied } from "../heatmap/basics.js";
import { band, bestSoFar, countKnown, meanPoints, smooth } from "./sums.js";

const TIMES = [
  ["days", 86400],
  ["hours", 3600],
  ["minutes", 60],
  ["seconds", 1],
];

export class Run {
  constructor({ columns, points, ...told }) {
    Object.assign(this, told); // name, line, settings, group, notes, gap
    this.own = this.line; // in a band it has that of its group
    this.columns = {};
    for (const [field, bytes] of Object.entries(columns)) {
      const wide = bytes.byteLength === 8 * told.rows;
      this.columns[field] = copied(wide ? Float64Array : Float32Array, bytes);
    }
    this.points = {};
    for (const [field, { at, y, told: more }] of Object.entries(points)) {
      this.points[field] = { at: copied(Uint32Array, at), y: copied(Float32Array, y), more };
    }
    this.made = new Map(); // what was computed of the columns
  }

  once(name, make) {
    if (!this.made.has(name)) this.made.set(name, make());
    return this.made.get(name);
  }

  has(field) {
    return !!this.rows && (field in this.columns || field in this.points);
  }

  x({ column, unit }) {
    const make = () =>
      (this.columns[column] ?? new Float64Array(this.rows).fill(NaN)).map((x) => x / unit);
    return this.once(`x ${column} ${unit}`, make);
  }

  raw(field) {
    if (field !== "skipped") return this.columns[field];
    let sum = 0; // since the start
    return this.once("skipped", () => this.columns.skipped.map((n) => (sum += n || 0)));
  }

  mean(field, asked) {
    const values = this.raw(field);
    const count = this.once(`count ${field}`, () => countKnown(values));
    const points = meanPoints(count, asked);
    const y = points > 1 ? this.once(`${field} ${points}`, () => smooth(values, points)) : values;
    return { y, points };
  }

  last(field) {
    const values = this.points[field]?.y ?? this.columns[field] ?? [];
    for (let n = values.length - 1; n >= 0; n--) if (Number.isFinite(values[n])) return values[n];
    return NaN;
  }

  // The lowest validation and the step it was measured at.
  best() {
    const { at, y } = this.points.valid_bits ?? { at: [], y: [] };
    const marks = bestSoFar(y);
    const n = marks.lastIndexOf(true);
    return n < 0 ? null : { bits: y[n], step: this.columns.step[at[n]] };
  }
}

// Time in the largest unit of which the longest run has three.
export function axisOf(axes, name, runs) {
  if (name !== "time") return axes[name];
  const longest = Math.max(0, ...runs.map((run) => run.last("seconds") || 0));
  const [word, unit] = TIMES.find(([, size]) => longest >= 3 * size) ?? TIMES[3];
  return { ...axes.time, unit, title: `time (${word})` };
}

// The lines of a panel: where, what, and how they look. Thick ones are told by the cursor.
export function panelLines(runs, field, { axis, smoothing, bands, averaged }) {
  const lines = [];
  const groups = new Map();
  for (const run of runs) {
    if (!run.has(field) || !(field in run.columns)) continue;
    const x = run.x(axis);
    const { y, points } = averaged ? run.mean(field, smoothing) : { y: run.raw(field), points: 1 };
    const seeds = bands && runs.filter((other) => other.group === run.group).length > 1;
    if (points > 1 && !seeds) lines.push({ run, x, y: run.raw(field), width: 1, alpha: 0.3 });
    const look = seeds ? { width: 1, alpha: 0.5 } : { width: 2, alpha: 1 };
    lines.push({ run, x, y, ...look, told: true, points });
    if (seeds) groups.set(run.group, [...(groups.get(run.group) ?? []), { run, x, y }]);
  }
  for (const curves of groups.values()) {
    const spread = band(curves);
    const name = `mean of ${curves.length} seeds`;
    lines.push({ run: curves[0].run, ...spread, y: spread.mean, width: 2, alpha: 1, name });
  }
  return lines;
}
