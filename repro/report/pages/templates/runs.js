"use strict";
// Filter the table by words, and open the run that a link points to.
const search = document.getElementById("search");
const rows = Array.from(document.querySelectorAll("#list tbody tr"));
search.hidden = false;
search.addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
  search.querySelector("output").value = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
});
const open = () => {
  const run = document.getElementById(location.hash.slice(1));
  if (run instanceof HTMLDetailsElement) run.open = true;
};
addEventListener("hashchange", open);
open();
