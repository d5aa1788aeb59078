"""The protocol's metadata of the server and of models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gated import Gated
from infer_messages import card_of
from tiny import write_tiny

from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from service.api.v2.metadata import (
    model_configuration,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from service.inference.placement import Placement
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.settings import VERSION, Settings

CARD = card_of({"x": ("FP32", (-1, 1))}, {"y": ("FP32", (-1, 1)), "s": ("INT64", (-1,))})
FIXED = card_of({"x": ("FP32", (4, 1))}, {"y": ("FP32", (4, 1))})


async def metadata_of(
    function: Callable[[Predictor], Any],
    card: ModelCard = CARD,
    device: str = "cpu",
    **settings: Any,
) -> Any:
    """Return the result of `function` for a model with this card on this device."""
    runtime = Gated()
    runtime.gate.set()
    runtime.device = device
    package = ModelPackage(Path("tiny/1"), card)
    predictor = Predictor(package, Placement(runtime, {}), Settings(**settings))
    try:
        return function(predictor)
    finally:
        await predictor.close()


async def test_the_configuration_has_the_largest_sizes() -> None:
    card = card_of({"x": ("FP32", (-1, -1, 2)), "n": ("INT64", (-1,))})
    x = replace(card.inputs[0], max_shape=(-1, 512, 2))
    limited = card.model_copy(update={"inputs": (x, card.inputs[1])})
    metadata = await metadata_of(model_configuration, limited)
    assert metadata["parameters"] == {"max_dims.x": {"string_value": "512,2"}}
    unbatched = limited.model_copy(update={"batching": "none"})
    metadata = await metadata_of(model_configuration, unbatched)
    assert metadata["parameters"]["batching"] == {"string_value": "none"}
    assert "parameters" not in await metadata_of(model_configuration, card)


def test_the_server_names_its_version_and_extensions() -> None:
    text = server_metadata()
    assert (text["name"], text["version"]) == ("fitserve", VERSION)
    assert set(text["extensions"]) == {
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "parameters",
        "schedule_policy",
        "statistics",
    }


async def test_the_first_dimension_of_shapes_is_the_batch() -> None:
    assert await metadata_of(model_metadata) == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": (-1, 1)}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": (-1, 1)},
            {"name": "s", "datatype": "INT64", "shape": (-1,)},
        ],
    }


async def test_a_configuration_excludes_the_batch_from_dims_and_has_limits_in_microseconds() -> (
    None
):
    text = await metadata_of(
        model_configuration, max_batch_rows=8, max_queue_delay_seconds=0.002, timeout_seconds=1.5
    )
    assert text["max_batch_size"] == 8
    assert text["input"] == [
        {
            "name": "x",
            "data_type": "TYPE_FP32",
            "dims": (1,),
            "format": "FORMAT_NONE",
            "optional": False,
        }
    ]
    assert text["output"] == [
        {"name": "y", "data_type": "TYPE_FP32", "dims": (1,), "label_filename": ""},
        {"name": "s", "data_type": "TYPE_INT64", "dims": (), "label_filename": ""},
    ]
    assert (text["platform"], text["backend"]) == ("onnxruntime_onnx", "onnxruntime")
    assert text["default_model_filename"] == "model.onnx"
    assert text["instance_group"] == [{"name": "tiny", "count": 1, "kind": "KIND_CPU", "gpus": []}]
    assert text["dynamic_batching"]["max_queue_delay_microseconds"] == 2000
    policy = text["dynamic_batching"]["default_queue_policy"]
    assert policy["default_timeout_microseconds"] == 1_500_000


async def test_a_graph_with_a_fixed_batch_has_whole_shapes_and_no_batching() -> None:
    text = await metadata_of(model_configuration, FIXED)
    assert text["max_batch_size"] == 0
    assert text["input"][0]["dims"] == text["output"][0]["dims"] == (4, 1)
    assert "dynamic_batching" not in text


async def test_a_configuration_names_the_outputs_with_labels() -> None:
    card = card_of(
        {"x": ("FP32", (-1, 1))}, {"p": ("FP32", (-1, 2)), "y": ("FP32", (-1, 1))}, ("a", "b")
    )
    text = await metadata_of(model_configuration, card)
    assert [entry["label_filename"] for entry in text["output"]] == ["p_labels.txt", ""]


@pytest.mark.parametrize(("device", "gpu"), [("cuda:0", 0), ("cuda:3", 3)])
async def test_the_configuration_names_the_gpu(device: str, gpu: int) -> None:
    (instance,) = (await metadata_of(model_configuration, device=device))["instance_group"]
    assert (instance["kind"], instance["gpus"]) == ("KIND_GPU", [gpu])


async def test_the_index_has_ready_and_unavailable_models_with_the_reason(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line", version="7", runtimes=("onnx",))
    (write_tiny(tmp_path, "broken", runtimes=("onnx",)).path / "model.onnx").write_bytes(b"")
    registry = ModelRegistry(Settings(model_repository=tmp_path, device="cpu", max_batch_rows=4))
    await registry.open()
    try:
        index = repository_index(registry)
        assert repository_index(registry, ready_only=True) == index[:1]
    finally:
        await registry.close()
    ready, refused = sorted(index, key=lambda entry: entry["state"])
    assert ready == {"name": "line", "version": "7", "state": "READY", "reason": ""}
    assert (refused["name"], refused["state"]) == ("broken", "UNAVAILABLE")
    assert "model.onnx" in refused["reason"]


async def test_the_statistics_are_those_of_the_given_models() -> None:
    def function(predictor: Predictor) -> Any:
        predictor.statistics.failed(1.0)
        return model_statistics(predictor, predictor)

    text = (await metadata_of(function))["model_stats"]
    assert [entry["name"] for entry in text] == ["tiny", "tiny"]
    assert text[0]["inference_stats"]["fail"] == {"count": 1, "ns": 10**9}
