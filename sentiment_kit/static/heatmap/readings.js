// How the values of a unit are drawn and what its colours mean, as `looking.readings` in Python
// says: sign · (value − middle) for each model, the words of both ends, held-out texts by label.

import { key, words } from "./basics.js";

const PLAIN = { turns: [[1, 0]], ends: ["below zero", "above zero"] };

export function readingOf(picture, unit) {
  return { ...PLAIN, ...picture?.readings?.[key(unit)] };
}

// Sign and middle for the values of a pane; panes of several models take turns.
export function turnOf(reading, i, flipped) {
  const [sign, middle] = reading.turns[i % reading.turns.length];
  return { sign: flipped ? -sign : sign, middle };
}

// What blue and what orange mean; an end that never comes stays empty.
export function endWords({ ends }, flipped = false) {
  const [low, high] = flipped ? [ends[1], ends[0]] : ends;
  return [low && `blue: ${low}`, high && `orange: ${high}`];
}

export function colourWords(reading, flipped) {
  return endWords(reading, flipped).reverse().filter(Boolean).join(", ");
}

// The share of sorted quantiles below a value, 0 … 1.
function shareBelow(quantiles, value) {
  const last = quantiles.length - 1;
  let n = 0;
  while (n <= last && quantiles[n] < value) n++;
  if (n === 0 || n > last) return n ? 1 : 0;
  return (n - 1 + (value - quantiles[n - 1]) / (quantiles[n] - quantiles[n - 1])) / last;
}

// Where a raw value stands among held-out texts of both labels; empty where none are known.
export function standing({ turns, by_label: known }, value) {
  if (!known) return "";
  const [bad, good] = [known.negative, known.positive].map((quantiles) => {
    const below = shareBelow(quantiles, value);
    return `${Math.round(100 * (turns[0][0] > 0 ? below : 1 - below))}%`;
  });
  return `above the vote of ${bad} of negative and ${good} of positive texts`;
}

// How a character compares with texts of known labels, for each unit of which that is known.
export function standings(app, pane, g) {
  const known = app.drawn.filter(({ reading, ledger }) => reading.by_label && !ledger);
  return known.map(({ unit, reading, flipped, panes }) => {
    const { sign, middle } = turnOf(reading, pane.i, flipped);
    const said = standing(reading, sign * panes[pane.i].value[g] + middle);
    return words("div", "skh-standing", `${app.label(unit)} here: ${said}`);
  });
}
