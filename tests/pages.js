// Search of the pages of `make docs`, and the live page inside one when it is opened. The index is a script that is loaded when the box is first used: nothing is
// fetched, so it works from the disk. What is found is written as text, never as markup.
"use strict";
(() => {
  const root = document.currentScript.dataset.root;
  const box = document.getElementById("search");
  const list = document.getElementById("found");
  const said = document.getElementById("found-said");
  const MOST = 12; // results that are shown
  const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  let pages = null;
  let asked = false;

  function load() {
    if (asked) return;
    asked = true;
    const script = document.createElement("script");
    script.src = root + "search-index.js";
    script.onload = () => {
      pages = window.searchIndex.map((page) => ({
        ...page,
        folded: [fold(page.title), fold(page.names), fold(page.line), fold(page.words)],
        heads: page.heads.map(([id, text]) => [id, text, fold(text)]),
      }));
      search();
    };
    script.onerror = () => { said.textContent = "The index of the search is missing beside the pages."; };
    document.head.append(script);
  }

  // How well a page answers one word, and the heading that did: 0 where it does not.
  function weigh(page, word) {
    const [title, names, line, words] = page.folded;
    const head = page.heads.find(([, , text]) => text.includes(word));
    let weight = 0;
    if (title.includes(word)) weight += title.split(/\W+/).includes(word) ? 20 : 12;
    if (names.includes(word)) weight += names.split(" ").includes(word) ? 20 : 8;
    if (head) weight += 6;
    if (line.includes(word)) weight += 4;
    if (` ${words}`.includes(` ${word}`)) weight += 1;
    return [weight, head];
  }

  function found(words) {
    const hits = [];
    for (const page of pages) {
      const weighed = words.map((word) => weigh(page, word));
      if (weighed.some(([weight]) => !weight)) continue;
      const inTitle = words.every((word) => page.folded[0].includes(word));
      const head = inTitle ? null : weighed.map(([, at]) => at).find(Boolean);
      hits.push({ page, head, weight: weighed.reduce((sum, [weight]) => sum + weight, 0) });
    }
    return hits.sort((a, b) => b.weight - a.weight);
  }

  function part(tag, text) {
    const made = document.createElement(tag);
    made.textContent = text;
    return made;
  }

  function entry({ page, head }) {
    const link = document.createElement("a");
    link.href = root + page.path + (head ? "#" + encodeURIComponent(head[0]) : "");
    link.append(part("b", page.title), part("span", head ? head[1] : page.line), part("small", page.path));
    const item = document.createElement("li");
    item.append(link);
    return item;
  }

  function search() {
    const words = fold(box.value).split(/\s+/).filter(Boolean);
    const hits = pages && words.length ? found(words) : [];
    list.replaceChildren(...hits.slice(0, MOST).map(entry));
    const more = hits.length > MOST ? `, the best ${MOST} are shown` : "";
    said.textContent = pages && words.length ? `${hits.length} ${hits.length === 1 ? "page" : "pages"}${more}` : "";
  }

  function move(step) {
    const stops = [box, ...list.querySelectorAll("a")];
    const next = stops.indexOf(document.activeElement) + step;
    if (next >= 0 && next < stops.length) stops[next].focus();
  }

  function keys(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape") {
      box.value = "";
      search();
      box.focus();
    } else if (event.key === "Enter" && event.target === box) {
      list.querySelector("a")?.click();
    }
  }

  box.addEventListener("focus", load);
  box.addEventListener("input", () => { load(); if (pages) search(); });
  box.form.addEventListener("keydown", keys);
  box.form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    box.focus();
  });
  for (const output of document.querySelectorAll(".jp-OutputArea-output")) {
    if (output.scrollWidth > output.clientWidth) output.tabIndex = 0; // a wide table is scrolled by keys, too
  }
  for (const live of document.querySelectorAll("details.live")) {
    live.addEventListener("toggle", () => {
      const frame = document.createElement("iframe");
      frame.title = "The live page";
      frame.src = live.querySelector("a").href;
      live.append(frame);
    }, { once: true });
  }
  box.form.hidden = false; // without JavaScript there is no search
})();
