// The page around the heatmap: four questions to look with, three suggestions to try, and a place
// where the model writes.

import { button, element, key, number, words } from "../heatmap/basics.js";
import { render } from "../heatmap/main.js";
import { readingOf, standing } from "../heatmap/readings.js";
import { bytesOf } from "../saved.js";
import { Engine } from "./engine.js";
import { LiveModel } from "./live.js";

const WRITTEN = 240; // bytes of a piece
const HELD = 3; // the slider reaches at least so far

// -- what is asked of the model

function views(told, model) {
  const { neuron } = told;
  const all = [
    {
      name: "Surprise",
      title: "Which letters did it not expect?",
      said:
        "The model guesses every next character. Orange: it was surprised. Surprise is counted in bits; one bit is a coin toss. " +
        "Point at a character to see its five best guesses at that place.",
      show: () => ({ view: "state", shown: ["surprise"] }),
      tell() {
        const { bits, bytes } = model.reader;
        const mean = bits.reduce((sum, one) => sum + one, 0) / Math.max(1, bytes.length);
        return `On average ${mean.toFixed(2)} bits a character; a blind guess among 256 bytes costs 8.`;
      },
    },
    {
      name: "Any unit",
      title: "What do its units follow?",
      said:
        "Each unit keeps one number while it reads. Orange: above zero, blue: below. Choose units by their numbers, up to four at once; " +
        "click a character to see which units it moved most.",
      show: () => ({ view: "state", shown: [told.unit] }),
      tell: () => "",
    },
    {
      name: "Account",
      title: "What does it remember?",
      said:
        "A unit's last value is a sum over all characters. Grey bars: what each one wrote into the unit. In colour: what is left " +
        "of that at the end. The list tells the largest sums; the rest is dimmed.",
      show: () => ({ view: "ledger", shown: [(model.kept = { unit: model.keeper(), pane: model.pane }).unit] }),
      tell() {
        const unit = model.get("shown")[0];
        const found = unit !== neuron?.unit && unit === model.kept?.unit && model.kept.pane === model.pane;
        return found ? `Of all ${told.sizes.hidden} units, ${unit} keeps the most of this text.` : "";
      },
    },
  ];
  if (neuron) {
    all.splice(1, 0, {
      name: "Sentiment",
      title: "Does it like what it reads?",
      said: `Orange: votes good. Blue: votes bad. ${told.neuron.said}`,
      show: () => ({ view: "state", shown: [neuron.unit] }),
      tell() {
        const last = model.drawn(neuron.unit).at(-1) ?? 0;
        const known = standing(readingOf(model.words, neuron.unit), model.values(neuron.unit).at(-1) ?? 0);
        return `At the end of the text it votes ${last > 0 ? "good" : "bad"}: ${number(last)}${known && `, ${known}`}.`;
      },
    });
  }
  return all;
}

// -- three things to try

const SUGGESTIONS = [
  [
    "Put a “not” in",
    (text) => {
      const verb = /\b(is|was|are|were|am|do|does|did|would|will|can|could)\b(?! not)/i;
      return verb.test(text) ? text.replace(verb, "$1 not") : `Not: ${text}`;
    },
  ],
  ["Shout it", (text) => text.toUpperCase()],
  ["Drop the last mark", (text) => text.replace(/[\s.!?…]+$/u, "")],
];

class LivePage {
  constructor(told, engine, root) {
    this.told = told;
    this.model = new LiveModel(told, engine);
    this.views = views(told, this.model);
    this.seed = 0;
    this.root = root;
    this.build();
  }

  build() {
    const attributes = { role: "group", "aria-label": "questions" };
    this.tabs = this.views.map((view) => button(view.name, view.title, () => this.open(view)));
    this.title = element("h2", "skl-title");
    this.said = element("p", "skl-said");
    this.verdict = element("p", "skl-verdict", { attributes: { role: "status" } });
    const main = element("div", "skl-heatmap");
    const tabs = element("div", "skl-tabs", { attributes }, ...this.tabs);
    const parts = [tabs, this.title, this.said, this.tries(), main, this.verdict];
    this.root.replaceChildren(...parts, this.writing());
    render({ model: this.model, el: main });
    this.model.on("change:picture", () => this.tell());
    this.model.on("change:shown", () => this.tell());
    this.open(this.views[0]);
  }

  open(view) {
    this.view = view;
    this.tabs.forEach((tab, n) => tab.setAttribute("aria-pressed", String(this.views[n] === view)));
    this.title.textContent = view.title;
    this.said.textContent = view.said;
    const { model } = this;
    const units = model.get("units");
    const show = model.pane ? view.show() : { view: "state", shown: model.get("shown") };
    const missing = show.shown.filter((unit) => !units.some((other) => key(other) === key(unit)));
    for (const [name, value] of Object.entries(show)) model.set(name, value);
    if (missing.length) model.set("units", [...units, ...missing]);
    model.save_changes();
    this.tell();
  }

  tell() {
    if (this.model.pane) this.verdict.textContent = this.view.tell();
  }

  // -- try

  tries() {
    const first = this.told.texts[0];
    const buttons = SUGGESTIONS.map(([name, change]) => button(name, name, () => this.type(change)));
    for (const text of this.told.texts.slice(1)) {
      buttons.push(button(`“${text.trim().slice(0, 18)}…”`, text.slice(0, 200), () => this.type(() => text)));
    }
    buttons.push(button("Start again", "the text as it was", () => this.type(() => first)));
    const attributes = { role: "group", "aria-label": "try" };
    return element("div", "skl-tries", { attributes }, words("span", "skh-note", "Try:"), ...buttons);
  }

