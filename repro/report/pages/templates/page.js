"use strict";
// Figures 1-3: the mark under the pointer or the arrow keys, filters by loss, size and seed, and a
// movable ASR cap.
const data = JSON.parse(document.getElementById("points").textContent);
// The fields of a point, as payload() in pages/html.py writes them.
const [PANEL, LOSS, SEED, RATE, EPOCH, ACCURACY, ASR, HEIGHT, IMAGES, ATTACKABLE, RUN] = Array(11).keys();
const names = { mmcl: "MMCL", ssl: "SSL", mmcl_ssl: "MMCL + SSL" };
const percent = value => (100 * value).toFixed(1);
const sizes = new Set(Object.values(data.figures).flatMap(figure => figure.sizes));
const shown = { loss: new Set(Object.keys(names)), size: sizes, seed: "all", cap: data.cap };

function wilson(share, total) {
  const z = data.z, c = z * z / total, centre = (share + c / 2) / (1 + c);
  const half = z / (1 + c) * Math.sqrt(share * (1 - share) / total + c / (4 * total));
  return `${percent(Math.max(0, centre - half))} to ${percent(Math.min(1, centre + half))}`;
}

function lines(p) {
  const run = data.runs[p[RUN]];
  const share = data.shares ? `, ${percent(p[HEIGHT])}% of the start` : "";
  return [
    `finetuned with ${names[p[LOSS]]}` + (p[RATE] === null ? " (authors’ point)" : `, learning rate ${p[RATE]}`),
    `accuracy ${percent(p[ACCURACY])}% (${wilson(p[ACCURACY], p[IMAGES])})${share}`,
    `ASR ${percent(p[ASR])}% (${wilson(p[ASR], p[ATTACKABLE])})`,
    ...(p[EPOCH] === null ? [] : [`epoch ${p[EPOCH].toFixed(1)}, seed ${p[SEED]}`]),
    ...(run ? [run[0]] : []),
  ];
}

const element = (tag, fields) => Object.assign(document.createElement(tag), fields);

