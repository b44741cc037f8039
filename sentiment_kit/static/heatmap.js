// The browser half of HeatmapWidget: sends what is typed to Python, paints the payload that comes back.
// Everything from a text goes in as textContent, never as markup.

const PAUSE = 120; // ms without a key before the text is sent

function element(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className }, properties);
}

function labelled(text, control) {
  const label = element("label", "skh-label");
  label.append(element("span", "", { textContent: text }), control);
  return label;
}

function number(value) {
  const digits = Math.abs(value) >= 1e-3 || value === 0 ? String(Number(Math.abs(value).toPrecision(3)))
    : Math.abs(value).toExponential(2);
  return (value < 0 ? "−" : "+") + digits;
}

function shade(value, scale, { negative, positive, opacity }) {
  const x = Math.max(-1, Math.min(1, value / scale));
  return x ? `rgba(${(x > 0 ? positive : negative).join(",")},${(opacity * Math.abs(x)).toFixed(3)})` : "";
}

function paint(view, legend, model) {
  const payload = model.get("payload"), palette = model.get("palette");
  const row = model.get("units").indexOf(model.get("unit"));
  view.replaceChildren();
  legend.replaceChildren();
  if (!payload.values?.[row]) {
    legend.textContent = payload.error || `unit ${model.get("unit")} is not among the recorded units`;
    return;
  }
  const scale = payload.scales[row];
  const spans = payload.shown.map((shown, i) => {
    const span = element("span", payload.faint[i] ? "skh-faint" : "", { textContent: shown });
    span.dataset.i = i;
    span.style.backgroundColor = shade(payload.values[row][i], scale, palette);
    if (payload.breaks[i]) span.append("\n");
    return span;
  });
  view.append(...spans);
  legend.append(number(-scale) + " ");
  for (let k = -5; k <= 5; k++) {
    const swatch = element("span", "skh-swatch");
    swatch.style.backgroundColor = shade(k / 5, 1, palette);
    legend.append(swatch);
  }
  legend.append(` ${number(scale)}  ${payload.note}`);
}

function render({ model, el }) {
  const box = element("textarea", "skh-box", { value: model.get("text"), rows: 3, spellcheck: false });
  const unit = element("select", "skh-unit");
  const text = element("select", "skh-texts");
  const view = element("div", "skh-view", { dir: "auto" });
  const told = element("div", "skh-told", { textContent: "Move over a character." });
  const legend = element("div", "skh-legend");
  told.setAttribute("aria-live", "polite");

  const controls = element("div", "skh-controls");
  controls.append(labelled("unit", unit));
  if (model.get("texts").length > 1) controls.append(labelled("text", text));
  el.classList.add("skh");
  el.append(controls, labelled("type here", box), view, told, legend);

  const offerUnits = () => {
    unit.replaceChildren(...model.get("units").map((u) => new Option(u, u)));
    unit.value = model.get("unit");
  };
  const offerTexts = () => {
    text.replaceChildren(...model.get("texts").map((t, i) => new Option(t.length > 60 ? t.slice(0, 60) + "…" : t, i)));
    text.selectedIndex = model.get("texts").indexOf(model.get("text"));
  };
  const tell = (event) => {
    const i = event.target.dataset.i, payload = model.get("payload");
    const values = payload.values?.[model.get("units").indexOf(model.get("unit"))];
    if (i !== undefined && values) told.textContent = `${payload.shown[i].trim() || "␣"} · ${payload.bytes[i]} · ${number(values[i])}`;
  };
  const send = () => {
    model.set("text", box.value);
    model.save_changes();
  };

  let timer;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(send, PAUSE);
  });
  text.addEventListener("change", () => {
    clearTimeout(timer);
    box.value = model.get("texts")[text.selectedIndex];
    send();
  });
  unit.addEventListener("change", () => {
    model.set("unit", Number(unit.value));
    model.save_changes();
  });
  view.addEventListener("pointerover", tell);
  // JupyterLab listens for keys on the whole notebook; what is typed here is text.
  for (const control of [box, unit, text]) control.addEventListener("keydown", (event) => event.stopPropagation());

  const repaint = () => paint(view, legend, model);
  const follow = () => {
    if (document.activeElement !== box) box.value = model.get("text");
    offerTexts();
  };
  const changed = { "change:payload": repaint, "change:unit": () => (offerUnits(), repaint()), 
    "change:units": offerUnits, "change:texts": offerTexts, "change:text": follow };
  for (const [event, handler] of Object.entries(changed)) model.on(event, handler);
  offerUnits();
  offerTexts();
  repaint();
  return () => {
    clearTimeout(timer);
    for (const [event, handler] of Object.entries(changed)) model.off(event, handler);
  };
}

export default { render };
