// Small things that every other file uses: making elements, writing numbers, naming units, bytes.
// Whatever comes from a text goes in as textContent, never as markup.

export const MOST = 4; // units drawn at once

export function element(tag, className = "", properties = {}, ...children) {
  const { attributes = {}, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function words(tag, className, textContent) {
  return element(tag, className, { textContent });
}

export function button(text, title, act, attributes = {}) {
  const properties = { type: "button", textContent: text, title, attributes };
  const node = element("button", "skh-button", properties);
  node.addEventListener("click", () => act(node));
  return node;
}

// A value with its sign and three digits, as `number` in Python.
export function number(value) {
  if (!value) return "0";
  const size = Math.abs(value);
  const usual = size >= 1e-3 && size < 1e5;
  const digits = usual ? String(Number(size.toPrecision(3))) : size.toExponential(2);
  return (value < 0 ? "−" : "+") + digits;
}

// A unit is a number, a name, or a list with one number for each model.
export function key(unit) {
  return Array.isArray(unit) ? unit.join(", ") : String(unit);
}

export function label(unit) {
  if (typeof unit === "string") return unit;
  return `unit ${Array.isArray(unit) ? unit.join(" / ") : unit}`;
}

export function has(units, unit) {
  return units.some((other) => key(other) === key(unit));
}

export function hex(bytes, between = "") {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(between);
}

// Numbers out of the bytes that Python sent; copied, since those need not be aligned.
export function copied(Type, view) {
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

export const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
