/** Now: live charts of the last minute from the metrics; and a burst of requests, with its batches. */

import { getJson, getText, reason, whenBack } from "./api.js";
import { bars, fill, make, part } from "./dom.js";
import { infer, pathOf } from "./infer.js";
import { between, countIn, histogram, parse, quantile, total } from "./prometheus.js";
import { sparkline } from "./sparkline.js";
import { exampleOf } from "./tensors.js";

const SECONDS = 60;
const BURST = 500;
const COUNTED_SECONDS = 0.7; // until all workers report the counts of one
const PREDICTIONS = /^\/(classify|predict)_|\/infer$/; // endpoints in the metrics

/** `{ at, of }`: the time of a sample in seconds, and its values for a network ("" for all). */
let looks = [];
let showing = false;
let busy = false;
let refused = false;
let models = [];

const time = (seconds) =>
  seconds < 1 ? `${(1e3 * seconds).toPrecision(seconds < 1e-3 ? 2 : 3)} ms` : `${seconds.toPrecision(3)} s`;
const whole = (value) => Math.round(value).toLocaleString("en");
const tenth = (value) => (value < 10 ? value.toFixed(1) : whole(value));
const charts = [
  { chart: sparkline("Requests a second", [""], tenth), lines: ({ rate }) => [rate] },
  { chart: sparkline("Latency", ["p50", "p99"], time), lines: ({ p50, p99 }) => [p50, p99] },
  { chart: sparkline("Rows in a batch, mean", [""], tenth), lines: ({ rows }) => [rows] },
  { chart: sparkline("Rows that wait", [""], whole), lines: ({ queued }) => [queued] },
];

export function start() {
  part("charts").replaceChildren(...charts.map(({ chart }) => chart.element));
  part("now-network").onchange = draw;
  part("now-say").onclick = () => {
    part("now-said").textContent = `${charts.map(({ chart }) => chart.say()).join("; ")}.`;
  };
  part("burst").onclick = burst;
  setInterval(look, 1000);
  whenBack(load);
  load();
  return { show: () => set(true), hide: () => set(false) };
}

function set(value) {
  showing = value;
  refused = false;
  look();
}

async function load() {
  refused = false;
  try {
    ({ models } = await getJson("models"));
  } catch (error) {
    part("now-trouble").textContent = reason(error);
    return;
  }
  looks = []; // they lack networks added since
  const names = models.map(({ name }) => [name, name]);
  fill(part("now-network"), [["", "all"], ...names]);
  fill(part("burst-network"), names, part("burst-network").value || "mnist-cnn");
  part("burst").disabled = !names.length;
}

/* The charts */

async function look() {
  if (!showing || document.hidden || busy || refused) return;
  busy = true;
  try {
    take(parse(await getText("metrics")));
    part("now-trouble").textContent = "";
    part("charts").hidden = false;
  } catch (error) {
    part("charts").hidden = error.status === 404;
    refused = error.status < 429; // a retry would not help
    part("now-trouble").textContent =
      error.status === 404
        ? "The metrics of this server are switched off: there is nothing to show here."
        : reason(error);
  } finally {
    busy = false;
  }
}

function take(samples) {
  const found = new Map();
  const of = (model) => {
    if (!found.has(model)) found.set(model, summary(samples, model));
    return found.get(model);
  };
  const last = looks.at(-1);
  // Counters decrease if the server was restarted.
  if (last && countIn(between(last.of("").requests, of("").requests)) < 0) looks = [];
  for (const name of ["", ...models.map((card) => card.name)]) of(name); // the samples are not needed any more
  const at = performance.now() / 1000;
  looks = [...looks.filter((old) => at - old.at <= SECONDS + 2), { at, of: (name) => found.get(name) }];
  draw();
}

/** The values of a network in one sample, since the start of the server. */
function summary(samples, model) {
  const its = (labels) => !model || labels.model === model;
  return {
    requests: histogram(samples, "fitserve_request_seconds", (labels) => PREDICTIONS.test(labels.endpoint) && its(labels)),
    rows: total(samples, "fitserve_batch_rows_sum", its),
    batches: total(samples, "fitserve_batch_rows_count", its),
    queued: total(samples, "fitserve_queue_rows", its),
  };
}

function draw() {
  const model = part("now-network").value;
  const now = looks.at(-1)?.at;
  const steps = looks.slice(1).map((look, index) => step(looks[index], look, model));
  for (const { chart, lines } of charts) {
    const values = steps.map(({ at, ...found }) => lines(found).map((value) => [now - at, value]));
    chart.update((values[0] ?? []).map((_, line) => values.map((row) => row[line])), SECONDS);
  }
}

