"use strict";
// What is looked at, kept in the address: #section?prompt=2&frame=5&zoom=4&at=31,62&arms=a,b&pin=truth.
// A fragment, as a page opened as a file may not change anything else of its address.
const view = (() => {
  const state = { section: "", prompt: 0, frame: null, zoom: 4, at: null, arms: null, pin: "" };
  const listeners = [];
  const number = (text, fallback) => (text !== null && Number.isFinite(Number(text)) ? Number(text) : fallback);

  function read() {
    const [section, query = ""] = location.hash.slice(1).split("?");
    const asked = new URLSearchParams(query);
    const at = (asked.get("at") || "").split(",").map(Number);
    state.section = section;
    state.prompt = number(asked.get("prompt"), state.prompt);
    state.frame = number(asked.get("frame"), state.frame);
    state.zoom = number(asked.get("zoom"), state.zoom);
    if (at.length === 2 && at.every(Number.isFinite)) state.at = at;
    if (asked.has("arms")) state.arms = asked.get("arms").split(",");
    if (asked.has("pin")) state.pin = asked.get("pin");
  }
  function write() {
    const said = { prompt: state.prompt, frame: state.frame, zoom: state.zoom };
    if (state.at) said.at = state.at.map((value) => value.toFixed(1)).join(",");
    if (state.arms) said.arms = state.arms.join(",");
    if (state.pin) said.pin = state.pin;
    const query = Object.entries(said).filter(([, value]) => value !== null);
    const text = query.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",")}`).join("&");
    history.replaceState(null, "", `#${state.section}?${text}`);
  }
  function change(changes) {
    Object.assign(state, changes);
    write();
    for (const tell of listeners) tell(changes);
  }
  read();
  addEventListener("hashchange", () => { read(); for (const tell of listeners) tell(state); });
  return { state, change, listen: (tell) => listeners.push(tell) };
})();
