/** Parse Prometheus' text format and evaluate histograms. Pure functions. */

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };
const NUMBERS = { "+Inf": Infinity, "-Inf": -Infinity };

const number = (text) => NUMBERS[text] ?? Number(text);

/** Each line except comments, as `{ name, labels, value }`. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const [, name, inside, value] = SAMPLE.exec(line) ?? [];
    if (!name) continue;
    const labels = {};
    for (const [, label, escaped] of (inside ?? "").matchAll(LABEL)) {
      labels[label] = escaped.replace(/\\./g, (pair) => ESCAPES[pair] ?? pair);
    }
    samples.push({ name, labels, value: number(value) });
  }
  return samples;
}

/** The sum of the samples of a name whose labels `match`. */
export function total(samples, name, match = () => true) {
  let sum = 0;
  for (const sample of samples) if (sample.name === name && match(sample.labels)) sum += sample.value;
  return sum;
}

/** A histogram, summed over its other labels: `[bound, cumulative count]`, in ascending order. */
export function histogram(samples, name, match = () => true) {
  const counts = new Map();
  for (const { name: found, labels, value } of samples) {
    if (found !== `${name}_bucket` || !match(labels)) continue;
    const bound = number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** The difference of a histogram between two samples: `[bound, count of this bucket]`. */
export function between(earlier, later) {
  const before = new Map(earlier);
  const up = later.map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]);
  return up.map(([bound, count], index) => [bound, count - (index ? up[index - 1][1] : 0)]);
}

/** The number of observations in buckets of `between`. */
export const countIn = (buckets) => buckets.reduce((sum, [, count]) => sum + count, 0);

/**
 * Estimate a quantile: the value that `share` of the observations do not exceed. Linear inside a
 * bucket, as Prometheus' histogram_quantile. At most the last finite bound; null without
 * observations.
 */
export function quantile(buckets, share) {
  const count = countIn(buckets);
  if (count <= 0) return null;
  let left = share * count;
  let lower = 0;
  for (const [bound, inside] of buckets) {
    if (inside > 0 && left <= inside) {
      return bound === Infinity ? lower : lower + ((bound - lower) * left) / inside;
    }
    left -= inside;
    lower = bound;
  }
  return lower;
}
