"use strict";
// Sorts the rows of each block by the column whose title is clicked: best first, then the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const first = head.dataset.direction === "up" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = before === first ? other : first;
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("block"));
        rows.sort((a, b) => compare(a.cells[column], b.cells[column], sign));
        body.append(...rows);
      }
    });
  });
}

function compare(a, b, sign) {
  if (a.dataset.sort === undefined) return sign * a.textContent.localeCompare(b.textContent);
  if (a.dataset.sort === "" || b.dataset.sort === "") return (a.dataset.sort === "") - (b.dataset.sort === "");
  return sign * (Number(a.dataset.sort) - Number(b.dataset.sort));
}
