"""`fitserve.save`: a network in Python becomes a package that answers as the network does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fitserve
import fitserve.torch_files
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime


class Scores(nn.Module):
    """Two inputs, dropout and batch normalization, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
        self.head = nn.Linear(16, 3)

    def forward(self, features: Tensor, weight: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        hidden = self.body(features) * weight * scale
        return {"logits": self.head(hidden), "hidden": hidden}


class Pool(nn.Module):
    """Takes sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(dim=1))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def seeded(make: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def read(repository: Path, name: str) -> ModelPackage:
    return ModelRepository(repository).get(name)


def answers(package: ModelPackage, rows: Mapping[str, Any], runtime: Any = "onnx") -> Any:
    arrays = {name: np.asarray(array) for name, array in rows.items()}
    return open_runtime(package, runtime)(arrays)


def test_a_module_of_two_inputs_answers_as_in_python(repository: Path) -> None:
    network = seeded(Scores).train()
    network.body[0].eval()  # type: ignore[index]
    modes = [module.training for module in network.modules()]
    sample = {"features": torch.randn(5, 6), "weight": torch.randn(5, 16)}
    path = fitserve.save("scores", network, sample, labels=["a", "b", "c"], repository=repository)
    assert path == repository / "scores" / "1"
    assert [module.training for module in network.modules()] == modes
    package = read(repository, "scores")
    card = package.card
    assert [spec.name for spec in card.inputs] == ["features", "weight"]
    assert [spec.name for spec in card.outputs] == ["logits", "hidden"]
    assert card.outputs[0].labels == ("a", "b", "c")
    assert card.batching == "rows"
    assert card.runtimes == ("onnx", "pt2")
    assert card.summary.startswith("Exported from Scores of torch ")
    rows = {"features": torch.randn(7, 6), "weight": torch.randn(7, 16)}
    with torch.inference_mode():
        wanted = network.eval()(**rows)
    for runtime in card.runtimes:
        found = answers(package, rows, runtime)
        for name in ("logits", "hidden"):
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5)


class Step(nn.Module):
    """One step of two recurrent layers: a state [layers, N, 8], and a factor that rows share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRUCell(4, 8), nn.GRUCell(8, 8)

    def forward(self, x: Tensor, state: Tensor, factor: Tensor) -> dict[str, Tensor]:
        """Return the answer of each row, and the next state."""
        low = self.first(x * factor, state[0])
        high = self.second(low, state[1])
        return {"y": high, "next": torch.stack([low, high])}


def test_a_state_with_the_batch_on_another_axis_is_saved(repository: Path) -> None:
    network = seeded(Step)
    sample = {"x": torch.randn(5, 4), "state": torch.randn(2, 5, 8), "factor": torch.tensor(2.0)}
    axes = {"state": 1, "factor": None}
    fitserve.save("step", network, sample, batch_axis=axes, repository=repository)
    package = read(repository, "step")
    found = {spec.name: spec.batch_axis for spec in (*package.card.inputs, *package.card.outputs)}
    assert found == {"x": 0, "state": 1, "factor": None, "y": 0, "next": 1}
    assert package.card.batching == "rows"


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"stat": 1}, "batch_axis names stat: the inputs are x, state, factor"),
        ({"factor": None}, "the sample has rows in different numbers"),
        ({"state": 3, "factor": None}, "give rows, with the batch as axis 3"),
    ],
)
def test_an_axis_that_does_not_fit_is_refused(
    axes: dict[str, int | None], sentence: str, repository: Path
) -> None:
    sample = {"x": torch.randn(5, 4), "state": torch.randn(2, 5, 8), "factor": torch.ones(5, 1)}
    with pytest.raises(fitserve.ExportError, match=sentence):
        fitserve.save("step", seeded(Step), sample, batch_axis=axes, repository=repository)


def test_dimensions_that_differ_between_two_samples_are_free(repository: Path) -> None:
    network = seeded(Pool)
    samples = [torch.randint(0, 50, (3, 7)), torch.randint(0, 50, (4, 11))]
    fitserve.save("pool", network, samples, repository=repository)
    package = read(repository, "pool")
    assert package.card.inputs[0].shape == (-1, -1)
    assert package.card.inputs[0].range == "0 to 49"
    rows = torch.randint(0, 50, (2, 20))
    with torch.inference_mode():
        wanted = network.eval()(rows)
    np.testing.assert_allclose(answers(package, {"tokens": rows})["output"], wanted, rtol=1e-4)


@pytest.mark.parametrize("rows", [np.ones((1, 4)), torch.ones(3, 4), (np.ones((2, 4)),)])
def test_a_sample_may_be_rows_alone_or_a_single_row(rows: Any, repository: Path) -> None:
    fitserve.save("line", seeded(lambda: nn.Linear(4, 2)), rows, repository=repository)  # type: ignore[arg-type]
    card = read(repository, "line").card
    assert [spec.to_text() for spec in card.inputs] == ["FP32 [-1, 4]"]
    assert [spec.name for spec in card.inputs] == ["input"]


