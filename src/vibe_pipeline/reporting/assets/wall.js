"use strict";
// Full screen: every chosen arm is seen at once, as large as fits.
(() => {
  const player = document.querySelector(".player");
  if (!player) return;
  const button = player.querySelector(".full"), BELOW = 36, GAP = 14, SMALLEST = 130;  // pixels; below: caption
  const whole = () => document.fullscreenElement === player;

  function fit() {
    button.textContent = whole() ? "Leave full screen" : "Full screen";
    for (const reels of player.querySelectorAll(".reels")) reels.style.gridTemplateColumns = "";
    const grid = clock.take().querySelector(".reels"), video = grid.querySelector("video");
    if (!whole() || !video) return;
    const count = grid.querySelectorAll(".reel:not([hidden])").length, pictures = view.state.zoom > 1 ? 2 : 1;
    const top = grid.getBoundingClientRect().top - player.getBoundingClientRect().top + player.scrollTop;
    const height = innerHeight - top - GAP, width = grid.clientWidth;
    let best = SMALLEST;
    for (let columns = 1; columns <= count; columns += 1) {
      const rows = Math.ceil(count / columns);
      const across = (width - GAP * (columns - 1)) / columns;
      const down = (((height - GAP * (rows - 1)) / rows - BELOW) / pictures) * (video.width / video.height);
      best = Math.max(best, Math.min(across, down));
    }
    grid.style.gridTemplateColumns = `repeat(auto-fill, ${Math.floor(Math.min(best, width))}px)`;
  }
  button.hidden = !document.fullscreenEnabled;  // iPhones have none for parts of a page
  button.addEventListener("click", () => (whole() ? document.exitFullscreen() : player.requestFullscreen()));
  document.addEventListener("fullscreenchange", () => {
    if (whole()) player.focus();  // so that keys reach the clips, and Space does not press the button again
    fit();
  });
  addEventListener("resize", fit);
  view.listen((changes) => { if (!("frame" in changes) || changes === view.state) fit(); });
})();
