/** Networks: the card of each package, a form to try it, and the request as code. */

import { askForm } from "./ask.js";
import { getJson, getPicture, reason, whenBack } from "./api.js";
import { make, part, table } from "./dom.js";
import { tryIt } from "./try_it.js";

const HASH = "#networks";
const MAX_LABELS = 20;
let models = [];
let shown = "";

export function start() {
  addEventListener("hashchange", show);
  whenBack(load);
  load();
  return { show };
}

async function load() {
  try {
    const found = await getJson("models");
    models = found.models;
    tellRefused(Object.entries(found.refused));
    part("network-list").replaceChildren(...models.map(entry));
    part("network-trouble").textContent = models.length ? "" : "The repository holds no network that serves.";
    shown = "";
    show();
  } catch (error) {
    part("network-trouble").textContent = reason(error);
  }
}

function entry(card) {
  const link = make("a", { href: `${HASH}/${card.name}` }, make("b", {}, card.name), headline(card));
  return make("li", {}, link);
}

function tellRefused(refused) {
  part("refused").hidden = !refused.length;
  part("refused").replaceChildren(
    make("p", {}, "These packages were refused when the service started:"),
    make("ul", {}, ...refused.map(([name, why]) => make("li", {}, make("b", {}, name), `: ${why}`))),
  );
}

/** Show the network of the URL, otherwise the one shown last, or the first. */
async function show() {
  const [hash, named] = location.hash.split("/");
  if (hash !== HASH || !models.length) return;
  const known = (name) => models.find((card) => card.name === name);
  if (named && !known(named)) {
    part("network-trouble").textContent = `No network of the name ${named} serves here; choose one of these.`;
  } else part("network-trouble").textContent = "";
  const card = known(named) ?? known(shown) ?? models[0];
  const list = part("network-list");
  for (const link of list.querySelectorAll("a")) {
    if (link.hash !== `${HASH}/${card.name}`) link.removeAttribute("aria-current");
    else {
      link.setAttribute("aria-current", "page");
      list.scrollLeft = link.offsetLeft - list.clientWidth / 4; // if the list is a row
    }
  }
  if (card.name === shown) return;
  shown = card.name;
  try {
    const whole = await getJson(`models/${card.name}`);
    if (shown === card.name) part("network").replaceChildren(...described(whole));
  } catch (error) {
    if (shown === card.name) shown = ""; // it is requested again
    part("network-trouble").textContent = reason(error);
  }
}

/** The main metric of a network. */
function headline({ evaluations: [test] }) {
  const metrics = test?.metrics ?? {};
  if ("accuracy" in metrics) return `${(100 * metrics.accuracy).toFixed(2)}% of ${count(test.samples)} right`;
  const [name] = "mse" in metrics ? ["mse"] : Object.keys(metrics);
  if (!name) return "not evaluated";
  return `${name === "mse" ? "mean squared error" : words(name)} ${figure(metrics[name])}`;
}

const words = (name) => name.replaceAll("_", " ");
const count = (value) => value.toLocaleString("en");
const figure = (value) => (Math.abs(value) < 1e-3 ? tiny(Number(value.toPrecision(4))) : value.toFixed(4));
const tiny = (value) => (value && Math.abs(value) < 1e-4 ? value.toExponential() : String(value));
const brief = (value) => (value === 0 ? "0" : value.toExponential(1));
const share = (value) => `${(100 * value).toFixed(2)}%`;
const code = (text) => make("code", {}, text);

/** A list of names and values. */
const facts = (pairs) =>
  make("dl", {}, ...pairs.flatMap(([name, content]) => [make("dt", {}, name), make("dd", {}, content)]));

const folded = (title, ...content) => make("details", {}, make("summary", {}, title), ...content);

/** The whole card, as a list of elements. Missing parts are left out. */
function described(card) {
  const { form, paste } = tryIt(card);
  const ask = askForm(card);
  const sections = [
    ["Ask it", ask ? [ask] : []],
    ["What goes in and comes out", tensors(card)],
    [ask ? "Send tensors" : "Try it", [form]],
    ["The request to paste", [paste]],
    ["How good it is", [...figures(card), ...pictures(card)]],
    ["How its files are proved", parity(card)],
    ["How it was fitted", card.fit ? fit(card.fit) : []],
    ["How it is served", serving(card.serving)],
    ["What it is for", [make("p", {}, card.intended_use), make("ul", {}, ...card.limits.map((limit) => make("li", {}, limit)))]],
    ["Its files", files(card)],
  ];
  return [
    make("h3", {}, card.name, make("span", { class: "quiet" }, ` version ${card.version}${card.task === "other" ? "" : `, ${card.task}`}`)),
    make("p", {}, card.summary),
    ...sections
      .filter(([, content]) => content.length)
      .map(([title, content]) => make("section", {}, make("h4", {}, title), ...content)),
  ];
}

function tensors({ inputs, outputs }) {
  const range = ({ minimum, maximum }) =>
    [minimum !== null && `from ${minimum}`, maximum !== null && `${minimum === null ? "up " : ""}to ${maximum}`]
      .filter(Boolean)
      .join(" ");
  const labels = (all) => all.slice(0, MAX_LABELS).join(", ") + (all.length > MAX_LABELS ? ", …" : "");
  const row = (way) => (spec) => [
    way,
    code(spec.name),
    spec.datatype,
    `[${spec.shape.join(", ")}]`,
    range(spec),
    make("div", { class: "meaning" }, spec.meaning + (spec.answer?.unit ? `, answered in ${spec.answer.unit}` : "") + (spec.labels ? `: ${labels(spec.labels)}` : "")),
  ];
  return [
    table(
      "Inputs and outputs",
      ["", "tensor", "datatype", "shape", "range", "meaning"],
      6,
      [...inputs.map(row("in")), ...outputs.map(row("out"))],
    ),
  ];
}

