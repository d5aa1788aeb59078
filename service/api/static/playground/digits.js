/** Digits: a board to draw on, pictures and test digits, with the predictions of one or two networks. */

import { getJson, newest, postForm, postJson, reason, whenBack } from "./api.js";
import { Board } from "./board.js";
import { bars, fill, make, part, percent, showPixels, takeFiles } from "./dom.js";

const PAUSE = 40; // milliseconds between two predictions while drawing
const LABELS = [..."0123456789"];
const RIVALS = ["mnist-cnn", "mnist-mlp"]; // the two disagree on the hard digits

let board;
let cards = {};
const predict = newest(answer, PAUSE);

export function start() {
  board = new Board(part("board"), () => {
    part("undo").disabled = !board.undoable;
    predict();
  });
  part("undo").onclick = () => board.undo();
  part("clear").onclick = () => board.clear();
  part("pen").oninput = (event) => board.setWidth(Number(event.target.value));
  part("digit-network").onchange = part("digit-beside").onchange = () => predict();
  takePictures();
  whenBack(load);
  load();
}

async function load() {
  try {
    const [{ models }, examples] = await Promise.all([
      getJson("models"),
      getJson("playground/examples.json"),
    ]);
    cards = Object.fromEntries(models.filter(takes).map((card) => [card.name, card]));
    const options = Object.keys(cards).map((name) => [name, name]);
    fill(part("digit-network"), options, part("digit-network").value || RIVALS[0]);
    fill(part("digit-beside"), [["", "no other"], ...options]);
    part("test-digits").replaceChildren(...examples.digits.map((digit) => exampleButton(digit)));
    part("hard-digits").replaceChildren(...examples.hard.map((digit) => exampleButton(digit, RIVALS)));
    predict();
  } catch (error) {
    part("digit-trouble").textContent = reason(error);
  }
}

/** Whether a card's network maps MNIST's pixels to ten probabilities. */
export function takes({ inputs, outputs }) {
  const [input] = inputs;
  const output = outputs.find(({ name }) => name === "probabilities");
  return (
    inputs.length === 1 &&
    `${input.name} ${input.datatype} ${input.shape}` === "image UINT8 -1,28,28" &&
    output?.shape.at(-1) === 10
  );
}

/* Predictions */

async function answer() {
  const asked = board.shown ?? { pixels: board.pixels() };
  const trouble = part("digit-trouble");
  try {
    const { pixels } = asked;
    if (pixels && !pixels.flat().some(Boolean)) {
      part("digit-answers").replaceChildren(
        make("p", { class: "quiet" }, "Draw a digit: the networks follow while you draw."),
      );
      part("digit-said").textContent = trouble.textContent = "";
      return;
    }
    const names = [part("digit-network").value, part("digit-beside").value].filter(Boolean);
    if (!names.length) throw new Error("No network here reads MNIST's digits.");
    const answers = await Promise.all(names.map((model) => classified(asked, model)));
    part("digit-answers").replaceChildren(...answers.map(described));
    part("digit-said").textContent = answers
      .map(({ model, digit, confidence }) => `${model} sees ${digit}, ${percent(confidence)}.`)
      .join(" ");
    trouble.textContent = "";
  } catch (error) {
    trouble.textContent = reason(error);
  }
}

async function classified({ file, label, pixels }, model) {
  let content;
  if (file) {
    const form = new FormData();
    form.append("images", file);
    form.append("model", model);
    content = await postForm("classify_image", form);
  } else {
    content = await postJson("classify_digits", { images: [pixels], model });
  }
  return { model, label, pixels, ...content.predictions[0] };
}

function described({ model, digit, confidence, probabilities, pixels, label }) {
  const seen = make("canvas", { role: "img", "aria-label": "The 28 by 28 pixels that the network saw" });
  showPixels(seen, pixels);
  const truth = label === undefined ? "" : `, in truth ${label}`;
  return make(
    "article",
    { class: "answer", "data-model": model },
    make("h3", {}, model),
    make("p", { class: "quiet" }, accuracyText(cards[model])),
    make(
      "div",
      { class: "prediction" },
      make("b", {}, String(digit)),
      make("div", {}, make("p", {}, percent(confidence) + truth), seen),
    ),
    bars(LABELS, probabilities),
  );
}

/** The accuracy on the test split, if the card has it. */
function accuracyText(card) {
  const test = card.evaluations.find(({ split, metrics }) => split === "test" && "accuracy" in metrics);
  if (!test) return "";
  const share = (100 * test.metrics.accuracy).toFixed(2);
  return `right on ${share}% of ${test.samples.toLocaleString("en")} test digits`;
}

/** A button with a test digit; a click predicts it with these networks, if they are served. */
function exampleButton({ label, pixels: packed }, networks = []) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const pixels = Array.from({ length: 28 }, (_, row) => [...bytes.subarray(28 * row, 28 * row + 28)]);
  const canvas = make("canvas", { "aria-hidden": "true" });
  showPixels(canvas, pixels);
  const choose = () => {
    if (networks.length && networks.every((name) => name in cards)) {
      [part("digit-network").value, part("digit-beside").value] = networks;
    }
    board.show({ pixels, label });
  };
  return make("button", { type: "button", "aria-label": `Test digit ${label}`, onclick: choose }, canvas);
}

/* Pictures */

function takePictures() {
  takeFiles(part("picture"), board.canvas, takePicture);
  document.addEventListener("paste", (event) => {
    if (!part("digits").hidden) takePicture(event.clipboardData.files[0]);
  });
}

async function takePicture(file) {
  if (!file) return;
  let picture = null;
  try {
    picture = await createImageBitmap(file);
  } catch {
    // The browser cannot show the picture; the service can, or reports what is wrong with it.
  }
  board.show({ file, picture });
}
