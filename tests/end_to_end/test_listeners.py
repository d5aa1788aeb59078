"""The sockets of a server: its own port, and those of an option; it accepts no commands."""

import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from circus.client import CircusClient
from circus.exc import CallError
from faulty_networks import write_sound
from live_server import Server, serving, temporary_home
from waiting import is_running, wait_until

WORKERS = "BENTOML_CONFIG_OPTIONS"


def listeners(server: Server) -> set[tuple[str, str]]:
    """Return the kind and address of every socket of its processes that others can reach."""
    listeners = set()
    for process in (psutil.Process(server.process.pid), *server.processes()):
        for link in process.net_connections("inet"):
            if link.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):  # the latter for UDP
                listeners.add((link.type.name, f"{link.laddr.ip}:{link.laddr.port}"))
        for link in process.net_connections("unix"):
            if link.laddr:  # a socket without a name belongs to a pair
                listeners.add(("UNIX", str(link.laddr)))
    return listeners


@contextmanager
def small(root: Path, repository: Path, *target: str, **settings: str) -> Iterator[Server]:
    """A server of one small network."""
    settings |= {"FITSERVE_DEVICE": "cpu", "FITSERVE_MODEL_REPOSITORY": str(repository)}
    with temporary_home() as home, serving(home, root, *target, settings=settings) as server:
        yield server


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_listens_only_on_its_port_and_accepts_no_commands(
    root: Path, tmp_path: Path, workers: int
) -> None:
    write_sound(tmp_path, "sound")
    with small(root, tmp_path, **{WORKERS: f"services.fitserve.workers={workers}"}) as server:
        assert len(server.workers()) == workers
        address = server.url.removeprefix("http://")
        assert listeners(server) == {("SOCK_STREAM", address)}
        client = CircusClient(endpoint=f"tcp://{address}", timeout=1)
        with pytest.raises(CallError):
            client.send_message("quit")
        client.stop()
        assert httpx.get(f"{server.url}/readyz").status_code == 200


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    """A copy of the service, whose files the test may change; with one small network."""
    write_sound(tmp_path / "repository", "sound")
    tree = tmp_path / "tree"
    shutil.copytree(root / "service", tree / "service")
    for name in ("bentofile.yaml", "README.md"):
        shutil.copy(root / name, tree)
    for source in (root / "models").rglob("*.py"):  # the packages in models/ stay where they are
        copy = tree / source.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    return tree


def test_reloading_listens_in_a_private_folder(tree: Path, tmp_path: Path) -> None:
    with temporary_home() as temporary:
        settings = {"TMPDIR": str(temporary)}
        with small(tree, tmp_path / "repository", ".", "--reload", **settings) as server:
            (folder,) = temporary.glob("fitserve-admin-*")
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            port = ("SOCK_STREAM", server.url.removeprefix("http://"))
            sockets = {("UNIX", f"{folder}/{name}") for name in ("admin", "events")}
            assert listeners(server) == {port, *sockets}
            before = accepting(server)
            with (tree / "service" / "settings.py").open("a") as stream:
                stream.write("# changed\n")
            deadline = time.monotonic() + 60
            while not accepting(server) - before:
                assert time.monotonic() < deadline, f"no new worker; {server.tail()}"
                time.sleep(0.1)
            assert "a worker died" not in server.read_log(), "a reload counts as a death"
        assert [left.name for left in temporary.iterdir()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel signals the end of a parent")
def test_nothing_is_left_of_a_reloading_server_that_was_killed(tree: Path, tmp_path: Path) -> None:
    with temporary_home() as temporary:
        settings = {"TMPDIR": str(temporary)}
        with small(tree, tmp_path / "repository", ".", "--reload", **settings) as server:
            processes = server.processes()
            assert accepting(server) < set(processes), "a worker, and what watches the files"
            server.process.kill()
            server.process.wait()
            wait_until(lambda: not any(map(is_running, processes)), 2, "they did not end")
        with small(tree, tmp_path / "repository", ".", "--reload", **settings) as server:
            assert len(list(temporary.glob("fitserve-admin-*"))) == 1, "the next one clears it"
        assert list(temporary.glob("fitserve-*")) == []


def accepting(server: Server) -> set[psutil.Process]:
    """Return the workers among its processes, some of which may be ending."""
    listeners = set()
    for process in server.processes():
        try:
            if "--worker-id" in process.cmdline():
                listeners.add(process)
        except psutil.NoSuchProcess:
            continue
    return listeners
