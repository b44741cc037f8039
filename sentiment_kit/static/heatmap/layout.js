// Where things lie: the height of a row and its strips of bars, where rows begin, which row holds
// a mark.

import { element } from "./basics.js";

export const LINE = 21; // px: a line of text
export const GAP = 5; // px: air below it
export const SPARE = 6; // rows drawn above and below the visible ones

// px: the bars of one unit below a line.
export function strip(units) {
  return units > 1 ? 14 : 18;
}

// A function of text and mark that gives the width of the mark, in the font of a style.
// `widths` keeps what has been measured.
export function measureIn(style, widths) {
  const context = element("canvas").getContext("2d");
  const font = `${style.fontSize} ${style.fontFamily}`;
  context.font = font;
  const width = (shown) => {
    const name = font + shown;
    if (!widths.has(name)) widths.set(name, context.measureText(shown).width);
    return widths.get(name);
  };
  const one = width("0");
  return (text, g) => (text.plain(g) ? one : width(text.shown(g)));
}

// Where the rows begin: after the last space that fits, else anywhere.
export function wrap(text, width, measure) {
  const starts = text.size ? [0] : [];
  let used = 0; // of the row so far
  let after = 0; // the mark after the last space
  let before = 0; // what was used before that mark
  for (let g = 0; g < text.size; g++) {
    const wide = measure(text, g);
    const first = starts[starts.length - 1];
    if (used + wide > width && g > first) {
      starts.push(after > first ? after : g);
      used = after > first ? used - before : 0;
    }
    used += wide;
    if (text.bytes[text.stops[g] - 1] === 32) {
      after = g + 1;
      before = used;
    }
    if (text.breaks.has(g) && g + 1 < text.size) {
      starts.push(g + 1);
      used = 0;
    }
  }
  return starts;
}

// The row that holds a mark.
export function rowOf(starts, g) {
  let low = 0;
  let high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= g) low = middle;
    else high = middle - 1;
  }
  return low;
}
