/** A form for a card's inputs, with the response, and the request as code. */

import { hasKey } from "./api.js";
import { bars, fill, make, showPixels, table } from "./dom.js";
import { infer } from "./infer.js";
import { MOST, areExact, snippets } from "./snippets.js";
import { WAYS, shapeOf, sizeOf, valuesOf } from "./tensors.js";

const MAX_ROWS = 16;
const MAX_TYPED = 4096; // numbers
const MAX_SHOWN = { classes: 10, columns: 12, numbers: 8 };

/** The form for `card`, and the code snippets. */
export function tryIt(card) {
  const fixed = card.inputs[0].shape[0];
  const rows = make("input", { type: "number", min: 1, max: MAX_ROWS, value: 1 });
  const inputs = card.inputs.map((spec) => field(card, spec, () => (fixed === -1 ? counted(rows) : fixed), changed));
  const trouble = make("p", { class: "trouble", role: "alert" });
  const said = make("p", { class: "quiet", role: "status" });
  const outputs = make("div", { class: "outputs" });
  const paste = pasted(card);

  function changed() {
    try {
      paste.show(inputs.map((input) => input.read()));
    } catch {
      // Half-typed numbers are not JSON yet.
    }
  }

  async function predict(event) {
    event.preventDefault();
    trouble.textContent = "";
    try {
      const tensors = inputs.map((input) => input.read());
      const started = performance.now();
      const answers = await infer(card, tensors);
      const taken = performance.now() - started;
      outputs.replaceChildren(...answers.map((output, index) => shown(card.outputs[index], output)));
      said.textContent = `Answered in ${taken.toFixed(1)} ms.`;
    } catch (error) {
      trouble.textContent = error.message;
      said.textContent = "";
      outputs.replaceChildren();
    }
  }

  rows.oninput = () => {
    for (const input of inputs) input.refill();
    changed();
  };
  const form = make(
    "form",
    { class: "try", onsubmit: predict, novalidate: true },
    make(
      "div",
      { class: "given" },
      ...inputs.map(({ element }) => element),
      make("p", { class: "tools" }, fixed === -1 ? make("label", {}, "Rows ", rows) : null, make("button", { class: "main" }, "Predict"), said),
      trouble,
    ),
    outputs,
  );
  changed();
  return { form, paste: paste.element };
}

/** The integer of a number field, within its bounds. */
function counted({ value, min, max }) {
  return Math.max(Number(min), Math.min(Number(max), Math.trunc(Number(value)) || 1));
}

/** The fields of one input; `read` returns the tensor, and throws if the numbers are not JSON. */
function field(card, spec, rows, changed) {
  const example = card.example.inputs[spec.name].shape;
  const way = make("select", { "aria-label": `Fill ${spec.name} with` });
  const again = make("button", { type: "button" }, "Draw anew");
  const typed = make("textarea", { rows: 3, spellcheck: "false", "aria-label": `${spec.name} as JSON` });
  const seen = make("p", { class: "seen quiet" });
  const free = spec.shape.map((size, index) =>
    size === -1 && index ? make("input", { type: "number", min: 1, max: 100000, value: example[index] }) : null,
  );
  let values = [];

  const shape = () =>
    shapeOf(card, spec, rows(), free.map((size, index) => (size && way.value !== "example" ? counted(size) : example[index])));

  function refill() {
    const size = sizeOf(shape());
    fill(way, WAYS.filter(([name]) => name !== "own" || size <= MAX_TYPED));
    for (const input of free) if (input) input.disabled = way.value === "example";
    if (way.value !== "own") values = valuesOf(card, spec, shape(), way.value);
    again.hidden = way.value !== "random";
    typed.hidden = way.value !== "own";
    seen.hidden = !typed.hidden;
    seen.replaceChildren(preview(spec, shape(), values));
  }

  function change() {
    if (way.value === "own") typed.value = JSON.stringify(values);
    refill();
    changed();
  }
  way.onchange = again.onclick = change;
  typed.oninput = changed;
  for (const input of free) {
    if (input) input.oninput = change;
  }
  refill();

  function read() {
    const tensor = { name: spec.name, shape: shape(), datatype: spec.datatype, data: values };
    if (way.value !== "own") return tensor;
    try {
      tensor.data = JSON.parse(typed.value);
    } catch {
      tensor.data = null;
    }
    if (Array.isArray(tensor.data)) return tensor;
    throw new Error(`The numbers of ${spec.name} are no JSON list: write them as [0.5, 1, 2].`);
  }

  const sizes = free.flatMap((input, index) => (input ? [make("label", {}, `Dimension ${index + 1} `, input)] : []));
  const element = make(
    "fieldset",
    {},
    make("legend", {}, make("code", {}, spec.name), ` ${spec.datatype} [${spec.shape.join(", ")}]`),
    make("p", { class: "tools" }, way, again, ...sizes),
    typed,
    seen,
  );
  return { element, read, refill };
}

