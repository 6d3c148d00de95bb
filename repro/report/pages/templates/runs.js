"use strict";
// Sort and filter the runs, and open the one that a link points to.
const search = document.getElementById("search");
const body = document.querySelector("#list tbody");
const rows = Array.from(body.rows);
const heads = Array.from(document.querySelectorAll("#list thead th"));
const keys = heads.map(head => head.dataset.key);
const plain = text => text.toLowerCase().replace(/\s+/g, " ").trim();

// What a row is found by: the table's words, and those of its details' headline.
const details = row => document.getElementById(row.dataset.run);
const texts = new Map(rows.map(row =>
  [row, plain(`${row.innerText} ${details(row)?.querySelector("summary").textContent ?? ""}`)]));

// A word is found anywhere, `column:word` where it is the whole of the column but for spaces.
const matches = (row, word) => {
  const [, key, value] = /^(\w+):(.*)$/.exec(word) ?? [];
  const cell = row.cells[keys.indexOf(key)];
  if (!keys.includes(key)) return texts.get(row).includes(word);
  return Boolean(cell) && plain(cell.textContent).replaceAll(" ", "") === value;
};
search.hidden = false;
search.addEventListener("input", event => {
  const words = plain(event.target.value).split(" ").filter(Boolean);
  for (const row of rows) {
    row.hidden = !words.every(word => matches(row, word));
    if (details(row)) details(row).hidden = row.hidden;
  }
  search.querySelector("output").value = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
});

// Numbers by size and words by the alphabet; rows without a value stay at the end.
const value = (row, column) => {
  const cell = row.cells[column];
  return cell?.dataset.value ?? plain(cell?.textContent ?? "").replace(/^–$/, "");
};
const compare = (a, b) => isNaN(a) || isNaN(b) ? (a > b) - (a < b) : a - b;
const sort = (column, sign) => {
  const ordered = [...rows].sort((one, other) => {
    const [a, b] = [value(one, column), value(other, column)];
    return a && b ? sign * compare(a, b) : Boolean(b) - Boolean(a);
  });
  body.append(...ordered);
};
heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    sort(column, up ? 1 : -1);
  });
});

const open = () => {
  const run = document.getElementById(location.hash.slice(1));
  if (run instanceof HTMLDetailsElement) run.open = true;
};
addEventListener("hashchange", open);
open();
