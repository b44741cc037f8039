// Input by keyboard: the keys that move through a pane, and the boxes in which texts are typed.

import { element, words } from "./basics.js";
import { rowOf } from "./layout.js";

const LIVE = 5000; // bytes up to which every key is sent
const PATIENCE = 5000; // ms
const SILENT =
  "Python has not answered for 5 seconds: it is busy, or its kernel has ended. What is drawn " +
  "here is older than what you asked for.";

// The mark a key leads to; undefined where it leads nowhere.
export function moved(event, pane) {
  const { at, starts, text, view, height } = pane;
  const last = text.size - 1;
  if (last < 0) return undefined;
  const r = rowOf(starts, at);
  const page = Math.max(1, Math.floor(view.clientHeight / height) - 1);
  const end = (row) => (starts[row + 1] ?? text.size) - 1;
  const lines = (n) => {
    const to = Math.max(0, Math.min(starts.length - 1, r + n));
    return Math.min(starts[to] + at - starts[r], end(to));
  };
  const moves = {
    ArrowLeft: () => at - 1,
    ArrowRight: () => at + 1,
    ArrowUp: () => lines(-1),
    ArrowDown: () => lines(1),
    PageUp: () => lines(-page),
    PageDown: () => lines(page),
    Home: () => (event.ctrlKey ? 0 : starts[r]),
    End: () => (event.ctrlKey ? last : end(r)),
  };
  if (!moves[event.key]) return undefined;
  return Math.max(0, Math.min(last, moves[event.key]()));
}

// Says that nobody answers, where Python was asked something and stays silent.
export class Silence {
  constructor(say) {
    this.say = say;
  }

  asked() {
    this.timer ??= setTimeout(() => this.say(SILENT), PATIENCE);
  }

  answered() {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}

// The box for text n, folded where there are many or it is long.
export function typingBox(app, n, typed) {
  const name = typed.length > 1 ? `text ${n + 1}` : "the text";
  const properties = { rows: 3, spellcheck: false, value: typed[n] };
  properties.attributes = { "aria-label": name };
  const box = element("textarea", "skh-control skh-box", properties);
  const note = element("span", "skh-note");
  const live = () => new TextEncoder().encode(box.value).length <= LIVE;
  const send = () => {
    const texts = [...app.model.get("texts")];
    if (texts[n] === box.value) return;
    texts[n] = box.value;
    app.set({ texts });
  };
  const hint = () => {
    const long = "Long: it is read when you leave the box or press Ctrl+Enter.";
    note.textContent = live() ? "" : long;
  };
  box.addEventListener("input", () => {
    hint();
    if (live()) send();
  });
  box.addEventListener("change", send);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) send();
  });
  hint();
  const open = typed.length < 3 && live();
  const fold = element("details", "skh-fold", { open }, words("summary", "", "Type"), box, note);
  return { box, fold };
}
