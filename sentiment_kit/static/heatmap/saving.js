// Saving: an HTML page (made by Python), the numbers as JSON, and a PNG that the browser draws.

import { button, copied, element, hex, words } from "./basics.js";

const SHEET = 12000; // px of text in a PNG
const COLOURS = ["ink", "paper", "soft", "line", "edge", "pos", "neg"];

function download(kind, blob) {
  const link = element("a", "", { href: URL.createObjectURL(blob), download: `heatmap.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// As heatmap_numbers in Python.
function numbers(app) {
  const { units } = app.picture;
  const panes = app.texts.map((text) => {
    const T = text.bytes.length;
    const rows = units.map((_, u) => text.values.subarray(u * T, (u + 1) * T));
    const rounded = (row) => Array.from(row, (value) => Number(value.toPrecision(7)));
    return {
      title: text.title,
      bytes: hex(text.bytes),
      stops: [...text.stops],
      values: rows.map(rounded),
    };
  });
  return { units, panes };
}

// A copy of the stage in which all rows are drawn, up to SHEET pixels.
function printedStage(app) {
  const stage = app.stage.cloneNode(true);
  for (const fold of stage.querySelectorAll(".skh-fold")) fold.remove();
  const drawn = []; // panes with their new rows
  let cut = false;
  stage.querySelectorAll(".skh-view").forEach((view, i) => {
    const pane = app.panes[i];
    const most = Math.max(1, Math.floor(SHEET / pane.height));
    const rows = Math.min(pane.starts.length, most);
    cut ||= pane.starts.length > most;
    const lines = Array.from({ length: rows }, (_, r) => pane.row(r));
    view.firstChild.replaceChildren(...lines);
    view.firstChild.style.height = `${rows * pane.height}px`;
    drawn.push([pane, lines]);
  });
  return { stage, drawn, cut };
}

// What is to be printed, coloured and measured off the page; gives the sheet and its height.
function printedSheet(app, wide) {
  const style = getComputedStyle(app.el);
  const sheet = element("div", "skh skh-print");
  for (const name of COLOURS.map((colour) => `--skh-${colour}`)) {
    sheet.style.setProperty(name, style.getPropertyValue(name));
  }
  const { stage, drawn, cut } = printedStage(app);
  sheet.append(stage, app.legend.cloneNode(true));
  if (cut) sheet.append(words("div", "skh-note", "only the beginning is drawn here"));
  sheet.style.cssText += `;width:${wide}px;position:fixed;left:-99999px;top:0`;
  app.el.append(sheet);
  for (const [pane, lines] of drawn) {
    pane.place(lines);
    for (const line of lines) pane.colour(line);
  }
  const high = Math.ceil(sheet.getBoundingClientRect().height);
  sheet.remove();
  sheet.style.position = "";
  sheet.style.left = "";
  return { sheet, high };
}

// The sheet inside an SVG, as an address. XML knows fewer characters than HTML.
function svgAddress(sheet, wide, high) {
  sheet.setAttribute("xmlns", "http://www.w3.org/1999/xhtml");
  const unknown = /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu;
  const xml = new XMLSerializer().serializeToString(sheet).replace(unknown, "\ufffd");
  const size = `width="${wide}" height="${high}"`;
  const held = `<foreignObject width="100%" height="100%">${xml}</foreignObject>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" ${size}>${held}</svg>`;
  return `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
}

async function png(app) {
  const wide = app.stage.clientWidth || 800;
  const { sheet, high } = printedSheet(app, wide);
  const css = app.model.get("_css") ?? document.querySelector("style").textContent;
  sheet.prepend(words("style", "", css));
  const image = new Image();
  image.src = svgAddress(sheet, wide, high);
  await image.decode();
  const sharp = high > 8000 ? 1 : 2;
  const canvas = element("canvas", "", { width: wide * sharp, height: high * sharp });
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  context.drawImage(image, 0, 0);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

// A message from Python: the page that was asked for, or a PNG is asked for.
export function receive(app, message, buffers) {
  if (message.kind === "html") {
    download("html", new Blob([copied(Uint8Array, buffers[0])], { type: "text/html" }));
  }
  if (message.kind === "png") {
    png(app).then(async (blob) => {
      app.model.send({ kind: "png" }, undefined, [await blob.arrayBuffer()]);
    });
  }
}

function save(app, kind) {
  if (kind === "html" || kind === "live") app.model.send({ kind });
  if (kind === "png") png(app).then((blob) => download(kind, blob));
  if (kind === "json") {
    const text = JSON.stringify(numbers(app));
    download(kind, new Blob([text], { type: "application/json" }));
  }
}

// The buttons; where there is no Python, nobody makes another page.
export function saveButtons(app) {
  const alone = app.isPage || app.model.isLive;
  const kinds = alone ? ["PNG", "JSON"] : ["HTML", "PNG", "JSON"];
  if (!alone && app.choices.n_units) kinds.unshift("Live");
  const title = (kind) =>
    kind === "Live" ? "save as a page that holds the model" : `save as ${kind}`;
  const buttons = kinds.map((kind) =>
    button(kind, title(kind), () => save(app, kind.toLowerCase())),
  );
  const attributes = { role: "group", "aria-label": "save" };
  return element("div", "skh-saves", { attributes }, words("span", "skh-note", "Save"), ...buttons);
}