function attach(figure) {
  const name = figure.dataset.figure, { layouts, points, sizes: sizeOf } = data.figures[name];
  const ofSeed = seed => shown.seed === "all" || seed === null || String(seed) === shown.seed;
  const visible = p => shown.loss.has(p[LOSS]) && shown.size.has(sizeOf[p[PANEL]]) && ofSeed(p[SEED]);
  const group = figure.querySelector(".panels"), panels = Array.from(group.querySelectorAll(".panel"));
  const tip = element("div", { className: "tip", hidden: true });
  const dot = element("div", { className: "dot", hidden: true });
  const live = element("p", { className: "live" });
  live.setAttribute("aria-live", "polite");
  figure.append(live);
  const places = points.map(p => {  // in the own units of the panel's drawing
    const [x0, y0, x1, y1, left, right, bottom, top] = layouts[p[PANEL]].axes;
    const across = (p[ASR] - left) / (right - left), up = (p[HEIGHT] - bottom) / (top - bottom);
    return [x0 + across * (x1 - x0), y1 - up * (y1 - y0)];
  });
  let current = -1;

  function show(index) {
    current = index;
    tip.hidden = dot.hidden = index < 0;
    for (const panel of panels) panel.style.cursor = index >= 0 && points[index][RUN] >= 0 ? "pointer" : "";
    if (index < 0) return;
    const panel = panels[points[index][PANEL]], svg = panel.querySelector("svg");
    const scale = svg.clientWidth / layouts[points[index][PANEL]].width;
    const [x, y] = places[index].map(v => v * scale);
    panel.append(dot, tip);
    tip.replaceChildren(...lines(points[index]).map(text => element("div", { textContent: text })));
    dot.style.left = `${x}px`;
    dot.style.top = `${y}px`;
    tip.style.left = `${Math.max(0, Math.min(x + 12, svg.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${y + 12}px`;
  }

  function follow() {
    if (current >= 0 && points[current][RUN] >= 0) location.href = data.runs[points[current][RUN]][1];
  }

  function under(event) {  // the nearest mark of the panel, within 12 units
    const index = panels.findIndex(panel => panel.contains(event.target));
    if (index < 0) return -1;
    const box = panels[index].querySelector("svg").getBoundingClientRect();
    const scale = layouts[index].width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let nearest = -1, best = 144;
    for (let i = 0; i < points.length; i++) {
      if (points[i][PANEL] !== index || !visible(points[i])) continue;
      const d = (places[i][0] - x) ** 2 + (places[i][1] - y) ** 2;
      if (d < best) [nearest, best] = [i, d];
    }
    return nearest;
  }

  // A finger cannot hover: its first tap shows a mark, a second one on the same mark opens its run.
  let before = -1;
  group.addEventListener("pointerdown", event => {
    before = event.pointerType === "mouse" ? under(event) : current;
    show(under(event));
  });
  group.addEventListener("pointermove", event => {
    if (event.pointerType !== "mouse") return;
    const nearest = under(event);
    if (nearest !== current) show(nearest);
  });
  group.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") show(-1); });
  group.addEventListener("click", () => { if (before === current) follow(); });
  group.tabIndex = 0;
  group.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(-1);
    if (event.key === "Enter") follow();
    if (!step || !points.length) return;
    event.preventDefault();
    let next = current;
    for (let tries = 0; tries < points.length; tries++) {
      next = (next + step + points.length) % points.length;
      if (visible(points[next])) { show(next); live.textContent = lines(points[next]).join("; "); return; }
    }
  });

  return () => {
    show(-1);
    for (const marks of figure.querySelectorAll(`g[id^="${name}-"]`)) {
      const [, panel, , loss, seed] = marks.id.split("-");
      if (!(loss in names)) continue;
      const on = shown.loss.has(loss) && shown.size.has(sizeOf[panel]) && ofSeed(seed === "x" ? null : seed);
      marks.style.display = on ? "" : "none";
    }
    layouts.forEach(({ axes: [x0, , x1, , left, right] }, panel) => {
      const zero = x0 - left / (right - left) * (x1 - x0), wider = shown.cap / data.cap;
      const move = (part, how) => document.getElementById(`${name}-${panel}-${part}`)?.setAttribute("transform", how);
      move("cap", `translate(${(shown.cap - data.cap) / (right - left) * (x1 - x0)} 0)`);
      for (const part of ["region", "edge"]) move(part, `translate(${zero * (1 - wider)} 0) scale(${wider} 1)`);
    });
    const own = points.some(p => p[RATE] !== null);  // the authors' points count only where there are no others
    const texts = layouts.map((_, panel) => {
      const best = {};
      if (!shown.size.has(sizeOf[panel])) return `panel ${panel + 1}: not shown`;
      for (const p of points) {
        const counts = p[PANEL] === panel && p[ASR] <= shown.cap && own === (p[RATE] !== null);
        if (!counts || !visible(p)) continue;
        if (!(best[p[LOSS]]?.[ACCURACY] >= p[ACCURACY])) best[p[LOSS]] = p;
      }
      const found = Object.entries(best).map(([loss, p]) => `${names[loss]} ${percent(p[ACCURACY])}%`);
      return `panel ${panel + 1}: ${found.length ? found.join(", ") : "none"}`;
    });
    live.textContent = `Best accuracy at ASR ≤ ${percent(shown.cap)}%: ${texts.join("; ")}.`;
  };
}

const updates = Array.from(document.querySelectorAll("figure[data-figure]"), attach);
const refresh = () => updates.forEach(update => update());
const controls = document.getElementById("controls");
controls.hidden = false;
controls.addEventListener("input", event => {
  const input = event.target;
  if (input.name === "loss" || input.name === "size") {
    shown[input.name][input.checked ? "add" : "delete"](input.value);
  }
  if (input.name === "seed") shown.seed = input.value;
  if (input.name === "cap") {
    shown.cap = Number(input.value) / 100;
    controls.querySelector("output").value = `${Number(input.value).toFixed(1)}%`;
  }
  refresh();
});
refresh();
