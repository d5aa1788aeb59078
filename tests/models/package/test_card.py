"""Cards survive writing and reading, and refuse unknown fields and invalid values."""

import json
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from typing import Any, get_args

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from small_packages import CardJson, Kit, property_test

from models.kinds.tensor_spec import NUMPY_DTYPES, Datatype, TensorSpec
from models.package.card import (
    ClassReport,
    DataRecord,
    Evaluation,
    Example,
    FileRecord,
    FitRecord,
    ModelCard,
    ParityRecord,
    RecordedTensor,
    SeedFigures,
    Splits,
)

DATATYPES: tuple[Datatype, ...] = get_args(Datatype)
PYTHON_TYPES = {"b": bool, "u": int, "i": int, "f": float, "O": str}

texts = st.text(max_size=20)
counts = st.integers(0, 10**9)
finite = st.floats(allow_nan=False, allow_infinity=False)
settings_names = st.sampled_from(["default", "tutorial"])


def tuples(values: st.SearchStrategy[Any], **sizes: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, **({"max_size": 3} | sizes)).map(tuple)


def arrays(datatype: Datatype, **sides: int) -> st.SearchStrategy[NDArray[Any]]:
    dtype = NUMPY_DTYPES[datatype]
    options = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    shapes = hnp.array_shapes(**({"max_dims": 3, "min_side": 0, "max_side": 3} | sides))
    elements = texts if datatype == "BYTES" else hnp.from_dtype(dtype, **options)
    return hnp.arrays(dtype, shapes, elements=elements, fill=st.nothing())


@st.composite
def tensors(
    draw: st.DrawFn,
) -> tuple[tuple[TensorSpec, ...], dict[str, RecordedTensor]]:
    """Generate one to three inputs or outputs, with a fitting part of an example."""
    specs, recorded = [], {}
    for name in draw(st.lists(texts, min_size=1, max_size=3, unique=True)):
        datatype = draw(st.sampled_from(DATATYPES))
        array = draw(arrays(datatype, min_side=1))
        shape = (-1, *array.shape[1:])
        labels = tuples(texts, min_size=shape[-1], max_size=shape[-1]) if shape[1:] else st.none()
        specs.append(
            TensorSpec(
                name=name,
                datatype=datatype,
                shape=shape,
                meaning=draw(texts),
                minimum=draw(st.none() | finite),
                maximum=draw(st.none() | finite),
                labels=draw(st.none() | labels),
            )
        )
        recorded[name] = RecordedTensor.of(datatype, array)
    return tuple(specs), recorded


files = st.builds(
    FileRecord, sha256=st.text("0123456789abcdef", min_size=64, max_size=64), bytes=counts
)
fits = st.builds(
    FitRecord,
    recipe=texts,
    setting=settings_names,
    network=texts,
    parameter_count=counts,
    hyperparameters=st.dictionaries(
        texts,
        st.none() | st.booleans() | st.integers() | finite | texts | tuples(st.integers()),
        max_size=6,
    ),
    seed=counts,
    data=st.builds(
        DataRecord,
        name=texts,
        summary=texts,
        sha256=texts,
        splits=st.builds(Splits, train=counts, validation=counts, test=counts),
    ),
    libraries=st.dictionaries(texts, texts, max_size=3),
    device=texts,
    epochs=counts,
    kept_epoch=counts,
    seconds=finite,
    run_ids=st.dictionaries(texts, texts, max_size=2),
)
evaluations = st.builds(
    Evaluation,
    data=texts,
    split=texts,
    samples=counts,
    metrics=st.dictionaries(texts, finite, max_size=3),
    classes=tuples(
        st.builds(
            ClassReport, label=texts, precision=finite, recall=finite, f1=finite, samples=counts
        )
    ),
    confusion=tuples(tuples(counts)),
)
seed_figures = st.builds(
    SeedFigures,
    setting=settings_names,
    metric=texts,
    seeds=tuples(counts),
    values=tuples(finite),
    mean=finite,
    standard_deviation=finite,
    samples=counts,
)
parities = st.builds(
    ParityRecord,
    runtime=st.sampled_from(["onnx", "torchscript"]),
    samples=counts,
    batch_sizes=tuples(counts),
    largest_absolute_difference=finite,
    largest_relative_difference=finite,
    equal_answers=st.floats(0, 1),
    tolerance=texts,
)


