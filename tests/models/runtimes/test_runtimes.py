"""A runtime is opened only for the network that the card describes, and computes its outputs."""

import io
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from onnx import TensorProto, helper
from small_packages import Bend, Kit, bend_onnx, edit_card, onnx_file, reseal, seeded, torchscript
from torch import Tensor, nn

from models.package.card import MODEL_FILES, RuntimeName
from models.package.model_package import ModelPackage, PackageError
from models.package.repository import ModelRepository
from models.runtimes.devices import DeviceError
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import OnnxRuntime
from models.runtimes.torch_runtimes import TorchScriptRuntime

RUNTIMES: tuple[RuntimeName, ...] = ("onnx", "torchscript")
REPOSITORY_ROOT = Path(__file__).parents[3]


@contextmanager
def refused(package: ModelPackage, file: str, reason: str) -> Iterator[None]:
    """Check that the block raises a PackageError: one line with package, file and reason."""
    with pytest.raises(PackageError) as caught:
        yield
    message = str(caught.value)
    assert message.startswith(f"package {package.label}: {file}: "), message
    assert "\n" not in message
    assert re.search(reason, caught.value.reason), message


@pytest.mark.parametrize("count", [1, 2, 5, 64])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["blot", "bend"])
def test_both_runtimes_compute_the_network_s_outputs_at_every_batch_size(
    name: str,
    runtime: RuntimeName,
    count: int,
    kits: Mapping[str, Kit],
    repository: ModelRepository,
) -> None:
    rows = kits[name].rows(count)
    response = open_runtime(repository.get(name), runtime)(rows)
    expected = kits[name].eager(rows)
    assert response.keys() == expected.keys()
    for output, expected_output in expected.items():
        assert response[output].dtype == expected_output.dtype
        np.testing.assert_allclose(response[output], expected_output, rtol=0, atol=1e-6)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_has_its_name_and_device(runtime: RuntimeName, bend: ModelPackage) -> None:
    opened = open_runtime(bend, runtime)
    assert (opened.name, opened.device) == (runtime, "cpu")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["read-only", "backwards", "every other row"])
def test_any_kind_of_numpy_array_is_accepted_without_warnings(
    runtime: RuntimeName, kind: str, kits: Mapping[str, Kit], bend: ModelPackage
) -> None:
    rows = kits["bend"].rows(8)["x"]
    variant = {"read-only": rows.copy(), "backwards": rows[::-1], "every other row": rows[::2]}[
        kind
    ]
    expected = kits["bend"].eager({"x": variant.copy()})["y"]
    if kind == "read-only":
        variant.flags.writeable = False
    warns_each_time = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            actual = open_runtime(bend, runtime)({"x": variant})["y"]
    finally:
        torch.set_warn_always(warns_each_time)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


class _InPlace(nn.Module):
    """A network that doubles its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


def test_read_only_rows_are_unchanged_by_a_network_that_works_in_place(
    bend: ModelPackage,
) -> None:
    def double(card: dict[str, Any]) -> None:
        recorded = card["example"]["inputs"]["x"]["data"]
        card["example"]["outputs"]["y"]["data"] = [2 * value for value in recorded]

    edit_card(bend, double)
    runtime = open_runtime(reseal(bend, "model.pt", torchscript(_InPlace().eval())), "torchscript")
    rows = np.array([[3.0]], np.float32)
    rows.flags.writeable = False
    assert runtime({"x": rows})["y"].tolist() == [[6.0]]
    assert rows.tolist() == [[3.0]]


class _OtherName(Bend):
    """A `Bend` whose argument has another name."""

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.hidden(z).tanh())


class _TwoOutputs(Bend):
    """A `Bend` that returns its hidden units, too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x).tanh()
        return self.last(hidden), hidden


class _OtherShape(Bend):
    """A `Bend` whose output has no second dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x).tanh()).flatten()


class _OtherDatatype(Bend):
    """A `Bend` with outputs in double precision."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x).tanh()).double()


