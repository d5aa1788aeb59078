"""`fitserve add NAME SOURCE`: the files that a notebook leaves, and code with its weights."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from models.__main__ import main
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime

CODE = """
import torch
from helpers import WIDTH          # another module of the user's project

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, WIDTH)

    def forward(self, features):
        return self.layer(features).tanh()

def make():
    return Net()

trained = make()
number = 3

def broken():
    raise ValueError("no such thing")
"""
ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)

Add = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder: code, weights, and folders with the names of ours."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.py").write_text(CODE)
    (folder / "helpers.py").write_text("WIDTH = 3\n")
    for name in ("models", "service", "fitserve"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    np.savez(folder / "rows.npz", features=ROWS)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def add(project: Path, capfd: pytest.CaptureFixture[str]) -> Add:
    """A function that adds a source as the package `net`, and returns what was printed."""

    def command(*arguments: str, fails: bool = False) -> str:
        repository = ("--repository", str(project.parent / "packages"))
        code = main(["add", "net", *arguments, *repository])
        shown = capfd.readouterr()
        assert (code == 1) == fails, shown.err
        return shown.err if fails else shown.out

    return command


def layer() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(4, 3)


def expected() -> Any:
    with torch.inference_mode():
        return layer()(torch.from_numpy(ROWS)).tanh().numpy()


def answers(project: Path, name: str = "features") -> Any:
    package = ModelRepository(project.parent / "packages").get("net")
    (output,) = open_runtime(package, "onnx")({name: ROWS}).values()
    return output


def state(prefix: str = "layer.") -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in layer().state_dict().items()}


def write_safetensors(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in state().items()}, file)


WEIGHTS: dict[str, Callable[[Path], object]] = {
    "net.pth": lambda file: torch.save(state(), file),
    "old.pth": lambda file: torch.save(state(), file, _use_new_zipfile_serialization=False),
    "trainer.ckpt": lambda file: torch.save({"epoch": 3, "state_dict": state()}, file),
    "parallel.pt": lambda file: torch.save(state("module.layer."), file),
    "net.safetensors": write_safetensors,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_code_with_its_weights_is_added_and_answers_as_in_python(
    name: str, project: Path, add: Add
) -> None:
    WEIGHTS[name](project / name)
    add("net.py:make", "--weights", name, "--sample", "rows.npz", "--label", "a", "b", "c")
    np.testing.assert_allclose(answers(project), expected(), rtol=1e-4, atol=1e-6)
    card = ModelRepository(project.parent / "packages").get("net").card
    assert card.outputs[0].labels == ("a", "b", "c")


@pytest.mark.parametrize("source", ["net.py:Net", "net.py:trained", "net:make"])
def test_a_class_an_object_or_a_module_names_the_network(
    source: str, project: Path, add: Add
) -> None:
    torch.save(state(), "w.pth")
    add(source, "--weights", "w.pth", "--input", "features:FP32[-1,4]")
    np.testing.assert_allclose(answers(project), expected(), rtol=1e-4, atol=1e-6)


def program(file: Path) -> None:
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        nn.Sequential(layer(), nn.Tanh()), (torch.randn(3, 4),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(exported, file)


def torchscript(file: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(layer(), nn.Tanh())), file)


def default_onnx(file: Path) -> None:
    """As torch.onnx.export writes it by default: the weights are in another file."""
    torch.onnx.export(
        nn.Sequential(layer(), nn.Tanh()), (torch.randn(3, 4),), file,
        dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["input"], verbose=False,
    )  # fmt: skip
    onnx.save(
        onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert Path("weights.bin").is_file()


@pytest.mark.parametrize(
    ("name", "write", "options"),
    [
        ("net.pt2", program, ()),
        ("net.pt", torchscript, ("--input", "input:FP32[-1,4]")),
        ("renamed.bin", torchscript, ("--input", "input:FP32[-1,4]")),
        ("net.onnx", default_onnx, ()),
    ],
)
def test_a_file_of_a_notebook_is_added_by_its_content(
    name: str, write: Callable[[Path], None], options: tuple[str, ...], project: Path, add: Add
) -> None:
    write(project / name)
    add(name, *options)
    np.testing.assert_allclose(answers(project, "input"), expected(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.pth",), "net.pth: it is a checkpoint of torch.save. If it is weights alone: give"),
        (("--onnx", "net.safetensors"), "net.safetensors: it is weights alone: give the network"),
        (("pickled.pkl",), "pickled.pkl: it is a pickle, whose loading runs any code in it"),
        (("nothing.onnx",), "nothing.onnx: it cannot be read (No such file or directory)"),
        (("net.py:nothing",), "net.py:nothing: there is no 'nothing': net.py has "),
        (("nothing.py:make",), "nothing.py:make: there is no file nothing.py"),
        (("nothing:make",), "nothing:make: the module nothing is not found"),
        (("net.py:broken",), "net.py:broken: calling it without arguments fails: no such thing, "),
        (
            ("relative.py:make",),
            "`from . import net`; name it as package.module:Class, from the fold",
        ),
        (("net.py:number",), "a builtins.int cannot be exported: give one of torch.nn.Module, "),
        (("net.py:make",), "there is no sample: give rows with --sample FILE.npz, or each input "),
        (
            ("net.py:make", "--input", "x:FP32[-1,4]"),
            "the sample names 'x': the arguments of forward are features",
        ),
        (
            ("net.py:make", "--weights", "other.pth", "--input", "features:FP32[-1,4]"),
            "other.pth: it lacks layer.weight, layer.bias: make the network as it was trained",
        ),
        (
            ("net.py:make", "--weights", "wide.pth", "--input", "features:FP32[-1,4]"),
            "wide.pth: its weights have other sizes than the network (size mismatch for layer.w",
        ),
        (
            ("net.py:make", "--weights", "whole.pth", "--input", "features:FP32[-1,4]"),
            "whole.pth: torch reads no weights in it (it holds Python objects, whose loading",
        ),
        (("script.pt",), "TorchScript states no shapes: give rows with --sample FILE.npz, or each"),
        (("folder",), "folder: it is a folder without export.json or config.json: give a"),
        (("net.onnx", "--weights", "net.pth"), "--weights is for networks that are made by code"),
    ],
)
def test_what_cannot_be_added_is_explained_in_one_sentence(
    arguments: tuple[str, ...], message: str, project: Path, add: Add
) -> None:
    import pickle

    (project / "folder").mkdir()
    torch.save(state(), "net.pth")
    torch.save({"more.weight": torch.ones(1)}, "other.pth")
    torch.save({"layer.weight": torch.ones(9, 9), "layer.bias": torch.ones(9)}, "wide.pth")
    torch.save(nn.Linear(4, 3), "whole.pth")
    write_safetensors(project / "net.safetensors")
    Path("pickled.pkl").write_bytes(pickle.dumps([1]))
    Path("relative.py").write_text("from . import net\n")
    torchscript(project / "script.pt")
    if "net.onnx" in arguments:
        default_onnx(project / "net.onnx")
    printed = add(*arguments, fails=True)
    (line,) = (line for line in printed.splitlines() if not line.startswith("exporting a "))
    assert message in line
    assert not (project.parent / "packages" / "net").exists()


def test_a_missing_file_of_weights_is_named(project: Path, add: Add) -> None:
    default_onnx(project / "net.onnx")
    Path("weights.bin").unlink()
    assert "net.onnx: its weights are in another file, which cannot be read" in add(
        "net.onnx", fails=True
    )


def test_an_output_whose_first_size_is_stated_by_mistake_is_served(project: Path, add: Add) -> None:
    """LightGBM's converter states that there is one label, whatever the batch."""
    default_onnx(project / "net.onnx")
    model = onnx.load("net.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, "net.onnx")
    add("net.onnx")
    np.testing.assert_allclose(answers(project, "input"), expected(), rtol=1e-4, atol=1e-6)


def test_the_command_runs_in_a_folder_that_hides_our_packages(project: Path, root: Path) -> None:
    torch.save(state(), "w.pth")
    code = "import sys; from fitserve.command_line import main; sys.argv[0] = 'fitserve'; main()"
    command = [sys.executable, "-P", "-c", code, "add", "net", "net.py:make", "--weights", "w.pth"]
    command += ["--input", "features:FP32[-1,4]", "--repository", str(project.parent / "packages")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(answers(project), expected(), rtol=1e-4, atol=1e-6)
