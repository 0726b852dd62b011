"use strict";
// Tables that sort by a click on a head, and whose columns and rows can be hidden.
(() => {
  const value = (cell) => {
    const given = cell.dataset.value;
    return given === undefined ? cell.textContent.trim().toLowerCase() : given === "" ? NaN : Number(given);
  };
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") {
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return a - b;
    }
    return String(a).localeCompare(String(b));
  }
  function sort(table, head, at) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const lacks = (row) => Number.isNaN(value(row.cells[at]));
    rows.sort((a, b) => (lacks(a) - lacks(b)) || (down ? -1 : 1) * compare(value(a.cells[at]), value(b.cells[at])));
    table.tBodies[0].append(...rows);
  }
  function tick(list, label, hide) {
    const line = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => hide(!box.checked));
    line.append(box, ` ${label}`);
    list.append(line);
  }
  const named = (cell) => {
    if (cell.dataset.name) return cell.dataset.name;
    const copy = cell.cloneNode(true);
    for (const extra of copy.querySelectorAll(".sr, .tag, small, [aria-hidden]")) extra.remove();
    return copy.textContent.trim();
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    const heads = [...table.tHead.rows[0].cells], rows = [...table.tBodies[0].rows];
    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, at));
    });
    const shown = document.createElement("details"), list = document.createElement("div");
    shown.className = "choice";
    shown.innerHTML = "<summary>Columns and rows</summary>";
    heads.slice(1).forEach((head, i) => tick(list, named(head), (hide) => {
      for (const row of table.rows) row.cells[i + 1].hidden = hide;
    }));
    list.append(document.createElement("hr"));
    for (const row of rows) tick(list, named(row.cells[0]), (hide) => { row.hidden = hide; });
    shown.append(list);
    table.closest(".scroll").before(shown);
  }
})();
