"""Only what breaks is lost: faults under load, counted request by request."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import psutil
import pytest
from faulty_networks import (
    VICTIM,
    write_hanging,
    write_miscounting,
    write_raising,
    write_slow,
    write_sound,
    write_undefined,
)
from live_server import Server, serving, temporary_home
from raw_client import Line, Reply, Tally, ask_anew, ask_on, ask_once, message
from waiting import until, wait_until

PATIENCE = 1.0  # FITSERVE_MAX_COMPUTE_SECONDS of the server with failing networks
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero: a reset in place of an orderly close
ON_CPU = {"FITSERVE_DEVICE": "cpu"}  # without torch, so it starts in half the time
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
STEPS = 15_000  # iterations of a loop: about 10 ms


def port_of(server: Server) -> int:
    """Return the port of the server."""
    return int(server.url.rpartition(":")[2])


def accepting(server: Server) -> list[psutil.Process]:
    """Return the workers among its processes."""
    return [worker for worker in server.workers() if "--worker-id" in worker.cmdline()]


def connected(worker: psutil.Process) -> int:
    """Return the number of connections of a worker."""
    return len([link for link in worker.net_connections() if link.status == "ESTABLISHED"])


def resident(server: Server) -> int:
    """Return the memory of the workers, in bytes."""
    return sum(worker.memory_info().rss for worker in accepting(server))


@contextmanager
def several(workers: int, root: Path, repository: Path) -> Iterator[Server]:
    """A server with this number of workers, all of which serve."""
    settings = {
        **ON_CPU,
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_MAX_QUEUE_SECONDS": "10",  # beside other programs, a row may take a second
        "BENTOML_CONFIG_OPTIONS": f"services.fitserve.workers={workers}",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        wait_until(lambda: server.read_log().count("Completed async startup hook") == workers)
        yield server


# SIGTERM, and kill -9, under load.


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_under_load_loses_nothing(root: Path, tmp_path: Path, workers: int) -> None:
    write_sound(tmp_path, "sound")
    write_slow(tmp_path, "slow", STEPS)
    tally = Tally()

    async def load(server: Server) -> None:
        clients = [
            *(ask_on(tally, port_of(server), "sound", lambda: False) for _ in range(8)),
            *(ask_on(tally, port_of(server), "slow", lambda: False) for _ in range(8)),
            *(ask_anew(tally, port_of(server), "sound", lambda: False) for _ in range(8)),
        ]
        tasks = [asyncio.create_task(client) for client in clients]
        await until(lambda: tally.right > 200)
        before = tally.sent
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        assert tally.sent > before, "there was no load"

    with several(workers, root, tmp_path) as server:
        processes = server.processes()
        await load(server)
        server.check_end(processes)
    print(f"SIGTERM, {workers} workers: {tally}")
    assert (tally.lost, tally.other) == ([], {})


@pytest.mark.parametrize("workers", [1, 2])
async def test_kill_9_loses_what_is_in_flight_on_the_worker(
    root: Path, tmp_path: Path, workers: int
) -> None:
    write_slow(tmp_path, "slow", STEPS)
    clients = 12
    before, after = Tally(), Tally()

    async def load(server: Server) -> None:
        port, over = port_of(server), False
        tasks = [
            asyncio.create_task(ask_on(before, port, "slow", lambda: over)) for _ in range(clients)
        ]
        await until(lambda: before.right > 50)
        held, victim = max(
            ((connected(worker), worker) for worker in accepting(server)), key=lambda pair: pair[0]
        )
        victim.kill()
        killed = time.monotonic()
        if workers == 2:  # the other worker serves all clients
            answered = before.right
            await until(lambda: before.right > answered + 10, 5, "the other worker does not serve")
        await until(
            lambda: not victim.is_running() and len(accepting(server)) == workers,
            what=f"the worker does not come back: {server.tail()}",
        )
        answered = before.right
        await until(lambda: before.right > answered + 50)
        seconds = time.monotonic() - killed
        over = True
        await asyncio.gather(*tasks)
        print(f"kill -9, {workers} workers: {before}; {held} in flight; back in {seconds:.1f} s")
        assert 0 < len(before.lost) <= held <= clients
        assert before.other == {}
        late = max(before.lost) - killed
        assert late < 0.1, f"a request was lost that was sent {late:.2f} s after the kill"
        for x in range(20):
            line = await Line.to(port)
            await after.ask(line, "slow", x % 10)
            line.close()
        assert after.right == 20

    with several(workers, root, tmp_path) as server:
        await load(server)


# Networks that fail.


@pytest.fixture(scope="module")
def faulty(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of networks that fail for one input, and of one that does not."""
    repository = tmp_path_factory.mktemp("faulty")
    write_sound(repository, "sound")
    write_raising(repository, "raising")
    write_hanging(repository, "hanging")
    write_miscounting(repository, "miscounting")
    write_undefined(repository, "undefined", limits=True)
    write_undefined(repository, "unlimited", limits=False)
    settings = {
        **ON_CPU,
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_MAX_COMPUTE_SECONDS": str(PATIENCE),
        "FITSERVE_MAX_QUEUE_DELAY_SECONDS": "0.02",  # so its batch has other requests
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        yield server


async def ask_among_valid_requests(
    server: Server, model: str, **more: object
) -> tuple[Reply, Tally]:
    """Send `model` the input on which it fails, while other requests to two models are valid.

    Returns:
        The sentence for the failing request, and the outcome of the others.
    """
    tally, port, over = Tally(), port_of(server), False
    others = [
        *(ask_on(tally, port, model, lambda: over) for _ in range(20)),
        *(ask_on(tally, port, "sound", lambda: over) for _ in range(4)),
    ]
    tasks = [asyncio.create_task(other) for other in others]
    await until(lambda: tally.right > 50)
    reply = await ask_once(port, message(model, VICTIM, {"X-Request-Id": model}, **more))
    answered = tally.right
    await until(lambda: tally.right > answered + 50)
    over = True
    await asyncio.gather(*tasks)
    print(f"{model}: the victim got {reply.status} in {reply.seconds:.2f} s; the others, {tally}")
    assert tally.sent > 100
    return reply, tally


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("miscounting", "has 0 rows for 1 of input"),
        ("undefined", "infinity or NaN"),
        # The last, as it continues to compute.
        ("hanging", f"did not end within {PATIENCE:g} seconds"),
    ],
)
async def test_a_network_that_fails_on_one_request_fails_only_that_one(
    model: str, sentence: str, faulty: Server
) -> None:
    reply, tally = await ask_among_valid_requests(faulty, model)
    assert reply.status == 500
    assert f"Model {model}" in json.loads(reply.body)["error"]
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})
    log = faulty.read_log()
    assert log.count(f"request {model} failed") == 1
    assert len(re.findall(r"request \S+ failed", log)) == len(re.findall(r" 500 in ", log))
    assert sentence in log.partition(f"request {model} failed")[2]
    if model == "hanging":
        assert reply.seconds < 5 * PATIENCE, f"it failed after {reply.seconds:.1f} s"
        async with httpx.AsyncClient(base_url=faulty.url) as client:
            assert (await client.get("/livez")).status_code == 200