/** A preview of an input: the first picture, or the first numbers. */
function preview(spec, shape, values) {
  if (spec.maximum === 255 && `${shape.slice(1)}` === "28,28") {
    const canvas = make("canvas", { role: "img", "aria-label": `The first row of ${spec.name}, as a picture` });
    showPixels(canvas, values.slice(0, 784));
    return canvas;
  }
  const more = values.length > MAX_SHOWN.numbers ? `, … ${values.length.toLocaleString("en")} in all` : "";
  return document.createTextNode(values.slice(0, MAX_SHOWN.numbers).map(text).join(", ") + more);
}

const text = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(7))) : String(value));

/** One output: bars if its rows are probabilities, otherwise a table of numbers. */
function shown(spec, { name, datatype, shape, data }) {
  const width = sizeOf(shape.slice(1));
  const rows = Array.from({ length: shape[0] }, (_, row) => data.slice(row * width, (row + 1) * width));
  const shares = shape.length === 2 && width > 1 && spec.minimum === 0 && spec.maximum === 1;
  const content = shares ? rows.map((row, index) => classes(spec, row, rows.length > 1 && `Row ${index + 1}`)) : [numbersOf(spec, rows)];
  return make(
    "div",
    { class: "output", "data-output": name },
    make("p", {}, make("code", {}, name), ` ${datatype} [${shape.join(", ")}]`),
    ...content,
  );
}

/** The probabilities of one row; of many classes only the largest. */
function classes({ labels }, row, title) {
  let order = row.map((_, index) => index);
  const many = row.length > MAX_SHOWN.classes;
  if (many) order = order.sort((a, b) => row[b] - row[a]).slice(0, MAX_SHOWN.classes);
  return make(
    "div",
    {},
    title ? make("p", { class: "quiet" }, title) : null,
    bars(order.map((index) => labels?.[index] ?? String(index)), order.map((index) => row[index])),
    many ? make("p", { class: "quiet" }, `and ${row.length - order.length} more`) : null,
  );
}

/** The first numbers of each row, under their labels if any. */
function numbersOf({ labels }, rows) {
  const width = rows[0]?.length ?? 0;
  const columns = Math.min(width, MAX_SHOWN.columns);
  const more = width > columns ? [`… ${width - columns} more`] : [];
  const head = labels?.length === width ? ["", ...labels.slice(0, columns)] : [];
  const line = (row, index) => [`Row ${index + 1}`, ...row.slice(0, columns).map(text), ...more];
  return table("The numbers of each row", head, 1, rows.map(line));
}

/** The code snippets, one of which is shown. */
function pasted(card) {
  const languages = make("div", { class: "tools", role: "group", "aria-label": "Language of the request" });
  const code = make("pre", { tabindex: 0 });
  const note = make("p", { class: "quiet" });
  const said = make("span", { class: "quiet", role: "status" });
  const copy = make("button", { type: "button", class: "copy", onclick: () => copied(code, said) }, "Copy");
  let texts = [];
  let language = "curl";

  function choose(name) {
    language = texts.some(([known]) => known === name) ? name : texts[0][0];
    code.textContent = texts.find(([known]) => known === language)[1];
    for (const button of languages.querySelectorAll("[aria-pressed]")) {
      button.setAttribute("aria-pressed", button.textContent === language);
    }
    said.textContent = "";
  }

  function show(tensors) {
    texts = snippets(new URL(".", document.baseURI).href, card, tensors, hasKey());
    if (!languages.childElementCount) {
      const button = ([name]) => make("button", { type: "button", "aria-pressed": "false", onclick: () => choose(name) }, name);
      languages.append(...texts.map(button), said, copy);
    }
    note.textContent = areExact(tensors)
      ? ""
      : `More than ${MOST} numbers would fill the page: zeros stand for those of the form.`;
    choose(language);
  }

  return { element: make("div", { class: "paste" }, languages, code, note), show };
}

async function copied(code, said) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    said.textContent = "Copied.";
  } catch {
    // The clipboard needs https.
    getSelection().selectAllChildren(code);
    said.textContent = "Selected: copy it with Ctrl+C.";
  }
}