/** The difference of two samples; null if there was nothing to measure. */
function step(before, after, model) {
  const [a, b] = [before.of(model), after.of(model)];
  const buckets = between(a.requests, b.requests);
  const batches = b.batches - a.batches;
  return {
    at: after.at,
    rate: countIn(buckets) / (after.at - before.at),
    p50: quantile(buckets, 0.5),
    p99: quantile(buckets, 0.99),
    rows: batches > 0 ? (b.rows - a.rows) / batches : null,
    queued: b.queued,
  };
}

/* The burst */

async function burst() {
  const [button, progress] = [part("burst"), part("burst-progress")];
  part("burst-trouble").textContent = part("burst-said").textContent = "";
  part("burst-result").replaceChildren();
  progress.value = 0;
  progress.hidden = false;
  button.disabled = true;
  let card;
  try {
    card = await getJson(`models/${part("burst-network").value}`); // the card has the example
  } catch (error) {
    part("burst-trouble").textContent = reason(error);
    progress.hidden = true;
    button.disabled = false;
    return;
  }
  const before = await batchesOf(card.name);
  const result = await send(card, () => (progress.value += 1));
  await new Promise((resolve) => setTimeout(resolve, COUNTED_SECONDS * 1000));
  const after = before && (await batchesOf(card.name));
  tell(result, after && between(before, after));
  progress.hidden = true;
  button.disabled = false;
}

/** The requests per batch of one network; null without metrics. */
async function batchesOf(model) {
  try {
    return histogram(parse(await getText("metrics")), "fitserve_batch_requests", (labels) => labels.model === model);
  } catch {
    return null;
  }
}

/** Send all requests at once; return the seconds of each, and the messages of failures by status. */
async function send(card, onAnswer) {
  const inputs = exampleOf(card);
  const errors = new Map();
  performance.clearResourceTimings();
  performance.setResourceTimingBufferSize(2 * BURST);
  const started = performance.now();
  async function one() {
    try {
      await infer(card, inputs);
    } catch (error) {
      errors.set(error.status, [...(errors.get(error.status) ?? []), error.message]);
    }
    onAnswer();
  }
  await Promise.all(Array.from({ length: BURST }, one));
  const seconds = (performance.now() - started) / 1000;
  // Without the wait for a connection in the browser.
  const latencies = performance
    .getEntriesByName(new URL(pathOf(card), document.baseURI).href)
    .filter((entry) => entry.requestStart > 0)
    .map((entry) => (entry.responseEnd - entry.requestStart) / 1000)
    .sort((a, b) => a - b);
  return { latencies, errors, seconds };
}

function tell({ latencies, errors, seconds }, batches) {
  const failed = [...errors.values()].flat().length;
  const answered = BURST - failed;
  const at = (share) => time(latencies[Math.ceil(share * latencies.length) - 1]);
  const taken = latencies.length ? `; once sent, half of them took up to ${at(0.5)}, and 99% up to ${at(0.99)}` : "";
  part("burst-said").textContent =
    `${answered} of ${BURST} were answered in ${seconds.toFixed(2)} s` +
    (answered ? `, ${whole(answered / seconds)} a second${taken}.` : ".");
  part("burst-trouble").textContent = [...errors]
    .map(([status, { length, 0: message }]) =>
      status === 0
        ? `The server went away, or is too slow: ${length} got no answer.`
        : `${length} were answered ${status}: ${message}`,
    )
    .join(" ");
  if (batches) part("burst-result").replaceChildren(...batched(batches));
  else part("burst-result").textContent = "How they were batched is not known: the metrics were not to be had.";
}

/** The number of batches by their requests. */
function batched(buckets) {
  const last = buckets.findLastIndex(([, count]) => count > 0);
  const shown = buckets.slice(0, last + 1);
  const most = Math.max(...shown.map(([, count]) => count));
  const labels = shown.map(([bound], index) => {
    const least = index ? shown[index - 1][0] + 1 : 1;
    return bound === Infinity ? `${least} or more` : least === bound ? `${bound}` : `${least} to ${bound}`;
  });
  return [
    make("h4", {}, `${whole(countIn(buckets))} batches, by how many requests they held`),
    bars(
      labels,
      shown.map(([, count]) => count / most),
      shown.map(([, count]) => whole(count)),
    ),
  ];
}