def test_a_program_of_torch_export_needs_no_sample(repository: Path, tmp_path: Path) -> None:
    network = seeded(Pool).eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    program = torch.export.export(
        network, (torch.randint(0, 50, (3, 7)),), dynamic_shapes=({0: batch, 1: length},)
    )
    fitserve.save("program", program, repository=repository)
    rows = torch.randint(0, 50, (5, 9))
    with torch.inference_mode():
        wanted = network(rows)
    found = answers(read(repository, "program"), {"tokens": rows})
    np.testing.assert_allclose(found["output"], wanted, rtol=1e-4)


@pytest.mark.parametrize("kind", ["module", "program"])
def test_large_weights_are_exported_beside_the_graph(
    kind: str, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package holds no second copy of them in a file of torch."""
    monkeypatch.setattr(fitserve.torch_files, "LARGEST_INSIDE", 0)
    network = seeded(Pool).eval()
    rows = torch.arange(12).reshape(3, 4)
    expected = network(rows).detach().numpy()
    if kind == "program":
        shapes = ({0: torch.export.Dim("batch")},)
        fitserve.save("net", torch.export.export(network, (rows,), dynamic_shapes=shapes),
                      repository=repository)  # fmt: skip
    else:
        fitserve.save("net", network, rows, repository=repository)
    package = read(repository, "net")
    assert package.card.runtimes == ("onnx",)
    assert "  torch: There is no TorchScript file: of weights this large" in capsys.readouterr().out
    np.testing.assert_allclose(
        answers(package, {"tokens": rows})["output"], expected, rtol=1e-4, atol=1e-6
    )


def test_a_compiled_module_keeps_its_file(repository: Path) -> None:
    script = torch.jit.script(seeded(Pool).eval())
    samples = [torch.randint(0, 50, (3, 7)), torch.randint(0, 50, (4, 11))]
    fitserve.save("script", script, samples, repository=repository)
    package = read(repository, "script")
    assert package.card.runtimes == ("onnx", "torchscript")
    rows = torch.randint(0, 50, (5, 9))
    for runtime in package.card.runtimes:
        found = answers(package, {"tokens": rows}, runtime)
        np.testing.assert_allclose(found["output"], script(rows).detach(), rtol=1e-4)


def test_a_network_that_mixes_rows_is_served_alone_and_says_so(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(dim=0)

    fitserve.save("centred", Centred(), torch.randn(4, 3), repository=repository)
    assert read(repository, "centred").card.batching == "none"
    assert "batching: none" in capfd.readouterr().out


def test_what_the_network_answers_is_compared_with_the_files(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter that changes the network is found by the answers of the network itself."""
    from fitserve.doors import torch_module

    def other(*arguments: Any) -> Any:
        torch.manual_seed(1)
        other_network = nn.Linear(4, 2)
        flat = torch_module.flat_module(other_network, ["input"])
        program = torch_module._program(flat, [{"input": torch.ones(2, 4)}], {})
        return original(program, ["input"], ["output"])

    original = torch_module.onnx_of
    monkeypatch.setattr(torch_module, "onnx_of", other)
    with pytest.raises(fitserve.SaveError, match="are not those of the network itself"):
        fitserve.save(
            "other",
            seeded(lambda: nn.Linear(4, 2)),
            torch.randn(3, 4),
            repository=repository,  # type: ignore[arg-type]
        )
    assert not repository.exists() or not list(repository.iterdir())


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), True, False)
        return self.rnn(packed)[1][0][-1]


class Item(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        largest = x.max().item()
        return x[:, : int(largest)]


class FixedRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, -1) * 2


class Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.numpy()))


@pytest.mark.parametrize(
    ("make", "sample", "line", "advice"),
    [
        (Branch, torch.randn(4, 3), "`if x.sum() > 0:`", "torch.where"),
        (
            Packed,
            {"x": torch.randn(4, 5, 3), "lengths": torch.tensor([5, 4, 3, 2])},
            "`return self.rnn(packed)[1][0][-1]`",
            "torch.gather",
        ),
        (Item, torch.ones(4, 3), "x[:, : int(largest)]", "compute with tensors"),
        (FixedRows, torch.randn(4, 3), "`return x.view(4, -1) * 2`", "-1"),
        (Numpy, torch.randn(4, 3), "np.tanh", "of torch"),
    ],
)
def test_what_cannot_be_exported_is_explained_with_the_line(
    make: type[nn.Module], sample: Any, line: str, advice: str, repository: Path
) -> None:
    with pytest.raises(fitserve.ExportError) as caught:
        fitserve.save("net", make(), sample, repository=repository)
    text = str(caught.value)
    assert f"{Path(__file__).name}:" in text
    assert line in text
    assert advice in text


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"y": torch.ones(2, 4)}, "the sample names 'y': the arguments of forward are input"),
        ((torch.ones(2, 4), torch.ones(2, 4)), "the sample has 2 inputs"),
        (torch.ones(2, 5), "the network fails on the sample: "),
        (torch.tensor(1.0), "the sample input is []: give rows"),
        ([], "there is no sample"),
    ],
)
def test_a_sample_that_does_not_fit_is_explained(
    sample: Any, message: str, repository: Path
) -> None:
    with pytest.raises(fitserve.ExportError, match=message.replace("[", r"\[")):
        fitserve.save("net", nn.Linear(4, 2), sample, repository=repository)


