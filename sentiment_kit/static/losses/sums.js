// Sums over columns of numbers: means, bands, the best so far, round ticks. As in
// looking.smoothing and looking.loss_picture, in JavaScript: they answer while Python trains.

// How many points are really averaged: at most a tenth of them, one where there are few.
export function meanPoints(count, asked) {
  return count < 100 ? 1 : Math.max(1, Math.min(Math.floor(asked), Math.floor(count / 10)));
}

export function countKnown(values) {
  let count = 0;
  for (const value of values) if (Number.isFinite(value)) count++;
  return count;
}

// Centred running average, shorter at both ends; NaN is left out and repeats what came before.
// At the start, where a loss falls steepest, it reaches back a quarter of the way at most.
export function smooth(values, points) {
  const known = Float64Array.from(values.filter(Number.isFinite));
  const sums = new Float64Array(known.length + 1);
  for (let n = 0; n < known.length; n++) sums[n + 1] = sums[n] + known[n];
  const half = Math.floor(points / 2);
  const smoothed = new Float64Array(values.length);
  let n = -1;
  let mean = NaN;
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i])) {
      n++;
      const k = Math.min(half, Math.floor(n / 4), known.length - 1 - n);
      mean = (sums[n + k + 1] - sums[n - k]) / (2 * k + 1);
    }
    smoothed[i] = mean;
  }
  return smoothed;
}

// Which values are lower than all before them.
export function bestSoFar(values) {
  let lowest = Infinity;
  return Array.from(values, (value) => {
    const best = value < lowest;
    if (best) lowest = value;
    return best;
  });
}

// The first place that is not below `value`; the length where all are.
export function firstFrom(rising, value) {
  let low = 0;
  let high = rising.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rising[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function nearest(rising, value) {
  const after = Math.min(firstFrom(rising, value), rising.length - 1);
  const before = Math.max(after - 1, 0);
  return value - rising[before] < rising[after] - value ? before : after;
}

function between({ x, y }, at) {
  const after = firstFrom(x, at);
  if (x[after] === at) return y[after];
  const share = (at - x[after - 1]) / (x[after] - x[after - 1]);
  return y[after - 1] + share * (y[after] - y[after - 1]);
}

// The spread of curves at the places of the first, where all of them have been.
export function band(curves) {
  const known = curves.map(({ x, y }) => {
    const kept = Array.from(x.keys()).filter((n) => Number.isFinite(x[n]) && Number.isFinite(y[n]));
    return { x: kept.map((n) => x[n]), y: kept.map((n) => y[n]) };
  });
  const spread = { x: [], low: [], mean: [], high: [] };
  if (!known.every(({ x }) => x.length)) return spread;
  const start = Math.max(...known.map(({ x }) => x[0]));
  const stop = Math.min(...known.map(({ x }) => x[x.length - 1]));
  for (const at of known[0].x.filter((x) => x >= start && x <= stop)) {
    const values = known.map((curve) => between(curve, at));
    spread.x.push(at);
    spread.low.push(Math.min(...values));
    spread.mean.push(values.reduce((a, b) => a + b) / values.length);
    spread.high.push(Math.max(...values));
  }
  return spread;
}

// Round numbers between two, about as many as asked for.
export function ticks(low, high, log, most) {
  if (log) {
    const from = Math.floor(Math.log10(low));
    const powers = Array.from(
      { length: Math.ceil(Math.log10(high)) - from + 1 },
      (_, k) => k + from,
    );
    const factors = powers.length > 4 ? [1] : [1, 2, 5];
    const all = powers.flatMap((power) => factors.map((factor) => factor * 10 ** power));
    return all.filter((tick) => tick >= low && tick <= high);
  }
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= rough * 0.999);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, k) => (first + k) * step);
}

// A number of few letters: 5M, 1.5k, 0.25.
export function short(value) {
  const size = Math.abs(value);
  for (const [power, letter] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (size >= power) return Number((value / power).toPrecision(4)) + letter;
  }
  if (size && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(4)));
}

export function grouped(value) {
  return Math.round(value).toLocaleString("en");
}

// A stretch of time: 45 s, 12 min, 3 h 05 min.
export function lasted(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  const minutes = String(Math.floor((seconds % 3600) / 60)).padStart(2, "0");
  return `${Math.floor(seconds / 3600)} h ${minutes} min`;
}
