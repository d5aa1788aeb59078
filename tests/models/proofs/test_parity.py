"""The parity check passes for files that equal the network, and fails for all others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_packages import Kit, property_test

from models.package.card import ParityRecord
from models.package.repository import ModelRepository
from models.proofs.parity import BATCH_SIZES, ParityError, check_parity
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import Arrays

Network = Callable[[Arrays], dict[str, NDArray[Any]]]
ROWS = 100
WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
SAMPLES = {"point": np.random.default_rng(4).normal(size=(ROWS, 4)).astype(np.float32)}


def classifier(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Return a softmax. Each row is computed alone, so that batches change no bit."""
    logits = np.stack([(row[:, None] * WEIGHTS).sum(axis=0) for row in inputs["point"]])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {"probabilities": odds / odds.sum(axis=1, keepdims=True)}


def regressor(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Return one value in the hundreds for each row."""
    return {"y": 300 + 100 * (inputs["point"] * WEIGHTS[:, 0]).sum(axis=1, keepdims=True)}


def _check(
    candidate: Network,
    *,
    reference: Network = classifier,
    samples: Arrays = SAMPLES,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ParityRecord:
    return check_parity(
        reference,
        candidate,
        samples,
        runtime="onnx",
        classification=reference is classifier,
        batch_sizes=batch_sizes,
    )


def changed(
    network: Network, change: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
) -> Network:
    """Return the network with a change of its only output, which may depend on the inputs."""

    def compute(inputs: Arrays) -> dict[str, NDArray[Any]]:
        ((name, answer),) = network(inputs).items()
        return {name: change(answer.copy(), inputs["point"])}

    return compute


def at_sample(index: int, difference: float) -> Callable[..., NDArray[Any]]:
    """Return a change that adds `difference` to the last output of one sample, in any batch."""

    def change(output: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
        output[(points == SAMPLES["point"][index]).all(axis=1), -1] += np.float32(difference)
        return output

    return change


@pytest.mark.parametrize("reference", [classifier, regressor])
def test_equal_outputs_pass_with_a_difference_of_zero(reference: Network) -> None:
    record = _check(reference, reference=reference)
    assert (record.runtime, record.samples, record.batch_sizes) == ("onnx", ROWS, (1, 7, 64))
    assert record.largest_absolute_difference == 0
    assert record.largest_relative_difference == 0
    assert record.equal_answers == 1
    assert record.tolerance == ("1e-05 absolute" if reference is classifier else "0.0001 relative")


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
@pytest.mark.parametrize("name", ["blot", "bend"])
def test_the_exported_files_of_a_real_network_pass(
    name: str, runtime: Any, kits: Mapping[str, Kit], repository: ModelRepository
) -> None:
    kit = kits[name]
    record = check_parity(
        kit.eager,
        open_runtime(repository.get(name), runtime),
        kit.rows(150),
        runtime=runtime,
        classification=name == "blot",
    )
    assert (record.runtime, record.samples, record.equal_answers) == (runtime, 150, 1)
    assert record.largest_absolute_difference < 1e-5


def test_the_record_has_the_largest_difference_of_all_samples_and_batch_sizes() -> None:
    def change(output: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
        output = at_sample(17, 4e-6)(output, points)
        if len(points) == 7:
            output = at_sample(5, -8e-6)(output, points)
        return output

    record = _check(changed(classifier, change))
    assert record.largest_absolute_difference == pytest.approx(8e-6, abs=1e-7)
    largest = next(iter(classifier(SAMPLES).values())).max()
    relative = pytest.approx(record.largest_absolute_difference / largest)
    assert record.largest_relative_difference == relative


def test_the_difference_of_a_regression_is_relative_to_the_row_or_column() -> None:
    values = np.abs(regressor(SAMPLES)["y"][:, 0]).astype(np.float64)
    value = max(values[42], np.sort(values)[ROWS // 2])
    assert value > 100
    record = _check(changed(regressor, at_sample(42, 0.01)), reference=regressor)
    assert record.largest_absolute_difference == pytest.approx(0.01, rel=0.01)
    assert record.largest_relative_difference == pytest.approx(0.01 / value, rel=0.01)


@pytest.mark.parametrize("index", [0, 42, ROWS - 1])
@pytest.mark.parametrize(
    ("reference", "name", "difference", "said"),
    [
        (classifier, "probabilities", 1.2e-5, r"1\.\d+e-05, more than 1e-05"),
        (classifier, "probabilities", -1.2e-5, r"1\.\d+e-05, more than 1e-05"),
        (classifier, "probabilities", 0.25, r"0\.25, more than 1e-05"),
        (classifier, "probabilities", float("nan"), "inf, more than 1e-05"),
        (classifier, "probabilities", float("inf"), "inf, more than 1e-05"),
        (regressor, "y", 0.5, r"0\.0\d+, more than 0\.0001"),
        (regressor, "y", float("nan"), r"inf, more than 0\.0001"),
        (regressor, "y", float("-inf"), r"inf, more than 0\.0001"),
    ],
)
def test_one_sample_above_the_tolerance_fails_and_is_named(
    reference: Network, name: str, difference: float, said: str, index: int
) -> None:
    with pytest.raises(
        ParityError,
        match=rf"^onnx, batch size 1, output {name}: sample {index} differs by {said}$",
    ):
        _check(changed(reference, at_sample(index, difference)), reference=reference)


def test_a_difference_at_one_batch_size_fails_and_names_the_size() -> None:
    def change(output: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
        return at_sample(70, 0.5)(output, points) if len(points) == 36 else output

    with pytest.raises(ParityError, match=r"batch size 64, .*: sample 70 differs by 0\.5"):
        _check(changed(classifier, change))


def test_another_class_fails_even_within_the_tolerance() -> None:
    """The two probabilities are 2e-6 apart, and the candidate swaps them."""
    tie = np.array([[0.5 + 1e-6, 0.5 - 1e-6]], np.float32)
    sure = np.array([[0.9, 0.1]], np.float32)
    samples = {"point": np.arange(10, dtype=np.float32)[:, None]}

    def network(inputs: Arrays, turned: bool = False) -> dict[str, NDArray[Any]]:
        tied = inputs["point"] == 6
        return {"probabilities": np.where(tied, tie[:, ::-1] if turned else tie, sure)}

    def proof(candidate: Network) -> ParityRecord:
        return check_parity(network, candidate, samples, runtime="torchscript", classification=True)

    assert proof(network).equal_answers == 1
    with pytest.raises(ParityError, match=r"^torchscript, batch size 1, .*: sample 6 has another"):
        proof(lambda inputs: network(inputs, turned=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a, _: a.astype(np.float64), r"float64 \[100, 3\] where .* gives float32 \[100"),
        (lambda a, _: a[:, :2], r"float32 \[100, 2\] where the network gives float32 \[100, 3\]"),
        (lambda a, _: a[..., None], r"float32 \[100, 3, 1\]"),
        (lambda a, _: a[:, 0], r"float32 \[100\]"),
        (lambda a, _: np.concatenate([a, a]), r"float32 \[200, 3\]"),
    ],
)  # fmt: skip
def test_another_shape_or_dtype_fails(change: Callable[..., NDArray[Any]], said: str) -> None:
    with pytest.raises(ParityError, match=rf"^onnx, batch size 1, output probabilities: {said}"):
        _check(changed(classifier, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda output, _: output + 0.1 * (output - output.mean(axis=0)),
        lambda output, points: output * (1 + len(points) / 1000),
        lambda output, _: output / output.max(axis=0),
    ],
    ids=["the batch's mean", "the batch's size", "the batch's maximum"],
)
@pytest.mark.parametrize("reference", [classifier, regressor])
def test_rows_that_depend_on_each_other_fail(
    change: Callable[..., NDArray[Any]], reference: Network
) -> None:
    """The candidate computes single rows like the network; only larger batches differ."""

    def alone_it_is_right(output: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
        return output if len(points) == 1 else change(output, points).astype(np.float32)

    candidate = changed(reference, alone_it_is_right)
    _check(candidate, reference=reference, batch_sizes=(1,))
    with pytest.raises(ParityError, match=r"^onnx, batch size 7, output \w+: sample \d+ differs"):
        _check(candidate, reference=reference)


@pytest.mark.parametrize("size", [2, 7, 64])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda output: output[:-1], "where the network gives"),
        (lambda output: output[::-1], "differs by"),
        (lambda output: np.roll(output, 1, axis=0), "differs by"),
        (lambda output: np.repeat(output[:1], len(output), axis=0), "differs by"),
    ],
    ids=["drops the last", "turns them round", "shifts them", "repeats the first"],
)
def test_a_candidate_that_drops_or_reorders_rows_fails(
    change: Callable[[NDArray[Any]], NDArray[Any]], said: str, size: int
) -> None:
    candidate = changed(classifier, lambda a, _: change(a) if len(a) > 1 else a)
    _check(candidate, batch_sizes=(1,))
    with pytest.raises(ParityError, match=rf"^onnx, batch size {size}, .*{said}"):
        _check(candidate, batch_sizes=(size,))


def test_every_row_is_computed_once_at_each_batch_size() -> None:
    calls: list[NDArray[Any]] = []

    def watch(inputs: Arrays) -> dict[str, NDArray[Any]]:
        calls.append(inputs["point"])
        return classifier(inputs)

    _check(watch)
    assert [len(batch) for batch in calls] == [1] * 100 + [7] * 14 + [2] + [64, 36]
    np.testing.assert_array_equal(np.concatenate(calls), np.tile(SAMPLES["point"], (3, 1)))


@pytest.mark.slow
@property_test
@given(
    st.integers(0, ROWS - 1),
    st.floats(-1, 1, width=32),
    st.booleans(),
    st.lists(st.integers(1, 2 * ROWS), min_size=1, max_size=3),
)
def test_the_check_passes_exactly_if_the_difference_is_within_the_tolerance(
    index: int, size: float, classes: bool, batch_sizes: list[int]
) -> None:
    """One output of one sample differs by -2 to 2 tolerances, in batches of any size."""
    reference, tolerance = (classifier, 1e-5) if classes else (regressor, 1e-4)
    expected = next(iter(reference(SAMPLES).values())).astype(np.float64)
    magnitude = np.abs(expected)
    usual = np.sort(magnitude[:, 0])[ROWS // 2]
    scale = magnitude.max() if classes else max(usual, magnitude[index, 0])
    candidate = changed(reference, at_sample(index, 2 * size * tolerance * scale))
    actual = next(iter(candidate(SAMPLES).values()))
    difference = float(np.abs(actual - expected).max())
    # So close to the tolerance, the difference may be rounded up or down.
    assume(abs(difference / scale - tolerance) > 1e-3 * tolerance)
    if difference / scale > tolerance:
        with pytest.raises(ParityError, match=f"sample {index} differs"):
            _check(candidate, reference=reference, batch_sizes=batch_sizes)
    elif not classes or (actual.argmax(axis=1) == expected.argmax(axis=1)).all():
        record = _check(candidate, reference=reference, batch_sizes=batch_sizes)
        assert record.largest_absolute_difference == pytest.approx(difference, rel=1e-6)
        assert record.largest_relative_difference <= tolerance
        assert record.batch_sizes == tuple(batch_sizes)


@pytest.mark.parametrize("classification", [True, False])
def test_whole_numbers_must_be_equal_however_small_the_difference(classification: bool) -> None:
    """A difference of 1 in a million is within the relative tolerance, but means another class."""

    def label(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return {"label": 1_000_000 + (inputs["point"][:, 0] > 0)}

    def late(inputs: Arrays) -> dict[str, NDArray[Any]]:
        last = (inputs["point"] == SAMPLES["point"][-1]).all(axis=1)
        return {"label": label(inputs)["label"] + last}

    record = check_parity(label, label, SAMPLES, runtime="onnx", classification=classification)
    assert (record.samples, record.largest_absolute_difference) == (ROWS, 0)
    with pytest.raises(ParityError, match=f"output label: sample {ROWS - 1} has another whole"):
        check_parity(label, late, SAMPLES, runtime="onnx", classification=classification)


def test_a_reference_with_a_fixed_batch_computes_only_that_batch() -> None:
    sizes = set()

    def centred(inputs: Arrays) -> dict[str, NDArray[Any]]:
        sizes.add(len(inputs["point"]))
        return {"y": inputs["point"] - inputs["point"].mean(axis=0)}

    record = check_parity(
        centred, centred, SAMPLES,
        runtime="onnx", classification=False, batch_sizes=(5,), reference_batch=5,
    )  # fmt: skip
    assert (sizes, record.batch_sizes) == ({5}, (5,))
    with pytest.raises(ParityError):
        check_parity(
            centred, centred, SAMPLES, runtime="onnx", classification=False, batch_sizes=(5,)
        )
