"""The metrics folders of several servers of one user are independent."""

import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from faulty_networks import write_sound
from live_server import BIN, Server, environment, serving, temporary_home
from raw_client import message


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of every server: one home, and one small network."""
    home, repository = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
    write_sound(repository, "sound")
    return {
        "BENTOML_HOME": str(home),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MODEL_REPOSITORY": str(repository),
    }


@contextmanager
def started(root: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    with temporary_home() as log, serving(log, root, settings=settings) as server:
        yield server


def ask(server: Server, times: int) -> None:
    body = message("sound", 3).partition(b"\r\n\r\n")[2]
    for _ in range(times):
        httpx.post(f"{server.url}/v2/models/sound/infer", content=body).raise_for_status()


def predictions_of(server: Server) -> int:
    """Return the number of predictions in the metrics."""
    matches = re.findall(
        r'^fitserve_request_seconds_count\{.*model="sound".*\} (\S+)$',
        httpx.get(f"{server.url}/metrics").text,
        re.MULTILINE,
    )
    return round(sum(map(float, matches)))


def folders(parent: Path) -> set[str]:
    """Return the metrics folders."""
    metrics_folders = list(parent.glob("fitserve-metrics-*"))
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in metrics_folders] == [0o700] * len(
        metrics_folders
    )
    return {folder.name for folder in metrics_folders}


def test_each_server_has_its_own_metrics_folder(
    root: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    settings = {**settings, "TMPDIR": str(tmp_path)}
    with started(root, settings) as first:
        ask(first, 3)
        own_folders = folders(tmp_path)
        assert len(own_folders) == 1

        port = first.url.rpartition(":")[2]
        failed = subprocess.run(
            [BIN / "bentoml", "serve", "--port", port],
            cwd=root, env=environment(tmp_path, settings), capture_output=True, timeout=120,
        )  # fmt: skip
        assert failed.returncode != 0, "two servers have one port"
        assert folders(tmp_path) == own_folders
        assert predictions_of(first) == 3

        with started(root, settings) as second:
            ask(second, 2)
            assert (predictions_of(first), predictions_of(second)) == (3, 2)
            workers = second.workers()
            left = folders(tmp_path) - own_folders
            second.process.kill()
            second.process.wait()
            psutil.wait_procs(workers, 30)
        assert folders(tmp_path) == own_folders | left
        assert len(left) == 1

        with started(root, settings) as third:
            assert not folders(tmp_path) & left, "the leftover of a killed server stays"
            assert own_folders < folders(tmp_path)
            ask(third, 1)
            assert (predictions_of(first), predictions_of(third)) == (3, 1)
        assert folders(tmp_path) == own_folders
    assert folders(tmp_path) == set()


def test_the_folder_is_created_inside_the_configured_one(
    root: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "counter_1.db").write_bytes(b"another program's")
    with started(root, {**settings, "PROMETHEUS_MULTIPROC_DIR": str(folder)}) as server:
        ask(server, 2)
        assert predictions_of(server) == 2
        assert len(folders(folder)) == 1
        deadline = time.monotonic() + 10
        while not list(folder.glob("*/*.db")):
            assert time.monotonic() < deadline, "it counts elsewhere"
            time.sleep(0.05)
    assert [file.name for file in folder.iterdir()] == ["counter_1.db"]
    assert (folder / "counter_1.db").read_bytes() == b"another program's"


def test_without_a_folder_each_worker_reports_its_own_metrics(
    root: Path, settings: dict[str, str]
) -> None:
    with started(root, {**settings, "PROMETHEUS_MULTIPROC_DIR": "/dev/null/metrics"}) as server:
        ask(server, 2)
        assert predictions_of(server) == 2
        log = server.read_log()
        assert log.count("each worker reports its own metrics only: ") == 1
        assert "Traceback" not in log


def test_metrics_are_available_after_their_folder_was_removed(
    root: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    placed = settings | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with started(root, placed) as server:
        ask(server, 3)
        (folder,) = tmp_path.iterdir()
        shutil.rmtree(folder)
        ask(server, 2)
        assert "fitserve_request_seconds_count" in httpx.get(f"{server.url}/metrics").text
        assert "Traceback" not in server.read_log()
