"""`python -m models` as a process: errors of the machine are one sentence without a traceback."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from onnx import helper
from small_packages import Bend, bend_onnx, edit_card, seeded, snapshot

from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository

CHECKOUT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has none of these")

Ended = tuple[int, str, str]


def run(
    root: Path,
    *arguments: str | bytes | Path,
    under: Sequence[str] = (),
    code: str | None = None,
    out: int = subprocess.PIPE,
    **environment: str,
) -> Ended:
    """Run the command; return its exit code, standard output and standard error."""
    program = ["-m", "models"] if code is None else ["-c", code]
    completed = subprocess.run(
        [*under, sys.executable, *program, "--repository", root, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdout=out,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    return completed.returncode, (completed.stdout or b"").decode(), completed.stderr.decode()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A valid ONNX file."""
    (tmp_path / "bend.onnx").write_bytes(bend_onnx(seeded(Bend)))
    return tmp_path / "bend.onnx"


# Terminals and pipes.


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"gr\xf6\xdfer \u2192 besser"), ("utf-8", "größer → besser")],
)
def test_characters_outside_the_terminal_s_encoding_are_escaped(
    encoding: str, shown: str, repository: ModelRepository, blot: ModelPackage
) -> None:
    edit_card(blot, lambda card: card.update(summary="größer → besser"))
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    code, out, error = run(repository.root, "show", "blot", **settings)
    assert (code, error) == (0, "")
    assert shown in out


