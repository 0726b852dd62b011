"use strict";
// Sections are folded; a link to one, or to something in one, opens it first and lands on it.
(() => {
  const folds = [...document.querySelectorAll("details")];
  function open(id) {
    const target = id && document.getElementById(id);
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    const own = target.querySelector(":scope > details.fold");
    if (own) own.open = true;
    requestAnimationFrame(() => target.scrollIntoView({ behavior: "instant" }));
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    const id = link.getAttribute("href").slice(1);
    view.change({ section: id });
    open(id);
  });
  view.listen((changes) => { if (changes === view.state) open(view.state.section); });
  open(view.state.section);

  let shut = [];
  addEventListener("beforeprint", () => {
    shut = folds.filter((fold) => fold.classList.contains("fold") && !fold.open);
    for (const fold of shut) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of shut) fold.open = false; });
})();
