// Painting on a canvas: axes, lines, bands and symbols of one panel.

import { bestSoFar, firstFrom, short, ticks } from "./sums.js";

const DASHES = { solid: [], dash: [8, 5], dot: [2, 4], dashdot: [8, 4, 2, 4] };
const SYMBOLS = {
  diamond: [
    [0, -5],
    [5, 0],
    [0, 5],
    [-5, 0],
  ],
  square: [
    [-4, -4],
    [4, -4],
    [4, 4],
    [-4, 4],
  ],
  "triangle-up": [
    [0, -5],
    [5, 4],
    [-5, 4],
  ],
  star: [
    [0, -6],
    [1.5, -2],
    [6, -2],
    [2.5, 1],
    [4, 5],
    [0, 2.5],
    [-4, 5],
    [-2.5, 1],
    [-6, -2],
    [-1.5, -2],
  ],
  cross: [
    [-1.5, -5],
    [1.5, -5],
    [1.5, -1.5],
    [5, -1.5],
    [5, 1.5],
    [1.5, 1.5],
    [1.5, 5],
    [-1.5, 5],
    [-1.5, 1.5],
    [-5, 1.5],
    [-5, -1.5],
    [-1.5, -1.5],
  ],
  circle: Array.from({ length: 12 }, (_, k) => [
    4 * Math.cos((k * Math.PI) / 6),
    4 * Math.sin((k * Math.PI) / 6),
  ]),
  x: [
    [-4, -4],
    [0, -1],
    [4, -4],
    [1, 0],
    [4, 4],
    [0, 1],
    [-4, 4],
    [-1, 0],
  ],
};

// From values to pixels and back.
export function scaleOf(low, high, start, stop, log) {
  const form = log ? Math.log : Number;
  const back = log ? Math.exp : Number;
  const unit = (stop - start) / (form(high) - form(low));
  const at = (value) => start + (form(value) - form(low)) * unit;
  return { low, high, log, at, of: (pixel) => back(form(low) + (pixel - start) / unit) };
}

// The part of a rising column that is in sight, with a neighbour on each side.
function inSight(x, across) {
  const first = Math.max(0, firstFrom(x, across.low) - 1);
  return [first, Math.min(x.length, firstFrom(x, across.high) + 2)];
}

// Places of a line in pixels: all, or where there are many the first, lowest, highest and last
// of each column of pixels.
function* places(x, y, across, up, pixels) {
  const [from, to] = inSight(x, across);
  const every = to - from <= 4 * pixels;
  let column = null;
  for (let n = from; n < to; n++) {
    if (!Number.isFinite(y[n]) || !Number.isFinite(x[n])) continue;
    const place = [across.at(x[n]), up.at(y[n])];
    if (!place.every(Number.isFinite)) continue;
    if (every) {
      yield place;
      continue;
    }
    const k = Math.floor(place[0]);
    if (column?.k === k) {
      if (place[1] < column.top[1]) column.top = place;
      if (place[1] > column.bottom[1]) column.bottom = place;
      column.last = place;
      continue;
    }
    if (column) yield* [column.first, column.top, column.bottom, column.last];
    column = { k, first: place, top: place, bottom: place, last: place };
  }
  if (column) yield* [column.first, column.top, column.bottom, column.last];
}

export function paintLine(context, { run, x, y, low, high, width, alpha }, across, up, pixels) {
  context.strokeStyle = context.fillStyle = run.line.color;
  context.setLineDash(DASHES[run.line.dash]);
  if (low) {
    context.globalAlpha = 0.2;
    context.beginPath();
    const edge = [...places(x, high, across, up, pixels)];
    for (const place of [...edge, ...[...places(x, low, across, up, pixels)].reverse()])
      context.lineTo(...place);
    context.fill();
  }
  context.globalAlpha = alpha;
  context.lineWidth = width;
  context.beginPath();
  for (const place of places(x, y, across, up, pixels)) context.lineTo(...place);
  context.stroke();
  context.globalAlpha = 1;
  context.setLineDash([]);
}

function shape(context, [x, y], symbol) {
  context.beginPath();
  for (const [right, down] of SYMBOLS[symbol]) context.lineTo(x + right, y + down);
  context.closePath();
}

// What was measured now and then: a symbol each, full where it is the best so far.
export function paintPoints(context, run, field, mark, axis, across, up, paper) {
  const { at, y } = run.points[field];
  const x = run.x(axis);
  const best = mark.best ? bestSoFar(y) : [];
  context.strokeStyle = run.line.color;
  context.lineWidth = 1.5;
  const spots = Array.from(at, (n, k) => [across.at(x[n]), up.at(y[k])]);
  if (mark.joined) {
    context.globalAlpha = 0.6;
    context.beginPath();
    for (const spot of spots) context.lineTo(...spot);
    context.stroke();
    context.globalAlpha = 1;
  }
  spots.forEach((spot, k) => {
    shape(context, spot, mark.symbol);
    context.fillStyle = mark.full || best[k] ? run.line.color : paper;
    context.fill();
    context.stroke();
  });
}

// Ground lines and numbers of the y axis, and what it is of.
export function paintUp(context, up, { left, right, top, bottom }, title, told, look) {
  context.fillStyle = look.soft;
  context.font = look.font;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const most = Math.max(2, Math.round((bottom - top) / 45));
  for (const tick of ticks(up.low, up.high, up.log, most)) {
    const y = Math.round(up.at(tick)) + 0.5;
    context.strokeStyle = look.grid;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(right, y);
    context.stroke();
    context.fillText(told(tick), left - 8, y);
  }
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.fillStyle = look.ink;
  context.fillText(title, left, top - 8);
}

export function paintAcross(context, across, { left, right, bottom }, title, look) {
  context.font = look.font;
  context.strokeStyle = look.axis;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(left, bottom + 0.5);
  context.lineTo(right, bottom + 0.5);
  context.textAlign = "center";
  context.fillStyle = look.soft;
  const most = Math.max(2, Math.round((right - left) / 90));
  for (const tick of ticks(across.low, across.high, across.log, most)) {
    const x = Math.round(across.at(tick)) + 0.5;
    context.moveTo(x, bottom);
    context.lineTo(x, bottom + 5);
    context.fillText(short(tick), x, bottom + 18);
  }
  context.stroke();
  context.textAlign = "right";
  context.fillStyle = look.ink;
  context.fillText(title, right, bottom + 34);
}
