/** Digits: a board to draw on, pictures, and test digits; what one or two networks say of them. */

import { getJson, newest, postForm, postJson, whenBack } from "./api.js";
import { bars, fill, make, part, percent, showPixels } from "./dom.js";
import { pixelsOf } from "./ink.js";

const PAUSE = 40; // milliseconds between two predictions while drawing
const STEP = 0.04; // of the board, for an arrow key; five times as far with Shift
const LABELS = [..."0123456789"];

/** The ink: `strokes` are lists of points [x, y] in the board's pixels. */
const ink = { strokes: [], pen: 36 };
/** What is asked about: `{}` for the ink, `{ pixels, label }`, or `{ file, picture }`. */
let subject = {};
/** The keyboard's pen. */
const pen = { x: 0.5, y: 0.5, down: false, shown: false };

let board;
let predict;

export function start() {
  board = part("board");
  predict = newest(answer, PAUSE);
  drawWithPointer();
  drawWithKeys();
  takePictures();
  part("undo").onclick = undo;
  part("clear").onclick = clear;
  part("pen").oninput = (event) => {
    ink.pen = Number(event.target.value);
    ask({});
  };
  part("digit-network").onchange = part("digit-beside").onchange = () => predict();
  whenBack(load);
  load();
  show();
  return { show };
}

async function load() {
  try {
    const [{ models }, examples] = await Promise.all([
      getJson("models"),
      getJson("playground/examples.json"),
    ]);
    const names = models.filter(readsDigits).map((card) => card.name);
    const options = names.map((name) => [name, name]);
    fill(part("digit-network"), options, part("digit-network").value || "mnist-cnn");
    fill(part("digit-beside"), [["", "no other"], ...options]);
    part("test-digits").replaceChildren(...examples.digits.map(specimen));
    part("hard-digits").replaceChildren(...examples.hard.map(specimen));
    predict();
  } catch (error) {
    part("digit-trouble").textContent = error.message;
  }
}

/** Whether a card's network takes MNIST's pixels, and gives ten probabilities. */
function readsDigits({ inputs, outputs }) {
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
  const asked = subject;
  const trouble = part("digit-trouble");
  try {
    const pixels = asked.file ? null : (asked.pixels ?? pixelsOf(ink.strokes, ink.pen));
    if (pixels && !pixels.flat().some(Boolean)) {
      part("digit-answers").replaceChildren(
        make("p", { class: "quiet" }, "Draw a digit: the networks follow while you draw."),
      );
      part("digit-said").textContent = trouble.textContent = "";
      return;
    }
    const names = [part("digit-network").value, part("digit-beside").value].filter(Boolean);
    const answers = await Promise.all(names.map((model) => classified(asked, pixels, model)));
    part("digit-answers").replaceChildren(...answers.map(described));
    part("digit-said").textContent = answers
      .map(({ model, digit, confidence }) => `${model} sees ${digit}, ${percent(confidence)}.`)
      .join(" ");
    trouble.textContent = "";
  } catch (error) {
    trouble.textContent = error.status === 0 ? "" : error.message; // a notice tells of status 0
  }
}

async function classified({ file, label }, pixels, model) {
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
    make(
      "div",
      { class: "verdict" },
      make("b", {}, String(digit)),
      make("div", {}, make("p", {}, percent(confidence) + truth), seen),
    ),
    bars(LABELS, probabilities),
  );
}

/** A button with a test digit; choosing it asks about it. */
function specimen({ label, pixels: packed }) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const pixels = Array.from({ length: 28 }, (_, row) => [...bytes.subarray(28 * row, 28 * row + 28)]);
  const canvas = make("canvas", { "aria-hidden": "true" });
  showPixels(canvas, pixels);
  const choose = () => ask({ pixels, label });
  return make("button", { type: "button", "aria-label": `Test digit ${label}`, onclick: choose }, canvas);
}

/* The board */

/** Ask about something, and show it on the board. */
function ask(newSubject) {
  subject = newSubject;
  show();
  predict();
}

