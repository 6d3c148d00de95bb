"use strict";
// Figures 1-3: the mark under the pointer or the arrow keys, filters by loss, size and seed, and a
// movable ASR cap.
const data = JSON.parse(document.getElementById("points").textContent);
// The fields of a point, as payload() in pages/html.py writes them.
const [PANEL, LOSS, SEED, RATE, EPOCH, ACCURACY, ASR, IMAGES, ATTACKABLE, RUN] = Array(10).keys();
const names = { mmcl: "MMCL", ssl: "SSL", mmcl_ssl: "MMCL + SSL" };
const percent = value => (100 * value).toFixed(2);
const sizes = new Set(Object.values(data.figures).flatMap(figure => figure.sizes));
const shown = { loss: new Set(Object.keys(names)), size: sizes, seed: "all", cap: data.cap };

function wilson(share, total) {
  const z = data.z, c = z * z / total, centre = (share + c / 2) / (1 + c);
  const half = z / (1 + c) * Math.sqrt(share * (1 - share) / total + c / (4 * total));
  return `${percent(Math.max(0, centre - half))} to ${percent(Math.min(1, centre + half))}`;
}

function lines(p) {
  const [, loss, seed, rate, epoch, accuracy, asr, images, attackable, run] = p;
  return [
    `finetuned with ${names[loss]}` + (rate === null ? " (authors’ point)" : `, learning rate ${rate}`),
    `accuracy ${percent(accuracy)}% (${wilson(accuracy, images)})`,
    `ASR ${percent(asr)}% (${wilson(asr, attackable)})`,
    ...(epoch === null ? [] : [`epoch ${epoch.toFixed(2)}, seed ${seed}`]),
    ...(run < 0 ? [] : [data.runs[run]]),
  ];
}

function attach(figure) {
  const name = figure.dataset.figure, { layout, points, sizes: panels } = data.figures[name];
  const ofSeed = seed => shown.seed === "all" || seed === null || String(seed) === shown.seed;
  const visible = p => shown.loss.has(p[LOSS]) && shown.size.has(panels[p[PANEL]]) && ofSeed(p[SEED]);
  const drawing = figure.querySelector(".drawing"), svg = drawing.querySelector("svg");
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  const dot = Object.assign(document.createElement("div"), { className: "dot", hidden: true });
  const live = Object.assign(document.createElement("p"), { className: "live" });
  live.setAttribute("aria-live", "polite");
  drawing.append(dot, tip);
  figure.append(live);
  const places = points.map(p => {  // in the drawing's own units
    const [x0, y0, x1, y1, left, right, bottom, top] = layout.axes[p[PANEL]];
    const across = (p[ASR] - left) / (right - left), up = (p[ACCURACY] - bottom) / (top - bottom);
    return [x0 + across * (x1 - x0), y1 - up * (y1 - y0)];
  });
  let current = -1;

  function show(index) {
    current = index;
    tip.hidden = dot.hidden = index < 0;
    drawing.style.cursor = index >= 0 && points[index][RUN] >= 0 ? "pointer" : "";
    if (index < 0) return;
    const scale = svg.clientWidth / layout.width, [x, y] = places[index].map(v => v * scale);
    const rows = lines(points[index]).map(text => {
      return Object.assign(document.createElement("div"), { textContent: text });
    });
    tip.replaceChildren(...rows);
    dot.style.left = `${x}px`;
    dot.style.top = `${y}px`;
    tip.style.left = `${Math.max(0, Math.min(x + 12, svg.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${y + 12}px`;
  }

  function follow() {
    if (current >= 0 && points[current][RUN] >= 0) location.hash = `run-${points[current][RUN]}`;
  }

  drawing.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), scale = layout.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let nearest = -1, best = 144;  // within 12 units
    for (let i = 0; i < points.length; i++) {
      const d = (places[i][0] - x) ** 2 + (places[i][1] - y) ** 2;
      if (d < best && visible(points[i])) [nearest, best] = [i, d];
    }
    if (nearest !== current) show(nearest);
  });
  drawing.addEventListener("pointerleave", () => show(-1));
  drawing.addEventListener("click", follow);
  drawing.tabIndex = 0;
  drawing.addEventListener("keydown", event => {
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
    for (const group of figure.querySelectorAll(`g[id^="${name}-"]`)) {
      const [, panel, , loss, seed] = group.id.split("-");
      if (!(loss in names)) continue;
      const on = shown.loss.has(loss) && shown.size.has(panels[panel]) && ofSeed(seed === "x" ? null : seed);
      group.style.display = on ? "" : "none";
    }
    layout.axes.forEach(([x0, , x1, , left, right], panel) => {
      const line = document.getElementById(`${name}-${panel}-cap`);
      line.setAttribute("transform", `translate(${(shown.cap - data.cap) / (right - left) * (x1 - x0)} 0)`);
    });
    const own = points.some(p => p[RATE] !== null);  // the authors' points count only where there are no others
    const texts = layout.axes.map((_, panel) => {
      const best = {};
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
const reveal = () => {  // what a link points to may lie in a closed part
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let node = target; node; node = node.parentElement) {
    if (node instanceof HTMLDetailsElement) node.open = true;
  }
  target.scrollIntoView();
};
addEventListener("hashchange", reveal);
refresh();
reveal();
