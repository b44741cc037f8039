// The chart: panels over one x axis, a cursor that tells all runs, zoom by mouse and by keys.

import { element, words } from "../heatmap/basics.js";
import { paintAcross, paintLine, paintPoints, paintUp, scaleOf } from "./paint.js";
import { axisOf, panelLines } from "./runs.js";
import { firstFrom, grouped, nearest, short } from "./sums.js";

const LEFT = 64; // px
const RIGHT = 20;
const TOP = 28;
const LOSS = 270; // px of the loss
const PANEL = 84; // px of a panel below it
const FOOT = 46;
const KEYS =
  "Arrow keys read off the runs, + and − zoom, Shift with arrow keys moves, 0 shows all.";

const percent = (value) => `${Number((100 * value).toPrecision(4))}%`;

export class Chart {
  constructor(app) {
    this.app = app;
    this.canvas = element("canvas", "skl-canvas");
    this.over = element("canvas", "skl-canvas skl-over", {
      tabIndex: 0,
      attributes: { role: "application", "aria-roledescription": "chart" },
    });
    this.empty = words("div", "skl-empty", "");
    this.tip = element("div", "skl-tip", { hidden: true, attributes: { "aria-hidden": "true" } });
    this.told = element("div", "skl-aside", { attributes: { "aria-live": "polite" } });
    this.box = element("div", "skl-chart", {}, this.canvas, this.over, this.empty, this.tip);
    this.listen();
  }

