/** Values for the inputs of a network, from its card. */

/** The ways to fill an input; "own" values are typed. */
export const WAYS = [
  ["example", "the card's example"],
  ["zeros", "zeros"],
  ["random", "random numbers"],
  ["own", "my own numbers"],
];

export const isBfloat16 = ({ datatype }) => datatype === "BF16";

export const isFloat = (spec) => spec.datatype.startsWith("FP") || isBfloat16(spec);

/** Whether a network has a tensor that JSON cannot have. */
export const isBinary = (card) => [...card.inputs, ...card.outputs].some(isBfloat16);

export const sizeOf = (shape) => shape.reduce((product, size) => product * size, 1);

/** The shape of an input for `rows` rows; `sizes` are for the dimensions of variable size. */
export function shapeOf(card, spec, rows, sizes = card.example.inputs[spec.name].shape) {
  return spec.shape.map((size, index) => (size !== -1 ? size : index ? sizes[index] : rows));
}

/** Values of the shape, row-major; the rows of the example are repeated if there are too few. */
export function valuesOf(card, spec, shape, way) {
  const zero = { BOOL: false, BYTES: "" }[spec.datatype] ?? 0;
  const { data } = card.example.inputs[spec.name];
  const make = {
    example: (_, index) => data[index % data.length],
    zeros: () => zero,
    random: () => randomOf(spec),
  };
  return Array.from({ length: sizeOf(shape) }, make[way]);
}

/** One row of the card's example, or one batch for a network with a fixed batch. */
export function exampleOf(card) {
  return card.inputs.map((spec) => {
    const shape = shapeOf(card, spec, 1);
    return { name: spec.name, shape, datatype: spec.datatype, data: valuesOf(card, spec, shape, "example") };
  });
}

/** In the card's range; otherwise from a standard normal distribution, or 0 to 9. Texts are such a number. */
function randomOf(spec) {
  const { datatype, minimum, maximum } = spec;
  if (datatype === "BOOL") return Math.random() < 0.5;
  if (datatype === "BYTES") return String(Math.floor(10 * Math.random()));
  const [least, most] = [minimum ?? -Infinity, maximum ?? Infinity];
  const stated = Number.isFinite(most - least);
  let value;
  if (isFloat(spec)) {
    const normal = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    value = Number((stated ? least + Math.random() * (most - least) : normal).toPrecision(4));
  } else {
    value = Math.floor(stated ? least + Math.random() * (most - least + 1) : 10 * Math.random());
  }
  return Math.max(least, Math.min(most, value));
}