async def test_an_input_that_the_network_cannot_compute_is_the_fault_of_the_request(
    faulty: Server,
) -> None:
    reply, tally = await ask_among_valid_requests(faulty, "raising")
    assert reply.status == 400
    assert json.loads(reply.body)["error"] == (
        "Model 'raising' cannot compute this request: indices element out of data bounds, idx=1 "
        "must be within the inclusive range [-1,0]."
    )
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})
    assert "request raising failed" not in faulty.read_log()


async def test_nan_for_an_input_without_a_range_is_the_fault_of_the_request(faulty: Server) -> None:
    in_json, tally = await ask_among_valid_requests(faulty, "unlimited")
    assert in_json.status == 400
    assert "infinity or NaN" in json.loads(in_json.body)["error"]
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})
    in_bytes, tally = await ask_among_valid_requests(
        faulty, "unlimited", parameters={"binary_data_output": True}
    )
    assert in_bytes.status == 200
    assert in_bytes.body[-4:] in (b"\x00\x00\xc0\x7f", b"\x00\x00\xc0\xff")  # NaN in FP32
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})
    assert "request unlimited failed" not in faulty.read_log()


# Clients that disconnect.


async def test_a_thousand_clients_killed_during_a_body_have_no_effect(
    root: Path, tmp_path: Path
) -> None:
    write_sound(tmp_path, "sound")
    whole = message("sound", 3)
    body = whole.index(b"\r\n\r\n") + 4
    tally = Tally()

    def kill_clients(port: int, count: int) -> None:
        """Send a part from each client, and reset, as the kernel does for a killed process."""
        for number in range(count):
            cut = body + number % (len(whole) - body)
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(whole[:cut])
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def load(server: Server) -> tuple[int, int]:
        over, port = False, port_of(server)
        asking = [asyncio.create_task(ask_on(tally, port, "sound", lambda: over)) for _ in range(4)]
        await asyncio.to_thread(kill_clients, port, 200)  # their memory stays allocated
        before = resident(server)
        for _ in range(10):
            await asyncio.to_thread(kill_clients, port, 100)
            answered = tally.right
            await until(lambda least=answered + 5: tally.right >= least)
        over = True
        await asyncio.gather(*asking)
        return before, resident(server)

    with several(1, root, tmp_path) as server:
        before, after = await load(server)
        (worker,) = accepting(server)
        await until(lambda: not connected(worker), 5)  # none is held for a client that is gone
        async with httpx.AsyncClient(base_url=server.url) as client:
            stats = (await client.get("/v2/models/sound/stats")).json()["model_stats"][0]
            assert stats["inference_count"] == tally.right
            metrics = (await client.get("/metrics")).text
            assert re.search(r'fitserve_queue_rows\{model="sound"\} 0\.0', metrics)
        assert not re.findall(r"request \S+ failed|Traceback", server.read_log())
    print(f"1,000 killed clients: {tally}; memory +{(after - before) / 2**20:.1f} MiB")
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})
    assert after - before < 8 * 2**20


