/** Curves: the data, the true function and every fitted curve, also beyond the data. */

import { getJson, newest, postJson, reason, whenBack } from "./api.js";
import { make, part } from "./dom.js";
import { plot, sample } from "./plot.js";

const BEYOND = 0.25; // of the data's range, on either side
const STEPS = 300; // of the slider; each is an x value of the request
const SPEAK = 700; // milliseconds between two sentences for a screen reader
const COLOURS = ["orange", "green", "blue"];
const GUESS = ["no training data here:", "the curves guess"];
const truth = (x) => x + 2 * Math.sin(x);

/** The series of the plot and the table: `{ name, kind, class, shown, y, cell }`; `y` along the grid. */
let rows = [];
let grid = [];
let fitted = [];
let training = { x: [], y: [] };
let place; // index in the grid

let chart;
const speak = newest((text) => (part("curve-said").textContent = text), SPEAK);

export function start() {
  chart = plot(part("curve-plot"), {
    xName: "x",
    yName: "y",
    ratio: 0.62,
    "aria-label": "The training data, the true function and the fitted curves. The table has their values.",
  });
  part("curve-x").oninput = (event) => grid.length && move(event.target.valueAsNumber);
  for (const name of ["pointerdown", "pointermove"]) {
    chart.svg.addEventListener(name, (event) => {
      if (name === "pointerdown") chart.svg.setPointerCapture(event.pointerId);
      if (grid.length) move(chart.at(event)[0]);
    });
  }
  whenBack(load);
  load();
}

async function load() {
  const trouble = part("curve-trouble");
  try {
    const [{ models }, { curve }] = await Promise.all([
      getJson("models"),
      getJson("playground/examples.json"),
    ]);
    const cards = models.filter(takes);
    layGrid(cards);
    training = curve;
    const answers = await Promise.allSettled(
      cards.map(({ name }) => postJson("predict_curve", { x: grid, model: name })),
    );
    const hidden = rows.filter(({ shown }) => !shown).map(({ name }) => name);
    rows = [
      { name: "training data", kind: "points", class: "grey", note: `${curve.x.length} points` },
      {
        name: "true function",
        kind: "line",
        class: "ink dotted",
        y: grid.map(truth),
        error: testError(cards, "noise_floor_mse"),
        note: "y = x + 2 sin x, which no network knows",
      },
      ...cards.map((card, index) => ({
        name: card.name,
        kind: "line",
        class: COLOURS[index % 3] + (index % 2 ? " dashed" : ""),
        y: answers[index].value?.y,
        error: testError([card], "mse"),
        note: card.summary,
      })),
    ];
    for (const row of rows) row.shown = !hidden.includes(row.name);
    const failed = answers.map(({ reason }) => reason).filter((error) => error && error.status !== 0);
    trouble.textContent = failed.map(({ message }) => message).join(" ");
    fillTable();
    move(place === undefined ? (fitted[0] + fitted[1]) / 2 : grid[place]);
  } catch (error) {
    trouble.textContent = reason(error);
  }
}

/** Whether a card's network maps one number x to one number y. */
export function takes({ inputs, outputs }) {
  const [input] = inputs;
  return (
    inputs.length === 1 &&
    `${input.name} ${input.datatype} ${input.shape}` === "x FP32 -1,1" &&
    outputs.some(({ name, shape }) => name === "y" && `${shape}` === "-1,1")
  );
}

/** The x values of the request: the range of the data, from the cards, and beyond. */
function layGrid(cards) {
  const stated = cards.map(({ inputs }) => inputs[0]).find(({ maximum }) => maximum !== null);
  fitted = stated ? [stated.minimum, stated.maximum] : [0, 20];
  const span = fitted[1] - fitted[0];
  const low = fitted[0] - BEYOND * span;
  const step = ((1 + 2 * BEYOND) * span) / STEPS;
  grid = Array.from({ length: STEPS + 1 }, (_, index) => Number((low + index * step).toPrecision(9)));
  Object.assign(part("curve-x"), { min: grid[0], max: grid.at(-1), step });
}

/** A metric of the test split, from the first card that has it. */
function testError(cards, metric) {
  const tests = cards.flatMap(({ evaluations }) => evaluations.filter(({ split }) => split === "test"));
  return tests.find(({ metrics }) => metric in metrics)?.metrics[metric];
}

function fillTable() {
  part("curve-values").replaceChildren(
    ...rows.map((row) => {
      row.cell = make("data");
      const toggle = () => {
        row.shown = !row.shown;
        draw();
      };
      const box = make("input", { type: "checkbox", checked: row.shown, onchange: toggle });
      return make(
        "tr",
        {},
        make(
          "th",
          { scope: "row" },
          make("label", {}, box, sample(row), row.name),
          make("small", { class: "quiet" }, row.note),
        ),
        make("td", { class: "number" }, row.cell),
        make("td", { class: "number" }, row.error?.toFixed(3)),
      );
    }),
  );
}

/** Show the values at the grid point nearest to `x`. */
function move(x) {
  const share = (x - grid[0]) / (grid.at(-1) - grid[0]);
  place = Math.max(0, Math.min(STEPS, Math.round(share * STEPS)));
  const here = grid[place];
  for (const { cell, y } of rows) {
    if (!y) continue;
    cell.value = y[place];
    cell.textContent = y[place].toFixed(3);
  }
  const beyond = here < fitted[0] || here > fitted[1];
  part("curve-x").value = here;
  part("curve-here").textContent = `x = ${here}`;
  part("curve-beyond").textContent = beyond ? GUESS.join(" ") : "";
  const values = rows.filter(({ y, shown }) => y && shown);
  speak(
    `At x = ${here}${beyond ? `, ${GUESS.join(" ")}` : ""}: ` +
      `${values.map(({ name, cell }) => `${name} ${cell.textContent}`).join(", ")}.`,
  );
  draw();
}

function draw() {
  const here = grid[place];
  const x = [grid[0], grid.at(-1)];
  const heights = grid.map(truth);
  const y = [Math.min(...heights) - 3, Math.max(...heights) + 3];
  const shown = rows.filter((row) => row.shown);
  const lines = shown.filter((row) => row.y);
  chart.draw({
    x,
    y,
    layers: [
      { range: [x[0], fitted[0]], text: GUESS, class: "upper" },
      { range: [fitted[1], x[1]], text: GUESS },
      ...shown
        .filter(({ kind }) => kind === "points")
        .map((row) => ({ points: [training.x, training.y], class: row.class })),
      { line: [[here, here], y], class: "grey thin" },
      ...lines.map((row) => ({ line: [grid, row.y], class: row.class })),
      ...lines.map((row) => ({ points: [[here], [row.y[place]]], class: `${row.class} large` })),
    ],
  });
}