@st.composite
def cards(draw: st.DrawFn) -> ModelCard:
    (inputs, given_in), (outputs, given_out) = draw(tensors()), draw(tensors())
    return ModelCard(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", fullmatch=True)),
        version=draw(st.from_regex(r"[1-9][0-9]{0,8}", fullmatch=True)),
        summary=draw(texts),
        task=draw(st.sampled_from(["classification", "regression"])),
        inputs=inputs,
        outputs=outputs,
        fit=draw(st.none() | fits),
        evaluations=draw(tuples(evaluations)),
        seeds=draw(tuples(seed_figures)),
        parity=draw(tuples(parities)),
        example=Example(
            inputs=given_in,
            outputs=given_out,
            tolerance=draw(st.floats(0, exclude_min=True, allow_infinity=False)),
        ),
        intended_use=draw(texts),
        limits=draw(tuples(texts)),
        files=draw(
            st.dictionaries(
                st.from_regex(r"[\w-][\w.-]{0,9}(/[\w-][\w.-]{0,9})?", fullmatch=True).filter(
                    str.isascii
                ),
                files,
                max_size=3,
            )
        ),
    )


@pytest.mark.slow
@property_test
@given(cards())
def test_a_card_survives_writing_and_reading(card: ModelCard) -> None:
    text = card.model_dump_json()
    for read in (
        ModelCard.model_validate(json.loads(text)),
        ModelCard.model_validate_json(text),
    ):
        assert read == card
        assert read.model_dump_json() == text  # 1, 1.0 and true are equal in Python, not in JSON


