/**
 * A small plot: axes with ticks, and layers of lines, points and shaded ranges over them.
 *
 * The plot has the width of its holder and is redrawn on resize. Colours are classes of style.css:
 * `blue`, `orange`, `green`, `ink`, `grey`; lines also `dashed`, `dotted`, `thin`; points also
 * `square`, `large`, `ring`.
 */

import { make } from "./dom.js";

const LETTER = 7; // approximate pixels of a tick label's letter
const LOWEST = 280; // pixels, minimum height

/**
 * A plot in `holder`, empty until `draw` is called.
 *
 * `xName` and `yName` label the axes, `ratio` is height by width, and `attributes` are those of the
 * `<svg>`, which needs a name for screen readers. The holder's `--left`, `--top`, `--right`,
 * `--width` and `--height` are the position of the axes' frame.
 */
export function plot(holder, { xName = "", yName = "", ratio = 0.5, ...attributes }) {
  const svg = drawn("svg", { role: "img", ...attributes });
  let content = null;
  let frame = null;

  /**
   * `x` and `y` are `[low, high]`; `layers`, from the lowest, are each `{ line: [xs, ys] }` (no
   * number leaves a gap), `{ points: [xs, ys] }` or `{ range: [low, high] }`, with a `class`; a
   * range may bring a `text`, a list of lines, that begins at its bottom, or ends at its top where
   * the class is `upper`.
   */
  function draw(newContent) {
    content = newContent;
    const width = holder.clientWidth;
    if (!width) return; // hidden; drawn when shown
    const height = Math.max(LOWEST, Math.round(width * ratio));
    const { x, y, layers } = content;
    const down = ticks(...y, height / 50);
    const longest = Math.max(...down.map(({ text }) => text.length));
    frame = { left: LETTER * longest + 12, top: yName ? 26 : 10 };
    frame.width = width - frame.left - 12;
    frame.height = height - frame.top - (xName ? 40 : 24);
    for (const [name, size] of Object.entries({ ...frame, right: 12 })) {
      holder.style.setProperty(`--${name}`, `${size}px`);
    }
    const across = (value) => round(((value - x[0]) / (x[1] - x[0])) * frame.width);
    const up = (value) => round((1 - (value - y[0]) / (y[1] - y[0])) * frame.height);
    const { left, top } = frame;
    const bottom = top + frame.height;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren(
      ...ticks(...x, width / 90).map(({ value, text }) =>
        drawn("text", { x: left + across(value), y: bottom + 18, class: "middle" }, text),
      ),
      ...down.flatMap(({ value, text }) => [
        drawn("text", { x: left - 8, y: top + up(value) + 4, class: "end" }, text),
        drawn("path", { class: "grid", d: `M${left} ${top + up(value)}h${frame.width}` }),
      ]),
      drawn("text", { x: left + frame.width, y: height - 3, class: "end name" }, xName),
      drawn("text", { x: 0, y: 13, class: "name" }, yName),
      drawn(
        "svg", // clips its content
        { x: left, y: top, width: frame.width, height: frame.height },
        ...layers.flatMap((layer) => shapes(layer, across, up, frame)),
      ),
      drawn("path", { class: "axis", d: `M${left} ${top}V${bottom}h${frame.width}` }),
    );
  }

  /** The position of a pointer in the plot, `[x, y]` in the units of the axes. */
  function at(event) {
    const { x, y } = content;
    const box = svg.getBoundingClientRect();
    const right = (event.clientX - box.left - frame.left) / frame.width;
    const up = 1 - (event.clientY - box.top - frame.top) / frame.height;
    return [x[0] + right * (x[1] - x[0]), y[0] + up * (y[1] - y[0])];
  }

  let width = 0;
  new ResizeObserver(() => {
    if (holder.clientWidth === width) return;
    width = holder.clientWidth;
    if (content) draw(content);
  }).observe(holder);
  holder.classList.add("plot");
  holder.prepend(svg);
  return { svg, draw, at };
}

/** The legend of the layers: `{ text, class, kind }` with the kind `line`, `points` or `range`. */
export function legend(entries) {
  return make(
    "ul",
    { class: "legend" },
    ...entries.map(({ text, ...look }) => make("li", {}, sample(look), text)),
  );
}

/** A sample of a layer for the legend. */
export function sample({ kind, class: look = "" }) {
  const place = (value) => value;
  const layers = {
    line: { line: [[1, 27], [6, 6]] },
    points: { points: [[14], [6]] },
    range: { range: [0, 28] },
  };
  return drawn(
    "svg",
    { class: "sample", width: 28, height: 12, "aria-hidden": "true" },
    ...shapes({ ...layers[kind], class: look }, place, place, { height: 12 }),
  );
}

/** About `count` round numbers from `low` to `high`, each `{ value, text }`. */
export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => {
    const value = (first + index) * step;
    const look = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return { value, text: (value || 0).toLocaleString("en", look) };
  });
}

function shapes({ line, points, range, text = [], class: look = "" }, across, up, { height }) {
  if (line) return [drawn("path", { class: `line ${look}`, d: joined(line, across, up) })];
  if (points) {
    const d = dotted(points, across, up);
    const order = look.includes("ring") ? ["dots", "halo"] : ["halo", "dots"];
    return order.map((name) => drawn("path", { class: `${name} ${look}`, d }));
  }
  const [left, right] = range.map(across);
  const y = look.includes("upper") ? 10 : height - 10;
  const x = (left + right) / 2 - 8 * text.length + 12;
  return [
    drawn("rect", { class: "range", x: left, y: 0, width: right - left, height }),
    drawn(
      "text",
      { class: look, transform: `translate(${x} ${y}) rotate(-90)` },
      ...text.map((said, index) => drawn("tspan", { x: 0, y: 16 * index }, `${said} `)),
    ),
  ];
}

function joined([xs, ys], across, up) {
  let step = "M";
  let path = "";
  xs.forEach((x, index) => {
    const there = Number.isFinite(x) && Number.isFinite(ys[index]);
    if (there) path += `${step}${across(x)} ${up(ys[index])}`;
    step = there ? "L" : "M";
  });
  return path;
}

/** One path of zero-length lines, whose round ends are the dots. */
function dotted([xs, ys], across, up) {
  return xs.map((x, index) => `M${across(x)} ${up(ys[index])}h0`).join("");
}

const round = (value) => Math.round(10 * value) / 10;

function drawn(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
