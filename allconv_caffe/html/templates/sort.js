"use strict";
// A button in each head of a table sorts it.

// Rows in the order of one column: numbers (data-key) before texts, what says nothing last in either direction.
function sorted(rows, column, descending) {
  const key = (row) => {
    const cell = row.cells[column];
    const number = cell.dataset.key;
    const text = cell.textContent.trim();
    if (number !== undefined) return [0, Number(number)];
    return text === "" || text === "–" ? [2, ""] : [1, text];
  };
  const keyed = rows.map((row, place) => ({ row, place, key: key(row) }));
  keyed.sort((one, other) => {
    const [kind, value] = one.key, [otherKind, otherValue] = other.key;
    if (kind !== otherKind) return kind - otherKind;
    const order = kind === 0 ? value - otherValue : value.localeCompare(otherValue, "en", { numeric: true });
    return (descending ? -order : order) || one.place - other.place;
  });
  return keyed.map((entry) => entry.row);
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      body.append(...sorted([...body.rows], column, descending));
    });
  });
}

if (typeof document !== "undefined") document.querySelectorAll("table.sortable").forEach(sortable);
