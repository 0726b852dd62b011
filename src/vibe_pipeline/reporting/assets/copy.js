"use strict";
(() => {
  // A page opened as a file may have no clipboard of its own; then the text is selected and copied as by hand.
  async function copy(area) {
    try { return await navigator.clipboard.writeText(area.value); } catch { /* the way below */ }
    area.hidden = false;
    area.select();
    const done = document.execCommand("copy");
    area.hidden = done;
    if (!done) throw new Error("select the text and copy it");
  }
  for (const line of document.querySelectorAll(".copying")) {
    const said = line.querySelector("[role=status]");
    line.hidden = false;
    for (const button of line.querySelectorAll("button")) {
      button.addEventListener("click", () => copy(document.getElementById(button.dataset.copies)).then(
        () => { said.textContent = `${button.textContent} copied`; },
        (error) => { said.textContent = `Not copied: ${error.message}`; }));
    }
  }
})();