class Line(nn.Module):
    """A line for the networks below, which differ in their arguments, results and state."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 2)


class ByPosition(Line):
    def forward(self, x: Tensor, /, shift: Tensor) -> Tensor:
        return self.line(x) + shift


class InPlace(Line):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return self.line(x)


class AnyNumber(Line):
    def forward(self, *xs: Tensor) -> Tensor:
        return self.line(xs[0]) + xs[1]


class Twice(Line):
    def forward(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        return {"a": {"scores": self.line(x)}, "b": {"scores": self.line(-x)}}


class NamedAsInput(Line):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.line(x)}


class Complex(Line):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(self.line(x))


class Counting(Line):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.line(x) + self.count


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 2))
    network.register_forward_pre_hook(lambda _, rows: (rows[0] + 1,))
    return network


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (ByPosition, 2),
        (InPlace, 1),
        (hooked, 1),
        (lambda: torch.compile(nn.Linear(4, 2)), 1),
        (lambda: nn.DataParallel(nn.Linear(4, 2)), 1),
    ],
    ids=["by-position", "in-place", "hook", "compiled", "data-parallel"],
)
def test_a_module_is_called_as_in_python(make: Any, count: int, repository: Path) -> None:
    network = seeded(make)
    sample = (torch.randn(5, 4), torch.randn(5, 2))[:count]
    kept = [rows.clone() for rows in sample]
    fitserve.save("net", network, sample, repository=repository)
    assert all(map(torch.equal, sample, kept))
    package = read(repository, "net")
    rows = dict(zip([spec.name for spec in package.card.inputs], sample, strict=True))
    inner = getattr(network, "_orig_mod", getattr(network, "module", network)).eval()
    with torch.inference_mode():
        wanted = inner(*kept)
    np.testing.assert_allclose(answers(package, rows)["output"], wanted, rtol=1e-4, atol=1e-5)


ROWS = torch.randn(5, 4)
STEPS = [torch.randn(3, 5, 4), torch.randn(3, 8, 4)]


@pytest.mark.parametrize(
    ("make", "sample", "message"),
    [
        (
            AnyNumber,
            (ROWS, ROWS[:, :2]),
            r"forward takes \*xs, which names no inputs: give a module",
        ),
        (Twice, ROWS, "two outputs with the name scores: name them differently"),
        (NamedAsInput, ROWS, "an output with the name of its input x: name it differently"),
        (Complex, ROWS, "the output output is complex64, which no request holds: give its real"),
        (Counting, ROWS, "changes its buffer count when it computes"),
        (lambda: nn.LazyLinear(2), ROWS, "the parameter weight has no size before the first call"),
        (ByPosition, (ROWS, ROWS[:3, :2]), r"rows in different numbers \(5 of x, 3 of shift\)"),
        (lambda: nn.Linear(4, 2), torch.ones(3, 5), "fails on the sample: .*: give rows as it was"),
        (lambda: nn.Linear(4, 2), "rows", "the sample input, a str, is no array of numbers"),
        (lambda: nn.Linear(4, 2), ROWS.to_sparse(), "the sample input is sparse or quantized"),
        (lambda: nn.Linear(4, 2), ROWS.tolist(), r"holds a list, and .*numpy\.array\(rows\)"),
        (lambda: nn.Linear(4, 2), ["a", "b"], "holds a str, and a list holds several samples"),
    ],
)
def test_a_network_or_sample_of_another_kind_is_explained(
    make: Any, sample: Any, message: str, repository: Path
) -> None:
    with pytest.raises(fitserve.ExportError, match=message) as caught:
        fitserve.save("net", seeded(make), sample, repository=repository)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_recurrent_network_keeps_its_free_length(compiled: bool, repository: Path) -> None:
    network = seeded(Steps).eval()
    saved = torch.jit.script(network) if compiled else network
    fitserve.save("steps", saved, STEPS, repository=repository)
    rows = torch.randn(2, 11, 4)
    with torch.inference_mode():
        wanted = network(rows)
    found = answers(read(repository, "steps"), {"x": rows})["output"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_quantized_module_is_explained(repository: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 2))
    quantized = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, torch.qint8)
    with pytest.raises(fitserve.ExportError, match="quantized Linear of torch, which has no form"):
        fitserve.save("net", quantized, ROWS, repository=repository)


def test_an_object_of_another_kind_is_refused_with_the_kinds(repository: Path) -> None:
    with pytest.raises(fitserve.ExportError, match=r"a builtins\.dict cannot be exported: give on"):
        fitserve.save("net", {}, torch.ones(2, 4), repository=repository)