  listen() {
    const { over } = this;
    over.addEventListener("pointermove", (event) => this.move(event));
    over.addEventListener("pointerleave", () => this.point(null));
    over.addEventListener("pointerdown", (event) => this.press(event));
    over.addEventListener("pointerup", (event) => this.release(event));
    over.addEventListener("pointercancel", () => this.drop());
    over.addEventListener("dblclick", () => this.zoom(null));
    over.addEventListener("keydown", (event) => this.key(event));
    over.addEventListener("blur", () => this.point(null));
    over.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      this.scale(event.deltaY < 0 ? 0.8 : 1.25, this.across?.of(event.offsetX));
    });
  }

  // -- what is drawn

  // The panels from top to bottom: their lines, their symbols, and where they stand.
  plan() {
    const { app } = this;
    const { axes, panels, marks } = app.model.get("choices");
    this.axis = axisOf(axes, app.get("x"), app.runs);
    this.runs = app.runs.filter((run) => run.rows && !app.hidden.includes(run.name));
    const how = { axis: this.axis, smoothing: app.get("smoothing"), bands: app.get("bands") };
    for (const run of app.runs) {
      const first = app.runs.find((other) => other.group === run.group);
      run.line = how.bands ? first.own : run.own;
    }
    const marked = (axis) => Object.keys(marks).filter((field) => marks[field].axis === axis);
    const plan = [
      { field: "loss_bits", title: "bits per byte", log: app.get("log_y"), points: marked("y") },
    ];
    if (this.runs.some((run) => marked("y2").some((field) => run.has(field)))) {
      plan.push({ title: "probe accuracy", points: marked("y2"), told: percent });
    }
    for (const field of app.get("panels")) {
      const { title, share } = panels[field];
      plan.push({ field, title, zero: true, points: [], ...(share ? { told: percent } : {}) });
    }
    let top = TOP;
    this.panels = plan.map((panel) => {
      const averaged = panel.field === "loss_bits" || panels[panel.field]?.averaged;
      const lines = panel.field ? panelLines(this.runs, panel.field, { ...how, averaged }) : [];
      const bottom = top + (panel.field === "loss_bits" ? LOSS : PANEL);
      const place = { left: LEFT, right: this.width - RIGHT, top, bottom };
      top = bottom + TOP + 4;
      return { told: short, ...panel, lines, place };
    });
    this.height = top - TOP - 4 + FOOT;
  }

  whole() {
    const ends = this.runs.flatMap((run) => {
      const x = run
        .x(this.axis)
        .filter((value) => Number.isFinite(value) && (value > 0 || !this.log));
      return x.length ? [x[0], x[x.length - 1]] : [];
    });
    if (!ends.length) return null;
    const low = this.log ? Math.min(...ends) : Math.min(0, ...ends);
    const high = Math.max(...ends);
    return [low, high > low ? high : low + 1];
  }

  // The lowest and highest value in sight. Of the whole linear axis the first twentieth of each
  // run does not count: it would flatten the rest.
  extent({ lines, points, log, zero }) {
    const [from, to] = this.sight;
    let low = Infinity;
    let high = -Infinity;
    const take = (x, y, first, last) => {
      for (let n = first; n < last; n++) {
        if (!Number.isFinite(y[n]) || x[n] < from || x[n] > to || (log && y[n] <= 0)) continue;
        if (y[n] < low) low = y[n];
        if (y[n] > high) high = y[n];
      }
    };
    const skipped = (rows) => (this.window || this.log || zero ? 0 : Math.floor(rows / 20));
    for (const { run, x, y } of lines) take(x, y, skipped(run.rows), x.length);
    for (const run of this.runs) {
      for (const field of points) {
        if (!run.points[field]) continue;
        const x = run.x(this.axis);
        const { at, y } = run.points[field];
        const first = firstFrom(at, skipped(run.rows));
        take(
          Array.from(at, (n) => x[n]),
          y,
          Math.min(first, y.length - 1),
          y.length,
        );
      }
    }
    if (low > high) return log ? [1, 10] : [0, 1];
    if (zero) low = Math.min(0, low);
    if (low === high)
      return log
        ? [low / 2, low * 2]
        : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
    const air = log ? 0 : 0.03 * (high - low);
    return [zero && low === 0 ? 0 : low - air, high + air];
  }

  paint() {
    this.width = Math.max(180, this.box.clientWidth);
    this.log = this.app.get("log_x");
    const window = this.app.get("window");
    this.window = window.length === 2 && window[1] > window[0] ? window : null;
    this.plan();
    const context = this.sized(this.canvas);
    this.sight = this.window ?? this.whole();
    this.empty.textContent = this.sight ? "" : this.app.emptiness();
    if (!this.sight) return;
    this.across = scaleOf(...this.sight, LEFT, this.width - RIGHT, this.log);
    const { marks } = this.app.model.get("choices");
    const look = this.look();
    for (const panel of this.panels) {
      const { left, right, top, bottom } = panel.place;
      panel.up = scaleOf(...this.extent(panel), bottom, top, panel.log);
      paintUp(context, panel.up, panel.place, panel.title, panel.told, look);
      context.save();
      context.beginPath();
      context.rect(left, top - 6, right - left + 7, bottom - top + 12);
      context.clip();
      for (const line of panel.lines) paintLine(context, line, this.across, panel.up, right - left);
      for (const run of this.runs) {
        for (const field of panel.points.filter((name) => run.points[name])) {
          paintPoints(
            context,
            run,
            field,
            marks[field],
            this.axis,
            this.across,
            panel.up,
            look.paper,
          );
        }
      }
      context.restore();
    }
    const last = this.panels[this.panels.length - 1].place;
    paintAcross(context, this.across, last, this.axis.title, look);
    this.describe();
    this.sized(this.over);
    if (this.at !== undefined && this.at !== null) this.point(this.at);
  }

  // A canvas as sharp as the screen; its context counts in CSS pixels.
  sized(canvas) {
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(this.width * ratio);
    canvas.height = Math.round(this.height * ratio);
    canvas.style.width = `${this.width}px`;
    canvas.style.height = `${this.height}px`;
    this.box.style.height = `${this.height}px`;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.lineJoin = "round";
    return context;
  }

  look() {
    const style = getComputedStyle(this.box);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const font = `12px ${style.fontFamily}`;
    return {
      font,
      ink: colour("skh-ink"),
      soft: colour("skh-soft"),
      paper: colour("skh-paper"),
      grid: colour("skl-grid"),
      axis: "#888",
    };
  }

  describe() {
    const [from, to] = this.sight.map(short);
    const names = this.runs.map((run) => run.name).join(", ");
    const titles = this.panels.map(({ title }) => title).join(", ");
    const said = `${titles} of ${names || "no run"}, ${this.axis.title} ${from} to ${to}. ${KEYS}`;
    this.over.setAttribute("aria-label", said);
  }

  // -- the cursor

  // What stands at a place: of each run the mean, the point itself, a validation, the panels.
  readings(at) {
    const { panels: known } = this.app.model.get("choices");
    return this.runs.map((run) => {
      const x = run.x(this.axis);
      const n = nearest(x, at);
      const reach = Math.abs(this.across.at(x[n]) - this.across.at(at)) < 12;
      const cells = {};
      for (const { field, lines, told } of this.panels) {
        const line = lines.find((one) => one.run === run && one.told);
        if (!line || !reach) continue;
        const digits = field === "loss_bits" ? (value) => value.toFixed(4) : told;
        const name = field === "loss_bits" ? "training" : known[field].title;
        if (Number.isFinite(line.y[n]))
          cells[line.points > 1 ? `${name}, mean` : name] = digits(line.y[n]);
        const each = run.raw(field)[n];
        if (field === "loss_bits" && line.points > 1 && Number.isFinite(each))
          cells.each = digits(each);
      }
      Object.assign(cells, this.near(run, at));
      return { run, cells, x: x[n] };
    });
  }

  // Validations and probes within a few pixels.
  near(run, at) {
    const { marks } = this.app.model.get("choices");
    const cells = {};
    for (const [field, { label, axis }] of Object.entries(marks)) {
      const points = run.points[field];
      if (!points?.y.length) continue;
      const x = run.x(this.axis);
      const places = Array.from(points.at, (n) => x[n]);
      const k = nearest(places, at);
      if (Math.abs(this.across.at(places[k]) - this.across.at(at)) > 8) continue;
      cells[label] = axis === "y" ? points.y[k].toFixed(4) : percent(points.y[k]);
      if (points.more) cells[label] += ` ${points.more}`;
    }
    return cells;
  }

  point(at, aloud = false) {
    this.at = at;
    this.tip.hidden = at === null;
    const context = this.sized(this.over);
    if (at === null || !this.sight || !this.runs.length) return;
    const found = this.readings(at);
    const x = Math.round(this.across.at(at)) + 0.5;
    context.strokeStyle = this.look().soft;
    context.beginPath();
    for (const { place } of this.panels) {
      context.moveTo(x, place.top);
      context.lineTo(x, place.bottom);
    }
    context.stroke();
    const value =
      this.axis.column === "step" || this.axis.column === "bytes" ? grouped(at) : short(at);
    const head = `${this.axis.title} ${value}`;
    this.fillTip(head, found, x);
    const said = found.map(({ run, cells }) => {
      const parts = Object.entries(cells).map(([name, cell]) => `${name} ${cell}`);
      return `${run.name}: ${parts.join(", ") || "nothing here"}`;
    });
    if (aloud) this.told.textContent = `${head}. ${said.join(". ")}`;
  }

  fillTip(head, found, x) {
    const names = [...new Set(found.flatMap(({ cells }) => Object.keys(cells)))];
    const columns = names.map((name) => words("th", "", name));
    const rows = found.slice(0, 12).map(({ run, cells }) => {
      const swatch = element("span", "skl-swatch");
      swatch.style.background = run.line.color;
      const title = element("th", "", {}, swatch, words("span", "", run.name));
      return element(
        "tr",
        "",
        {},
        title,
        ...names.map((name) => words("td", "", cells[name] ?? "")),
      );
    });
    const table = element(
      "table",
      "skl-table",
      {},
      element("tr", "", {}, element("td"), ...columns),
      ...rows,
    );
    this.tip.replaceChildren(words("b", "", head), table);
    const right = x > this.width / 2;
    this.tip.style.left = right ? "" : `${x + 12}px`;
    this.tip.style.right = right ? `${this.box.clientWidth - x + 12}px` : "";
    this.tip.style.maxWidth = `${Math.max(x, this.width - x) - 20}px`;
  }

  // The point of some run that is nearest to a pixel.
  caught(pixel) {
    const places = this.runs.map((run) => run.x(this.axis)).filter((x) => x.length);
    const found = places.map((x) => x[nearest(x, this.across.of(pixel))]);
    const far = (value) => Math.abs(this.across.at(value) - pixel);
    const inside = found.filter((value) => value >= this.sight[0] && value <= this.sight[1]);
    return inside.length ? inside.reduce((a, b) => (far(b) < far(a) ? b : a)) : null;
  }

  // -- the mouse

  inside(event) {
    return Math.min(this.width - RIGHT, Math.max(LEFT, event.offsetX));
  }

  move(event) {
    if (!this.sight) return;
    if (!this.pressed) {
      this.point(this.caught(this.inside(event)));
      return;
    }
    const { from, window, across } = this.pressed;
    const to = this.inside(event);
    if (event.shiftKey || this.pressed.pan) {
      this.pressed.pan = true;
      this.zoom([
        across.of(across.at(window[0]) - to + from),
        across.of(across.at(window[1]) - to + from),
      ]);
      return;
    }
    this.tip.hidden = true;
    const context = this.sized(this.over);
    context.fillStyle = "rgb(136 136 136 / 0.25)";
    const { place } = this.panels[this.panels.length - 1];
    context.fillRect(Math.min(from, to), TOP, Math.abs(to - from), place.bottom - TOP);
  }

  press(event) {
    if (event.button || !this.sight) return;
    this.over.setPointerCapture(event.pointerId);
    this.pressed = { from: this.inside(event), window: this.sight, across: this.across };
  }

  release(event) {
    if (!this.pressed) return;
    const { from, pan } = this.pressed;
    const to = this.inside(event);
    this.drop();
    if (!pan && Math.abs(to - from) > 5) {
      this.zoom([Math.min(from, to), Math.max(from, to)].map((pixel) => this.across.of(pixel)));
    }
  }

  drop() {
    this.pressed = null;
    this.sized(this.over);
  }

  // -- the window

  zoom(window) {
    this.app.set({ window: window ?? [] });
  }

  // Make the window smaller or larger around a place.
  scale(factor, at) {
    if (!this.sight) return;
    const pixel = this.across.at(at ?? this.at ?? this.across.of((LEFT + this.width - RIGHT) / 2));
    const ends = [LEFT, this.width - RIGHT].map((end) =>
      this.across.of(pixel + (end - pixel) * factor),
    );
    const whole = this.whole();
    const all = ends[0] <= whole[0] && ends[1] >= whole[1];
    this.zoom(all ? null : [Math.max(ends[0], whole[0]), Math.min(ends[1], whole[1])]);
  }

  pan(share) {
    const by = share * (this.width - LEFT - RIGHT);
    if (this.window) this.zoom(this.window.map((end) => this.across.of(this.across.at(end) + by)));
  }

  key(event) {
    if (!this.sight || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    const steps = { "+": 0.5, "=": 0.5, "-": 2, "−": 2 };
    if (event.key in moves && event.shiftKey) this.pan(0.1 * moves[event.key]);
    else if (event.key in moves) this.step(moves[event.key]);
    else if (event.key === "Home") this.point(this.caught(LEFT), true);
    else if (event.key === "End") this.point(this.caught(this.width - RIGHT), true);
    else if (event.key in steps) this.scale(steps[event.key]);
    else if (event.key === "0" || event.key === "Escape") this.zoom(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // To the next point of some run, at least a pixel away.
  step(by) {
    const from = this.across.at(this.at ?? (by > 0 ? this.sight[0] : this.sight[1]));
    const ends = [LEFT, this.width - RIGHT];
    for (let pixel = from + by; pixel >= ends[0] - 1 && pixel <= ends[1] + 1; pixel += by) {
      const found = this.caught(pixel);
      if (found !== null && (this.across.at(found) - from) * by >= 0.99) {
        this.point(found, true);
        return;
      }
    }
    if (this.at === null || this.at === undefined) this.point(this.caught(from), true);
  }
}
