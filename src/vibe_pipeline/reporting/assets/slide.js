"use strict";
// The first screen: one picture that shows up to three arms in bands, with handles between them, and each enlarged.
(() => {
  const slide = document.querySelector(".slide");
  if (!slide || !clock.takes.length) return;
  const arms = slide.dataset.arms.split(",");
  const canvas = slide.querySelector(".bands"), box = slide.querySelector(".looks");
  const handles = [...slide.querySelectorAll(".handle")], names = [...slide.querySelectorAll(".name")];
  const closeups = [...slide.querySelectorAll(".closeup canvas")];
  const edges = arms.length === 3 ? [33, 67] : arms.length === 2 ? [50] : [];
  const clip = (take, arm) => take.querySelector(`[data-arm="${CSS.escape(arm)}"] video`);

  function draw(take, frame) {
    const clips = arms.map((arm) => clip(take, arm));
    const lead = clips.find(lens.ready);
    if (!lead) return;
    canvas.hidden = false;
    if (canvas.width !== lead.videoWidth) canvas.width = lead.videoWidth;
    if (canvas.height !== lead.videoHeight) canvas.height = lead.videoHeight;
    const pen = canvas.getContext("2d"), stops = [0, ...edges, 100];
    clips.forEach((video, i) => {
      if (!lens.ready(video)) return;
      const [from, to] = [stops[i], stops[i + 1]].map((stop) => stop / 100);
      const { videoWidth: wide, videoHeight: high } = video;
      pen.drawImage(video, from * wide, 0, (to - from) * wide, high,
        from * canvas.width, 0, (to - from) * canvas.width, canvas.height);
    });
    const place = lens.part(take, frame);
    lens.frameAt(box, place);
    closeups.forEach((target, i) => lens.enlarge(target, clips[i], place));
  }
  function place() {
    const stops = [0, ...edges, 100];
    handles.forEach((handle, i) => {
      handle.style.left = `${edges[i]}%`;
      handle.setAttribute("aria-valuenow", Math.round(edges[i]));
    });
    names.forEach((name, i) => {
      name.style.left = `${stops[i]}%`;
      name.style.width = `${stops[i + 1] - stops[i]}%`;
      name.hidden = stops[i + 1] - stops[i] < 12;
    });
    clock.paint();
  }
  function move(i, to) {
    edges[i] = Math.min(edges[i + 1] ?? 100, Math.max(edges[i - 1] ?? 0, to));
    place();
  }
  handles.forEach((handle, i) => {
    handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) move(i, lens.clicked(event, canvas)[0]);
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[event.key];
      if (!by) return;
      event.preventDefault();
      move(i, edges[i] + by);
    });
  });
  canvas.addEventListener("click", (event) => { view.change({ at: lens.clicked(event, canvas) }); clock.paint(); });
  const play = slide.querySelector(".play"), seek = slide.querySelector(".seek"), free = slide.querySelector(".follow");
  const choose = slide.querySelector(".choose");
  play.addEventListener("click", clock.toggle);
  seek.addEventListener("input", () => clock.seek(Number(seek.value)));
  free.addEventListener("click", () => { view.change({ at: null }); clock.paint(); });
  choose.addEventListener("change", () => view.change({ prompt: Number(choose.value) }));
  clock.watch((frame, frames, playing) => {
    play.textContent = playing ? "Pause" : "Play";
    seek.max = frames - 1;
    seek.value = frame;
  });
  const tell = () => { free.hidden = !view.state.at; choose.value = Number(clock.take().dataset.prompt); };
  view.listen(tell);
  slide.querySelector(".transport").hidden = false;
  clock.draw(draw);
  place();
  tell();
})();
