"""Networks of timm and torchvision: by name with weights in a file, and from Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

import fitserve
from fitserve.transforms import sample_pictures, transform_of
from models.__main__ import main
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime

Add = Callable[..., str]
NAME = "test_resnet"
"""The smallest convolutional network of timm."""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Add:
    """A function that adds a source as the package `net`, and returns what was printed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def command(*arguments: str, fails: bool = False) -> str:
        code = main(["add", "net", *arguments, "--repository", str(tmp_path / "packages")])
        shown = capfd.readouterr()
        assert (code == 1) == fails, shown.err
        return shown.err if fails else shown.out

    return command


def answers(folder: Path, image: Image.Image) -> Any:
    """Return what the package answers to a picture."""
    package = ModelRepository(folder).get("net")
    (spec,) = package.card.inputs
    assert spec.picture is not None
    (output,) = open_runtime(package, "onnx")(
        {"image": spec.picture.pixels(image, spec.shape[1:])[None]}
    ).values()
    return output


def expected(network: Any, transform: Any, image: Image.Image) -> Any:
    with torch.inference_mode():
        return network.eval()(transform(image)[None]).numpy()


def test_a_network_of_timm_is_added_with_weights_of_other_classes(add: Add, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model(NAME, num_classes=3)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    add(f"timm:{NAME}", "--weights", str(tmp_path / "net.safetensors"), "--label", "a", "b", "c")
    transform = create_transform(**resolve_data_config(network.pretrained_cfg))
    image = sample_pictures()[1]
    found = answers(tmp_path / "packages", image)
    np.testing.assert_allclose(found, expected(network, transform, image), rtol=1e-3, atol=1e-5)


def test_a_network_of_torchvision_is_added_with_weights(add: Add, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    add("torchvision:squeezenet1_1", "--weights", str(tmp_path / "net.pth"))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    image = sample_pictures()[0]
    found = answers(tmp_path / "packages", image)
    wanted = expected(network, weights.transforms(), image)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    (output,) = ModelRepository(tmp_path / "packages").get("net").card.outputs
    assert output.labels == tuple(weights.meta["categories"])


def test_a_model_of_timm_is_saved_with_the_steps_that_it_states(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=2)
    fitserve.save("net", network, labels=["cat", "dog"], repository=tmp_path)
    image = sample_pictures()[3]
    wanted = expected(network, transform_of(network), image)
    np.testing.assert_allclose(answers(tmp_path, image), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["timm:no_such_net"], "timm has no network 'no_such_net'"),
        (["torchvision:resnet19"], "it has resnet101"),
        ([f"timm:{NAME}.r160_in1k"], "give them with --weights FILE.safetensors or FILE.pth"),
        ([f"timm:{NAME}", "--weights", "missing.pth"], "there is no file missing.pth"),
    ],
)
def test_what_is_not_there_is_explained(arguments: list[str], message: str, add: Add) -> None:
    assert message in add(*arguments, fails=True)


def stated(**changes: Any) -> dict[str, Any]:
    return {"input_size": (3, 96, 96), "mean": (0.5,) * 3, "std": (0.5,) * 3, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"interpolation": "bicubic", "crop_pct": 0.9},
        {"interpolation": "bilinear", "crop_pct": 1.0},
        {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash"},
        {"interpolation": "bilinear"},
    ],
)
def test_the_steps_of_timm_are_declared_as_its_transform_computes_them(
    changes: dict[str, Any],
) -> None:
    from models.kinds.pictures import PictureSpec

    steps, transform = fitserve.Picture.of(stated(**changes)), transform_of(stated(**changes))
    assert transform is not None
    spec = PictureSpec(**steps.declared()["picture"])
    for image in sample_pictures():
        pixels = np.float32(spec.pixels(image, steps.shape)) / 255
        np.testing.assert_allclose((pixels - 0.5) / 0.5, np.asarray(transform(image)), atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"crop_mode": "border"}, {"crop_mode": "squash", "crop_pct": 0.9}]
)
def test_steps_of_timm_that_the_service_lacks_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(fitserve.ExportError, match=r"give fitserve\.Picture"):
        fitserve.Picture.of(stated(**changes))
