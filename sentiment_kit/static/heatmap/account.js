// The ledger as an account: what is left at the end, by word or by character, the largest first.

import { button, element, number, words } from "./basics.js";

const TOLD = 8; // entries told
const LEAST = 0.02; // of the largest entry, below which none is told

const blank = (byte) => byte === 32 || (byte > 8 && byte < 14);

// Where words begin, by mark: a word takes the blanks after it along, the first also those before.
function wordStarts(text) {
  const starts = text.size ? [0] : [];
  let seen = false; // anything but blanks since the last start
  for (let g = 0; g < text.size; g++) {
    const now = blank(text.bytes[text.start(g)]);
    if (!now && seen && blank(text.bytes[text.start(g) - 1])) starts.push(g);
    seen ||= !now;
  }
  return starts;
}

// Entries [first mark, stop mark, sum], the largest first, without those that count for little.
export function entries(text, value, by) {
  const starts = by === "word" ? wordStarts(text) : Array.from(value, (_, g) => g);
  const all = starts.map((start, n) => {
    const stop = starts[n + 1] ?? text.size;
    return [start, stop, value.subarray(start, stop).reduce((sum, one) => sum + one, 0)];
  });
  all.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
  const least = LEAST * Math.abs(all[0]?.[2] ?? 0);
  return all.slice(0, TOLD).filter(([, , sum]) => Math.abs(sum) > least);
}

// A single letter says little, so three before it are told as well.
function shownEntry(text, [start, stop], by) {
  const first = by === "word" ? start : Math.max(0, start - 3);
  const marks = Array.from({ length: stop - first }, (_, k) => text.shown(first + k)).join("");
  if (by !== "word") return marks.replace(/\s/g, "␣");
  return marks.replace(/[↵␣]/g, " ").trim() || "␣";
}

// The line above a text. Its marks that are told stay bright, see Pane.colour.
export function accountLine(pane, drawn) {
  const { app, text, i } = pane;
  const { value, total } = drawn.panes[i];
  const found = entries(text, value, app.by);
  const marksOf = ([start, stop]) => Array.from({ length: stop - start }, (_, k) => start + k);
  pane.kept = new Set(found.flatMap(marksOf));
  const items = found.map((entry) => {
    const name = shownEntry(text, entry, app.by);
    const [go, act] = [`go to “${name}”`, () => pane.go(entry[0])];
    const said = `${name} ${number(entry[2])}, ${go}`;
    const item = button("", go, act, { "aria-label": said });
    item.classList.add("skh-entry");
    item.append(words("bdi", "", name), ` ${number(entry[2])}`);
    return item;
  });
  const ways = ["word", "character"].map((by) => {
    const chosen = { "aria-pressed": String(app.by === by) };
    return button(by, `the account by ${by}`, () => app.accountBy(by), chosen);
  });
  const { cut } = drawn.panes[i];
  const before = total - cut - value.reduce((sum, one) => sum + one, 0); // that no character wrote
  const known = Math.abs(before) > 1e-3 * drawn.scale;
  const told =
    (cut ? ` · of that its cut ${number(cut)}` : "") +
    (known ? ` · of that from before ${number(before)}` : "");
  const head = words("span", "skh-note", "what is left at the end, by");
  const both = element("span", "skh-ways", { attributes: { role: "group" } }, ...ways);
  const sum = words("span", "skh-note", `all together ${number(total)}${told}`);
  return [[head, both, sum], items].map((parts) => element("div", "skh-line", {}, ...parts));
}
