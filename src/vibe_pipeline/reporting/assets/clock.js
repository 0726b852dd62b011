"use strict";
// One clock for every clip that is seen. Short clips are stepped by it and cannot drift apart; seeking in long ones is
// slow, so those roll by themselves and are pulled back to the first when one is off by more than a frame and a half.
const clock = (() => {
  const takes = [...document.querySelectorAll(".take")];
  const painters = [], watchers = [];
  let seen = () => [], frame = 0, playing = false, due = 0, speed = 1, loop = true;

  const take = () => takes.find((t) => Number(t.dataset.prompt) === view.state.prompt) || takes[0];
  const videos = () => seen(take());
  const rate = () => Number(take().dataset.fps) || 8;
  const frames = () => Math.max(1, ...videos().map((v) => Math.round((v.duration || 0) * rate())));
  const short = () => frames() <= 40;
  const paint = () => { for (const draw of painters) draw(take(), frame); };
  const tell = () => { for (const watch of watchers) watch(frame, frames(), playing); };

  function show(index) {
    frame = Math.max(index, 0);
    if (videos().every((v) => v.duration)) frame = Math.min(frame, frames() - 1);  // else how many there are is not known
    for (const v of videos()) v.currentTime = Math.min((frame + 0.5) / rate(), Math.max(0, (v.duration || 0) - 0.001));
    tell();
    paint();
  }
  function run(on) {
    playing = on;
    tell();
    if (!on) {
      for (const v of videos()) v.pause();
      return view.change({ frame });
    }
    if (frame >= frames() - 1) show(0);
    due = performance.now() + 1000 / rate();
    if (!short()) roll();
    requestAnimationFrame(short() ? tick : follow);
  }
  function roll() {
    for (const v of videos()) {
      v.playbackRate = speed;
      v.play().catch(() => {});
    }
  }
  function follow() {
    if (!playing) return;
    const [lead, ...others] = videos();
    if (!lead) return run(false);
    if (lead.ended || lead.currentTime >= lead.duration - 0.5 / rate()) {
      if (!loop) { run(false); return show(frames() - 1); }
      show(0);
      roll();
    }
    for (const v of others) {
      if (Math.abs(v.currentTime - lead.currentTime) > 1.5 / rate()) v.currentTime = lead.currentTime;
    }
    frame = Math.min(frames() - 1, Math.floor(lead.currentTime * rate()));
    tell();
    paint();
    requestAnimationFrame(follow);
  }
  function tick(now) {
    if (!playing) return;
    if (now >= due && videos().every((v) => !v.seeking)) {
      const last = frame >= frames() - 1;
      if (last && !loop) return run(false);
      show(last ? 0 : frame + 1);
      due = Math.max(due + 1000 / (rate() * speed), now);
    }
    requestAnimationFrame(tick);
  }
  function settle() {
    for (const v of videos()) v.preload = "auto";
    show(frame);
  }
  for (const v of document.querySelectorAll(".take video")) {
    v.controls = false;
    v.addEventListener("seeked", () => { if (videos().includes(v)) paint(); });
    v.addEventListener("loadeddata", () => { if (videos().includes(v) && !playing) show(frame); });
  }
  return {
    takes, take, videos, paint, show, settle,
    start: (chosen) => { seen = chosen; if (view.state.frame !== null) frame = view.state.frame; settle(); },
    toggle: () => run(!playing),
    play: run,
    step: (by) => { run(false); show(frame + by); view.change({ frame }); },
    seek: (to) => { run(false); show(to); view.change({ frame }); },
    speed: (factor) => { speed = factor; if (playing && !short()) roll(); },
    loop: (on) => { loop = on; },
    now: () => frame,
    isPlaying: () => playing,
    draw: (painter) => painters.push(painter),
    watch: (watcher) => watchers.push(watcher),
  };
})();
