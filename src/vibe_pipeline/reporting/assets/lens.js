"use strict";
// Where the lens looks, and how pictures of clips are drawn. Nothing is smoothed and no pixel is read back.
const lens = (() => {
  // Centre in percent: where the reader clicked, else where the clip moves at this frame, else the middle.
  function centre(take, frame) {
    if (view.state.at) return view.state.at;
    const places = (take.dataset.focus || "").split(";").filter(Boolean);
    if (!places.length) return [50, 50];
    return places[Math.min(frame, places.length - 1)].split(",").map(Number);
  }
  // The part of a picture under the lens, in percent: left, top, and the size of both sides.
  function part(take, frame) {
    const size = 100 / Math.max(1, view.state.zoom);
    const [left, top] = centre(take, frame).map((at) => Math.min(100 - size, Math.max(0, at - size / 2)));
    return { left, top, size };
  }
  function ready(video) { return video && video.readyState >= 2; }
  function fit(canvas, video) {
    if (canvas.width !== video.videoWidth) canvas.width = video.videoWidth;
    if (canvas.height !== video.videoHeight) canvas.height = video.videoHeight;
  }
  function enlarge(canvas, video, place, other) {
    if (!ready(video)) return;
    fit(canvas, video);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    const box = (v) => [place.left, place.top, place.size, place.size].map(
      (share, i) => (share / 100) * (i % 2 ? v.videoHeight : v.videoWidth));
    pen.globalCompositeOperation = "source-over";
    pen.drawImage(video, ...box(video), 0, 0, canvas.width, canvas.height);
    if (ready(other)) {
      pen.globalCompositeOperation = "difference";
      pen.drawImage(other, ...box(other), 0, 0, canvas.width, canvas.height);
    }
  }
  const whole = { left: 0, top: 0, size: 100 };
  // A place in percent out of a click on an element.
  function clicked(event, element) {
    const box = element.getBoundingClientRect();
    return [100 * (event.clientX - box.left) / box.width, 100 * (event.clientY - box.top) / box.height];
  }
  function frameAt(box, place) {
    for (const [side, value] of [["left", place.left], ["top", place.top], ["width", place.size], ["height", place.size]]) {
      box.style[side] = `${value}%`;
    }
  }
  return { part, whole, ready, enlarge, clicked, frameAt };
})();
