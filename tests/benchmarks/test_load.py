"""Tests of the load generators: units of the results, and counts of the errors."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from threading import Thread

import numpy as np
import pytest

from benchmarks.serving.load import LoadError, check_tools, h2load, read_h2load, read_wrk, wrk

PRINTED = """Running 2s test @ http://127.0.0.1:1/
  1 threads and 4 connections
Requests/sec:   500.00
DONE {"requests": 1000, "microseconds": 2000000, "connect": 0, "read": 3, "write": 0, \
"status": 2, "timeout": 0, "p50": 1500.0, "p99": 4000.0, "longest": 9000.0}
"""


def test_wrk_output_is_converted_to_seconds_milliseconds_and_cores() -> None:
    load = read_wrk(PRINTED, connections=4, cpu_seconds=0.5)
    assert load.requests_per_second == 500
    assert (load.seconds, load.p50, load.p99, load.longest) == (2, 1.5, 4, 9)
    assert load.generator_cores == 0.25


def test_wrk_s_errors_are_counted_by_kind() -> None:
    assert read_wrk(PRINTED, connections=4, cpu_seconds=0.5).errors == {"read": 3, "status": 2}


def test_wrk_without_a_result_is_an_error() -> None:
    with pytest.raises(LoadError, match="unable to connect"):
        read_wrk("unable to connect to 127.0.0.1:1", connections=1, cpu_seconds=0)


COUNTED = "requests: 3 total, 3 started, 3 done, 3 succeeded, {} failed, {} errored, {} timeout"


def test_the_logs_of_several_h2load_processes_are_merged_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text("5000000\t200\t1000\n7000000\t200\t3000\n")
    second.write_text("6000000\t200\t2000\n")
    trace = read_h2load([first, second], [COUNTED.format(0, 0, 0)] * 2, 0.1)
    np.testing.assert_array_equal(trace.began, [0, 1, 2])
    np.testing.assert_array_equal(trace.took, [1, 2, 3])
    assert trace.errors == {}


def test_h2load_s_errors_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "1"
    log.write_text("1\t503\t10\n2\t200\t10\n3\t-1\t10\n")
    trace = read_h2load([log], [COUNTED.format(4, 4, 5)], 0.1)
    assert trace.errors == {"status": 2, "failed": 4, "timeout": 5}


def test_h2load_without_a_request_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    with pytest.raises(LoadError, match="printed no result"):
        read_h2load([tmp_path / "1"], [COUNTED.format(0, 0, 0)], 0.1)


def test_a_missing_generator_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LoadError, match="apt-get install wrk nghttp2-client"):
        check_tools(["wrk", "h2load"])


class _Echo(BaseHTTPRequestHandler):
    """Counts the received bodies, and returns 500 for the body `bad`."""

    protocol_version = "HTTP/1.1"
    bodies: dict[bytes, int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies[body] = self.bodies.get(body, 0) + 1
        self.send_response(500 if body == b"bad" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def echo() -> Iterator[tuple[str, dict[bytes, int]]]:
    _Echo.bodies = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", _Echo.bodies
        server.shutdown()


@pytest.mark.skipif(which("wrk") is None, reason="wrk is not installed")
def test_wrk_sends_every_body_unchanged(echo: tuple[str, dict[bytes, int]]) -> None:
    url, seen = echo
    bodies = [b'[["x"]]', bytes(range(256)), b"\r\n]==]\n"]
    load = wrk(url, bodies, {"Content-Type": "text/plain"}, connections=1, seconds=1)
    assert set(seen) == set(bodies)
    assert load.requests > 0
    assert load.errors == {}


@pytest.mark.skipif(which("wrk") is None, reason="wrk is not installed")
def test_wrk_counts_a_failed_request(echo: tuple[str, dict[bytes, int]]) -> None:
    url, seen = echo
    load = wrk(url, [b"good", b"bad"], {}, connections=1, seconds=1)
    assert abs(load.errors["status"] - seen[b"bad"]) <= 1  # the last request may be in flight


@pytest.mark.skipif(which("h2load") is None, reason="h2load is not installed")
def test_h2load_keeps_the_rate(echo: tuple[str, dict[bytes, int]]) -> None:
    url, seen = echo
    trace = h2load(url, b"body", {}, rate=80, seconds=2)
    assert set(seen) == {b"body"}
    assert len(trace.took) == pytest.approx(160, rel=0.2)
    assert trace.errors == {}