# Failures of the operating system.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 4 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="fs-"))  # a short path, as it contains sockets
    options = ("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with (folder / "filling").open("wb", buffering=0) as stream:
        for size in (2**16, 2**9, 1):
            with suppress(OSError):
                while stream.write(bytes(size)):
                    pass


@pytest.mark.parametrize("when", ["while it serves", "before it starts"])
async def test_a_full_disk_does_not_affect_predictions(
    root: Path, tmp_path: Path, small_disk: Path, when: str
) -> None:
    models = [f"sound-{number}" for number in range(20)]
    for model in models:
        write_sound(tmp_path / "models", model)
    write_miscounting(tmp_path / "models", "miscounting")
    settings = {
        **ON_CPU,
        "FITSERVE_MODEL_REPOSITORY": str(tmp_path / "models"),
        "FITSERVE_ACCESS_LOG_RATIO": "1",
        "TMPDIR": str(small_disk),
        "BENTOML_HOME": str(small_disk / "home"),
    }
    if when == "before it starts":
        (small_disk / "home").mkdir()
        fill(small_disk)
    tally = Tally()

    async def ask_all(port: int) -> None:
        line = await Line.to(port)
        for model in models:
            for x in range(5):
                await tally.ask(line, model, x)
        for model, status in (("absent", 404), ("miscounting", 500)):  # the counts start again
            assert (await line.ask(message(model, VICTIM))).status == status
        line.close()

    with temporary_home() as log, serving(log, root, settings=settings) as server:
        workers = [worker.pid for worker in accepting(server)]
        if when == "while it serves":
            fill(small_disk)
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "more").write_bytes(b"x")
        await ask_all(port_of(server))
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/readyz")).status_code == 200
            counted = await client.get("/metrics")
        assert counted.status_code == 200
        assert "fitserve_request_seconds_count" in counted.text
        assert [worker.pid for worker in accepting(server)] == workers, "a worker died"
    print(f"a disk that was full {when}: {tally}")
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})


