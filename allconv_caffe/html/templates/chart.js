"use strict";
// Curves, drawn as SVG from the JSON in each figure.chart (html/chart.py): values under the pointer or the arrow keys, lines
// to choose among, a logarithmic axis, and a stretch of x to look at closely.
const SPACE = { left: 52, right: 14, top: 10, bottom: 34 };
const HEIGHT = 280, COLOURS = 10, FEW = 40, MOST_VALUES = 14;

// Round places between two values: about so many; on a logarithmic axis 1, 2 and 5 times powers of ten, or the powers alone.
function marks(low, high, count, log) {
  const found = [];
  if (log) {
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const times of [1, 2, 5]) found.push({ times, value: Number(`${times}e${power}`) });
    }
    const inside = found.filter((mark) => mark.value >= low && mark.value <= high);
    const powers = inside.filter((mark) => mark.times === 1);
    return (inside.length > count + 2 && powers.length > 1 ? powers : inside).map((mark) => mark.value);
  }
  const rough = (high - low) / count, power = Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => Number(`${times}e${power}`)).find((size) => size >= rough * (1 - 1e-9));
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) {
    found.push(Number((at * step).toPrecision(12)));
  }
  return found;
}

// The number of the point whose x is nearest; points are in order of x.
function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle; else high = middle;
  }
  return x - points[low][0] <= points[high][0] - x ? low : high;
}

// The ends of an axis over these values, with a little room; null where there are none.
function ends(values, log) {
  const used = log ? values.filter((value) => value > 0) : values;
  if (used.length === 0) return null;
  const low = used.reduce((one, other) => Math.min(one, other)), high = used.reduce((one, other) => Math.max(one, other));
  if (log) return high > low ? [low / (high / low) ** 0.04, high * (high / low) ** 0.04] : [low / 2, high * 2];
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

function said(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 5 });
}

function svg(name, attributes, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function html(name, properties, ...inside) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
}

class Figure {
  constructor(element) {
    this.data = JSON.parse(element.querySelector("script").textContent);
    this.chosen = new Set(this.data.names);
    this.range = null; // the stretch of x that is looked at
    this.looks = new Map(this.data.names.map((name, at) => [name, `c${at % COLOURS} s${Math.floor(at / COLOURS) % 3}`]));
    this.panels = this.data.panels.map((panel) => new Panel(this, panel));
    if (this.data.panels.some((panel) => Object.keys(panel.lines).length > 1)) element.append(this.keys());
    element.append(html("div", { className: "panels" }, ...this.panels.map((panel) => panel.element)));
    new ResizeObserver(() => this.draw()).observe(element);
    this.draw();
  }

  draw() {
    for (const panel of this.panels) panel.draw();
  }

