"""Messages of the protocol as a client encodes and decodes them, without the service's code."""

import json
import struct
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from models.kinds.tensor_spec import NUMPY_DTYPES, Datatype, TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor

Shape = tuple[int, ...]
Tensors = Mapping[str, tuple[Datatype, Shape]]
property_test = settings(deadline=None, derandomize=True, database=None, max_examples=300)

TensorForm = Literal["flat", "nested", "binary"]

IN_JSON: tuple[Datatype, ...] = tuple(name for name in NUMPY_DTYPES if name not in ("FP16", "BF16"))


def card_of(
    inputs: Tensors,
    outputs: Tensors | None = None,
    labels: tuple[str, ...] | None = None,
) -> ModelCard:
    """Return a card with these tensors; the labels are those of outputs with as many columns."""
    batch = next(iter(inputs.values()))[1][0]
    outputs = outputs or {"y": ("FP32", (batch, 1))}

    def specs(tensors: Tensors, labels: tuple[str, ...] | None) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                name=name,
                datatype=datatype,
                shape=shape,
                meaning="-",
                labels=labels if labels and shape[-1] == len(labels) else None,
            )
            for name, (datatype, shape) in tensors.items()
        )

    def recorded(tensors: Tensors) -> dict[str, RecordedTensor]:
        return {
            name: RecordedTensor.of(
                datatype,
                np.full(
                    [max(size, 1) for size in shape],
                    "" if datatype == "BYTES" else 0,
                    NUMPY_DTYPES[datatype],
                ),
            )
            for name, (datatype, shape) in tensors.items()
        }

    return ModelCard(
        name="tiny",
        version="1",
        summary="-",
        task="regression",
        inputs=specs(inputs, None),
        outputs=specs(outputs, labels),
        example=Example(inputs=recorded(inputs), outputs=recorded(outputs), tolerance=1e-3),
        intended_use="Tests.",
    )


class Message(NamedTuple):
    """A request: its arrays, its JSON, and the raw tensors after the JSON."""

    card: ModelCard
    arrays: Mapping[str, NDArray[Any]]
    content: dict[str, Any]
    tensors: tuple[bytes, ...]

    def wire(self, **changes: Any) -> tuple[bytes, bytes | None]:
        """Return the body and header length, with some of the JSON's fields replaced."""
        header = json.dumps({**self.content, **changes}).encode()
        length = str(len(header)).encode() if self.tensors else None
        return b"".join((header, *self.tensors)), length


def message_of(
    card: ModelCard,
    arrays: Mapping[str, NDArray[Any]],
    forms: Mapping[str, TensorForm],
    **fields: Any,
) -> Message:
    """Return the request that sends each array in its format."""
    inputs, tensors = [], []
    datatypes = {spec.name: spec.datatype for spec in card.inputs}
    for name, array in arrays.items():
        entry = {"name": name, "datatype": datatypes[name], "shape": list(array.shape)}
        if forms[name] == "binary":
            tensors.append(raw_of(array, datatypes[name]))
            entry["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            entry["data"] = (array if forms[name] == "nested" else array.ravel()).tolist()
        inputs.append(entry)
    return Message(card, arrays, {"inputs": inputs, **fields}, tuple(tensors))


def raw_of(array: NDArray[Any], datatype: str = "") -> bytes:
    """Return an array as a binary tensor; `str` or `bytes` as BYTES, the upper half as BF16."""
    if datatype == "BF16":
        return (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if array.dtype != object:
        return array.tobytes()
    texts = (one if isinstance(one, bytes) else one.encode() for one in array.ravel())
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def same_values(array: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether two arrays have equal texts, or numbers with equal bits."""
    if array.dtype == object:
        return bool(array.tolist() == other.tolist())
    return array.tobytes() == other.tobytes()


class Answered(NamedTuple):
    """A decoded response: the JSON, and each output's array, or texts for BYTES."""

    content: dict[str, Any]
    outputs: dict[str, Any]
    binary: set[str]


def read_answer(body: bytes, header_length: int | None) -> Answered:
    """Decode a response completely."""
    content = json.loads(body if header_length is None else body[:header_length])
    rest = b"" if header_length is None else body[header_length:]
    outputs: dict[str, Any] = {}
    binary = set()
    for entry in content["outputs"]:
        name, datatype, shape = entry["name"], entry["datatype"], entry["shape"]
        size = entry.get("parameters", {}).get("binary_data_size")
        assert (size is None) == ("data" in entry)
        if size is not None:
            raw, rest = rest[:size], rest[size:]
            assert len(raw) == size
            binary.add(name)
        if datatype == "BYTES":
            texts = entry["data"] if size is None else _texts(raw)
            outputs[name] = np.array(texts, object).reshape(shape).tolist()
            continue
        dtype = NUMPY_DTYPES[datatype]
        in_binary = np.dtype(ml_dtypes.bfloat16) if datatype == "BF16" else dtype
        array = (
            np.array(entry["data"], dtype)
            if size is None
            else np.frombuffer(raw, in_binary).astype(dtype)
        )
        outputs[name] = array.reshape(shape)
    assert not rest, "there are bytes behind the last output"
    return Answered(content, outputs, binary)


def _texts(raw: bytes) -> list[str]:
    texts = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        texts.append(raw[4:end].decode())
        raw = raw[end:]
    return texts


# Strategies of hypothesis.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
"""Any texts that have a form in UTF-8."""
trailing = st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=3).map(tuple)


@st.composite
def tensors(draw: st.DrawFn, names: str, datatypes: tuple[Datatype, ...]) -> Tensors:
    """Draw one to three tensors."""
    return {
        name: (draw(st.sampled_from(datatypes)), (-1, *draw(trailing)))
        for name in names[: draw(st.integers(1, len(names)))]
    }


@st.composite
def values(draw: st.DrawFn, spec: TensorSpec, rows: int, *, finite: bool) -> NDArray[Any]:
    """Draw an array that the tensor accepts."""
    shape = (rows, *(size if size != -1 else draw(st.integers(1, 3)) for size in spec.shape[1:]))
    limits = {"allow_nan": False, "allow_infinity": False} if finite else {}
    elements: st.SearchStrategy[Any] = (
        TEXTS
        if spec.datatype == "BYTES"
        else arrays_of.from_dtype(spec.dtype, **(limits if spec.dtype.kind == "f" else {}))
    )
    fill = st.nothing() if spec.datatype == "BYTES" else None
    array: NDArray[Any] = draw(arrays_of.arrays(spec.dtype, shape, elements=elements, fill=fill))
    if spec.datatype == "BF16":
        array = array.astype(ml_dtypes.bfloat16).astype(np.float32)
    return array


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Draw a valid request: one to three inputs, each in its own format."""
    card = card_of(draw(tensors("abc", tuple(NUMPY_DTYPES))), draw(tensors("uvw", IN_JSON)))
    rows = draw(st.integers(0, 3))
    forms: dict[str, TensorForm] = {}
    arrays = {}
    for spec in draw(st.permutations(card.inputs)):
        can: tuple[TensorForm, ...] = ("flat", "nested", "binary")
        form = "binary" if spec.datatype in ("FP16", "BF16") else draw(st.sampled_from(can))
        forms[spec.name] = form
        arrays[spec.name] = draw(values(spec, rows, finite=form != "binary"))
    identity = draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
    fields = {} if identity is None else {"id": identity}
    return message_of(card, arrays, forms, **fields)
