"""The output and the exit codes of `python -m models`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exported_networks import scripted
from small_packages import Bend, bend_onnx, edit_card, reseal, seeded

import models.command_line
from models.__main__ import main
from models.package.card import MODEL_FILES, ModelCard, RuntimeName
from models.package.model_package import ModelPackage
from models.package.readme import render_page
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime

REPOSITORY_ROOT = Path(__file__).parents[2]
SHIPPED = ModelRepository(REPOSITORY_ROOT / "models")

Said = tuple[int, list[str], str]
Command = Callable[..., Said]


@pytest.fixture
def run(repository: ModelRepository, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a command; returns its exit code, lines on stdout, and stderr."""

    def command(*arguments: str, root: Path = repository.root) -> Said:
        code = main(["--repository", str(root), *arguments])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return command


def spoil(package: ModelPackage) -> None:
    """Change one byte of the package's ONNX file."""
    path = package.path / "model.onnx"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def test_list_prints_each_package_with_its_main_metric(run: Command) -> None:
    assert run("list") == (
        0,
        [
            "bend/1  mean squared error 1.1222 on 3,000 test samples",
            "blot/1  98.77% of 12,345 test samples right",
        ],
        "",
    )


def test_list_reports_a_broken_card_and_lists_the_others(run: Command, bend: ModelPackage) -> None:
    (bend.path / "card.json").unlink()
    code, lines, errors = run("list")
    assert (code, errors) == (1, "")
    assert lines == [
        "bend/1  refused: package bend/1: card.json: the file is missing",
        "blot/1  98.77% of 12,345 test samples right",
    ]


@pytest.mark.parametrize("name", ["blot", "blot/1"])
def test_show_prints_the_page_of_a_package(name: str, run: Command, blot: ModelPackage) -> None:
    code, lines, errors = run("show", name)
    assert (code, errors) == (0, "")
    assert "\n".join(lines) + "\n" == render_page(blot.card)


def test_show_prints_the_newest_or_the_requested_version(
    run: Command, repository: ModelRepository, blot: ModelPackage
) -> None:
    newer = repository.root / "blot" / "10"
    newer.mkdir()
    (newer / "card.json").write_text(
        blot.card.model_copy(update={"version": "10"}).model_dump_json()
    )
    assert run("show", "blot")[1][0] == "# blot 10"
    assert run("show", "blot/10")[1][0] == "# blot 10"
    assert run("show", "blot/1")[1][0] == "# blot 1"


@pytest.mark.parametrize("name", ["blot", "bend"])
def test_show_json_prints_the_card(name: str, run: Command, repository: ModelRepository) -> None:
    code, lines, errors = run("show", name, "--json")
    assert (code, errors) == (0, "")
    text = "\n".join(lines)
    assert ModelCard.model_validate(json.loads(text)) == repository.get(name).card
    assert text + "\n" == (repository.root / name / "1" / "card.json").read_text()


@pytest.mark.parametrize(
    ("command", "name", "wanted", "there"),
    [
        ("show", "blob", "blob", "bend, blot"),
        ("show", "blot/7", "blot/7", "1"),
        ("show", "blot/1/2", "blot/1/2", "1"),
    ],
)
def test_an_unknown_name_is_reported_with_the_known_names(
    command: str, name: str, wanted: str, there: str, run: Command
) -> None:
    reason = f"there is no such package; there are: {there}"
    assert run(command, name) == (1, [], f"error: package {wanted}: {reason}\n")


@pytest.mark.parametrize("name", ["../blot", "..", "/1", "", ".hidden", "a b", "x" * 300])
def test_an_invalid_name_is_reported_in_one_sentence(name: str, run: Command) -> None:
    code, lines, errors = run("show", name)
    assert (code, lines) == (1, [])
    assert errors.startswith("error: package ")
    assert "its name must be 1 to 100 letters" in errors
    assert errors.count("\n") == 1


def test_show_reports_a_broken_card_in_one_sentence(run: Command, bend: ModelPackage) -> None:
    edit_card(bend, lambda card: card.update(surprise=1))
    error = "error: package bend/1: card.json: surprise: Extra inputs are not permitted\n"
    assert run("show", "bend") == (1, [], error)


def test_verify_confirms_every_package(run: Command) -> None:
    right = ["right    bend/1: onnx, torchscript", "right    blot/1: onnx, torchscript"]
    assert run("verify") == (0, right, "")


def test_verify_checks_only_the_named_packages(run: Command, bend: ModelPackage) -> None:
    spoil(bend)
    assert run("verify", "blot") == (0, ["right    blot/1: onnx, torchscript"], "")
    assert run("verify", "blot/1", "bend")[0] == 1


def test_verify_reports_a_changed_file_and_confirms_the_other_packages(
    run: Command, bend: ModelPackage
) -> None:
    spoil(bend)
    reason = "its SHA-256 is not the card's: the file was changed"
    assert run("verify") == (
        1,
        [
            f"refused  package bend/1: model.onnx: {reason}",
            "right    blot/1: onnx, torchscript",
        ],
        "",
    )