  swatch(name) {
    return svg("svg", { class: "swatch", "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, class: `curve ${this.looks.get(name)}` }));
  }

  // A box to tick for each name.
  keys() {
    const boxes = this.data.names.map((name) => html("input", { type: "checkbox", checked: true, onchange: (event) => {
      if (event.target.checked) this.chosen.add(name); else this.chosen.delete(name);
      this.draw();
    } }));
    const list = this.data.names.map((name, at) => html("li", {}, html("label", {}, boxes[at], this.swatch(name), name)));
    const every = (on) => html("li", {}, html("button", { type: "button", textContent: on ? "all" : "none", onclick: () => {
      this.chosen = new Set(on ? this.data.names : []);
      for (const box of boxes) box.checked = on;
      this.draw();
    } }));
    return html("ul", { className: "keys" }, ...list, ...(list.length > 3 ? [every(true), every(false)] : []));
  }

  look(range) {
    this.range = range;
    this.draw();
  }
}

class Panel {
  constructor(figure, data) {
    Object.assign(this, { figure, data, log: data.log, at: null, from: null });
    this.plot = svg("svg", { class: "plot", tabindex: 0, role: "img", "aria-label": `${data.title} over ${figure.data.x}` });
    this.values = html("div", { className: "values", hidden: true });
    this.values.setAttribute("aria-live", "polite");
    const box = html("input", { type: "checkbox", checked: data.log, onchange: () => { this.log = box.checked; this.draw(); } });
    const positive = Object.values(data.lines).some((points) => points.some((point) => point[1] > 0));
    const axis = html("div", { className: "axis" }, html("span", { textContent: data.title }));
    if (positive) axis.append(html("label", {}, box, " log axis"));
    this.element = html("div", { className: "panel" }, axis, this.plot, this.values);
    this.listen();
  }

  listen() {
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
    this.plot.addEventListener("blur", () => this.leave());
    this.plot.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") this.from = this.xOf(event); });
    this.plot.addEventListener("pointerup", (event) => this.end(event));
    this.plot.addEventListener("dblclick", () => this.figure.look(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  lines() {
    return Object.entries(this.data.lines).filter(([name, points]) => points.length && this.figure.chosen.has(name));
  }

  draw() {
    this.width = this.plot.clientWidth || 600;
    const lines = this.lines(), all = lines.flatMap(([, points]) => points);
    const given = this.figure.range;
    const inside = given ? all.filter(([x]) => x >= given[0] && x <= given[1]) : all;
    const levels = lines.length ? Object.values(this.data.levels) : [];
    this.yEnds = ends([...inside.map((point) => point[1]), ...levels], this.log);
    const xs = all.map((point) => point[0]);
    const least = xs.reduce((one, other) => Math.min(one, other), Infinity);
    const most = xs.reduce((one, other) => Math.max(one, other), -Infinity);
    this.xEnds = given ?? (least < most ? [least, most] : [least - 1, most + 1]);
    this.plot.replaceChildren();
    this.leave();
    if (this.yEnds === null) {
      this.plot.append(svg("text", { x: SPACE.left, y: HEIGHT / 2 }, "nothing to draw"));
      return;
    }
    this.axes();
    this.curves(lines);
  }

  x(value) {
    const [low, high] = this.xEnds;
    return SPACE.left + (value - low) / (high - low) * (this.width - SPACE.left - SPACE.right);
  }

  y(value) {
    const [low, high] = this.log ? this.yEnds.map(Math.log) : this.yEnds;
    return HEIGHT - SPACE.bottom - ((this.log ? Math.log(value) : value) - low) / (high - low) * (HEIGHT - SPACE.top - SPACE.bottom);
  }

  axes() {
    const right = this.width - SPACE.right, bottom = HEIGHT - SPACE.bottom;
    for (const value of marks(...this.yEnds, 5, this.log)) {
      const y = this.y(value);
      this.plot.append(svg("line", { class: "grid", x1: SPACE.left, x2: right, y1: y, y2: y }),
        svg("text", { x: SPACE.left - 6, y: y + 4, "text-anchor": "end" }, said(value)));
    }
    for (const value of marks(...this.xEnds, Math.max(2, this.width / 90), false)) {
      const x = this.x(value);
      this.plot.append(svg("line", { class: "grid", x1: x, x2: x, y1: SPACE.top, y2: bottom }),
        svg("text", { x, y: bottom + 14, "text-anchor": "middle" }, said(value)));
    }
    this.plot.append(svg("text", { x: right, y: bottom + 29, "text-anchor": "end" },
      this.figure.data.x + (this.figure.range ? " (a part: double-click for the whole)" : "")));
    for (const [name, value] of Object.entries(this.data.levels)) {
      const y = this.y(value);
      this.plot.append(svg("line", { class: "level", x1: SPACE.left, x2: right, y1: y, y2: y }),
        svg("text", { x: right - 2, y: y - 4, "text-anchor": "end" }, `${name} ${said(value)}${this.data.unit}`));
    }
  }

  // In an SVG of their own, which cuts off what lies outside the axes.
  curves(lines) {
    const height = HEIGHT - SPACE.top - SPACE.bottom, width = Math.max(1, this.width - SPACE.left - SPACE.right);
    const inner = svg("svg", { x: SPACE.left, y: SPACE.top, width, height, viewBox: `${SPACE.left} ${SPACE.top} ${width} ${height}` });
    for (const [name, points] of lines) {
      const look = this.figure.looks.get(name);
      const places = points.filter((point) => !this.log || point[1] > 0).map(([x, y]) => [this.x(x).toFixed(1), this.y(y).toFixed(1)]);
      if (places.length > 1) inner.append(svg("path", { class: `curve ${look}`, d: "M" + places.map((place) => place.join(" ")).join("L") }));
      if (places.length < FEW) inner.append(...places.map(([cx, cy]) => svg("circle", { class: `dot ${look}`, cx, cy, r: 2.5 })));
    }
    this.plot.append(inner);
  }

  xOf(event) {
    const box = this.plot.getBoundingClientRect();
    const share = (event.clientX - box.left - SPACE.left) / (box.width - SPACE.left - SPACE.right);
    return this.xEnds[0] + Math.min(1, Math.max(0, share)) * (this.xEnds[1] - this.xEnds[0]);
  }

  point(event) {
    if (this.yEnds === null) return;
    const x = this.xOf(event);
    this.read(x);
    if (this.from === null) return;
    const ways = [this.x(this.from), this.x(x)];
    this.plot.append(this.mark("span", svg("rect", { x: Math.min(...ways), width: Math.abs(ways[0] - ways[1]), y: SPACE.top,
      height: HEIGHT - SPACE.top - SPACE.bottom })));
  }

  // The values of the lines that reach x, at the point that is nearest to it.
  read(x) {
    const lines = this.lines();
    const near = lines.map(([, points]) => points[nearest(points, x)][0]);
    if (near.length === 0) return;
    this.at = near.reduce((one, other) => Math.abs(other - x) < Math.abs(one - x) ? other : one);
    const slack = (this.xEnds[1] - this.xEnds[0]) / 50;
    const found = lines.map(([name, points]) => ({ name, point: points[nearest(points, this.at)] }))
      .filter(({ point }) => Math.abs(point[0] - this.at) <= slack && (!this.log || point[1] > 0))
      .sort((one, other) => other.point[1] - one.point[1]);
    const rows = found.slice(0, MOST_VALUES).map(({ name, point }) =>
      html("p", {}, this.figure.swatch(name), `${name}: ${said(point[1])}${this.data.unit}`));
    if (found.length > MOST_VALUES) rows.push(html("p", { textContent: `and ${found.length - MOST_VALUES} more` }));
    this.values.replaceChildren(html("p", {}, html("strong", { textContent: `${this.figure.data.x} ${said(this.at)}` })), ...rows);
    this.values.hidden = false;
    const place = this.x(this.at), left = place < this.width / 2;
    this.values.style.left = left ? `${Math.max(0, Math.min(place + 12, this.width - this.values.offsetWidth))}px` : "auto";
    this.values.style.right = left ? "auto" : `${Math.max(0, Math.min(this.width - place + 12, this.width - this.values.offsetWidth))}px`;
    const above = this.plot.getBoundingClientRect().top - this.element.getBoundingClientRect().top;
    this.values.style.top = `${above + SPACE.top + 4}px`;
    this.plot.append(this.mark("guide", svg("line", { x1: place, x2: place, y1: SPACE.top, y2: HEIGHT - SPACE.bottom })));
  }

  mark(kind, made) {
    this.plot.querySelectorAll(`.${kind}`).forEach((old) => old.remove());
    made.setAttribute("class", kind);
    return made;
  }

  leave() {
    this.at = this.from = null;
    this.values.hidden = true;
    this.plot.querySelectorAll(".guide, .span").forEach((old) => old.remove());
  }

  end(event) {
    const from = this.from, to = from === null ? null : this.xOf(event);
    this.from = null;
    this.plot.querySelectorAll(".span").forEach((old) => old.remove());
    if (from !== null && Math.abs(this.x(to) - this.x(from)) > 8) this.figure.look([Math.min(from, to), Math.max(from, to)]);
  }

  key(event) {
    if (event.key === "Escape") {
      this.leave();
      if (this.figure.range) this.figure.look(null);
    }
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const longest = this.lines().map(([, points]) => points).sort((one, other) => other.length - one.length)[0];
    if (!step || !longest || this.yEnds === null) return;
    event.preventDefault();
    const now = this.at === null ? (step > 0 ? -1 : longest.length) : nearest(longest, this.at);
    this.read(longest[Math.min(longest.length - 1, Math.max(0, now + step))][0]);
  }
}

if (typeof document !== "undefined") document.querySelectorAll("figure.chart").forEach((element) => new Figure(element));
