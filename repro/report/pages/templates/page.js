"use strict";
// The threshold: the printed texts of each step lie in the page, so nothing is computed here.
const data = JSON.parse(document.getElementById("printed").textContent);
const slider = document.getElementById("threshold");
if (slider) {
  const show = () => {
    const cap = String(Number(slider.value));
    document.getElementById("cap").textContent = cap;
    for (const cell of data.thresholds) {
      const rows = [...document.querySelectorAll("#table-thresholds tbody tr")];
      const row = rows.find((of) => of.cells[0].textContent === cell.setting);
      row.querySelectorAll("td").forEach((td, place) => { td.textContent = cell.rows[cap][place]; });
    }
  };
  slider.closest("[hidden]").hidden = false;
  slider.addEventListener("input", show);
}

// A seed that is pointed at stands out in every figure; a click keeps it.
const seedOf = (target) => target.closest?.("[class^=seed-]")?.getAttribute("class").split(" ")[0];
let kept = null;
const mark = (seed) => document.querySelectorAll("[class^=seed-]").forEach((line) => {
  const name = line.getAttribute("class").split(" ")[0];
  line.setAttribute("class", seed === name ? `${name} marked` : seed ? `${name} dimmed` : name);
});
document.addEventListener("pointerover", (event) => {
  const seed = seedOf(event.target);
  if (seed && !kept) mark(seed);
});
document.addEventListener("pointerout", (event) => {
  if (seedOf(event.target) && !kept) mark(null);
});
document.addEventListener("click", (event) => {
  const seed = seedOf(event.target);
  if (seed || kept) { kept = seed === kept ? null : seed ?? null; mark(kept); }
});

// A click on the head of a column sorts its table, a second one the other way round.
// A cell counts as a time in seconds, as the number that it begins with, or as text; one without a value stands last.
const meant = (text) => {
  const plain = text.replaceAll("−", "-").replaceAll(",", "");
  const time = plain.match(/^(\d+) (h|min) (\d+) (min|s)$/);
  if (time) return (Number(time[1]) * 60 + Number(time[3])) * (time[2] === "h" ? 60 : 1);
  const found = plain.match(/^[≥≤≈]?\s*([+-]?\d+(\.\d+)?(e-?\d+)?)/);
  return found && !/^\d{4}-/.test(plain) ? Number(found[1]) : text;
};
const compare = (a, b, way) => {
  const [x, y] = [meant(a), meant(b)];
  const [none, other] = [a, b].map((text) => /^[–-]?$/.test(text));
  if (none || other) return none - other;
  const numbers = [x, y].map((value) => typeof value === "number");
  if (numbers[0] !== numbers[1]) return numbers[0] ? -way : way;
  return way * (numbers[0] ? x - y : x.localeCompare(y, "en", { numeric: true }));
};
document.querySelectorAll("table.sortable thead th").forEach((head) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const place = [...head.parentNode.children].indexOf(head);
    const body = head.closest("table").tBodies[0];
    const text = (row) => row.children[place]?.textContent.trim() ?? "";
    const rows = [...body.rows].sort((a, b) => compare(text(a), text(b), up ? 1 : -1));
    body.append(...rows);
    head.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
});

// Figures 1 to 3 as one panel: what a dot is, and the path of its run.
const explorer = document.getElementById("explorer");
if (explorer) {
  const [select, svg, told] = ["cloud", "dots", "dot"].map((id) => document.getElementById(id));
  const [left, right, top, bottom] = [50, 710, 12, 335];
  let cloud = null, order = [], at = null, pinned = null, most = 1;
  const x = (asr) => left + (right - left) * Math.sqrt(asr / 1e4);
  const y = (height) => bottom - (bottom - top) * height / most;
  const add = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
    return made;
  };
  const percent = (hundredths) => (hundredths / 100).toFixed(1);
  const path = (run) => cloud.dots.filter((dot) => dot[3] === run)
    .map((dot) => `${x(dot[0])},${y(dot[1])}`).join(" ");
  const tell = (place) => {
    at = place;
    const [asr, height, epoch, run] = cloud.dots[place];
    const [words, folder, , page] = cloud.runs[run];
    told.textContent = `${words}, epoch ${epoch}: ${cloud.height} ${percent(height)}, ASR ${percent(asr)}%; run ${folder}`;
    const link = document.createElement("a");
    link.href = page;
    link.textContent = "(its page)";
    told.append(" ", link);
    const shown = pinned ?? run;
    svg.querySelector(".path").setAttribute("points", path(shown));
    const ring = svg.querySelector(".here");
    ring.setAttribute("cx", x(asr));
    ring.setAttribute("cy", y(height));
  };
  const draw = () => {
    cloud = data.clouds[Number(select.value)];
    [at, pinned, told.textContent] = [null, null, "\u00a0"];
    svg.replaceChildren();
    most = Math.max(10500, ...cloud.dots.map((dot) => dot[1]));
    order = cloud.dots.map((_, place) => place).sort((a, b) => cloud.dots[a][0] - cloud.dots[b][0]);
    const line = { stroke: "currentColor", fill: "none" };
    add("path", { ...line, d: `M${left},${top}V${bottom}H${right}` });
    for (const asr of [0, 100, 500, 2000, 5000, 10000]) add("text", { x: x(asr), y: bottom + 16, "text-anchor": "middle" }, asr / 100);
    for (let tick = 0; tick <= most; tick += 2000) add("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tick / 100);
    add("text", { x: right, y: bottom + 34, "text-anchor": "end" }, "attack success rate (%, square-root scale)");
    add("text", { x: left + 8, y: top + 4 }, cloud.height);
    cloud.dots.forEach(([asr, height, , run], place) => add("circle", {
      cx: x(asr), cy: y(height), r: 3, fill: cloud.colour, "fill-opacity": 0.55,
      class: `seed-${cloud.runs[run][2]}`, "data-place": place,
    }));
    for (const place of cloud.best) add("circle", { ...line, cx: x(cloud.dots[place][0]), cy: y(cloud.dots[place][1]), r: 6, "pointer-events": "none" });
    if (cloud.paper !== null) add("rect", { x: -5, y: -5, width: 10, height: 10, fill: "#7c8792", transform: `translate(${x(5000 * data.cap)},${y(cloud.paper * 100)}) rotate(45)` });
    add("polyline", { ...line, class: "path", "stroke-width": 1.5, "pointer-events": "none" });
    add("circle", { ...line, class: "here", r: 8, cx: -20, cy: -20, "stroke-width": 2, "pointer-events": "none" });
    kept = null;
    mark(null);
  };
  const keep = () => {
    const run = at === null ? null : cloud.dots[at][3];
    pinned = pinned === run ? null : run;
    if (at !== null) tell(at);
  };
  const placeOf = (event) => event.target.getAttribute?.("data-place");
  svg.addEventListener("pointerover", (event) => { if (placeOf(event) && pinned === null) tell(Number(placeOf(event))); });
  svg.addEventListener("click", (event) => { if (placeOf(event)) { tell(Number(placeOf(event))); keep(); } });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      const now = at === null ? (step > 0 ? -1 : order.length) : order.indexOf(at);
      tell(order[Math.min(order.length - 1, Math.max(0, now + step))]);
    } else if (event.key === "Enter") keep();
    else return;
    event.preventDefault();
  });
  data.clouds.forEach((of, place) => select.append(new Option(of.title, place)));
  select.addEventListener("change", draw);
  explorer.hidden = false;
  draw();
}
