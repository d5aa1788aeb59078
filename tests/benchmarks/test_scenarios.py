"""Tests of windows, request bodies, server processes, and a short run of a real server."""

import re
import sys
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from benchmarks.serving.__main__ import main
from benchmarks.serving.load import Trace
from benchmarks.serving.payloads import ONE_IMAGE, images, in_process, v2_binary
from benchmarks.serving.processes import marked, running
from benchmarks.serving.scenarios import windows
from benchmarks.serving.servers import PEERS, SERVERS, Row, Server, ServerError

SHORT = ["--only", "throughput", "--rounds", "1", "--seconds", "1", "--warm-up", "1"]


def trace(began: list[float], took: list[float]) -> Trace:
    return Trace(np.array(began), np.array(took), {}, 0.0)


def test_a_window_holds_the_requests_that_began_in_it() -> None:
    measured = windows(trace([0, 5, 10, 19, 20, 26], [1, 3, 5, 5, 7, 7]), 10)
    assert [window["requests"] for window in measured] == [2, 2, 2]
    assert [window["p50_ms"] for window in measured] == [2, 5, 7]


def test_a_short_last_window_is_left_out() -> None:
    assert len(windows(trace([0, 9, 11], [1, 1, 1]), 10)) == 1


def test_a_short_trace_is_one_window() -> None:
    assert len(windows(trace([0, 1], [1, 1]), 10)) == 1


def test_the_images_differ_and_are_classified_with_confidence() -> None:
    pixels = images(16)
    assert pixels.shape == (16, 28, 28)
    assert pixels.dtype == np.uint8
    assert len({image.tobytes() for image in pixels}) == 16
    probabilities = in_process("onnx")({"image": pixels})["probabilities"]
    assert (probabilities.max(axis=1) > 0.5).mean() > 0.5


def test_the_header_of_a_binary_payload_has_the_length_of_its_json() -> None:
    pixels, payload_format = images(3), v2_binary(3)
    body, length = (
        payload_format.body(pixels),
        int(payload_format.headers["Inference-Header-Content-Length"]),
    )
    assert body[:length].endswith(b"}")
    assert body[length:] == pixels.tobytes()


@pytest.mark.parametrize("name", [name for name, server in SERVERS.items() if server.peer])
def test_every_peer_has_a_server_file_and_a_lock_without_a_host(name: str) -> None:
    lock = (PEERS / name / "requirements.txt").read_text()
    assert (PEERS / name / "server.py").is_file()
    lines = lock.splitlines()
    assert lines
    assert all("==" in line for line in lines)
    assert "://" not in lock


def test_a_server_that_exits_at_start_is_an_error_with_its_log() -> None:
    broken = Server("broken", "", (), "{bin}/python -c raise(SystemExit('no'+'pe'))", (), "/")
    with (
        pytest.raises(ServerError, match=r"did not start.*nope"),
        running(broken, environment=_this_environment()),
    ):
        pass


def test_no_process_of_a_server_survives_its_end() -> None:
    child = "__import__('subprocess').Popen(['sleep','600'],start_new_session=True)"
    module = "__import__('http.server').server"
    handler = f"{module}.SimpleHTTPRequestHandler"
    serve = f"{module}.test({handler},port=int('{{port}}'),bind='127.0.0.1')"
    server = Server("stubborn", "", (), f"{{bin}}/python -c {child};{serve}", (), "/")
    with running(server, environment=_this_environment()) as running_server:
        assert len(marked(running_server.mark)) == 2
    assert marked(running_server.mark) == []


@pytest.mark.skipif(which("wrk") is None, reason="wrk is not installed")
def test_a_peer_without_a_wheel_for_this_machine_is_named_and_the_next_server_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = tmp_path / "newer" / "requirements.txt"
    lock.parent.mkdir()
    (tmp_path / "newer-1-py3-none-manylinux_9_99_x86_64.whl").touch()
    lock.write_text(f"--no-index\n--find-links {tmp_path}\nnewer==1\n")
    row = Row("Newer", "/", ONE_IMAGE)
    newer = Server("newer", "", (), "", (row,), "/", workers=(1, 2))
    monkeypatch.setitem(SERVERS, "newer", newer)
    monkeypatch.setattr("benchmarks.serving.environments.PEERS", tmp_path)
    monkeypatch.setattr("benchmarks.serving.environments.ENVIRONMENTS", tmp_path / "environments")
    assert main([*SHORT, "--servers", "newer,minimal-server"]) == 1
    out = capsys.readouterr().out
    (reason,) = re.findall(r"^- Newer, Newer, 2 workers: (.*)$", out, re.MULTILINE)
    assert reason.startswith("newer cannot be installed on this machine: ")
    assert "newer==1 has no wheels with a matching platform tag" in reason
    assert "| Newer, 2 workers | void: the reason is below |" in out
    assert re.search(r"\| minimal server, V2 JSON \| [\d,]+ \|", out), out


@pytest.mark.skipif(which("wrk") is None, reason="wrk is not installed")
def test_fitserve_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main([*SHORT, "--servers", "fitserve", "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert re.search(r"\| fitserve, V2 JSON \| [\d,]+ \|", out), out
    assert re.search(r"\| fitserve, V2 JSON, 2 workers \| [\d,]+ \|", out), out
    assert (tmp_path / "results.json").is_file()


def test_an_unknown_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--servers", "apache"])
    assert "there is no apache; there are: fitserve" in capsys.readouterr().err


def _this_environment() -> Path:
    return Path(sys.prefix)
