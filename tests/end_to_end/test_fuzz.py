"""Invalid input: the server responds as documented, quickly, and its memory stays flat."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import fuzz
import httpx
import pytest
from invalid_requests import KINDS, Case, make
from live_server import BIN, Server, serving, temporary_home

SEED = 20_261
CASES = 24_000
# A third of the cases, with a leak still well above the tolerance.
LEAK_CASES = 8_000
LEAK = """
import builtins, sys

_import, kept = builtins.__import__, []

def watch(name, *arguments, **options):
    found = _import(name, *arguments, **options)
    app = getattr(sys.modules.get("service.http.app"), "App", None)
    if app is not None:
        builtins.__import__, end = _import, app.end_request

        def leak(self, context):
            kept.append(bytearray(b"x" * 20_000))
            end(self, context)

        app.end_request = leak
    return found

builtins.__import__ = watch
"""


@pytest.fixture(scope="module")
def stormed(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    """A separate server, as its memory is measured."""
    with temporary_home() as home, serving(home, root, settings=chosen) as started:
        yield started
        log = started.read_log()
        refused = log.count(
            "pickle is not allowed in main server"
        )  # BentoML logs its version of them
        assert log.count("Traceback") == refused, started.tail()


CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance", "unsupported_method"),
)


def test_every_response_is_in_the_openapi_description(stormed: Server, tmp_path: Path) -> None:
    options = {
        "--checks": ",".join(CHECKS),
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "60",
        "--request-timeout": str(fuzz.PATIENCE),
    }
    completed = subprocess.run(
        [
            *(BIN / "schemathesis", "run", f"{stormed.url}/docs.json", "--no-color"),
            *("--generation-deterministic", "--continue-on-failure"),
            *(part for option in options.items() for part in option),
        ],
        cwd=tmp_path,  # it writes files to its working directory
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout[-6_000:] + completed.stderr[-2_000:]
    assert "48 passed" in completed.stdout, completed.stdout[-3_000:]


def test_invalid_requests_get_no_5xx_and_use_no_memory(stormed: Server) -> None:
    tally = fuzz.run(stormed, SEED, range(CASES))
    print(tally)
    fuzz.check_memory(tally)
    assert tally.cases == CASES >= 20_000
    assert set(KINDS) | {"upload"} == set(tally.kinds)
    assert all(tally.statuses[status] > 10 for status in (200, 400, 403, 404, 405, 415, 421))
    assert httpx.get(f"{stormed.url}/readyz").status_code == 200


def test_a_leak_is_noticed(root: Path, chosen: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    leaking = chosen | {"PYTHONPATH": str(tmp_path)}
    with temporary_home() as home, serving(home, root, settings=leaking) as started:
        tally = fuzz.run(started, SEED, range(LEAK_CASES))
        with pytest.raises(fuzz.FuzzError, match=r"memory has grown by \d+ MiB"):
            fuzz.check_memory(tally)


def test_a_case_depends_only_on_the_seed_and_its_number() -> None:
    assert make(1, 5) == make(1, 5) != make(2, 5)


@pytest.mark.parametrize(
    ("case", "status", "body", "wrong"),
    [
        (Case("json", (b"",)), 500, b'{"error":"x"}', "none that is described"),
        (Case("json", (b"",)), 503, b'{"error":"x"}', "none that is described"),
        (Case("json", (b"",)), 0, b"", "closed without an answer"),
        (Case("json", (b"",)), 400, b"Bad Request", "not the shape"),
        (Case("valid", (b"",), right=b"{}"), 200, b"{", "not answered as at the start"),
        (Case("valid", (b"",), right=b"{}"), 400, b"{}", "not answered as at the start"),
        (Case("valid", (b"",), right=b"{}"), 200, b"{}", ""),
        (Case("http", (b"",), framed=False), 0, b"", ""),
        (Case("json", (b"",), late=True), 504, b'{"error":"x"}', ""),
    ],
)
def test_a_wrong_response_is_detected(case: Case, status: int, body: bytes, wrong: str) -> None:
    verdict = fuzz.check(case, status, body)
    assert (wrong in verdict) if wrong else not verdict
