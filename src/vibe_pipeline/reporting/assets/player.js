"use strict";
// All arms side by side: which are shown, which one is pinned, the lens under each, and the difference to the pinned.
(() => {
  const player = document.querySelector(".player");
  if (!player) return;
  const get = (name) => player.querySelector("." + name);
  const fold = player.closest("details"), slide = document.querySelector(".slide");
  const bySlide = slide ? slide.dataset.arms.split(",") : [];
  const reels = () => [...clock.take().querySelectorAll(".reel")];
  const known = [...new Set([...player.querySelectorAll(".reel")].map((reel) => reel.dataset.arm))];
  let differs = false;

  const chosen = () => view.state.arms || known;
  const pinned = () => view.state.pin || player.dataset.pin;
  // Only what is seen is decoded: the slider's clips, and the player's while it is open.
  function seen(take) {
    const wanted = (arm) => bySlide.includes(arm) || (fold.open && (chosen().includes(arm) || arm === pinned()));
    return [...take.querySelectorAll(".reel")].filter((reel) => wanted(reel.dataset.arm))
      .flatMap((reel) => [...reel.querySelectorAll("video")]);
  }
  function draw(take, frame) {
    if (!fold.open) return;
    const place = lens.part(take, frame);
    const other = differs ? take.querySelector(`[data-arm="${CSS.escape(pinned())}"] video`) : null;
    for (const reel of reels()) {
      const video = reel.querySelector("video"), own = reel.dataset.arm === pinned();
      if (!video || reel.hidden) continue;
      lens.frameAt(reel.querySelector(".looks"), place);
      if (view.state.zoom > 1) lens.enlarge(reel.querySelector(".lens"), video, place, own ? null : other);
      const over = reel.querySelector(".over");
      over.hidden = !differs || own;
      if (differs && !own) lens.enlarge(over, video, lens.whole, other);
    }
  }
  function arrange() {
    clock.takes.forEach((take) => { take.hidden = take !== clock.take(); });
    player.classList.toggle("differs", differs);
    player.classList.toggle("plain", view.state.zoom <= 1);
    for (const reel of reels()) {
      const own = reel.dataset.arm === pinned();
      reel.hidden = !own && !chosen().includes(reel.dataset.arm);
      reel.classList.toggle("pinned", own);
      reel.querySelector(".pin").setAttribute("aria-pressed", String(own));
    }
    for (const box of get("arms").querySelectorAll("input")) box.checked = chosen().includes(box.value);
    get("choose").value = Number(clock.take().dataset.prompt);
    get("zoom").value = view.state.zoom;
    get("follow").hidden = !view.state.at;
    const label = clock.take().querySelector(`[data-arm="${CSS.escape(pinned())}"] .label`);
    get("difference").disabled = !label;
    get("difference").textContent = `Difference to ${label ? label.textContent : "the pinned arm"}`;
    get("difference").setAttribute("aria-pressed", String(differs));
    clock.settle();
  }
  function pan(dx, dy) {
    const place = lens.part(clock.take(), clock.now());
    const inside = (value) => Math.min(100, Math.max(0, value));
    view.change({ at: [inside(place.left + place.size / 2 + dx), inside(place.top + place.size / 2 + dy)] });
  }
  for (const take of clock.takes) {
    for (const stage of take.querySelectorAll(".stage")) {
      stage.addEventListener("click", (event) => view.change({ at: lens.clicked(event, stage) }));
    }
    for (const pin of take.querySelectorAll(".pin")) {
      pin.hidden = false;
      pin.addEventListener("click", () => view.change({ pin: pin.closest(".reel").dataset.arm }));
    }
  }
  // Where a key means nothing else: on full screen anywhere, else with the focus in the player; arrows on a picture.
  document.addEventListener("keydown", (event) => {
    const on = event.target, whole = document.fullscreenElement === player;
    if (!(whole || player.contains(on)) || event.ctrlKey || event.metaKey || event.altKey) return;
    const control = on.closest("button, input, select"), aim = !control && (whole || on.closest(".stage"));
    const keys = { ",": () => clock.step(-1), ".": () => clock.step(1) };
    if (!control) keys[" "] = clock.toggle;
    if (aim) Object.assign(keys, {
      ArrowLeft: () => pan(-3, 0), ArrowRight: () => pan(3, 0), ArrowUp: () => pan(0, -3), ArrowDown: () => pan(0, 3),
    });
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  get("controls").hidden = false;
  get("hint").hidden = false;
  get("choose").addEventListener("change", (e) => view.change({ prompt: Number(e.target.value) }));
  get("play").addEventListener("click", clock.toggle);
  get("back").addEventListener("click", () => clock.step(-1));
  get("forth").addEventListener("click", () => clock.step(1));
  get("seek").addEventListener("input", (e) => clock.seek(Number(e.target.value)));
  get("speed").addEventListener("change", (e) => clock.speed(Number(e.target.value)));
  get("loop").addEventListener("change", (e) => clock.loop(e.target.checked));
  get("zoom").addEventListener("change", (e) => view.change({ zoom: Number(e.target.value) }));
  get("follow").addEventListener("click", () => view.change({ at: null }));
  get("difference").addEventListener("click", () => { differs = !differs; arrange(); });
  get("arms").addEventListener("change", () => {
    const on = [...get("arms").querySelectorAll("input:checked")].map((box) => box.value);
    view.change({ arms: on.length === known.length ? null : on });
  });
  fold.addEventListener("toggle", arrange);
  clock.watch((frame, frames, playing) => {
    get("play").textContent = playing ? "Pause" : "Play";
    get("play").setAttribute("aria-pressed", String(playing));
    get("seek").max = frames - 1;
    get("seek").value = frame;
    get("seek").setAttribute("aria-valuetext", `frame ${frame + 1} of ${frames}`);
  });
  view.listen((changes) => {
    if ("prompt" in changes) clock.play(false);
    if (changes === view.state && view.state.frame !== null) clock.show(view.state.frame);
    if (Object.keys(changes).some((key) => key !== "frame" && key !== "section")) arrange();
  });
  clock.draw(draw);
  clock.start(seen);
  arrange();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches || view.state.frame !== null;
  if (slide && !still) clock.play(true);
})();
