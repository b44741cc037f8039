// What is told in words below the text: what the colours mean, the character under the mouse, and
// the units that a clicked character moved.

import { expected } from "./ahead.js";
import { button, decoder, element, has, hex, number, words } from "./basics.js";
import { bars, picture, tint } from "./colour.js";
import { strip } from "./layout.js";
import { percentile } from "./marks.js";
import { endWords, readingOf, standings, turnOf } from "./readings.js";

// The scale itself, as tints and as bars. What counts is never below 0.
function ramp(palette, counts, flipped) {
  const sign = flipped ? -1 : 1;
  const steps = Array.from({ length: 11 }, (_, k) => (counts ? (sign * k) / 10 : k / 5 - 1));
  const edges = steps.map((_, k) => [11 * k, 11]);
  const swatches = steps.map((level) => {
    const swatch = element("span", "skh-swatch");
    swatch.style.backgroundColor = tint(level, palette);
    return swatch;
  });
  const drawn = picture("skh-steps", strip(1), bars([{ levels: steps }], edges));
  const attributes = { "aria-hidden": "true" };
  return element("span", "skh-ramp", { attributes }, ...swatches, drawn);
}

// The two ends of a scale: what each colour means, and beside the ramp the values there.
function endsOf({ reading, flipped, scale, counts, full }) {
  const [low, high] = endWords(reading, flipped);
  const said = (colour) => words("span", "skh-note", colour);
  if (counts) return [["0"], [full ? `${full} or more` : number(scale), " ", said(high || low)]];
  return [
    [said(low), " ", number(-scale)],
    [number(scale), " ", said(high)],
  ];
}

function scaleLine(drawn, app) {
  const { unit, flipped, ledger, counts, reading } = drawn;
  const name = app.label(unit) + (flipped ? " (sign flipped)" : "");
  const [low, high] = endsOf(drawn).map((end) => element("span", "", {}, ...end));
  const steps = ramp(app.palette, counts, flipped);
  const swatches = element("span", "skh-swatches", {}, low, steps, high);
  const parts = [words("span", "skh-name", name), swatches];
  const neutral = !ledger && !flipped && reading.neutral;
  if (neutral) parts.push(words("span", "skh-note", neutral));
  return element("div", "skh-scale", {}, ...parts);
}

// What the colours mean.
export function explain(app) {
  const parts = app.drawn.map((drawn) => scaleLine(drawn, app));
  if (app.drawn[0]?.ledger) {
    const said =
      "Ledger: colour and coloured bar are what is left of a character in the last value, " +
      "the grey bar what it wrote. Characters that the account leaves out are dimmed.";
    parts.push(words("div", "skh-note", said));
  }
  if (app.waiting.length) {
    const units = app.waiting.map((unit) => app.label(unit)).join(", ");
    parts.push(words("div", "skh-note", `reading ${units} …`));
  }
  app.legend.replaceChildren(...parts);
}

// A row of the table under the text.
function tableRow(tag, row) {
  const cells = row.map((textContent, n) => {
    if (tag === "th") return element("th", "", { textContent, attributes: { scope: "col" } });
    if (n) return element(tag, "", { textContent });
    return element("th", "", { textContent, attributes: { scope: "row" } });
  });
  return element("tr", "", {}, ...cells);
}

// All values of a unit in order, for percentiles; made when first asked for.
function sortedValues(drawn) {
  drawn.sorted ??= Float32Array.from(drawn.panes.flatMap(({ value }) => [...value])).sort();
  return drawn.sorted;
}

// What one unit is at mark g: its name and three numbers.
function facts(app, drawn, i, g, title) {
  const { value, wrote } = drawn.panes[i];
  const flipped = drawn.flipped ? " (flipped)" : "";
  const name = app.label(drawn.unit) + flipped + title;
  if (wrote) {
    const moved = Math.abs(wrote[g]) > 1e-9;
    const survives = moved ? `${((100 * value[g]) / wrote[g]).toFixed(1)}%` : "–";
    return [name, number(wrote[g]), survives, number(value[g])];
  }
  const rank = percentile(sortedValues(drawn), value[g]).toFixed(0);
  const change = value[g] - (g ? value[g - 1] : 0);
  return [name, number(value[g]), `${rank}%`, number(change)];
}

