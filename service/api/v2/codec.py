"""The codec of the protocol's inference messages, as pure functions.

For any bytes, `decode` returns tensors that the model accepts, or raises `BadInputError` with the
sentence for the client. `encode` builds the response that the request asked for. Both support JSON
and the binary tensor extension: a JSON header, followed by the raw tensors in the header's order.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from reprlib import repr as short_repr
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from models.kinds.split_rows import parts_of
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from models.runtimes import bfloat16
from service.api.v2.classification import classified
from service.api.v2.tensors import check_shape, from_bytes, from_json, with_rows_first
from service.api.v2.texts import (
    LARGE_TEXT_BYTES,
    elements,
    not_utf8,
    takes_text,
    texts_from_bytes,
    texts_from_list,
    to_bytes,
)
from service.batching.batch import Arrays
from service.errors import BadInputError
from service.inference.bad_values import not_finite
from service.json_body import Body, check_structure, may_hold_booleans, parse_json
from service.processes.jobs import LARGE_ELEMENTS, MANY_VALUES, is_large_json, whole

BULKY_BYTES = 2**20
"""Binary tensors of this size take about half a millisecond to copy."""

_uninitialized = ctypes.pythonapi.PyByteArray_FromStringAndSize
_uninitialized.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
_uninitialized.restype = ctypes.py_object


class RequestedOutput(NamedTuple):
    """One requested output: binary or JSON, as a tensor or as its `top` classes."""

    spec: TensorSpec
    binary: bool
    top: int = 0


class InferRequest(NamedTuple):
    """A decoded request.

    `inputs` have the names, dtypes and shapes of the card, and equal numbers of rows, which are the
    first axis of each (`ModelCard.rows_first`). `timeout` is in seconds; None means the service's
    default.
    """

    id: str | None
    inputs: Arrays
    outputs: Sequence[RequestedOutput]
    timeout: float | None


class Encoded(NamedTuple):
    """An encoded response: the body, and the length of its JSON if tensors follow."""

    body: Body
    header_length: int | None


def decode(card: ModelCard, body: Body, header_length: bytes | None) -> InferRequest:
    """Decode an inference request.

    Args:
        card: of the model.
        body: of the request, decompressed.
        header_length: the value of `Inference-Header-Content-Length`; None if the header is
            missing, so that the whole body is JSON.

    Raises:
        BadInputError: the request is invalid.
    """
    size = len(body) if header_length is None else _header_size(header_length, len(body))
    if size == 0 and header_length is not None:
        return _raw(card, body)
    content = parse_json(body if size == len(body) else memoryview(body)[:size])
    identity = content.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadInputError("The request's 'id' must be a string.")
    parameters = _parameters(content, "The request")
    inputs = _inputs(card, content.get("inputs"), body, size)
    return InferRequest(
        identity, inputs, _outputs(card, content.get("outputs"), parameters), _timeout(parameters)
    )


def is_large(card: ModelCard, body: Body, header_length: bytes | None) -> bool:
    """Return whether the JSON or the texts of a request take too long for the event loop.

    Raises:
        BadInputError: the length of the header is not valid.
    """
    if len(body) <= MANY_VALUES:
        return False
    size = len(body) if header_length is None else _header_size(header_length, len(body))
    has_long_texts = len(body) - size > LARGE_TEXT_BYTES and takes_text(card)
    return has_long_texts or is_large_json(body, size)


def decode_large(body: bytearray, card: ModelCard, header_length: bytes | None) -> InferRequest:
    """Decode as `decode` does, in another process."""
    size = len(body) if header_length is None else _header_size(header_length, len(body))
    check_structure(body if size == len(body) else body[:size])
    return decode(card, body, header_length)


def is_bulky(request: InferRequest, outputs: Arrays) -> bool:
    """Return whether the binary tensors of a response take too long to copy on the event loop."""
    size = 0
    for spec, binary, top in request.outputs:
        if binary and not top and spec.datatype != "BYTES":
            size += sum(part.nbytes for part in parts_of(outputs[spec.name]))
    return size > BULKY_BYTES


def is_long(request: InferRequest, outputs: Arrays) -> bool:
    """Return whether the JSON and texts of a response take too long for the event loop."""
    count = 0
    for spec, binary, top in request.outputs:
        if not binary or top or spec.datatype == "BYTES":
            count += elements(outputs[spec.name])
    return count > LARGE_ELEMENTS


def encode_long(card: ModelCard, request: InferRequest, outputs: Arrays) -> Encoded:
    """Encode as `encode` does, in another process."""
    encoded = encode(card, request, outputs)
    return encoded._replace(body=whole(encoded.body))


def encode(card: ModelCard, request: InferRequest, outputs: Arrays) -> Encoded:
    """Encode the response to `request`.

    Args:
        card: of the model.
        request: the decoded request.
        outputs: every output of the card, with the rows first.

    Raises:
        ServiceError: JSON cannot represent the values, or classes of an empty output were
            requested.
    """
    if not card.is_rows_first:
        outputs = card.axes.outputs_of_network(outputs)
    entries: list[dict[str, Any]] = []
    tensors: list[Any] = []  # buffers
    for spec, binary, top in request.outputs:
        array = outputs[spec.name]
        entry: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": array.shape}
        data: Any
        if top:
            shape, data = classified(spec, array, top)
            entry |= {"datatype": "BYTES", "shape": shape}
        else:
            data = array.ravel()
            if spec.datatype == "BYTES":
                data = data.tolist()
        if binary:
            if spec.datatype == "BF16" and not top:
                array = bfloat16.to_bits(array)
            tensor = to_bytes(data) if isinstance(data, list) else _bytes_of(array)
            entry["parameters"] = {"binary_data_size": len(tensor)}
            tensors.append(tensor)
        else:
            entry["data"] = data
        entries.append(entry)
    content: dict[str, Any] = {"model_name": card.name, "model_version": card.version}
    if request.id is not None:
        content["id"] = request.id
    content["outputs"] = entries
    header = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in header:  # orjson writes NaN and infinity as null
        _check_finite(card, request, outputs)
    return Encoded(_joined([header, *tensors]), len(header)) if tensors else Encoded(header, None)


def _bytes_of(array: NDArray[Any]) -> Body | NDArray[np.uint8]:
    """Return the bytes of a tensor; those of a large one are not copied."""
    if array.nbytes <= BULKY_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _joined(parts: Sequence[Any]) -> bytes | bytearray:
    """Return buffers one after the other. During a long copy, other threads run.

    `bytes.join` holds the lock of the interpreter while it copies an array, and `bytearray` while
    it writes zeros.
    """
    sizes = [len(part) for part in parts]
    size = sum(sizes)
    if size <= BULKY_BYTES:
        return b"".join(parts)
    body: bytearray = _uninitialized(None, size)
    target, start = np.frombuffer(body, np.uint8), 0
    for part, length in zip(parts, sizes, strict=True):
        if length:
            target[start : start + length] = np.frombuffer(part, np.uint8)
        start += length
    return body


def _header_size(value: bytes, body_size: int) -> int:
    if not value.isdigit() or len(value) > 20 or int(value) > body_size:
        raise BadInputError(
            "Inference-Header-Content-Length must be a whole number from 0 to the "
            f"{body_size:,} bytes of the body."
        )
    return int(value)


def _raw(card: ModelCard, body: Body) -> InferRequest:
    """Decode a body that is the model's only input; the outputs are returned as binary.

    The body is one row, or the whole batch of a network with a fixed batch.
    """
    spec = card.inputs[0]
    axis, row = spec.batch_axis, spec.row_shape
    if len(card.inputs) != 1 or row.count(-1) > 1:
        raise BadInputError(
            "A request without a JSON header is for models with one input and one variable "
            "dimension beside the rows at most; send one with a header."
        )
    if spec.datatype == "BYTES":
        return _raw_text(card, spec, body)
    rows = card.fixed_batch or 1
    unit_bytes = spec.element_bytes * rows
    for dimension in row:
        unit_bytes *= dimension if dimension != -1 else 1
    variable, rest = divmod(len(body), unit_bytes) if -1 in row else (1, len(body) - unit_bytes)
    if rest or not variable:
        raise BadInputError(
            f"The body has {len(body):,} bytes; "
            f"{'one row' if rows == 1 else f'the {rows} rows'} of {spec.name!r} "
            f"({spec.to_text()}) {'takes' if rows == 1 else 'take'} {unit_bytes:,}."
        )
    sizes = [variable if dimension == -1 else dimension for dimension in row]
    if axis is not None:
        sizes.insert(axis, rows)
    return _raw_request(card, spec, from_bytes(spec, check_shape(spec, sizes), body, 0))


def _raw_text(card: ModelCard, spec: TensorSpec, body: Body) -> InferRequest:
    """Decode a body that is one text, without a length."""
    shape = tuple(abs(size) for size in spec.shape)  # -1 becomes 1
    if math.prod(shape) != 1:
        raise BadInputError(
            "A request without a JSON header is for models with one string in a row; send one with "
            "a header."
        )
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(spec, 1, error) from error
    return _raw_request(card, spec, texts_from_list(spec, shape, [text]))


def _raw_request(card: ModelCard, spec: TensorSpec, array: NDArray[Any]) -> InferRequest:
    outputs = [RequestedOutput(output, binary=True) for output in card.outputs]
    return InferRequest(None, with_rows_first(card, {spec.name: array}), outputs, None)


def _inputs(card: ModelCard, entries: Any, body: Body, start: int) -> dict[str, NDArray[Any]]:
    specs = {spec.name: spec for spec in card.inputs}
    inputs: dict[str, NDArray[Any]] = {}
    booleans = may_hold_booleans(body if start == len(body) else body[:start])
    for tensor in _entries(entries, "inputs"):
        name = tensor.get("name")
        spec = specs.get(name) if isinstance(name, str) else None
        if spec is None:
            raise BadInputError(
                f"The model has no input {short_repr(name)}; it has {_names(specs)}."
            )
        if name in inputs:
            raise BadInputError(f"The input {name!r} is given twice.")
        if tensor.get("datatype") != spec.datatype:
            raise BadInputError(
                f"The input {name!r} has the datatype {short_repr(tensor.get('datatype'))}; "
                f"it is {spec.datatype}."
            )
        shape = check_shape(spec, tensor.get("shape"))
        size = None
        if "parameters" in tensor:
            size = _parameters(tensor, f"The input {name!r}").get("binary_data_size")
        if (size is None) == ("data" not in tensor):
            raise BadInputError(
                f"The input {name!r} needs either 'data' or the parameter 'binary_data_size'."
            )
        if size is None:
            if spec.datatype == "BF16":
                raise BadInputError(
                    "Receiving BF16 data via JSON is not supported. Please use the binary data "
                    f"format for input {name!r}."
                )
            inputs[spec.name] = from_json(spec, shape, tensor["data"], booleans=booleans)
            continue
        if spec.datatype == "BYTES":
            inputs[spec.name] = texts_from_bytes(spec, shape, _part(spec, body, start, size))
            start += size
            continue
        array = from_bytes(spec, shape, body, start)
        expected = array.size * spec.element_bytes
        if type(size) is not int or size != expected:
            raise BadInputError(
                f"The input {name!r} has the binary_data_size {short_repr(size)}; "
                f"its shape and datatype make {expected:,} bytes."
            )
        inputs[spec.name] = array
        start += size
    if start != len(body):
        raise BadInputError(f"There are {len(body) - start:,} bytes behind the last input.")
    if len(inputs) != len(specs):
        missing = [name for name in specs if name not in inputs]
        raise BadInputError(f"The input {missing[0]!r} is missing.")
    if not card.is_rows_first:
        return with_rows_first(card, inputs)
    if len(inputs) > 1 and len({len(array) for array in inputs.values()}) > 1:
        raise BadInputError("The inputs have different numbers of rows, their first dimension.")
    return inputs


def _part(spec: TensorSpec, body: Body, start: int, size: Any) -> Body:
    """Return the bytes of a tensor of text.

    Raises:
        BadInputError: the size is none.
    """
    if type(size) is not int or not 0 <= size <= len(body) - start:
        raise BadInputError(
            f"The input {spec.name!r} has the binary_data_size {short_repr(size)}; it must be a "
            f"whole number up to the {len(body) - start:,} bytes that are left of the body."
        )
    return body[start : start + size]


def _outputs(
    card: ModelCard, entries: Any, parameters: Mapping[str, Any]
) -> Sequence[RequestedOutput]:
    binary = _flag(parameters, "binary_data_output", "The request", default=False)
    if entries is None or entries == []:
        return [_requested(spec, binary) for spec in card.outputs]
    specs = {spec.name: spec for spec in card.outputs}
    outputs: dict[str, RequestedOutput] = {}
    for output in _entries(entries, "outputs"):
        name = output.get("name")
        spec = specs.get(name) if isinstance(name, str) else None
        if spec is None:
            raise BadInputError(
                f"The model has no output {short_repr(name)}; it has {_names(specs)}."
            )
        if name in outputs:
            raise BadInputError(f"The output {name!r} is asked for twice.")
        output_parameters = _parameters(output, f"The output {name!r}")
        top = output_parameters.get("classification", 0)
        if type(top) is not int or top < 0 or ("classification" in output_parameters and top == 0):
            raise BadInputError(
                f"The parameter 'classification' of the output {name!r} must be a whole number "
                "from 1: how many classes."
            )
        if top and spec.datatype == "BYTES":
            raise BadInputError(
                f"The output {name!r} holds text, which has no classes: ask for it without "
                "'classification'."
            )
        outputs[spec.name] = _requested(
            spec,
            _flag(output_parameters, "binary_data", f"The output {name!r}", default=binary),
            top,
        )
    return list(outputs.values())


def _requested(spec: TensorSpec, binary: bool, top: int = 0) -> RequestedOutput:
    """Return a requested output.

    Raises:
        BadInputError: BF16 is to be written as JSON.
    """
    if spec.datatype == "BF16" and not (binary or top):
        raise BadInputError(
            "Sending BF16 data via JSON is not supported. Please use the binary data format for "
            f"output {spec.name!r}."
        )
    return RequestedOutput(spec, binary, top)


def _entries(entries: Any, field: str) -> list[dict[str, Any]]:
    if isinstance(entries, list):
        for entry in entries:
            if not isinstance(entry, dict):
                break
        else:
            return entries
    raise BadInputError(f"The request's {field!r} must be a list of objects.")


def _parameters(content: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    """Return the parameters of a request or tensor. Unknown parameters are ignored."""
    parameters = content.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadInputError(f"{whose} has 'parameters' that are no object.")
    for name in parameters:
        if name.startswith("triton_"):
            raise BadInputError(
                f"{whose} has the parameter {short_repr(name)}: that prefix is taken."
            )
        if name == "shared_memory_region":
            raise BadInputError(
                f"{whose} names a shared_memory_region: there is none here, so send the data in "
                "the request, and ask for it in the response."
            )
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, whose: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadInputError(f"{whose} has a parameter {name!r} that is neither true nor false.")
    return value


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Return the timeout in seconds, from the microseconds of the extension `schedule_policy`.

    0 means no timeout.
    """
    if not parameters:
        return None
    for name in ("timeout", "priority"):  # all requests have the same priority
        value = parameters.get(name, 0)
        if type(value) is not int or value < 0:
            raise BadInputError(f"The request's {name!r} must be a whole number from 0.")
    return parameters.get("timeout", 0) / 1e6 or None


def _check_finite(card: ModelCard, request: InferRequest, outputs: Arrays) -> None:
    for spec, binary, top in request.outputs:
        is_json = not binary and not top
        if is_json and spec.dtype.kind == "f" and not np.isfinite(outputs[spec.name]).all():
            raise not_finite(card, request.inputs, spec.name)


def _names(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(map(repr, specs))
