"""Tests of the neighbours benchmark: clients, pictures, report, and a run of a real server."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.neighbours import networks
from benchmarks.neighbours.__main__ import main
from benchmarks.neighbours.attacks import ATTACKS
from benchmarks.neighbours.clients import Neighbour, Waits, attack, visit
from benchmarks.neighbours.pictures import digit, rle_bmp
from benchmarks.neighbours.report import content, render
from benchmarks.neighbours.rounds import AttackResult, Cores, Round, create_repository
from benchmarks.serving.servers import ServerError
from service.api.typed.images import mnist_pixels

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextmanager
def stub(respond: Callable[[int], bytes | None]) -> Iterator[int]:
    """Run a server that answers its n-th request with `respond(n)`; None is no answer."""
    loop, numbers = asyncio.new_event_loop(), iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            response = respond(next(numbers))
            if response is not None:
                writer.write(response)
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        server.close()
        loop.close()


def reply(status: int, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_stall_is_in_the_wait_of_every_request_that_was_due_in_it() -> None:
    stall = 1.0

    def respond(number: int) -> bytes:
        if number == 20:
            time.sleep(stall)  # the whole server stops
        return reply(200, b"ok")

    with stub(respond) as port:
        (waits,) = visit(port, [Neighbour("steady", REQUEST, rate=100)], 2.0)
    assert waits.statuses == {"200": 200}
    assert len(waits.seconds) == 200
    # A closed loop would have one long wait; half of those due in the stall wait for half of it.
    assert sum(wait >= stall / 2 for wait in waits.seconds) >= 40


def test_a_rejected_request_is_in_the_statuses_and_not_in_the_waits() -> None:
    with stub(lambda number: reply(503 if number % 2 else 200)) as port:
        (waits,) = visit(port, [Neighbour("steady", REQUEST, rate=50)], 0.4)
    assert waits.statuses == {"200": 10, "503": 10}
    assert len(waits.seconds) == 10


def test_an_unreachable_server_loses_the_requests() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (waits,) = visit(port, [Neighbour("steady", REQUEST, rate=50)], 0.1)
    assert waits.statuses == {"lost": 5}
    assert waits.seconds == []


def test_an_attacker_sends_the_next_request_after_each_response(tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(REQUEST)
    with stub(lambda number: reply(400) if number < 10 else None) as port:
        statuses = attack(port, request, 2, 1.0, reads=True)
    assert statuses == {"400": 10, "unanswered": 2}


def test_an_attacker_that_does_not_read_leaves_the_response_to_the_server(tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(REQUEST)
    with stub(lambda _: reply(200, b"x" * 2**20)) as port:
        assert attack(port, request, 3, 0.5, reads=False) == {"unread": 3}


def test_the_rle_bmp_is_small_and_has_the_stated_size() -> None:
    assert len(rle_bmp(65_535, 610)) == 3_520
    with Image.open(BytesIO(rle_bmp(40, 30))) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (30, 40)
    assert (pixels[:, 0] == 255).all()
    assert not pixels[:, 1:].any()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_the_service_reads_the_honest_pictures(file_format: str) -> None:
    ink = mnist_pixels(digit(200, file_format, colour=file_format != "GIF"))
    assert ink[14, 14] > 128
    assert not ink[:, :4].any()


def test_the_cores_are_divided_if_there_are_more_than_two() -> None:
    assert Cores.of([0, 1]) == Cores()
    assert Cores.of([2, 3, 5, 7]) == Cores(frozenset({2}), frozenset({3}), frozenset({5, 7}))


def test_every_network_of_an_attack_exists() -> None:
    assert {attack.network for attack in ATTACKS.values()} - {None} == set(networks.NETWORKS)


def test_a_refused_network_is_named_with_the_reason(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wide.onnx").write_bytes(b"nothing")
    monkeypatch.setattr(networks, "save", lambda name, folder: folder / f"{name}.onnx")
    with pytest.raises(ServerError, match="the network is refused: error: "):
        create_repository(root, tmp_path, "wide")


def result() -> AttackResult:
    """Return two rounds of an attack; the second neighbour was not answered during it."""
    attack_result = AttackResult("flood", "much", "a model")
    for number, (quiet, attacked) in enumerate([(0.001, 0.01), (0.002, 0.08)]):
        for neighbour, waits in (("near", [attacked] * 3), ("far", [])):
            attack_result.rounds.append(
                Round.of(
                    neighbour,
                    Waits([quiet] * 3, statuses={"200": 3}),  # type: ignore[arg-type]
                    attacked=False,
                    number=number,
                )
            )
            statuses = {"200": 3} if waits else {"lost": 3}
            attack_result.rounds.append(
                Round.of(
                    neighbour,
                    Waits(waits, statuses=statuses, late_seconds=0.004),  # type: ignore[arg-type]
                    attacked=True,
                    number=number,
                )
            )
    attack_result.statuses = {"413": 7}
    attack_result.memory_mb = {"before": 100.0, "peak": 900.0, "after": 120.0}
    return attack_result


def test_the_table_compares_each_attacked_round_with_its_quiet_one() -> None:
    page = render([result()], {"processor": "a processor"}, shared_cores=True)
    assert (
        "| flood | near | 1.5 → 45 | 1.5 → 45 | 2 → 80 | 25 x (10 to 40) | 100 → 900 → 120 "
        "| 6 x 200 → 6 x 200; attacker 7 x 413 |"
    ) in page
    assert (
        "| flood | far | 1.5 → none | 1.5 → none | 2 → none | none |  | 6 x 200 → 6 x lost |"
        in (page)
    )
    assert "share the cores" in page
    assert "late by 4 ms" in page


def test_an_attack_that_fails_is_named_with_the_reason() -> None:
    failed = AttackResult("flood", "much", "a model", failure="no such network")
    page = render([failed, result()], {}, shared_cores=False)
    assert "- flood: not measured: no such network" in page
    assert "share the cores" not in page


def test_the_json_has_every_round_and_null_where_nothing_was_answered() -> None:
    report = json.loads(json.dumps(content([result()], {"rounds": 2}), allow_nan=False))
    rounds = report["attacks"][0]["rounds"]
    assert len(rounds) == 8
    assert [round_["p99_ms"] for round_ in rounds if round_["neighbour"] == "far"] == [
        1,
        None,
        2,
        None,
    ]


def test_an_attack_on_a_real_server_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    arguments = ["--quick", "--seconds", "1", "--recovery-seconds", "0", "--json", str(file)]
    assert main([*arguments, "--only", "normal rows"]) == 0
    out = capsys.readouterr().out
    for name, requests in (("another model", 100), ("/livez", 20), ("same model", 50)):
        (row,) = [line for line in out.splitlines() if line.startswith(f"| normal rows | {name}")]
        assert f"| {requests} x 200 → {requests} x 200" in row
    (found,) = json.loads(file.read_text())["attacks"]
    assert found["statuses"]["200"] > 0
    assert found["memory_mb"]["peak"] >= found["memory_mb"]["before"] > 0


def test_an_unknown_attack_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "kindness"])
    assert "'empty lists, gzip'" in capsys.readouterr().err


def test_a_folder_without_the_service_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["--checkout", str(tmp_path)])
    assert "--checkout must be a folder with the service" in capsys.readouterr().err
