"use strict";
// Tables that can be searched and sorted. Rows without a value stay last in both directions.
for (const box of document.querySelectorAll(".table")) {
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const count = box.querySelector(".count");
  const search = box.querySelector("input");
  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  }
  search.addEventListener("input", show);
  box.querySelectorAll("th").forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      box.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("n");
      const key = (row) => row.cells[column].dataset.order;
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return up ? order : -order;
      });
      body.append(...rows);
    };
    head.querySelector("button").addEventListener("click", sort);
  });
  show();
}
const copy = document.getElementById("copy");
if (copy) copy.addEventListener("click", () => {
  const range = document.createRange();
  range.selectNodeContents(document.getElementById("methods-text"));
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  document.execCommand("copy"); // the clipboard's newer interface is closed to pages from the disk
});
document.body.dataset.ready = "yes";