@pytest.mark.skipif(not FAKETIME, reason="libfaketime (Debian's package) is not installed")
async def test_a_clock_set_back_an_hour_has_no_effect(root: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "models", "sound")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    settings = {
        **ON_CPU,
        "FITSERVE_MODEL_REPOSITORY": str(tmp_path / "models"),
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",  # the monotonic clock
    }
    tally = Tally()

    async def seconds_behind(server: Server) -> float:
        async with httpx.AsyncClient(base_url=server.url) as client:
            date = (await client.get("/livez")).headers["date"]
        return time.time() - parsedate_to_datetime(date).timestamp()

    async def load(server: Server) -> None:
        over, port = False, port_of(server)
        tasks = [asyncio.create_task(ask_on(tally, port, "sound", lambda: over)) for _ in range(4)]
        await until(lambda: tally.right > 10)
        clock.write_text("-1h")
        async with asyncio.timeout(30):
            while await seconds_behind(server) < 3500:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.1)
        before = tally.right
        await until(lambda: tally.right > before + 10)
        over = True
        await asyncio.gather(*tasks)

    with temporary_home() as home, serving(home, root, settings=settings) as server:
        await load(server)
        async with httpx.AsyncClient(base_url=server.url) as client:
            response = await client.get("/v2/models/sound/stats")
        (stats,) = response.json()["model_stats"]
        assert stats["inference_count"] == tally.right
        spent = stats["inference_stats"]["success"]["ns"] / 1e9
        assert 0 < spent < 60, f"the requests took {spent:.0f} s by its own account"
        log = server.read_log()
        broken = log.count("OSError: [Errno 22] Invalid argument")  # libfaketime and `time.sleep`
        assert log.count("Traceback") == broken, server.tail()
    print(f"a clock set back an hour: {tally}")
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})


async def test_changed_packages_have_no_effect_until_the_next_start(
    root: Path, tmp_path: Path
) -> None:
    models = ("altered", "truncated", "removed", "sound")
    files = {model: write_sound(tmp_path, model).path / "model.onnx" for model in models}
    settings = {**ON_CPU, "FITSERVE_MODEL_REPOSITORY": str(tmp_path)}
    tally = Tally()

    async def load(port: int) -> None:
        over = False
        tasks = [asyncio.create_task(ask_on(tally, port, model, lambda: over)) for model in models]
        await until(lambda: tally.right > 50)
        # In place, so that a process with the file mapped would see the change, or get a SIGBUS.
        with files["altered"].open("r+b") as stream:
            content = stream.read()
            stream.seek(0)
            stream.write(bytes(255 - byte for byte in content))
        os.truncate(files["truncated"], 10)
        shutil.rmtree(files["removed"].parent.parent)
        answered = tally.right
        await until(lambda: tally.right > answered + 100)
        over = True
        await asyncio.gather(*tasks)

    with temporary_home() as home, serving(home, root, settings=settings) as server:
        await load(port_of(server))
    print(f"packages changed on disk: {tally}")
    assert tally.sent > 100
    assert (tally.right, tally.lost, tally.other) == (tally.sent, [], {})

    with temporary_home() as home, serving(home, root, settings=settings) as server:
        responses = {model: await ask_once(port_of(server), message(model, 3)) for model in models}
        log = server.read_log()
    assert responses["sound"].is_right(3)
    statuses = {model: reply.status for model, reply in responses.items()}
    assert statuses == {"altered": 503, "truncated": 503, "removed": 404, "sound": 200}
    assert "unavailable: package altered/1: model.onnx" in log
    assert "unavailable: package truncated/1: model.onnx" in log