class _NotANumber(Bend):
    """A `Bend` whose outputs are NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x).tanh()) * float("nan")


class _WiderInput(nn.Module):
    """A network of two columns."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def _integer_bend() -> bytes:
    return onnx_file(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.INT64, ["batch", 1])],
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda bend: bend_onnx(bend, name="z"), "inputs are z; the card says x"),
        (
            lambda bend: bend_onnx(bend, datatype=TensorProto.DOUBLE),
            r"x is FP64 \[-1, 1\] in the graph; the card says FP32 \[-1, 1\]",
        ),
        (lambda bend: _integer_bend(), r"x is INT64 \[-1, 1\] in the graph"),
        (
            lambda bend: bend_onnx(bend, width=2),
            r"x is FP32 \[-1, 2\] in the graph; the card says FP32 \[-1, 1\]",
        ),
        (lambda bend: bend_onnx(bend, batch=2), r"x is FP32 \[2, 1\] in the graph"),
        (lambda bend: bend_onnx(bend, extra_output=True), "outputs are y, bent; the card says y"),
        (lambda bend: bend_onnx(bend, scale=1.1), "y differs from the recorded prediction by 0.0"),
        (lambda bend: bend_onnx(bend, scale=np.nan), "y differs .* by inf, more than 0.001"),
        (lambda bend: b"garbage" * 50, "it cannot be loaded"),
        (lambda bend: b"", "it cannot be loaded"),
        (torchscript, "it cannot be loaded"),
    ],
    ids=[
        "input of another name", "FP64", "INT64", "input of another width", "fixed batch",
        "an additional output", "other weights", "NaN", "garbage", "empty", "TorchScript",
    ],
)  # fmt: skip
def test_an_onnx_graph_that_differs_from_the_card_is_refused_with_the_reason(
    make: Callable[[nn.Module], bytes], reason: str, bend: ModelPackage
) -> None:
    package = reseal(bend, "model.onnx", make(seeded(Bend)))
    with refused(package, "model.onnx", reason):
        open_runtime(package, "onnx")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_OtherName, "arguments are z; the card says x"),
        (_WiderInput, "recorded prediction fails on cpu .*mat1 and mat2 shapes"),
        (lambda: Bend().double(), "recorded prediction fails on cpu .*dtype"),
        (_OtherDatatype, r"y .* is float64 \[2, 1\]; the card says float32 \[2, 1\]"),
        (_OtherShape, r"y .* is float32 \[2\]; the card says float32 \[2, 1\]"),
        (_TwoOutputs, "fails on cpu .*the network gives 2 outputs, not 1"),
        (lambda: nn.Sequential(nn.Linear(1, 1)), "arguments are input; the card says x"),
        (_NotANumber, "y differs from the recorded prediction by inf, more than 0.001"),
    ],
)
def test_a_torchscript_module_that_differs_from_the_card_is_refused_with_the_reason(
    make: Callable[[], nn.Module], reason: str, bend: ModelPackage
) -> None:
    package = reseal(bend, "model.pt", torchscript(seeded(make)))
    with refused(package, "model.pt", reason):
        open_runtime(package, "torchscript")


@pytest.mark.parametrize("content", [b"garbage" * 50, b"", bend_onnx(seeded(Bend))])
def test_bytes_that_are_not_torchscript_are_refused_even_with_the_right_digest(
    content: bytes, bend: ModelPackage
) -> None:
    package = reseal(bend, "model.pt", content)
    with refused(package, "model.pt", "it cannot be loaded"):
        open_runtime(package, "torchscript")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("change", "fits"), [(0.0005, True), (0.0015, False), (-0.5, False)])