@pytest.mark.slow
@property_test
@given(cards())
def test_a_card_is_standard_json(card: ModelCard) -> None:
    """It has no NaN and no Infinity, which only Python's parser accepts."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(card.model_dump_json(), parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_recorded_tensor_of_any_datatype_survives_json(datatype: Datatype) -> None:
    @property_test
    @given(arrays(datatype, min_dims=0))
    def check(array: NDArray[Any]) -> None:
        text = RecordedTensor.of(datatype, array).model_dump_json()
        recorded = RecordedTensor.model_validate(json.loads(text))
        assert {type(value) for value in recorded.data} <= {PYTHON_TYPES[array.dtype.kind]}
        read = recorded.array()
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        if datatype == "BYTES":
            assert read.tolist() == array.tolist()
            return
        assert read.tobytes() == array.tobytes()  # all bits, including the sign of zero

    check()


@pytest.mark.parametrize(
    ("datatype", "data"), [("BYTES", (1,)), ("BYTES", ("a", True)), ("FP32", ("1",))]
)
def test_a_recorded_tensor_holds_texts_or_numbers(datatype: Datatype, data: Any) -> None:
    with pytest.raises(ValidationError, match=f"{datatype} holds (texts|numbers) alone"):
        RecordedTensor(datatype=datatype, shape=(len(data),), data=data)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT64", [2**64 - 1, 0, 2**63]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP32", [np.float32(0.1), np.float32(-0.0), np.finfo(np.float32).smallest_subnormal]),
        ("FP16", [65504, 6e-8]),
        ("BOOL", [True, False]),
    ],
)
def test_the_extreme_values_of_a_datatype_are_recorded_exactly(
    datatype: Datatype, values: list[Any]
) -> None:
    array = np.array(values, NUMPY_DTYPES[datatype])
    read = RecordedTensor.model_validate_json(
        RecordedTensor.of(datatype, array).model_dump_json()
    ).array()
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((2, 2), (1, 2, 3)),
        ((2,), ()),
        ((), (1, 2)),
        ((-1,), (1, 2)),
        ((2,), (1, 256)),
        ((1,), (-1,)),
        ((1,), (2**70,)),
    ],
)
def test_recorded_values_that_do_not_fit_the_datatype_and_shape_are_refused(
    shape: tuple[int, ...], data: tuple[int, ...]
) -> None:
    with pytest.raises(ValidationError):
        RecordedTensor(datatype="UINT8", shape=shape, data=data)


def _json(kit: Kit) -> CardJson:
    content: CardJson = json.loads(kit.card.model_dump_json())
    content["files"] = {"model.onnx": {"sha256": "0" * 64, "bytes": 1}}
    return content


PLACES: Mapping[str, Callable[[CardJson], CardJson]] = {
    "the card": lambda card: card,
    "an input": lambda card: card["inputs"][0],
    "the fit": lambda card: card["fit"],
    "the data": lambda card: card["fit"]["data"],
    "the splits": lambda card: card["fit"]["data"]["splits"],
    "an evaluation": lambda card: card["evaluations"][0],
    "a class": lambda card: card["evaluations"][0]["classes"][0],
    "the figures of seeds": lambda card: card["seeds"][0],
    "the parity": lambda card: card["parity"][0],
    "the example": lambda card: card["example"],
    "a recorded tensor": lambda card: card["example"]["inputs"]["image"],
    "a file": lambda card: card["files"]["model.onnx"],
}


@pytest.mark.parametrize("place", PLACES)
def test_unknown_fields_are_refused_in_every_part(place: str, kits: Mapping[str, Kit]) -> None:
    content = _json(kits["blot"])
    ModelCard.model_validate(content)
    PLACES[place](content)["surprise"] = 1
    with pytest.raises(ValidationError, match="surprise"):
        ModelCard.model_validate(content)


@pytest.mark.parametrize("place", PLACES)
def test_every_part_of_a_card_is_immutable(place: str, kits: Mapping[str, Kit]) -> None:
    card = ModelCard.model_validate(_json(kits["blot"]))
    parts: dict[str, Callable[[ModelCard], Any]] = {
        "the card": lambda card: card,
        "an input": lambda card: card.inputs[0],
        "the fit": lambda card: card.fit,
        "the data": lambda card: card.fit.data,
        "the splits": lambda card: card.fit.data.splits,
        "an evaluation": lambda card: card.evaluations[0],
        "a class": lambda card: card.evaluations[0].classes[0],
        "the figures of seeds": lambda card: card.seeds[0],
        "the parity": lambda card: card.parity[0],
        "the example": lambda card: card.example,
        "a recorded tensor": lambda card: card.example.inputs["image"],
        "a file": lambda card: card.files["model.onnx"],
    }
    part = parts[place](card)
    fields = type(part).__annotations__
    assert fields
    for field in fields:
        before = getattr(part, field)
        with pytest.raises((ValidationError, FrozenInstanceError), match=r"frozen|cannot assign"):
            setattr(part, field, None)
        assert getattr(part, field) is before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "put",
    [
        lambda card, value: card["evaluations"][0]["metrics"].update(accuracy=value),
        lambda card, value: card["seeds"][0].update(mean=value),
        lambda card, value: card["fit"]["hyperparameters"].update(lr=value),
        lambda card, value: card["example"]["outputs"]["probabilities"]["data"].__setitem__(
            0, value
        ),
        lambda card, value: card["outputs"][0].update(minimum=value),
    ],
)
def test_non_finite_numbers_are_refused_in_every_part(
    put: Callable[[CardJson, float], None], value: float, kits: Mapping[str, Kit]
) -> None:
    content = _json(kits["blot"])
    put(content, value)
    with pytest.raises(ValidationError):
        ModelCard.model_validate(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda card: card["example"]["inputs"].update(more=card["example"]["inputs"]["image"]),
        lambda card: card["example"]["outputs"].clear(),
        lambda card: card["inputs"][0].update(name="picture"),
        lambda card: card["inputs"][0].update(datatype="INT32"),
        lambda card: card["outputs"][0].update(datatype="FP64"),
        lambda card: card["outputs"][0].update(shape=[-1, 10]),
        lambda card: card["outputs"][0].update(shape=[-1]),
        lambda card: card["outputs"][0].update(shape=[5, 3]),
        lambda card: card["outputs"][0].update(shape=[-1, 3, 1]),
    ],
)
def test_an_example_that_does_not_fit_the_inputs_and_outputs_is_refused(
    spoil: Callable[[CardJson], None], kits: Mapping[str, Kit]
) -> None:
    """Only the example checks the datatypes and shapes of a TorchScript file."""
    content = _json(kits["blot"])
    spoil(content)
    with pytest.raises(ValidationError, match="example"):
        ModelCard.model_validate(content)


@pytest.mark.parametrize(
    ("listed", "runtimes"),
    [
        (["model.onnx", "model.pt", "README.md"], ("onnx", "torchscript")),
        (["model.onnx"], ("onnx",)),
        (["model.pt"], ("torchscript",)),
        (["README.md", "report/model.onnx"], ()),
    ],
)
def test_the_runtimes_of_a_card_follow_its_files(
    listed: list[str], runtimes: tuple[str, ...], kits: Mapping[str, Kit]
) -> None:
    content = _json(kits["bend"])
    content["files"] = {name: {"sha256": "0" * 64, "bytes": 1} for name in listed}
    assert ModelCard.model_validate(content).runtimes == runtimes


def test_the_number_of_labels_must_equal_the_last_dimension(kits: Mapping[str, Kit]) -> None:
    content = json.loads(kits["blot"].card.model_dump_json())
    content["outputs"][0]["labels"] = ["dot", "bar"]
    with pytest.raises(ValidationError, match="probabilities has 2 labels; its last dimension is"):
        ModelCard.model_validate(content)


def test_all_inputs_and_outputs_must_have_the_same_batch(kits: Mapping[str, Kit]) -> None:
    content = json.loads(kits["bend"].card.model_dump_json())
    assert ModelCard.model_validate(content).fixed_batch is None
    content["inputs"][0]["shape"][0] = 2
    with pytest.raises(ValidationError, match="2 of x, -1 of y; the batch must be one for all"):
        ModelCard.model_validate(content)
    content["outputs"][0]["shape"][0] = 2
    assert ModelCard.model_validate(content).fixed_batch == 2
