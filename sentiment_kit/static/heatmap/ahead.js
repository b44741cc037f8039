// What a model expected at a place of a text: its likeliest bytes, and which units spoke for the
// byte that came. Python sends this with a pane where surprise is recorded; a live page asks its
// engine.

import { button, copied, element, has, hex, number, words } from "./basics.js";

// The numbers of all places, from the bytes that Python sent; null where there are none.
export function unpacked(ahead) {
  if (!ahead) return null;
  const { guesses, pushes } = ahead;
  const floats = (name) => copied(Float32Array, ahead[name]);
  const guess = copied(Uint8Array, ahead.guess);
  const unit = copied(Uint32Array, ahead.unit);
  const [share, push, units, bias, bits] = ["share", "push", "units", "bias", "bits"].map(floats);
  const rows = (t, each, keys, values) => {
    return Array.from({ length: each }, (_, n) => [keys[t * each + n], values[t * each + n]]);
  };
  return {
    bits,
    guesses: (t) => (t < bits.length ? rows(t, guesses, guess, share) : []),
    pushes: (t) => ({ rows: rows(t, pushes, unit, push), bias: bias[t], units: units[t] }),
  };
}

// A number with two digits behind the point.
export function short(value) {
  return number(Number(value.toFixed(2)));
}

// A byte as it is told: its character where it has one that can be seen.
export function byteName(byte) {
  if (byte === 32) return "␣";
  if (byte > 32 && byte < 127) return String.fromCharCode(byte);
  return byte === 10 ? "↵" : `\\x${hex([byte])}`;
}

function percentName(share) {
  const digits = share < 0.1 ? 1 : 0;
  return share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(digits)}%`;
}

// The guesses for a place as a list, the byte that came marked.
export function guessList(rows, came) {
  const items = rows.map(([byte, share]) => {
    const bar = element("span", "skh-share");
    bar.style.width = `${Math.round(90 * share)}px`;
    const sort = byte === came ? "skh-guess skh-hit" : "skh-guess";
    const percent = words("span", "skh-note", percentName(share));
    return element("li", sort, {}, words("bdi", "", byteName(byte)), bar, percent);
  });
  return element("ol", "", {}, ...items);
}

// The account of the logit of the byte that came; `choose` draws a unit, where it can be drawn.
export function pushLine(byte, { rows, bias, units }, hidden, choose) {
  const rest = units - rows.reduce((sum, [, push]) => sum + push, 0);
  const parts = rows.map(([unit, push]) => {
    const name = `${unit} ${short(push)}`;
    if (!choose) return words("span", "skh-push", name);
    return button(name, `unit ${unit}: click to draw it`, () => choose(unit));
  });
  const others = Math.max(0, hidden - rows.length);
  const name = words("bdi", "skh-quote", byteName(byte));
  const head = element("span", "skh-name", {}, "logit of ", name, ` ${short(bias + units)}`);
  const said = words("span", "skh-note", `= bias ${short(bias)} + units`);
  const left = words("span", "skh-note", `+ ${others || ""} others ${short(rest)}`);
  return element("div", "skh-line skh-pushes", {}, head, said, ...parts, left);
}

// All that is told of the place where a character begins: [] where nothing is known.
export function expected(app, pane, start) {
  const { ahead, bytes } = pane.text;
  const rows = app.model.guesses?.(pane.i, start) ?? ahead?.guesses(start) ?? [];
  if (!rows.length) return [];
  const head = words("div", "skh-note", "its guesses for this place");
  const list = element("div", "skh-guesses", {}, head, guessList(rows, bytes[start]));
  if (!ahead) return [list];
  const hidden = app.choices.n_units ?? 0;
  const can = (unit) => !app.isPage || has(app.picture.units, unit);
  const pushes = ahead.pushes(start);
  const choose = pushes.rows.every(([unit]) => can(unit)) && ((unit) => app.choose(0, unit));
  return [list, pushLine(bytes[start], pushes, hidden, choose)];
}