def test_terminal_control_characters_are_escaped(
    repository: ModelRepository, blot: ModelPackage
) -> None:
    name = "\x1b]0;title\x07\x1b[2J\nforged line"
    edit_card(blot, lambda card: card.update(summary=name))
    edit_card(blot, lambda card: card["inputs"][0].update(name=name))
    for command in ("list", "show", "verify"):
        _, out, error = run(repository.root, command, *(["blot"] if command == "show" else []))
        assert "\x1b" not in out + error, command
        assert "\x07" not in out + error, command


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**40, 2**40), (0,)])
def test_a_network_that_cannot_be_run_is_reported_in_one_sentence(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = [helper.make_tensor_value_info(n, 1, ["rows", *shape]) for n in ("x", "y")]
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "wide", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    file = tmp_path / "wide.onnx"
    file.write_bytes(model.SerializeToString())
    code, _, error = run(tmp_path, "add", "wide", "--onnx", file)
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_closed_pipe_ends_the_command_without_a_traceback(written: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(written, "show", "blot", out=writer) == (141, "", "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_to_a_full_disk_is_reported_in_one_sentence(written: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        reason = "No space left on device"
        error = f"error: the output cannot be written ({reason})\n"
        assert run(written, "list", out=full) == (1, "", error)
    finally:
        os.close(full)


def test_an_interrupt_ends_the_command_without_a_traceback(written: Path) -> None:
    code = (
        "import os, signal, sys, models.command_line as command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it may be ignored
        "listing = command._list\n"
        "def interrupted(repository):\n"
        "    listing(repository)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "command._list = interrupted\n"
        "sys.exit(command.program())\n"
    )
    exit_code, _, error = run(written, "list", code=code)
    assert (exit_code, error) == (130, "")


# A network that ends the process.


@pytest.mark.parametrize(
    ("ended_by", "said"), [("SIGSEGV", "would end a server too"), ("SIGKILL", "memory is full")]
)
def test_a_network_that_ends_the_process_is_reported_in_one_sentence(
    ended_by: str, said: str, graph: Path, tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys, models.command_line as command\n"
        f"command.add = lambda *_, **__: os.kill(os.getpid(), signal.{ended_by})\n"
        "sys.exit(command.program())\n"
    )
    exit_code, out, error = run(tmp_path / "new", "add", "bend", "--onnx", graph, code=code)
    assert (exit_code, out) == (1, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert ended_by in error
    assert said in error
    assert not (tmp_path / "new").exists()


def test_an_interrupt_of_the_parent_alone_ends_the_computation(graph: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time, models.command_line as command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupted(*_, **__):\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(50)\n"
        "command.add = interrupted\n"
        "sys.exit(command.program())\n"
    )
    assert run(tmp_path / "new", "add", "bend", "--onnx", graph, code=code) == (130, "", "")


# Permissions.


@pytest.fixture
def closing(repository: ModelRepository) -> Iterator[Path]:
    """A repository whose permissions a test restricts, and which are restored for its removal."""
    if not UNPRIVILEGED and os.geteuid() == 0:
        pytest.skip("root reads everything, and there is no setpriv to take that away")
    yield repository.root
    repository.root.chmod(0o700)
    for folder, folders, _ in os.walk(repository.root):
        for name in folders:
            Path(folder, name).chmod(0o700)


UNPRIVILEGED = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if os.geteuid() == 0 and shutil.which("setpriv")
    else ()
)
"""The prefix of a command that makes file permissions effective for root, too."""
DENIED = "it cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("closed", "refused"),
    [
        ("bend", f"bend    refused: package bend: its folder: {DENIED}"),
        ("bend/1", f"bend/1  refused: package bend/1: card.json: {DENIED}"),
        ("bend/1/card.json", f"bend/1  refused: package bend/1: card.json: {DENIED}"),
    ],
)
def test_list_reports_an_unreadable_package_and_lists_the_others(
    closed: str, refused: str, closing: Path
) -> None:
    (closing / closed).chmod(0)
    code, out, error = run(closing, "list", under=UNPRIVILEGED)
    assert (code, error) == (1, "")
    assert out.splitlines() == [refused, "blot/1  98.77% of 12,345 test samples right"]
    shown = f"error: {refused.partition(': ')[2]}\n"
    assert run(closing, "show", "bend", under=UNPRIVILEGED) == (1, "", shown)


def test_verify_reports_an_unreadable_file_and_verifies_the_others(closing: Path) -> None:
    (closing / "bend" / "1" / "model.pt").chmod(0)
    code, out, error = run(closing, "verify", under=UNPRIVILEGED)
    assert (code, error) == (1, "")
    assert out.splitlines() == [
        f"refused  package bend/1: model.pt: {DENIED}",
        "right    blot/1: onnx, torchscript",
    ]


@pytest.mark.parametrize("command", [("list",), ("verify",), ("show", "blot")])
def test_an_unreadable_repository_is_reported_in_one_sentence(
    command: tuple[str, ...], closing: Path
) -> None:
    closing.chmod(0)
    code, out, error = run(closing, *command, under=UNPRIVILEGED)
    assert (code, out) == (1, "")
    assert error in (
        f"error: the repository {closing}: {DENIED}\n",
        f"error: package blot: its folder: {DENIED}\n",
    )


def test_a_network_is_not_added_to_an_unwritable_repository(closing: Path, graph: Path) -> None:
    """The error is reported before the network is read and run."""
    before = snapshot(closing)
    closing.chmod(0o500)
    for root in (closing, closing / "new" / "one"):
        code, out, error = run(root, "add", "bend", "--onnx", graph, under=UNPRIVILEGED)
        assert (code, out) == (1, "")
        reason = "packages cannot be written there (Permission denied)"
        assert error == f"error: the repository {root}: {reason}\n"
    assert snapshot(closing) == before


def test_a_network_is_not_added_to_an_unwritable_package_folder(closing: Path, graph: Path) -> None:
    """The write fails at the end and leaves no files."""
    before = snapshot(closing)
    (closing / "bend").chmod(0o500)
    code, _, error = run(closing, "add", "bend", "--onnx", graph, under=UNPRIVILEGED)
    reason = "packages cannot be written there (Permission denied)"
    assert (code, error) == (1, f"error: the repository {closing}: {reason}\n")
    assert snapshot(closing) == before


# Text that is not UTF-8.


def test_an_argument_that_is_not_utf8_is_refused_in_one_sentence(
    graph: Path, tmp_path: Path
) -> None:
    code, out, error = run(
        tmp_path / "new", "add", "bend", "--onnx", graph, "--label", b"caf\xe9", LC_ALL="C.UTF-8"
    )
    assert (code, out) == (1, "")
    assert error == "error: --label holds 'caf\\udce9', which is no UTF-8: give it as UTF-8\n"
    assert not (tmp_path / "new").exists()


def test_a_file_whose_name_is_not_utf8_is_added(graph: Path, tmp_path: Path) -> None:
    file = graph.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.onnx")))
    code, out, error = run(tmp_path / "new", "add", "bend", "--onnx", file, LC_ALL="C.UTF-8")
    assert (code, error) == (0, "")
    assert out.startswith("wrote ")
    card = ModelRepository(tmp_path / "new").get("bend").card
    assert card.summary.startswith(r"Added from caf\udce9.onnx")