  async type(change) {
    const { model } = this;
    const before = this.verdict.textContent;
    model.set("texts", [change(model.get("texts")[0])]);
    model.changed.delete("texts");
    if ((await model.read()) && before !== this.verdict.textContent) {
      this.verdict.append(element("span", "skh-note", { textContent: ` Before: ${before}` }));
    }
  }

  // -- write

  writing() {
    const { told } = this;
    const range = (attributes, name) =>
      element("input", "", { type: "range", attributes: { ...attributes, "aria-label": name } });
    this.warmth = range({ min: 0, max: 1.3, step: 0.1, value: 0.6 }, "temperature");
    this.heldUnit = element("input", "skh-control", {
      type: "number",
      value: told.neuron?.unit ?? told.unit,
      attributes: { min: 0, max: told.sizes.hidden - 1, "aria-label": "unit that is held" },
    });
    this.heldValue = range({ min: -HELD, max: HELD, step: 0.1, value: told.hold }, "value it is held at");
    this.warmthSaid = element("output", "skh-note");
    this.heldSaid = element("output", "skh-note");
    this.writeButton = button("Write", "write on from the text above", () => this.startWriting());
    const line = (name, ...parts) => element("label", "skl-control", {}, words("span", "", name), ...parts);
    const controls = element(
      "div",
      "skl-controls",
      {},
      line("Temperature", this.warmth, this.warmthSaid),
      line("Hold unit", this.heldUnit),
      line("at", this.heldValue, this.heldSaid),
      this.writeButton,
    );
    for (const input of [this.warmth, this.heldValue, this.heldUnit]) {
      input.addEventListener("input", () => this.sayHeld());
    }
    this.free = this.column();
    this.held = this.column();
    this.sayHeld();
    const said =
      "The model goes on from your text, one byte at a time, twice with the same dice: as it likes, and with one unit held at a value. Where a review ends, it begins another. " +
      "Low temperatures are safe, high ones wild.";
    const both = element("div", "skl-columns", {}, this.free.box, this.held.box);
    const parts = [words("h2", "skl-title", "What if it felt otherwise?"), words("p", "skl-said", said)];
    return element("section", "skl-write", {}, ...parts, controls, both);
  }

  column() {
    const title = element("h3", "");
    const text = element("p", "skl-written", { dir: "auto" });
    const read = button("Read this above", "put this text into the box above", () => {
      this.type((typed) => `${typed.trimEnd()} ${text.textContent}`);
      this.root.scrollIntoView();
    });
    read.hidden = true;
    return { title, text, read, box: element("div", "skl-column", {}, title, text, read) };
  }

  get heldAt() {
    const unit = Math.min(this.told.sizes.hidden - 1, Math.max(0, Math.round(Number(this.heldUnit.value)) || 0));
    return { unit, value: Number(this.heldValue.value) };
  }

  sayHeld() {
    const { unit, value } = this.heldAt;
    const { neuron } = this.told;
    const felt = neuron?.unit === unit && neuron.sign * (value - neuron.threshold) > 0 ? "good" : "bad";
    const warmth = Number(this.warmth.value);
    this.warmthSaid.textContent = warmth ? warmth.toFixed(1) : "0, always the likeliest byte";
    this.heldSaid.textContent = number(value) + (neuron?.unit === unit ? `, votes ${felt}` : "");
    this.free.title.textContent = "As it likes";
    this.held.title.textContent = `Unit ${unit} held at ${number(value)}`;
  }

  async startWriting() {
    if (this.writes) {
      this.writes = null;
      return;
    }
    const mine = {};
    this.writes = mine;
    this.writeButton.textContent = "Stop";
    const how = { count: WRITTEN, temperature: Number(this.warmth.value), seed: ++this.seed };
    const pieces = [
      [this.free, how],
      [this.held, { ...how, held: this.heldAt }],
    ];
    for (const [column] of pieces) {
      column.text.textContent = "";
      column.read.hidden = true;
    }
    for (const [column, chosen] of pieces) {
      await this.model.write(chosen, (text) => {
        column.text.textContent = text.replace(/\n /g, "\n").trimStart();
        return this.writes === mine;
      });
      column.read.hidden = !column.text.textContent;
    }
    if (this.writes === mine) this.writes = null;
    this.writeButton.textContent = "Write";
  }
}

export async function openLivePage() {
  const told = JSON.parse(document.getElementById("told").textContent);
  const said = document.getElementById("said");
  const held = (name) => bytesOf(document.getElementById(name).textContent.trim());
  try {
    await new Promise((done) => setTimeout(done, 20)); // the still picture is drawn first
    const engine = new Engine(told, held("weights"), held("kernels"));
    const page = new LivePage(told, engine, document.getElementById("live"));
    await page.model.read();
    const tell = () => {
      const { speed } = page.model;
      const told = speed ? `, ${Math.round(speed).toLocaleString("en")} bytes a second` : "";
      said.textContent = `It runs here, in this page: ${engine.kernels.name}${told}.`;
    };
    page.model.on("change:picture", tell);
    tell();
    document.documentElement.dataset.live = engine.kernels.name;
    window.livePage = page;
  } catch (error) {
    said.textContent = `This browser could not start the model (${error.message}); the picture above is a still one.`;
    document.documentElement.dataset.live = "no";
    throw error;
  }
}
