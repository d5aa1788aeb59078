/** Predictions over the V2 protocol. Tensors of BF16 are in binary, as the protocol has it; all others are in JSON. */

import { postBytes, postJson } from "./api.js";
import { isBfloat16, isBinary } from "./tensors.js";

const LENGTH = "Inference-Header-Content-Length"; // of the JSON before the tensors

/** The path of the predictions of a network. */
export const pathOf = (card) => `v2/models/${card.name}/infer`;

/** The outputs for `{ name, shape, datatype, data }` of each input. */
export async function infer(card, tensors) {
  if (!isBinary(card)) return (await postJson(pathOf(card), { inputs: tensors })).outputs;
  const carried = tensors.filter(isBfloat16).map(({ data }) => toBits(data.flat(Infinity)));
  const sizes = carried.map(({ byteLength }) => byteLength);
  const inputs = tensors.map((tensor) => {
    if (!isBfloat16(tensor)) return tensor;
    const { data, ...head } = tensor;
    return { ...head, parameters: { binary_data_size: sizes.shift() } };
  });
  const outputs = card.outputs.map((spec) => ({ name: spec.name, parameters: { binary_data: isBfloat16(spec) } }));
  const json = new TextEncoder().encode(JSON.stringify({ inputs, outputs }));
  const response = await postBytes(pathOf(card), new Blob([json, ...carried]), { [LENGTH]: json.length });
  return outputsOf(await response.arrayBuffer(), response.headers.get(LENGTH));
}

function outputsOf(content, length) {
  let start = length === null ? content.byteLength : Number(length);
  const { outputs } = JSON.parse(new TextDecoder().decode(content.slice(0, start)));
  return outputs.map((output) => {
    if (!isBfloat16(output)) return output;
    const end = start + output.parameters.binary_data_size;
    const data = fromBits(new Uint16Array(content.slice(start, end)));
    start = end;
    return { ...output, data };
  });
}

/** Numbers as BF16: the first half of the bits of FP32, rounded to the nearest, ties to even. */
function toBits(numbers) {
  const floats = Float32Array.from(numbers);
  const round = (bits, index) => (Number.isNaN(floats[index]) ? 0x7fc0 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
  return Uint16Array.from(new Uint32Array(floats.buffer), round);
}

const fromBits = (halves) => Array.from(new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer));
