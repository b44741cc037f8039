// From what is typed to the bytes that the model reads, and the marks in which these are drawn: as
// `encode` and `pane_of` in Python.

const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const ENDS = new RegExp(`^${SPACE}+|${SPACE}+$`, "gu"); // as Python's strip
const REFERENCE = /&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/g;

// A character reference by number, as HTML reads it.
function numbered(code) {
  const holder = "€ ‚ƒ„…†‡ˆ‰Š‹Œ Ž  ‘’“”•–—˜™š›œ žŸ"; // 0x80 … 0x9f in old pages
  if (code === 0 || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return "\ufffd";
  if (code === 0x0d) return "\r";
  if (code >= 0x80 && code <= 0x9f) {
    const char = holder[code - 0x80];
    return char === " " ? String.fromCodePoint(code) : char;
  }
  const control = code < 9 || code === 11 || (code > 13 && code < 32) || code === 127;
  const none = (code & 0xfffe) === 0xfffe || (code >= 0xfdd0 && code <= 0xfdef);
  return control || none ? "" : String.fromCodePoint(code);
}

// One by name: the browser knows them. A textarea holds text alone, whatever is put in.
function named(reference) {
  const box = document.createElement("textarea");
  box.innerHTML = reference;
  return box.value;
}

function unescape(text) {
  return text.replace(REFERENCE, (all, name) => {
    if (name[0] !== "#") return named(all);
    const hex = name[1] === "x" || name[1] === "X";
    return numbered(parseInt(name.slice(hex ? 2 : 1), hex ? 16 : 10));
  });
}

const STEPS = {
  "strip tags": (text) => text.replace(/<\/?[A-Za-z!][^<>]*>/g, " "),
  "unescape html": unescape,
  "newline to space": (text) => text.replaceAll("\n", " "),
  strip: (text) => text.replace(ENDS, ""),
};

const encoder = new TextEncoder();

export function encode(text, { steps, front, back }) {
  for (const step of steps) text = STEPS[step](text);
  return encoder.encode(front + text + back);
}

// The beginning of a text that is to be written on: left open at the end.
export function encodePrompt(text, preset) {
  const open = encode(text, { ...preset, back: "" });
  const spaced = new RegExp(`${SPACE}$`, "u");
  const ends = preset.back && spaced.test(text) && !spaced.test(new TextDecoder().decode(open));
  return ends ? encode(text, preset) : open;
}

// -- marks

const DRAWN = { "\n": "↵", "\t": "⇥" };
const UNSEEN = /^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+$/u;

function clusters(text) {
  if (!Intl.Segmenter) return [...text];
  const found = new Intl.Segmenter("en", { granularity: "grapheme" }).segment(text);
  return Array.from(found, ({ segment }) => segment);
}

function standIn(char) {
  if (!UNSEEN.test(char)) return "";
  return Array.from(char, (point) => {
    const code = point.codePointAt(0);
    if (DRAWN[point]) return DRAWN[point];
    if (code < 32 || code === 127) return `^${String.fromCharCode(code ^ 64)}`;
    return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  }).join("");
}

// A pane without its values: where characters end, which are not drawn as they are, where lines end.
export function paneOf(bytes) {
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  const pads = bytes[0] === 10 && bytes[1] === 32;
  const stops = [];
  const special = [];
  const breaks = [];
  let stop = 0;
  for (const char of clusters(text)) {
    stop += encoder.encode(char).length;
    const g = stops.push(stop) - 1;
    const pad = (pads && stop <= 2) || (char === " " && stop === bytes.length);
    const ghost = pad && char === " " ? "␣" : standIn(char);
    if (ghost) special.push([g, ghost, true]);
    else if (/^\p{M}/u.test(char)) special.push([g, `◌${char}`, false]);
    if (!pad && /[\r\n]$/.test(char)) breaks.push(g);
  }
  return { title: "", bytes, stops: Uint32Array.from(stops), special, breaks };
}