// The table: a row for each unit that is drawn, over each pane that shows the same text.
function factsTable(app, panes, g) {
  const ledger = app.drawn.some((drawn) => drawn.ledger);
  const kinds = ledger
    ? ["wrote", "survives", "left at the end"]
    : ["value", "percentile", "change"];
  const rows = panes.flatMap((pane) => {
    const title = panes.length > 1 && pane.text.title ? `, ${pane.text.title}` : "";
    return app.drawn.map((drawn) => tableRow("td", facts(app, drawn, pane.i, g, title)));
  });
  const head = element("thead", "", {}, tableRow("th", ["", ...kinds]));
  return element("table", "skh-table", {}, head, element("tbody", "", {}, ...rows));
}

function codePoint(char) {
  return `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

// The character itself: its bytes, its code points, its place.
function character(text, g) {
  const shown = text.shown(g).trim() || "␣";
  const piece = text.piece(g);
  const start = text.start(g);
  const stop = text.stops[g];
  const many = stop - start > 1;
  const broken = text.special.get(g)?.shown === "\ufffd";
  const points = broken ? "not UTF-8" : [...decoder.decode(piece)].map(codePoint).join(" ");
  const place = many ? `bytes ${start}–${stop - 1}` : `byte ${start}`;
  const bytes = piece.length > 24 ? `${hex(piece.subarray(0, 24), " ")} …` : hex(piece, " ");
  const parts = [
    words("code", "", bytes),
    words("span", "", points),
    words("span", "", `${place} of ${text.bytes.length}`),
  ];
  const glyph = words("bdi", "skh-glyph", shown);
  return element("div", "skh-char", {}, glyph, element("span", "skh-facts", {}, ...parts));
}

// The character under mouse or keys, marked in every pane of the same text. `live` says how soon
// a screen reader tells it.
export function inspect(app, pane, mark, live) {
  const { text } = pane;
  if (!text.size) return;
  const g = Math.min(mark, text.size - 1);
  app.hovered = [pane, g, live];
  pane.at = g;
  for (const other of app.panes) other.mark();
  const same = app.panes.filter((other) => other === pane || other.text.equals(text));
  for (const other of same) other.mark(g);
  app.told.setAttribute("aria-live", live);
  const more = expected(app, pane, text.start(g));
  const parts = [character(text, g), factsTable(app, same, g), ...more];
  app.told.replaceChildren(...parts, ...standings(app, pane, g));
}

// Value and change as they are drawn, so that the list agrees with the table above it.
function topButton(app, top, [unit, raw, moved], by) {
  const reading = readingOf({ readings: { ...app.picture.readings, ...top.readings } }, unit);
  const { sign, middle } = turnOf(reading, top.pane, has(app.flipped, unit));
  const drawn = { value: sign * (raw - middle), change: sign * moved };
  const told = `value ${number(drawn.value)}, change ${number(drawn.change)}`;
  const title = `${app.label(unit)}: ${told}; click to draw it`;
  const choose = () => app.choose(0, unit);
  const name = app.label(unit).replace(/^unit /, "");
  const node = button(`${name}  ${number(drawn[by])}`, title, choose);
  node.dataset.unit = unit;
  return node;
}

// The units that the clicked character moved, and those that are largest after it.
export function tellTop(app) {
  const top = app.model.get("top") ?? {};
  const text = app.texts[top.pane];
  const known = text && top.stop <= text.bytes.length && top.moved;
  if (!known) {
    app.tops.replaceChildren();
    return;
  }
  const quote = decoder.decode(text.bytes.subarray(top.start, top.stop)).trim() || "␣";
  const line = (name, units, by) => {
    const shown = words("bdi", "skh-quote", quote);
    const head = element("span", "skh-name", {}, `units ${name} `, shown);
    const buttons = units.map((row) => topButton(app, top, row, by));
    return element("div", "skh-line", {}, head, ...buttons);
  };
  app.tops.replaceChildren(
    line("moved most by", top.moved, "change"),
    line("largest after", top.largest, "value"),
  );
}
