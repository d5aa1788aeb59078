/**
 * A form in a network's own terms, made of its card: a picture, a text, a row of a table, or named
 * values in; labels with bars, or numbers with their unit, out.
 */

import { newest, postForm, postJson, reason } from "./api.js";
import { bars, fill, make, table, takeFiles } from "./dom.js";
import { isFloat, sizeOf } from "./tensors.js";

const MAX_FIELDS = 32;
const MAX_BARS = 10;
const MAX_NUMBERS = 12;
const SHORT = 32; // tokens of a text that is asked about while it is typed
const PAUSE = 40; // milliseconds between two requests while typing

/** The form; null for a network whose rows fit no form. */
export function askForm(card) {
  const [, formFor] = KINDS.find(([takes]) => takes(card)) ?? [];
  if (!formFor) return null;
  const trouble = make("p", { class: "trouble", role: "alert" });
  const answer = make("div", { class: "outputs", "aria-live": "polite" });

  async function ask(question) {
    try {
      const { predictions } = await question;
      trouble.textContent = "";
      answer.replaceChildren(shown(predictions[0]));
    } catch (error) {
      trouble.textContent = reason(error);
      answer.replaceChildren();
    }
  }

  return make("div", { class: "try ask" }, make("div", { class: "given" }, formFor(card, ask), trouble), answer);
}

const path = ({ name }) => `models/${name}/predict`;
/** As many equal rows as the network computes at a time. */
const instances = (card, row) => Array(Math.max(1, card.inputs[0].shape[0])).fill(row);
const askRow = (card, row) => postJson(path(card), { instances: instances(card, row) });

// Pictures.

const takesPicture = ({ inputs }) => inputs.length === 1 && inputs[0].picture;

function pictureForm(card, ask) {
  const seen = make("img", { alt: "The picture that was asked about", hidden: true });
  const input = make("input", { class: "unseen", id: `picture-of-${card.name}`, type: "file", accept: "image/*" });
  const area = make(
    "div",
    { class: "picture-drop" },
    seen,
    make("p", { class: "tools" }, input, make("label", { class: "button", for: input.id }, "Choose a picture"), make("span", { class: "quiet" }, "or drop one here")),
  );

  function send(file) {
    if (!file) return;
    URL.revokeObjectURL(seen.src);
    seen.src = URL.createObjectURL(file);
    seen.hidden = false;
    const form = new FormData();
    for (const one of instances(card, file)) form.append("pictures", one);
    ask(postForm(path(card), form));
  }

  takeFiles(input, area, send);
  return area;
}

// Texts: a row is one, or a pair of them.

function textForm(card, ask) {
  const examples = [card.text.example].flat();
  const names = examples.length === 1 ? ["The text"] : ["The first text", "The second text"];
  const fields = examples.map((example, at) => textField(names[at], example));

  function askNow() {
    const [text, pair] = fields.map(({ value }) => value());
    return ask(askRow(card, pair === undefined ? text : { text, text_pair: pair }));
  }

  const form = formOf(fields, askNow);
  if (card.text.max_tokens <= SHORT) form.oninput = newest(askNow, PAUSE);
  return form;
}

// Tables: a field for each column; an empty one is missing.

function tableForm(card, ask) {
  const fields = card.table.columns.map((column) => columnField(column, card.table.example[0]));
  return formOf(fields, () => ask(askRow(card, Object.fromEntries(fields.map(({ value }) => value())))));
}

function columnField({ name, type, unit, missing, unknown, categories }, example) {
  const [value, required] = [String(example[name] ?? ""), missing === null];
  const few = type === "boolean" ? ["true", "false"] : unknown === null && categories;
  const field = make(few ? "select" : "input", { type: { number: type, integer: "number", date: type }[type], step: "any", required, value });
  if (few) fill(field, (required ? few : ["", ...few]).map((one) => [one, one]), value);
  const read = { boolean: JSON.parse, number: Number, integer: Number }[type] ?? String;
  return { element: make("label", {}, `${name} ${unit}`, field), value: () => [name, field.value ? read(field.value) : null] };
}

// Values: each row has a few.

const width = ({ shape }) => sizeOf(shape.slice(1));

function takesValues({ inputs }) {
  const fixed = inputs.every((spec) => !spec.shape.slice(1).includes(-1));
  return fixed && inputs.reduce((sum, spec) => sum + width(spec), 0) <= MAX_FIELDS;
}