def test_verify_reports_a_broken_card_and_confirms_the_other_packages(
    run: Command, bend: ModelPackage
) -> None:
    (bend.path / "card.json").write_text("{")
    code, lines, errors = run("verify")
    assert (code, errors) == (1, "")
    assert lines[0].startswith("refused  package bend/1: card.json: it is not readable JSON")
    assert lines[1:] == ["right    blot/1: onnx, torchscript"]


def test_verify_reports_broken_and_missing_packages_and_continues(
    run: Command, bend: ModelPackage
) -> None:
    (bend.path / "card.json").unlink()
    assert run("verify", "bend", "blob", "blot") == (
        1,
        [
            "refused  package bend/1: card.json: the file is missing",
            "refused  package blob: there is no such package; there are: bend, blot",
            "right    blot/1: onnx, torchscript",
        ],
        "",
    )


def test_verify_continues_after_any_error_of_a_runtime(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(package: ModelPackage, runtime: RuntimeName) -> object:
        if package.card.name == "bend":
            raise MemoryError("no more\nmemory")
        return open_runtime(package, runtime)

    monkeypatch.setattr(models.command_line, "open_runtime", fails)
    assert run("verify") == (
        1,
        [
            "refused  package bend/1: it cannot be verified (no more memory)",
            "right    blot/1: onnx, torchscript",
        ],
        "",
    )


def test_verify_repeats_the_recorded_predictions(run: Command, bend: ModelPackage) -> None:
    """All digests are right, and the outputs differ from those of the card."""
    reseal(bend, "model.onnx", bend_onnx(seeded(Bend), scale=1.1))
    code, lines, _ = run("verify", "bend")
    assert code == 1
    assert lines[0].startswith("refused  package bend/1: model.onnx: y differs from the recorded")


def test_verify_refuses_a_torchscript_file_that_may_mix_batched_rows(
    run: Command, bend: ModelPackage
) -> None:
    """The recorded prediction is right."""

    class Largest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bend = seeded(Bend)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.bend(x)
            return torch.where(x.max() > 1e6, output / 2, output)

    reseal(bend, "model.pt", scripted(Largest()))
    code, lines, _ = run("verify", "bend")
    assert code == 1
    assert lines == [
        "refused  package bend/1: model.pt: rows are batched, and it may mix them (aten::max works "
        "on the whole batch): add the network again"
    ]


def test_verify_reports_a_changed_plot_and_a_missing_page(run: Command, blot: ModelPackage) -> None:
    """Readers trust the page and the plots, although the service does not use them."""
    picture = blot.path / "report" / "loss-curves.png"
    content = picture.read_bytes()
    picture.write_bytes(content[:-1])
    assert run("verify", "blot")[1][0].startswith("refused  package blot/1: report/loss-curves.png")
    picture.write_bytes(content)
    assert run("verify", "blot")[0] == 0
    (blot.path / "README.md").unlink()
    assert run("verify", "blot")[1][0].startswith("refused  package blot/1: README.md: ")


@pytest.mark.parametrize("command", ["list", "verify"])
@pytest.mark.parametrize("make", [True, False])
def test_a_folder_without_packages_is_an_error(
    command: str, make: bool, run: Command, tmp_path: Path
) -> None:
    root = tmp_path / "nothing"
    if make:
        root.mkdir()
    assert run(command, root=root) == (1, [], f"error: there is no package in {root}\n")


@pytest.mark.parametrize("arguments", [[], ["serve"], ["show"], ["list", "blot"]])
def test_a_wrong_call_exits_with_2_and_prints_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m models" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_as_a_program_with_its_exit_code(written: Path) -> None:

    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "models", "--repository", str(written), *arguments],
            cwd=REPOSITORY_ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    listed, unknown = program("list"), program("show", "blob")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["bend/1", "blot/1"]
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("error: package blob: ")
    assert unknown.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_repository_that_is_a_file_is_reported_in_one_sentence(
    command: str, run: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    reason = "it cannot be read (Not a directory)"
    error = f"error: the repository {tmp_path}/file: {reason}\n"
    assert run(command, root=tmp_path / "file") == (1, [], error)


@pytest.mark.skipif(sys.platform == "win32", reason="needs bytes that are no UTF-8 in a name")
def test_a_folder_name_that_is_not_utf8_is_ignored(
    run: Command, repository: ModelRepository
) -> None:
    (repository.root / os.fsdecode(b"caf\xe9") / "1").mkdir(parents=True)
    (repository.root / "blot" / os.fsdecode(b"\xe9")).mkdir()
    assert run("verify")[0] == 0


def test_no_shipped_network_holds_paths_of_the_machine_that_exported_it() -> None:
    for name in SHIPPED.names():
        package = SHIPPED.get(name)
        for file in package.card.runtimes:
            assert b"site-packages" not in package.load(MODEL_FILES[file]), f"{name}: {file}"


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED.names(), reason="no package is shipped yet in models/")
def test_every_shipped_package_is_verified(run: Command) -> None:
    labels = [label for label, _ in SHIPPED]
    code, lines, errors = run("verify", root=SHIPPED.root)
    assert (code, errors) == (0, ""), lines
    for label in labels:
        assert f"right    {label}: onnx, torchscript" in lines
