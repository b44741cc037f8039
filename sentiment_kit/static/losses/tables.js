// Tables: of runs with the settings in which they differ, of numbers, of loss gaps.

import { element, words } from "../heatmap/basics.js";
import { grouped, lasted, nearest, short } from "./sums.js";

const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function table(caption, heads, rows) {
  const head = heads.map((text) =>
    text ? element("th", "", { textContent: text, scope: "col" }) : element("td"),
  );
  return element(
    "table",
    "skl-table",
    {},
    typeof caption === "string" ? words("caption", "", caption) : caption,
    element("thead", "", {}, element("tr", "", {}, ...head)),
    element("tbody", "", {}, ...rows.map((cells) => element("tr", "", {}, ...cells))),
  );
}

const cell = (text) => words("td", "", text);
const bits = (value) => (Number.isFinite(value) ? value.toFixed(4) : "");
const told = (value, form = grouped) => (Number.isFinite(value) ? form(value) : "");

function setting(value) {
  if (value === undefined || value === null) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// Its line, its name and whether it is drawn.
function runName(app, run) {
  const line = drawn("svg", { width: 26, height: 10, "aria-hidden": "true" });
  const dash = { solid: "", dash: "8 5", dot: "2 4", dashdot: "8 4 2 4" }[run.line.dash];
  line.append(
    drawn("path", {
      d: "M0 5H26",
      stroke: run.line.color,
      "stroke-width": 3,
      "stroke-dasharray": dash,
    }),
  );
  const tick = element("input", "", { type: "checkbox", checked: !app.hidden.includes(run.name) });
  tick.addEventListener("change", () => {
    const others = app.hidden.filter((name) => name !== run.name);
    app.set({ hidden: tick.checked ? others : [...others, run.name] });
  });
  const label = element(
    "label",
    "",
    { title: "draw this run" },
    tick,
    line,
    words("span", "", run.name),
  );
  return element("th", "", { scope: "row" }, label);
}

// All runs: what they are, and where they stand.
export function runTable(app) {
  const { runs } = app;
  const settings = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
  const some = (field) => runs.some((run) => Number.isFinite(run.last(field)));
  const columns = [
    ["step", (run) => told(run.last("step"))],
    ["bytes", (run) => told(run.last("bytes"), short)],
    ["time", (run) => told(run.last("seconds"), lasted)],
    ["training", (run) => bits(run.last("loss_bits"))],
    ["validation", (run) => bits(run.last("valid_bits"))],
    [
      "best so far",
      (run) => (run.best() ? `${bits(run.best().bits)} at step ${grouped(run.best().step)}` : ""),
    ],
    ["bytes/s", (run) => told(run.last("bytes_per_s"))],
  ].filter(([head]) => head !== "bytes/s" || some("bytes_per_s"));
  const heads = [
    "run",
    ...settings.map((name) => name.replaceAll("_", " ")),
    ...columns.map(([head]) => head),
  ];
  const rows = runs.map((run) => [
    runName(app, run),
    ...settings.map((name) => cell(setting(run.settings[name]))),
    ...columns.map(([, value]) => cell(value(run))),
  ]);
  return table("Runs, with the settings in which they differ; bits per byte", heads, rows);
}

// Eleven places across what is in sight: for who does not see the lines, and for copying.
export function numberTable(chart) {
  const { runs, axis, sight } = chart;
  if (!sight || !runs.length) return words("p", "", "No numbers yet.");
  const pixels = Array.from({ length: 11 }, (_, k) => k / 10);
  const ends = sight.map((end) => chart.across.at(end));
  const places = pixels.map((share) => chart.across.of(ends[0] + share * (ends[1] - ends[0])));
  const lines = chart.panels.flatMap(({ lines: all, title, told: form, field }) => {
    const digits = field === "loss_bits" ? bits : form;
    return all.filter((line) => line.told).map((line) => ({ ...line, title, digits }));
  });
  const heads = [axis.title, ...lines.map(({ run, title }) => `${run.name}, ${title}`)];
  const rows = places.map((at) => [
    element("th", "", { scope: "row", textContent: short(at) }),
    ...lines.map(({ x, y, digits }) => {
      const n = nearest(x, at);
      const beyond = at > x[x.length - 1] || !Number.isFinite(y[n]);
      return cell(beyond ? "" : digits(y[n]));
    }),
  ]);
  return table("The lines in numbers, at eleven places", heads, rows);
}

// A bar from zero to bits, a whisker from low to high; hollow where it may be nothing.
function bar({ low, bits: value, high }, left, right) {
  const at = (bits) => 4 + (232 * (bits - left)) / (right - left || 1);
  const svg = drawn("svg", { width: 240, height: 18, "aria-hidden": "true" });
  const size = {
    x: Math.min(at(0), at(value)),
    y: 4,
    width: Math.abs(at(value) - at(0)),
    height: 10,
  };
  const fill = low <= 0 && high >= 0 ? "none" : "#0072B2";
  const ends = `M${at(low)} 5V13M${at(high)} 5V13`;
  svg.append(drawn("rect", { ...size, fill, stroke: "#0072B2" }));
  svg.append(
    drawn("path", { d: `M${at(0)} 0V18M${at(low)} 9H${at(high)}${ends}`, stroke: "currentColor" }),
  );
  return svg;
}

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);

// As looking.gap_bar.
export function gapTable({ name, gap }) {
  const whole = { name: "gap: validation − training", ...gap.gap };
  const items = [whole, ...gap.terms];
  const ends = items.flatMap(({ low, high }) => [low, high]);
  const certain = !(whole.low <= 0 && whole.high >= 0);
  const rows = items.map((item) => [
    element("th", "", { scope: "row", textContent: item.name }),
    cell(signed(item.bits)),
    cell(`${signed(item.low)} to ${signed(item.high)}`),
    cell(certain ? `${Math.round((100 * item.bits) / whole.bits)}%` : ""),
    element("td", "", {}, bar(item, Math.min(0, ...ends), Math.max(0, ...ends))),
  ]);
  const level = `${Math.round(100 * gap.level)}% interval`;
  const heads = ["", "bits per byte", level, "of the gap", "hollow: may be nothing"];
  const caption = element("caption", "", {}, words("b", "", name), `: ${gap.words}`);
  return table(caption, heads, rows);
}
