"""How outputs are answered: the options of `add`, and the card that they make."""

from pathlib import Path

import pytest
from tiny import write_tiny

from models.__main__ import main
from models.kinds.answers import LabelsSpec, NumberSpec
from models.package.repository import ModelRepository


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """An ONNX file of one number in and one out."""
    return write_tiny(tmp_path / "tiny", "line", runtimes=("onnx",)).path / "model.onnx"


def added(graph: Path, repository: Path, *options: str) -> int:
    return main(["add", "net", "--onnx", str(graph), "--repository", str(repository), *options])


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (("--unit", "minutes"), NumberSpec(unit="minutes")),
        (("--scale", "20", "--offset", "-15"), NumberSpec(scale=20, offset=-15)),
        (("--label", "y", "--top", "1", "--threshold", "0.25"), LabelsSpec(top=1, threshold=0.25)),
        (("--label", "y", "--multi-label"), LabelsSpec(multi_label=True)),
        ((), None),
    ],
)
def test_the_card_has_the_answer(
    options: tuple[str, ...],
    answer: LabelsSpec | NumberSpec | None,
    graph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert added(graph, tmp_path / "models", *options) == 0
    (output,) = ModelRepository(tmp_path / "models").get("net").card.outputs
    assert output.answer == answer
    capsys.readouterr()
    for command in ("show", "check"):
        assert main(["--repository", str(tmp_path / "models"), command, "net"]) == 0
        shown = capsys.readouterr().out
        if answer is not None:
            assert answer.to_text() in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--top", "3"), "need labels: give the classes with --label"),
        (("--label", "y", "--unit", "m"), "need an output of floating-point numbers without"),
        (("--label", "y", "--top", "0"), "--top is 0"),
        (("--scale", "nan"), "--scale is nan"),
    ],
)
def test_an_answer_that_does_not_fit_is_explained(
    options: tuple[str, ...],
    message: str,
    graph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert added(graph, tmp_path / "models", *options) == 1
    assert message in capsys.readouterr().err
