// Colour, and a second cue for those who do not see it: a tint behind each character, and below it
// a bar up or down. Levels are in [-1, 1].

import { strip } from "./layout.js";

const tints = new Map(); // CSS colours by level and palette

export function tint(level, palette) {
  const step = Math.round(level * 40) / 40;
  if (!step) return "";
  const name = `${step} ${palette.negative} ${palette.positive}`;
  if (!tints.has(name)) {
    const rgb = (step > 0 ? palette.positive : palette.negative).join(" ");
    const opacity = (palette.opacity * Math.abs(step)).toFixed(3);
    tints.set(name, `rgb(${rgb} / ${opacity})`);
  }
  return tints.get(name);
}

// The bars of a row as SVG paths, one path for each class: a strip for each unit, its bars up or
// down from a line. In the ledger a grey bar behind shows what was written. Edges are
// [left, width] of each mark.
export function bars(units, edges) {
  const high = strip(units.length);
  const paths = { wrote: "", pos: "", neg: "", axis: "" };
  const add = (name, level, n, middle) => {
    const size = Math.round((high - 2) * Math.abs(level)) / 2;
    const [left, width] = edges[n];
    const rise = level > 0 ? -size : size;
    if (size) paths[name] += `M${left} ${middle}v${rise}h${width}V${middle}z`;
  };
  units.forEach(({ levels, wrote }, k) => {
    const middle = k * high + high / 2;
    for (let n = 0; n < levels.length; n++) {
      const [left, width] = edges[n];
      if (wrote) add("wrote", wrote[n], n, middle);
      add(levels[n] > 0 ? "pos" : "neg", levels[n], n, middle);
      paths.axis += `M${left} ${middle - 0.5}h${width}v1h${-width}z`;
    }
  });
  return paths;
}

function svgNode(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  return node;
}

// Such paths as an SVG.
export function picture(className, height, paths) {
  const svg = svgNode("svg", { class: className, height, "aria-hidden": "true" });
  for (const [name, d] of Object.entries(paths)) {
    svg.append(svgNode("path", { class: `skh-${name}`, "data-name": name, d }));
  }
  return svg;
}
