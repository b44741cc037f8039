// A saved page: its state lies in the page, and there is no Python to ask.

export function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

// Bytes where Python wrote them as base64; an object that has more than that stays one.
export function reviveBytes(_, value) {
  if (typeof value?.base64 !== "string" || Object.keys(value).length > 1) return value;
  return new DataView(bytesOf(value.base64).buffer);
}

// Draw the state of a page with the `render` of a widget.
export function openSaved(render) {
  const state = JSON.parse(document.getElementById("state").textContent, reviveBytes);
  const listeners = {};
  const model = {
    isPage: true,
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      for (const listener of listeners[`change:${name}`] ?? []) listener();
    },
    on: (name, listener) => (listeners[name] ??= []).push(listener),
    off() {},
    send() {},
    save_changes() {},
  };
  render({ model, el: document.querySelector("main") });
}