function valuesForm(card, ask) {
  const groups = card.inputs.map((spec) => ({ spec, fields: fieldsOf(card, spec) }));
  return formOf(groups.flatMap(({ fields }) => fields), () => {
    const values = groups.map(({ spec, fields }) => {
      const read = fields.map(({ value }) => value());
      return width(spec) === 1 ? read[0] : read;
    });
    const named = Object.fromEntries(groups.map(({ spec }, index) => [spec.name, values[index]]));
    ask(askRow(card, card.inputs.length === 1 ? values[0] : named));
  });
}

/** The fields of one input, filled from the card's example. */
function fieldsOf(card, spec) {
  const { data } = card.example.inputs[spec.name];
  const count = width(spec);
  const label = (at) => spec.labels?.[at] ?? (count === 1 ? spec.name : `${spec.name} ${at + 1}`);
  return Array.from({ length: count }, (_, at) => field(spec, label(at), data[at]));
}

function field(spec, name, example) {
  if (spec.datatype === "BOOL") {
    const box = make("input", { type: "checkbox", checked: Boolean(example) });
    return { element: make("label", {}, box, ` ${name}`), value: () => box.checked };
  }
  if (spec.datatype === "BYTES") return textField(name, example);
  const whole = !isFloat(spec);
  const bound = (value) => (spec.enforced ? value : null);
  const number = make("input", {
    type: "number",
    step: whole ? 1 : "any",
    min: bound(spec.minimum),
    max: bound(spec.maximum),
    value: String(whole ? example : Number(example.toPrecision(6))),
    required: true,
  });
  return { element: make("label", {}, name, number), value: () => number.valueAsNumber };
}

function textField(name, example) {
  const area = make("textarea", { rows: 2 }, example);
  return { element: make("label", { class: "text" }, name, area), value: () => area.value };
}

function formOf(fields, send) {
  const onsubmit = (event) => {
    event.preventDefault();
    send();
  };
  return make(
    "form",
    { onsubmit },
    make("div", { class: "fields" }, ...fields.map(({ element }) => element)),
    make("p", { class: "tools" }, make("button", { class: "main" }, "Ask")),
  );
}

/** Whether a card is of a kind, and its form, which calls `ask` with a promise of a response. */
const KINDS = [
  [takesPicture, pictureForm],
  [({ text }) => text, textForm],
  [({ table }) => table, tableForm],
  [takesValues, valuesForm],
];

// Answers.

const brief = (value) => (typeof value === "number" ? String(Number(value.toPrecision(5))) : String(value));
const large = (text) => make("p", { class: "answer-text" }, text);

/** One prediction, in the form of `POST /models/{name}/predict`. */
function shown(prediction) {
  if (typeof prediction !== "object" || prediction === null) return large(brief(prediction));
  if (Array.isArray(prediction)) return isListOfObjects(prediction) ? parts(prediction) : numbers(prediction.flat(Infinity));
  if ("unit" in prediction && "value" in prediction) {
    const { value, unit } = prediction;
    return Array.isArray(value) ? numbers(value.flat(Infinity), unit) : large(`${brief(value)} ${unit}`);
  }
  const { label, labels, score, scores, ...others } = prediction;
  const more = Object.entries(others).map(([name, value]) => make("div", {}, make("p", {}, make("code", {}, name)), shown(value)));
  if (!scores) return make("div", {}, ...more);
  const said = labels ? labels.join(", ") || "no label" : (label ?? "no label");
  return make("div", {}, large(said), scoreBars(scores), ...more);
}

const isListOfObjects = (list) => list.length > 0 && list.every((one) => typeof one === "object" && !Array.isArray(one));

/** A list of objects, as the tokens of a text, without what is nested in them. */
function parts(list) {
  const isPlain = (value) => typeof value !== "object";
  const names = Object.keys(list[0]).filter((name) => isPlain(list[0][name]));
  return table("The parts", names, names.length, list.map((one) => names.map((name) => brief(one[name]))));
}

function scoreBars(scores) {
  const listed = Object.entries(scores).sort(([, a], [, b]) => b - a).slice(0, MAX_BARS);
  if (!listed.length) return null;
  const [names, values] = [listed.map(([name]) => name), listed.map(([, value]) => value)];
  const areShares = values.every((value) => value >= 0 && value <= 1);
  if (areShares) return bars(names, values);
  return table("The scores", ["label", "score"], 1, listed.map(([name, value]) => [name, brief(value)]));
}

function numbers(values, unit = "") {
  const more = values.length > MAX_NUMBERS ? `, … ${values.length.toLocaleString("en")} in all` : "";
  return make("p", { class: "seen" }, `${values.slice(0, MAX_NUMBERS).map(brief).join(", ")}${more} ${unit}`);
}
