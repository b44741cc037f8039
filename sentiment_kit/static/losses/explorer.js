// The whole: controls around the chart, and how they follow the traits. All that is drawn lies in
// the first message; Python is asked for nothing but new lines of a run, and to save.

import { button, element, words } from "../heatmap/basics.js";
import { Chart } from "./chart.js";
import { Run } from "./runs.js";
import { gapTable, numberTable, runTable } from "./tables.js";

const MEANS = [1, 5, 10, 25, 50, 100, 250, 1000];
const PATIENCE = 4000; // ms until a kernel that does not answer is told of

class Explorer {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.runs = [];
    this.makeParts();
    this.listen();
    this.read();
    if (!this.runs.length) this.tell({ kind: "empty" });
  }

  get(name) {
    return this.model.get(name);
  }

  get hidden() {
    return this.get("hidden") ?? [];
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  // To Python, if there is one: after a restart of the kernel nobody listens.
  tell(message) {
    try {
      this.model.send(message);
    } catch (error) {
      console.warn(error);
    }
  }

  // -- the parts

  makeParts() {
    this.el.classList.add("skl");
    this.el.addEventListener("focusin", ({ target }) => {
      target.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keys
    });
    this.chart = new Chart(this);
    this.bar = element("div", "skl-bar");
    this.status = element("div", "skl-status");
    const scrolled = (name) =>
      element("div", "skl-scroll", {
        tabIndex: 0,
        attributes: { role: "region", "aria-label": name },
      });
    this.table = scrolled("table of runs");
    this.notes = element("ul", "skl-notes");
    this.numbers = element("details", "skl-more", {}, words("summary", "", "Numbers"));
    this.numberBox = scrolled("numbers of the lines");
    this.numbers.append(this.numberBox);
    this.numbers.addEventListener("toggle", () => this.tellNumbers());
    this.gaps = scrolled("loss gaps");
    this.legend = words("div", "skl-note", "");
    const { chart } = this;
    const below = [this.table, this.notes, this.numbers, this.gaps, this.saveRow()];
    this.el.append(this.bar, this.legend, chart.box, chart.told, this.status, ...below);
  }

  // The choices, anew for other runs: a panel is offered where some run has its field.
  fillBar() {
    const { axes, panels } = this.get("choices");
    const offered = Object.keys(panels).filter((field) => this.runs.some((run) => run.has(field)));
    const groups = this.runs.map((run) => run.group);
    const seeds = new Set(groups).size < groups.length;
    const form = JSON.stringify([offered, seeds]);
    if (form === this.form) return;
    this.form = form;
    this.controls = [];
    const across = Object.keys(axes).filter((name) => name !== "hours");
    const choose = across.map((name) => this.toggle(name, "x", name));
    const mean = element("select", "skh-control", { attributes: { "aria-label": "mean of" } });
    for (const points of new Set([...MEANS, this.get("smoothing")].sort((a, b) => a - b))) {
      mean.append(
        element("option", "", {
          value: points,
          textContent: points === 1 ? "raw" : `${points} points`,
        }),
      );
    }
    mean.addEventListener("change", () => this.set({ smoothing: Number(mean.value) }));
    this.controls.push(() => (mean.value = this.get("smoothing")));
    const zooms = [
      button("−", "zoom out", () => this.chart.scale(2)),
      button("+", "zoom in", () => this.chart.scale(0.5)),
      button("all", "show all", () => this.chart.zoom(null)),
    ];
    const group = (name, ...nodes) =>
      element("div", "skl-group", { attributes: { role: "group", "aria-label": name } }, ...nodes);
    this.bar.replaceChildren(
      group("x axis", ...choose),
      element("label", "skl-label", {}, "mean of ", mean),
      group("zoom", ...zooms),
      this.tick("log x", "log_x"),
      this.tick("log y", "log_y"),
      ...(seeds ? [this.tick("bands over seeds", "bands")] : []),
      ...offered.map((field) => this.panelTick(field, panels[field].title)),
      this.tick("live", "live"),
    );
  }

  toggle(text, trait, value) {
    const node = button(text, `draw over ${text}`, () => this.set({ [trait]: value, window: [] }));
    this.controls.push(() => node.setAttribute("aria-pressed", String(this.get(trait) === value)));
    return node;
  }

  tick(text, trait) {
    const box = element("input", "", { type: "checkbox" });
    const others = trait === "log_x" ? { window: [] } : {};
    box.addEventListener("change", () => this.set({ [trait]: box.checked, ...others }));
    this.controls.push(() => (box.checked = this.get(trait)));
    return element("label", "skl-label", {}, box, text);
  }

  panelTick(field, text) {
    const box = element("input", "", { type: "checkbox" });
    box.addEventListener("change", () => {
      const others = this.get("panels").filter((name) => name !== field);
      this.set({ panels: box.checked ? [...others, field] : others });
    });
    this.controls.push(() => (box.checked = this.get("panels").includes(field)));
    return element("label", "skl-label", {}, box, text);
  }

  saveRow() {
    const attributes = { "aria-label": "save as", title: "ends in .html, .csv, .png or .svg" };
    const file = element("input", "skh-control", { value: "losses.html", attributes });
    this.saved = element("span", "skl-note", { attributes: { role: "status" } });
    const save = () => {
      this.saved.textContent = "saving …";
      this.asked = setTimeout(() => {
        this.saved.textContent =
          "no answer yet: the kernel is busy or gone; PNG is drawn by the browser";
      }, PATIENCE);
      this.tell({ kind: "save", path: file.value });
    };
    const png = button("PNG", "save what is drawn here as PNG", () => this.png());
    const label = element("label", "skl-label", {}, "save as ", file);
    return element(
      "div",
      "skl-bar",
      {},
      label,
      button("save", "written by Python", save),
      png,
      this.saved,
    );
  }

  // -- following Python

  listen() {
    const paint = () => this.refresh();
    this.changes = {
      "change:data": () => this.read(),
      "msg:custom": (message) => this.receive(message),
    };
    for (const name of [
      "x",
      "smoothing",
      "log_x",
      "log_y",
      "bands",
      "panels",
      "window",
      "hidden",
      "live",
    ]) {
      this.changes[`change:${name}`] = paint;
    }
    for (const name of ["bands", "hidden"]) {
      this.changes[`change:${name}`] = () => {
        paint();
        this.tellRuns();
      };
    }
    for (const [name, change] of Object.entries(this.changes)) this.model.on(name, change);
    this.resized = new ResizeObserver(() => {
      if (this.chart.box.clientWidth && this.chart.box.clientWidth !== this.wide) this.refresh();
    });
    this.resized.observe(this.chart.box);
    this.themed = new MutationObserver(paint);
    this.themed.observe(document.body, {
      attributes: true,
      attributeFilter: ["data-jp-theme-name", "class"],
    });
    this.darkened = matchMedia("(prefers-color-scheme: dark)");
    this.darkened.addEventListener("change", paint);
  }

  stop() {
    this.resized.disconnect();
    this.themed.disconnect();
    this.darkened.removeEventListener("change", this.changes["change:x"]);
    for (const [name, change] of Object.entries(this.changes)) this.model.off(name, change);
    this.hiding?.remove();
  }

  // All runs out of the data, drawn, and Python told of it.
  read() {
    const data = this.get("data");
    if (!data?.runs) return;
    this.runs = data.runs.map((told) => new Run(told));
    const newest = new Date().toLocaleTimeString("en-GB");
    this.status.textContent = this.get("live")
      ? `live: last change at ${newest}`
      : `drawn at ${newest}`;
    this.fillBar();
    this.refresh();
    this.tellRuns();
    this.hideStill(data.still);
    this.tell({ kind: "drawn", serial: data.serial });
  }

  refresh() {
    if (!this.runs.length) return;
    for (const show of this.controls) show();
    this.chart.paint();
    this.wide = this.chart.box.clientWidth;
    this.explain();
    this.tellNumbers();
  }

  tellRuns() {
    const inputs = () => [...this.table.querySelectorAll("input")];
    const at = inputs().indexOf(document.activeElement); // whoever walks there by keys stays there
    this.table.replaceChildren(runTable(this));
    inputs()[at]?.focus();
    const notes = this.runs.flatMap((run) =>
      run.notes.map((note) => words("li", "", `${run.name}: ${note}`)),
    );
    this.notes.replaceChildren(...notes);
    this.gaps.replaceChildren(...this.runs.filter(({ gap }) => gap).map(gapTable));
    this.gaps.hidden = !this.gaps.children.length;
  }

  tellNumbers() {
    if (this.numbers.open) this.numberBox.replaceChildren(numberTable(this.chart));
  }

  // What lines and symbols mean, of those that are there.
  explain() {
    const { marks } = this.get("choices");
    const lines = this.chart.panels[0].lines.filter(({ told }) => told);
    const most = Math.max(1, ...lines.map(({ points }) => points));
    const mean = most > 1 ? `, mean of up to ${most} points (faint: each)` : "";
    const seen = Object.keys(marks).filter((field) => this.runs.some((run) => run.points[field]));
    this.legend.textContent = [
      `line: training${mean}`,
      ...seen.map((field) => marks[field].legend),
    ].join(" · ");
  }

  emptiness() {
    const shown = this.runs.some((run) => run.rows);
    return shown ? "all runs are hidden: tick one below" : "no training step to draw yet";
  }

  receive({ kind, told }) {
    if (kind !== "saved") return;
    clearTimeout(this.asked);
    this.saved.textContent = told;
  }

  // The still picture stood in for this chart: it is an image whose address holds its key.
  hideStill(key) {
    if (!key || this.hiding) return;
    const image = `img[src*="${CSS.escape(key)}"]`;
    const place = `.jp-OutputArea-child:has(> .jp-RenderedSVG > ${image})`;
    this.hiding = element("style");
    document.head.append(this.hiding);
    for (const chosen of [`${image}, svg#${CSS.escape(key)}`, place]) {
      this.hiding.sheet.insertRule(`${chosen} { display: none !important; }`);
    }
  }

  // What is drawn, on paper, with the names of the runs above it.
  png() {
    const { canvas, runs } = this.chart;
    const ratio = devicePixelRatio || 1;
    const { font, ink, paper } = this.chart.look();
    const high = 20 * runs.length + 12;
    const sheet = element("canvas", "", {
      width: canvas.width,
      height: canvas.height + high * ratio,
    });
    const context = sheet.getContext("2d");
    context.fillStyle = paper;
    context.fillRect(0, 0, sheet.width, sheet.height);
    context.drawImage(canvas, 0, high * ratio);
    context.scale(ratio, ratio);
    context.font = font;
    runs.forEach((run, i) => {
      context.fillStyle = run.line.color;
      context.fillRect(12, 20 * i + 14, 24, 3);
      context.fillStyle = ink;
      context.fillText(run.name, 44, 20 * i + 20);
    });
    sheet.toBlob((blob) => {
      const link = element("a", "", { href: URL.createObjectURL(blob), download: "losses.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }, "image/png");
  }
}

export function render({ model, el }) {
  const explorer = new Explorer(model, el);
  return () => explorer.stop();
}

export default { render };
