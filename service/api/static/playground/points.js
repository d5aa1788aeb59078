/** Points: the predictions of a network over the plane, and at the chosen point. */

import { getJson, newest, postJson, reason, whenBack } from "./api.js";
import { bars, fill, make, part, percent } from "./dom.js";
import { legend, plot } from "./plot.js";

const X1 = [-1.8, 2.8];
const X2 = [-1.3, 1.8];
const COLUMNS = 80; // of the grid of the request
const ROWS = 60;
const STEP = 0.05; // per arrow key; five times as much with Shift
const CLASSES = ["blue", "orange square"];

const GRID = Array.from({ length: (COLUMNS + 1) * (ROWS + 1) }, (_, index) => {
  const column = index % (COLUMNS + 1);
  const row = (index - column) / (COLUMNS + 1);
  return toPlane([column, row]);
});

let cards = [];
/** The training points and their labels, by the name of the data set. */
let examples = {};
let training = { points: [], labels: [] };
/** The probability of the second class at each point of the grid. */
let surface = [];
/** The training points that the network misclassifies. */
let wrong = [];
let chosen = [0.5, 0.25];
/** The predicted class of the chosen point. */
let side;

let chart;
let canvas;
const scan = newest(() => attempt(askGrid));
const classify = newest(() => attempt(askPoint));

export function start() {
  canvas = make("canvas", { width: 8 * COLUMNS, height: 8 * ROWS, "aria-hidden": "true" });
  part("point-plot").append(canvas);
  chart = plot(part("point-plot"), {
    xName: "x1",
    yName: "x2",
    ratio: 0.76,
    role: "application",
    tabindex: 0,
    "aria-label": "The plane, and the point to classify",
    "aria-describedby": "point-help",
  });
  part("point-network").onchange = askBoth;
  draw();
  choosePoints();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  whenBack(load);
  load();
}

const load = () =>
  attempt(async () => {
    const [{ models }, found] = await Promise.all([
      getJson("models"),
      getJson("playground/examples.json"),
    ]);
    cards = await Promise.all(
      models.filter(takes).map(({ name }) => getJson(`models/${name}`)), // with the labels
    );
    examples = found;
    const select = part("point-network");
    const options = cards.map(({ name }) => [name, name]);
    fill(select, options, select.value || "moons-tanh");
    if (options.length) askBoth();
    else part("point-summary").textContent = "No network that is served here takes points.";
  });

/** Run the action, and show the error if it fails. */
async function attempt(task) {
  const trouble = part("point-trouble");
  try {
    await task();
    trouble.textContent = "";
  } catch (error) {
    trouble.textContent = reason(error);
  }
}

/** Whether a card's network maps points of the plane to two probabilities. */
export function takes({ inputs, outputs }) {
  const [input] = inputs;
  return (
    inputs.length === 1 &&
    `${input.name} ${input.datatype} ${input.shape}` === "point FP32 -1,2" &&
    outputs.some(({ name, shape }) => name === "probabilities" && `${shape}` === "-1,2")
  );
}

/* Predictions */

const network = () => cards.find(({ name }) => name === part("point-network").value);

function labels() {
  return network().outputs.find(({ name }) => name === "probabilities").labels ?? ["0", "1"];
}

async function predictions(points) {
  const model = part("point-network").value;
  return (await postJson("classify_points", { points, model })).predictions;
}

function askBoth() {
  scan();
  classify();
}

/** The whole grid and the training points, in one request. */
async function askGrid() {
  const { summary, evaluations, fit } = network();
  const names = labels();
  training = examples[fit?.data.name] ?? examples.moons;
  const answers = await predictions([...GRID, ...training.points]);
  surface = answers.slice(0, GRID.length).map(({ probabilities }) => probabilities[1]);
  wrong = training.points.filter(
    (_, index) => answers[GRID.length + index].label !== names[training.labels[index]],
  );
  const test = evaluations.find(({ split }) => split === "test");
  const accuracy = test?.metrics.accuracy;
  part("point-summary").textContent = summary;
  part("point-figures").textContent =
    `It has ${wrong.length} of the ${training.points.length} training points on the wrong side` +
    (accuracy === undefined
      ? "."
      : `, and ${percent(accuracy)} of ${test.samples.toLocaleString("en")} test points right.`);
  part("point-legend").replaceChildren(
    legend([
      ...names.map((text, index) => ({ kind: "points", class: CLASSES[index], text })),
      { kind: "line", class: "ink", text: "boundary, 50% each" },
      ...(wrong.length ? [{ kind: "points", class: "ink ring", text: "on the wrong side" }] : []),
    ]),
  );
  paint();
  draw();
}

