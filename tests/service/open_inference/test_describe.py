"""What the protocol says of the server and of a model."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gated import Gated
from infer_messages import card_of
from tiny import write_tiny

from models.card import ModelCard
from models.package import ModelPackage
from service.catalog import Catalog
from service.open_inference import describe
from service.placement import Placement
from service.predictor import Predictor
from service.settings import VERSION, Settings

CARD = card_of({"x": ("FP32", (-1, 1))}, {"y": ("FP32", (-1, 1)), "s": ("INT64", (-1,))})
FIXED = card_of({"x": ("FP32", (4, 1))}, {"y": ("FP32", (4, 1))})


def told(
    say: Callable[[Predictor], Any], card: ModelCard = CARD, device: str = "cpu", **settings: Any
) -> Any:
    """What is said of a model with this card on this device."""

    async def run() -> Any:
        runtime = Gated()
        runtime.gate.set()
        runtime.device = device
        package = ModelPackage(Path("tiny/1"), card)
        predictor = Predictor(package, Placement(runtime, {}), Settings(**settings))
        try:
            return say(predictor)
        finally:
            await predictor.close()

    return asyncio.run(run())


def test_the_server_names_its_version_and_the_extensions_that_it_speaks() -> None:
    said = describe.server()
    assert (said["name"], said["version"]) == ("fitserve", VERSION)
    assert set(said["extensions"]) == {
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "parameters",
        "schedule_policy",
        "statistics",
    }


def test_a_model_s_shapes_have_the_batch_first() -> None:
    assert told(describe.metadata) == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": (-1, 1)}],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": (-1, 1)},
            {"name": "s", "datatype": "INT64", "shape": (-1,)},
        ],
    }


def test_a_configuration_has_the_batch_apart_and_the_limits_in_microseconds() -> None:
    said = told(
        describe.configuration, max_batch_rows=8, max_delay_seconds=0.002, timeout_seconds=1.5
    )
    assert said["max_batch_size"] == 8
    assert said["input"] == [
        {
            "name": "x",
            "data_type": "TYPE_FP32",
            "dims": (1,),
            "format": "FORMAT_NONE",
            "optional": False,
        }
    ]
    assert said["output"] == [
        {"name": "y", "data_type": "TYPE_FP32", "dims": (1,), "label_filename": ""},
        {"name": "s", "data_type": "TYPE_INT64", "dims": (), "label_filename": ""},
    ]
    assert (said["platform"], said["backend"]) == ("onnxruntime_onnx", "onnxruntime")
    assert said["default_model_filename"] == "model.onnx"
    assert said["instance_group"] == [{"name": "tiny", "count": 1, "kind": "KIND_CPU", "gpus": []}]
    assert said["dynamic_batching"]["max_queue_delay_microseconds"] == 2000
    policy = said["dynamic_batching"]["default_queue_policy"]
    assert policy["default_timeout_microseconds"] == 1_500_000


def test_a_graph_that_is_fixed_to_one_batch_has_whole_shapes_and_no_batching() -> None:
    said = told(describe.configuration, FIXED)
    assert said["max_batch_size"] == 0
    assert said["input"][0]["dims"] == said["output"][0]["dims"] == (4, 1)
    assert "dynamic_batching" not in said


def test_a_configuration_says_which_outputs_have_labels() -> None:
    card = card_of(
        {"x": ("FP32", (-1, 1))}, {"p": ("FP32", (-1, 2)), "y": ("FP32", (-1, 1))}, ("a", "b")
    )
    said = told(describe.configuration, card)
    assert [entry["label_filename"] for entry in said["output"]] == ["p_labels.txt", ""]


@pytest.mark.parametrize(("device", "gpu"), [("cuda:0", 0), ("cuda:3", 3)])
def test_a_model_on_a_gpu_says_on_which(device: str, gpu: int) -> None:
    (instance,) = told(describe.configuration, device=device)["instance_group"]
    assert (instance["kind"], instance["gpus"]) == ("KIND_GPU", [gpu])


def test_the_index_has_the_ready_and_the_refused_with_the_reason(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line", version="7", runtimes=("onnx",))
    (write_tiny(tmp_path, "broken", runtimes=("onnx",)).path / "model.onnx").write_bytes(b"")

    async def run() -> list[dict[str, str]]:
        catalog = Catalog(Settings(model_repository=tmp_path, device="cpu", max_batch_rows=4))
        await catalog.open()
        try:
            assert describe.index(catalog, ready_only=True) == describe.index(catalog)[:1]
            return describe.index(catalog)
        finally:
            await catalog.close()

    ready, refused = sorted(asyncio.run(run()), key=lambda entry: entry["state"])
    assert ready == {"name": "line", "version": "7", "state": "READY", "reason": ""}
    assert (refused["name"], refused["state"]) == ("broken", "UNAVAILABLE")
    assert "model.onnx" in refused["reason"]


def test_the_statistics_are_those_of_the_models_that_are_named() -> None:
    def say(predictor: Predictor) -> Any:
        predictor.statistics.failed(1.0)
        return describe.statistics(predictor, predictor)

    said = told(say)["model_stats"]
    assert [entry["name"] for entry in said] == ["tiny", "tiny"]
    assert said[0]["inference_stats"]["fail"] == {"count": 1, "ns": 10**9}