def test_a_recorded_prediction_that_the_network_does_not_reproduce_is_refused(
    runtime: RuntimeName, change: float, fits: bool, bend: ModelPackage
) -> None:
    """The last number of the last row differs by less or more than 0.001 of the largest."""

    def edit(card: dict[str, Any]) -> None:
        values = card["example"]["outputs"]["y"]["data"]
        values[-1] += change * max(map(abs, values))

    package = ModelPackage.read(edit_card(bend, edit))
    if fits:
        open_runtime(package, runtime)
    else:
        message = r"y differs from the recorded prediction by 0\.\d+, more than 0\.001"
        with refused(package, MODEL_FILES[runtime], message):
            open_runtime(package, runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_changed_file_is_never_loaded(
    runtime: RuntimeName, blot: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading TorchScript runs the code in the file, so the digest is checked first."""
    loaded: list[object] = []
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: loaded.append(a))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: loaded.append(a))
    with pytest.raises(PackageError):  # the file is intact, and the patched loader fails
        open_runtime(blot, runtime)
    assert len(loaded) == 1

    path = blot.path / MODEL_FILES[runtime]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with refused(blot, MODEL_FILES[runtime], "SHA-256"):
        open_runtime(blot, runtime)
    assert len(loaded) == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_missing_file_is_refused_by_name(runtime: RuntimeName, blot: ModelPackage) -> None:
    (blot.path / MODEL_FILES[runtime]).unlink()
    with refused(blot, MODEL_FILES[runtime], "No such file"):
        open_runtime(blot, runtime)


def test_a_runtime_without_a_file_in_the_package_is_refused_by_name(bend: ModelPackage) -> None:
    package = ModelPackage.read(edit_card(bend, lambda card: card["files"].pop("model.pt")))
    with refused(package, "model.pt", "the card lists no such file"):
        open_runtime(package, "torchscript")


def _python(code: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY_ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_opening_both_runtimes_on_the_cpu_prints_nothing_to_stderr(written: Path) -> None:
    """ONNX Runtime would log missing GPUs, and torch its deprecations."""
    code = (
        "import sys; from pathlib import Path\n"
        "from models.package.repository import ModelRepository\n"
        "from models.runtimes.loading import open_runtime\n"
        "for _, package in ModelRepository(Path(sys.argv[1])):\n"
        "    for runtime in package.card.runtimes:\n"
        "        print(package.label, open_runtime(package, runtime).name)\n"
    )
    completed = _python(code, written)
    assert completed.stderr == ""
    assert completed.stdout.splitlines() == [
        "bend/1 onnx", "bend/1 torchscript", "blot/1 onnx", "blot/1 torchscript",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_package_is_verified_and_opened_without_torch(written: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules['torch'] = None  # importing it fails, as where it is not installed\n"
        "from models.__main__ import main\n"
        "from models.package.repository import ModelRepository\n"
        "from models.runtimes.loading import open_runtime\n"
        "package = ModelRepository(Path(sys.argv[1])).get('bend')\n"
        "package.verify()\n"
        "runtime = open_runtime(package, 'onnx')\n"
        "rows = {name: tensor.array() for name, tensor in package.card.example.inputs.items()}\n"
        "print(runtime(rows)['y'].shape)\n"
        "print(main(['--repository', sys.argv[1], 'verify', 'bend']))\n"
    )
    completed = _python(code, written)
    assert completed.stderr == ""
    assert completed.stdout.splitlines() == [
        "(2, 1)",
        "untried  bend: torch is not installed",
        "1",
    ]


def test_external_weights_are_never_read(
    bend: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card has a digest of the file, but none of the weights outside."""
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(bend_onnx(seeded(Bend)))
    onnx.save(model, "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    package = reseal(bend, "model.onnx", Path("m.onnx").read_bytes())
    with refused(package, "model.onnx", "it cannot be loaded .*External data"):
        open_runtime(package, "onnx")


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["blot", "bend"])
def test_a_gpu_computes_the_outputs_of_the_cpu(
    name: str, runtime: RuntimeName, kits: Mapping[str, Kit], repository: ModelRepository
) -> None:
    rows = kits[name].rows(64)
    on_gpu = open_runtime(repository.get(name), runtime, "cuda:0")
    assert on_gpu.device == "cuda:0"
    outputs, expected = on_gpu(rows), open_runtime(repository.get(name), runtime)(rows)
    for output, expected_output in expected.items():
        np.testing.assert_allclose(outputs[output], expected_output, rtol=0, atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_missing_gpu_is_an_error_without_fallback_to_the_cpu(
    runtime: RuntimeName, bend: ModelPackage
) -> None:
    """The package is not at fault, so the error is not a PackageError."""
    with pytest.raises(DeviceError, match="cannot compute on cuda:0"):
        open_runtime(bend, runtime, "cuda:0")


def test_a_file_in_the_format_of_onnx_runtime_is_not_loaded(tmp_path: Path) -> None:
    """The proof reads ONNX; one file can be both, and two networks."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(bend_onnx(seeded(Bend)), options)
    content = (tmp_path / "model.ort").read_bytes()
    assert onnxruntime.InferenceSession(content).get_inputs()
    with pytest.raises(Exception, match="Failed to load model"):
        OnnxRuntime(content)


@pytest.mark.slow
def test_onnx_runtime_sends_no_telemetry(written: Path, tmp_path: Path) -> None:
    """Its telemetry would first write an identifier of the machine into the home folder."""
    code = (
        "import os, sys; from pathlib import Path\n"
        "for name in ('CI', 'ORT_DISABLE_TELEMETRY'): os.environ.pop(name, None)\n"
        "os.environ['HOME'] = sys.argv[2]\n"
        "from models.package.repository import ModelRepository\n"
        "from models.runtimes.loading import open_runtime\n"
        "open_runtime(ModelRepository(Path(sys.argv[1])).get('bend'), 'onnx')"
    )
    completed = _python(code, written, tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert list(tmp_path.rglob("*")) == []


def _counting() -> bytes:
    """Return a network that computes as many numbers as its input says, and returns their sum."""
    constants = {"zero": 0, "one": 1}
    nodes = [
        *(
            helper.make_node("Constant", [], [name], value_int=value)
            for name, value in constants.items()
        ),
        helper.make_node("ReduceSum", ["n"], ["end"], keepdims=0),
        helper.make_node("Range", ["zero", "end", "one"], ["numbers"]),
        helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["n", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "sum"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 1]) for name in ("n", "y")
    ]
    graph = helper.make_graph(nodes, "counting", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_a_network_whose_cost_depends_on_a_value_says_so_and_returns_its_memory() -> None:
    runtime = OnnxRuntime(_counting(), threads=1)
    assert runtime.cost_varies
    assert not OnnxRuntime(bend_onnx(seeded(Bend))).cost_varies
    process = psutil.Process()
    for count in (10, 20_000_000):  # 160 MB of numbers
        before = process.memory_info().rss
        output = runtime({"n": np.array([[count]], np.int64)})["y"]
        assert output.tolist() == [[count * (count - 1) // 2]]
    assert process.memory_info().rss - before < 50e6


def test_a_module_that_makes_elements_by_value_says_that_its_cost_varies() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.arange(int(x.sum())).sum()

    for network, varies in ((Counting(), True), (seeded(Bend), False)):
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(network), file)
        assert TorchScriptRuntime(file.getvalue(), outputs=["y"]).cost_varies == varies
