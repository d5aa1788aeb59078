/** The request of the form as code: for a shell, Python and tritonclient. Pure functions. */

import { isBfloat16, isBinary, sizeOf } from "./tensors.js";

/** The most numbers written into the code; more are replaced by zeros. */
export const MOST = 64;

const NUMPY = {
  BOOL: "bool_", FP16: "float16", FP32: "float32", FP64: "float64",
  UINT8: "uint8", UINT16: "uint16", UINT32: "uint32", UINT64: "uint64",
  INT8: "int8", INT16: "int16", INT32: "int32", INT64: "int64", BYTES: "object_",
};

/** Whether the code has the actual numbers; otherwise a tensor is replaced by zeros. */
export const areExact = (tensors) => tensors.every((tensor) => isShort(tensor) || isZero(tensor));

const isShort = ({ shape }) => sizeOf(shape) <= MOST;
const isZero = ({ data }) => data.flat(Infinity).every((value) => !value);

/**
 * @param base the URL of the service, with a slash at its end.
 * @param card of the model.
 * @param tensors `{ name, shape, datatype, data }` of each input, the data flat or nested.
 * @param keyed whether requests need an API key, read from the variable KEY.
 * @returns `[[language, text], …]`; tritonclient alone for tensors that JSON cannot have.
 */
export function snippets(base, card, tensors, keyed) {
  if (isBinary(card)) return [["tritonclient", triton(base, card, tensors, keyed)]];
  const url = new URL(`v2/models/${card.name}/infer`, base).href;
  return [
    ["curl", curl(url, tensors, keyed)],
    ["Python", python(url, tensors, keyed)],
    ["tritonclient", triton(base, card, tensors, keyed)],
  ];
}

function curl(url, tensors, keyed) {
  const key = keyed ? ' \\\n  -H "X-API-Key: $KEY"' : "";
  const send = `curl -s ${quoted(url)} -H 'Content-Type: application/json'${key}`;
  const [words, text] = tensors.reduce(
    ([words, text], tensor, index) => {
      text += (index ? ", " : "") + head(tensor);
      if (isShort(tensor)) return [words, `${text}${JSON.stringify(tensor.data)}}`];
      // The shell generates many zeros and pipes them: the length of an argument is limited.
      const zeros = `yes '${{ BOOL: "false", BYTES: '""' }[tensor.datatype] ?? "0"}' | head -n ${sizeOf(tensor.shape)} | paste -sd , -`;
      return [`${words}${quoted(`${text}\n  [`)}"$(${zeros})"`, "]}"];
    },
    ["", '{"inputs": ['],
  );
  const body = words + quoted(`${text}]}`);
  return words ? `printf %s ${body} |\n  ${send} -d @-` : `${send} \\\n  -d ${body}`;
}

/** A tensor as JSON, without its data. */
function head({ name, shape, datatype }) {
  const [called, sizes] = [JSON.stringify(name), JSON.stringify(shape)];
  return `{"name": ${called}, "shape": ${sizes}, "datatype": "${datatype}", "data": `;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function python(url, tensors, keyed) {
  const data = (tensor) => (isShort(tensor) ? literal(tensor.data) : `[${zeroOf(tensor)}] * ${sizeOf(tensor.shape)}`);
  const inputs = tensors.map((tensor) => `    ${head(tensor)}${data(tensor)}},`);
  return [
    "import json",
    ...(keyed ? ["import os"] : []),
    "from urllib.request import Request, urlopen",
    "",
    "inputs = [",
    ...inputs,
    "]",
    `headers = {"Content-Type": "application/json"${keyed ? ', "X-API-Key": os.environ["KEY"]' : ""}}`,
    `request = Request(${literal(url)}, json.dumps({"inputs": inputs}).encode(), headers)`,
    "with urlopen(request) as answer:",
    '    print(json.load(answer)["outputs"])',
  ].join("\n");
}

function triton(base, card, tensors, keyed) {
  const { protocol, host, pathname } = new URL(base);
  const address = literal(host + pathname.replace(/\/$/, "")) + (protocol === "https:" ? ", ssl=True" : "");
  const made = tensors.flatMap((tensor, index) => {
    const { name, shape, datatype, data } = tensor;
    const [sizes, dtype] = [literal(shape), isBfloat16(tensor) ? "ml_dtypes.bfloat16" : `np.${NUMPY[datatype]}`];
    const array = isShort(tensor)
      ? `np.array(${literal(data)}, ${dtype}).reshape(${sizes})`
      : `np.full(${sizes}, ${zeroOf(tensor)}, ${dtype})`;
    return [
      `inputs.append(triton.InferInput(${literal(name)}, ${sizes}, "${datatype}"))`,
      `inputs[${index}].set_data_from_numpy(${array})`,
    ];
  });
  return [
    ...(keyed ? ["import os", ""] : []),
    ...(tensors.some(isBfloat16) ? ["import ml_dtypes"] : []),
    "import numpy as np",
    "import tritonclient.http as triton",
    "",
    `client = triton.InferenceServerClient(${address})`,
    "inputs = []",
    ...made,
    `answer = client.infer("${card.name}", inputs${keyed ? ', headers={"X-API-Key": os.environ["KEY"]}' : ""})`,
    ...card.outputs.map(({ name }) => `print(answer.as_numpy(${literal(name)}))`),
  ].join("\n");
}

const zeroOf = ({ datatype }) => ({ BOOL: "False", BYTES: '""' })[datatype] ?? "0";

/** A value in Python's syntax. */
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "boolean") return value ? "True" : "False";
  return value === null ? "None" : JSON.stringify(value);
}