function show() {
  const context = board.getContext("2d");
  context.fillStyle = "#fff"; // paper, in the dark too
  context.fillRect(0, 0, board.width, board.height);
  context.imageSmoothingEnabled = false;
  if (subject.pixels) {
    const canvas = make("canvas");
    showPixels(canvas, subject.pixels);
    context.drawImage(canvas, 0, 0, board.width, board.height);
  } else if (subject.picture) {
    const { width, height } = subject.picture;
    const scale = Math.min(board.width / width, board.height / height);
    const [x, y] = [(board.width - width * scale) / 2, (board.height - height * scale) / 2];
    context.drawImage(subject.picture, x, y, width * scale, height * scale);
  } else {
    context.lineWidth = ink.pen;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "#1d2733";
    for (const stroke of ink.strokes) {
      context.beginPath();
      context.moveTo(...stroke[0]);
      for (const point of stroke) context.lineTo(...point);
      context.stroke();
    }
    if (pen.shown) {
      context.lineWidth = 3;
      context.strokeStyle = pen.down ? "#d9772b" : "#2563a8";
      context.beginPath();
      context.arc(pen.x * board.width, pen.y * board.height, ink.pen / 2, 0, 2 * Math.PI);
      context.stroke();
    }
  }
  part("undo").disabled = subject.pixels || subject.file ? false : !ink.strokes.length;
}

/** Take the last stroke back, or come back to the drawing from a picture. */
function undo() {
  if (!subject.pixels && !subject.file) ink.strokes.pop();
  ask({});
}

function clear() {
  ink.strokes = [];
  ask({});
}

function drawWithPointer() {
  const place = (event) => {
    const { left, top, width, height } = board.getBoundingClientRect();
    const [x, y] = [event.clientX - left - board.clientLeft, event.clientY - top - board.clientTop];
    const border = [width - board.clientWidth, height - board.clientHeight];
    return [(x * board.width) / (width - border[0]), (y * board.height) / (height - border[1])];
  };
  let stroke = null;
  board.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || stroke) return;
    board.setPointerCapture(event.pointerId);
    stroke = [place(event)];
    ink.strokes.push(stroke);
    pen.shown = false;
    ask({});
  });
  board.addEventListener("pointermove", (event) => {
    if (!stroke || !board.hasPointerCapture(event.pointerId)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    stroke.push(...(events.length ? events : [event]).map(place));
    ask({});
  });
  const lift = () => (stroke = null);
  board.addEventListener("pointerup", lift);
  board.addEventListener("pointercancel", lift);
}

function drawWithKeys() {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const here = () => [pen.x * board.width, pen.y * board.height];
  board.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = STEP * (event.shiftKey ? 5 : 1);
    if (event.key in ways) {
      const [x, y] = ways[event.key];
      pen.x = Math.max(0, Math.min(1, pen.x + x * far));
      pen.y = Math.max(0, Math.min(1, pen.y + y * far));
      if (pen.down) ink.strokes.at(-1).push(here());
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) ink.strokes.push([here()]);
    } else if (event.key === "Backspace") {
      pen.down = false;
      event.preventDefault();
      undo();
      return;
    } else if (event.key === "Delete") {
      pen.down = false;
      clear();
      return;
    } else return;
    event.preventDefault();
    pen.shown = true;
    ask({});
  });
  board.addEventListener("blur", () => {
    pen.shown = pen.down = false;
    show();
  });
}

/* Pictures */

function takePictures() {
  part("picture").onchange = (event) => {
    takePicture(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  };
  board.addEventListener("dragover", (event) => {
    event.preventDefault();
    board.classList.add("drop");
  });
  board.addEventListener("dragleave", () => board.classList.remove("drop"));
  board.addEventListener("drop", (event) => {
    event.preventDefault();
    board.classList.remove("drop");
    takePicture(event.dataTransfer.files[0]);
  });
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
    // The browser cannot show it; the service says what is wrong with it, or reads it.
  }
  ask({ file, picture });
}