async function askPoint() {
  const asked = chosen;
  const names = labels();
  const [{ label, confidence, probabilities }] = await predictions([asked]);
  side = names.indexOf(label);
  part("point-answer").replaceChildren(
    make("p", { class: "label" }, label),
    make("p", {}, `${percent(confidence)} sure at (${asked.join(", ")})`),
    bars(names, probabilities),
  );
  part("point-said").textContent = `(${asked.join(", ")}) is ${label}, ${percent(confidence)}.`;
  draw();
}

/* Choosing a point */

function choosePoints() {
  const { svg } = chart;
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const inside = ([x1, x2]) => [between(X1, x1), between(X2, x2)];
  svg.addEventListener("click", (event) => choose(inside(chart.at(event))));
  svg.addEventListener("keydown", (event) => {
    if (!(event.key in ways) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [x1, x2] = ways[event.key].map((way) => way * STEP * (event.shiftKey ? 5 : 1));
    choose(inside([chosen[0] + x1, chosen[1] + x2]));
  });
  part("point-form").onsubmit = (event) => {
    event.preventDefault();
    choose([part("point-x1").valueAsNumber, part("point-x2").valueAsNumber]);
  };
}

const between = ([low, high], value) => Math.max(low, Math.min(high, value));

function choose(point) {
  chosen = point.map((value) => Number(value.toFixed(3)));
  [part("point-x1").value, part("point-x2").value] = chosen;
  if (!network()) return;
  draw();
  classify();
}

/* The picture */

function draw() {
  const of = (points) => [points.map(([x1]) => x1), points.map(([, x2]) => x2)];
  chart.draw({
    x: X1,
    y: X2,
    layers: [
      { line: of(boundary()), class: "ink" },
      { points: of(wrong), class: "ink ring" },
      ...CLASSES.map((look, index) => ({
        points: of(training.points.filter((_, row) => training.labels[row] === index)),
        class: look,
      })),
      { points: of([chosen]), class: "ink large ring" },
      { points: of([chosen]), class: `${CLASSES[side] ?? "grey"} large` },
    ],
  });
}

/** The surface as a blend of the two classes' colours; transparent at equal probabilities. */
function paint() {
  const small = make("canvas", { width: COLUMNS + 1, height: ROWS + 1 });
  const cells = small.getContext("2d");
  const colours = ["--blue", "--orange"].map((name) => getComputedStyle(canvas).getPropertyValue(name));
  surface.forEach((share, index) => {
    const column = index % (COLUMNS + 1);
    cells.fillStyle = colours[share < 0.5 ? 0 : 1];
    cells.globalAlpha = 0.5 * Math.abs(2 * share - 1);
    cells.fillRect(column, (index - column) / (COLUMNS + 1), 1, 1);
  });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  // From the centre of the first cell to the centre of the last: these are the grid points.
  context.drawImage(small, 0.5, 0.5, COLUMNS, ROWS, 0, 0, canvas.width, canvas.height);
}

/** The line of equal probabilities: points in the plane, with a gap after each piece. */
function boundary() {
  const line = [];
  if (!surface.length) return line;
  const lead = ([column, row]) => surface[row * (COLUMNS + 1) + column] - 0.5;
  for (let row = 0; row < ROWS; row++) {
    for (let column = 0; column < COLUMNS; column++) {
      const corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([x, y]) => [column + x, row + y]);
      const ends = corners.flatMap((corner, index) => {
        const next = corners[(index + 1) % 4];
        const [here, there] = [lead(corner), lead(next)];
        if (here < 0 === there < 0) return [];
        const share = here / (here - there);
        return [toPlane(corner.map((value, axis) => value + share * (next[axis] - value)))];
      });
      for (let end = 0; end < ends.length; end += 2) line.push(ends[end], ends[end + 1], [NaN, NaN]);
    }
  }
  return line;
}

/** Convert columns and rows of the grid, from its upper left, to coordinates of the plane. */
function toPlane([column, row]) {
  return [
    X1[0] + (column / COLUMNS) * (X1[1] - X1[0]),
    X2[1] - (row / ROWS) * (X2[1] - X2[0]),
  ];
}
