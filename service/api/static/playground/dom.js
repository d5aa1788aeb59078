/** Helpers that create elements of the page. Text is never interpreted as HTML. */

/** `make("button", { type: "button", onclick: f }, "Undo")`; null attributes are left out. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element[key] = value;
    else if (key === "class") element.className = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element with this id. */
export const part = (id) => document.getElementById(id);

/** A share as a percentage, as `99.7%`. */
export const percent = (share) => `${(100 * share).toFixed(1)}%`;

/** Fill a `<select>` with `[value, text]` pairs; the choice is kept if it still exists. */
export function fill(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** One bar per label, with its text; the largest is marked. `shares` are from 0 to 1. */
export function bars(labels, shares, texts = shares.map(percent)) {
  const best = shares.indexOf(Math.max(...shares));
  const rows = labels.flatMap((label, index) => {
    const bar = make("span", { class: index === best ? "bar best" : "bar", "aria-hidden": "true" }, make("i"));
    bar.firstChild.style.setProperty("--share", `${100 * shares[index]}%`);
    return [make("span", {}, label), bar, make("span", { class: "number" }, texts[index])];
  });
  return make("div", { class: "bars" }, ...rows);
}

/**
 * A table that scrolls horizontally if needed. `head` may be empty; the cells from column `numbers`
 * on are numbers.
 */
export function table(caption, head, numbers, rows) {
  const line = (row, name, attributes) =>
    make("tr", {}, ...row.map((content, index) => make(name, { class: index >= numbers && "number", ...attributes }, content)));
  return make(
    "div",
    { class: "scrolls", tabindex: 0, role: "region", "aria-label": caption },
    make(
      "table",
      {},
      head.length ? make("thead", {}, line(head, "th", { scope: "col" })) : null,
      make("tbody", {}, ...rows.map((row) => line(row, "td"))),
    ),
  );
}

/** Draw 28 x 28 pixels, white ink on black, on a canvas. */
export function showPixels(canvas, pixels) {
  canvas.width = canvas.height = 28;
  const image = new ImageData(28, 28);
  pixels.flat().forEach((value, index) => image.data.set([value, value, value, 255], 4 * index));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Call `take` with a file that is chosen with `input`, or dropped on `area`. */
export function takeFiles(input, area, take) {
  input.onchange = () => {
    take(input.files[0]);
    input.value = ""; // allows the same file to be chosen again
  };
  area.ondragover = (event) => {
    event.preventDefault();
    area.classList.add("drop");
  };
  area.ondragleave = () => area.classList.remove("drop");
  area.ondrop = (event) => {
    event.preventDefault();
    area.classList.remove("drop");
    take(event.dataTransfer.files[0]);
  };
}