function figures({ evaluations, seeds }) {
  const found = [];
  if (evaluations.length) {
    const metrics = [...new Set(evaluations.flatMap((entry) => Object.keys(entry.metrics)))];
    const row = (entry) => [
      `${entry.data}, ${entry.split}`,
      count(entry.samples),
      ...metrics.map((name) => (name in entry.metrics ? figure(entry.metrics[name]) : "")),
    ];
    found.push(table("Figures", ["data", "samples", ...metrics.map(words)], 1, evaluations.map(row)));
  }
  if (seeds.length) {
    const row = ({ setting, metric, mean, standard_deviation: deviation, values }) => [
      setting,
      words(metric),
      figure(mean),
      figure(deviation),
      values.map(figure).join(", "),
    ];
    found.push(
      make("p", { class: "quiet" }, "Over several seeds, on the test split:"),
      table("Over seeds", ["setting", "metric", "mean", "deviation", "each"], 2, seeds.map(row)),
    );
  }
  const classes = evaluations[0]?.classes ?? [];
  if (classes.length) {
    const row = ({ label, precision, recall, f1, samples }) =>
      [label, ...[precision, recall, f1].map(figure), count(samples)];
    const { data, split } = evaluations[0];
    found.push(
      folded(
        `By class, on ${data}, ${split}`,
        table("By class", ["class", "precision", "recall", "F1", "samples"], 1, classes.map(row)),
      ),
    );
  }
  return found;
}

function pictures({ name, files }) {
  const paths = Object.keys(files).filter((path) => /^report\/[^/]+\.png$/.test(path));
  return paths.length ? [make("div", { class: "pictures" }, ...paths.map((path) => picture(name, path)))] : [];
}

function picture(name, path) {
  const title = path.replace(/^report\/|\.png$/g, "").replaceAll("-", " ");
  const image = make("img", { alt: `${name}: ${title}` });
  const element = make("figure", {}, image, make("figcaption", { class: "quiet" }, title));
  getPicture(`models/${name}/${path}`).then(
    (address) => {
      image.onload = () => URL.revokeObjectURL(address);
      image.src = address;
    },
    (error) => image.replaceWith(make("p", { class: "trouble" }, error.message)),
  );
  return element;
}

function parity({ parity: proofs, fit: fitted }) {
  if (!proofs.length) return [];
  const against = fitted ? "the network in eager mode" : proofs.length > 1 ? "the other" : "itself, row by row";
  const row = (proof) => [
    proof.runtime,
    count(proof.samples),
    proof.batch_sizes.join(", "),
    brief(proof.largest_absolute_difference),
    brief(proof.largest_relative_difference),
    share(proof.equal_answers),
  ];
  const head = ["runtime", "samples", "batch sizes", "largest difference", "relative", "equal answers"];
  return [
    make("p", { class: "quiet" }, `Each file against ${against}, in batches of several sizes.`),
    table("Proof", head, 1, proofs.map(row)),
  ];
}

function fit(record) {
  const { data } = record;
  const { train, validation, test } = data.splits;
  const values = Object.entries(record.hyperparameters);
  const written = (value) => (value === null ? "none" : Array.isArray(value) ? value.join(", ") : String(value));
  return [
    facts([
      ["recipe", `${record.recipe}, ${record.setting} setting, seed ${record.seed}`],
      ["network", record.network],
      ["parameters", count(record.parameter_count)],
      ["data", data.summary],
      ["splits", `${count(train)} train, ${count(validation)} validation, ${count(test)} test`],
      ["data SHA-256", code(data.sha256)],
      ["device", record.device],
      ["time", `${count(Math.round(record.seconds))} s for ${record.epochs} epochs; weights of epoch ${record.kept_epoch}`],
      ["libraries", Object.entries(record.libraries).map((pair) => pair.join(" ")).join(", ")],
    ]),
    folded(
      `${values.length} hyperparameters`,
      table("Hyperparameters", ["hyperparameter", "value"], 2, values.map(([name, value]) => [code(name), written(value)])),
    ),
  ];
}

function serving({ runtime, device, seconds_by_batch_rows: timed }) {
  const rows = [...new Set(Object.values(timed).flatMap(Object.keys))].sort((a, b) => a - b);
  const line = ([name, seconds]) =>
    [name, ...rows.map((size) => (size in seconds ? `${(1e3 * seconds[size]).toPrecision(3)} ms` : ""))];
  return [
    make("p", {}, `With ${runtime} on ${device}. As timed on this machine, for a batch of:`),
    table("Timings", ["", ...rows.map((size) => `${size} ${size === "1" ? "row" : "rows"}`)], 1, Object.entries(timed).map(line)),
  ];
}

function files({ files: records }) {
  const row = ([path, { bytes, sha256 }]) => [path, code(sha256), count(bytes)];
  return [table("Files", ["file", "SHA-256", "bytes"], 2, Object.entries(records).map(row))];
}
