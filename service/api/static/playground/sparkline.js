/** A small chart of the last minute: one or more lines, with their current values as text. */

import { make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [300, 80]; // stretched to the available size

/**
 * @param title of the chart.
 * @param names of its lines; one line needs none.
 * @param format converts a value to text.
 * @returns `{ element, say, update(lines, seconds) }`: each line is `[seconds ago, value or null]`,
 *   oldest first, and `seconds` is the width; `say()` announces the current values.
 */
export function sparkline(title, names, format) {
  const element = (name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const paths = names.map((_, index) => element("path", { class: `line line-${index}` }));
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  svg.append(element("path", { class: "grid", d: `M0 0H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT}H${WIDTH}` }), ...paths);
  const present = names.map(() => make("b"));
  const values = names.map((name, index) =>
    make("span", {}, name && make("span", { class: `quiet key key-${index}` }, name), present[index]),
  );
  const top = make("span", { class: "top" });
  const figure = make(
    "figure",
    { class: "spark" },
    make("figcaption", {}, make("span", {}, title), make("span", { class: "values" }, ...values)),
    make("div", { class: "strip" }, svg, top),
    make("div", { class: "ends", "aria-hidden": "true" }, make("span", {}, "a minute ago"), make("span", {}, "now")),
  );
  const say = () =>
    `${title}: ${names.map((name, index) => `${name} ${present[index].textContent}`.trim()).join(", ")}`;

  function update(lines, seconds) {
    const highest = Math.max(0, ...lines.flat().map(([, value]) => value ?? 0));
    const scale = rounded(highest);
    lines.forEach((line, index) => {
      let drawing = false;
      const steps = line.map(([ago, value]) => {
        const begun = drawing;
        drawing = value !== null;
        const at = `${WIDTH * (1 - ago / seconds)} ${HEIGHT * (1 - value / scale)}`;
        return value === null ? "" : begun ? `L${at}` : `M${at}h0`; // h0: a dot, if nothing follows
      });
      paths[index].setAttribute("d", steps.join(""));
      const last = line.at(-1)?.[1] ?? null;
      present[index].textContent = last === null ? "–" : format(last);
    });
    top.textContent = format(scale);
    svg.setAttribute("aria-label", `${title} in the last minute: at most ${format(highest)}`);
  }
  update(names.map(() => []), 1);
  return { element: figure, say, update };
}

/** The next of 1, 2, 5, 10, …, in any power of ten. */
function rounded(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value * (1 - 1e-9)) * power;
}
