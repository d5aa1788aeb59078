"""Bad input: the server answers it as it says it does, at once, and its memory stays flat."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import fuzz
import httpx
import pytest
from live_server import BIN, Server, serving, temporary_home
from nonsense import KINDS, Case, make

SEED = 20_261
CASES = 24_000
# A third of the cases, and of what the leak takes: still well above what is flat.
LEAK_CASES = 8_000
LEAK = """
import builtins, sys

_import, kept = builtins.__import__, []

def watch(name, *arguments, **options):
    found = _import(name, *arguments, **options)
    front = getattr(sys.modules.get("service.http.front"), "Front", None)
    if front is not None:
        builtins.__import__, end = _import, front.end

        def leak(self, exchange):
            kept.append(bytearray(b"x" * 20_000))
            end(self, exchange)

        front.end = leak
    return found

builtins.__import__ = watch
"""


@pytest.fixture(scope="module")
def stormed(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    """A server of its own: what it holds is measured."""
    with temporary_home() as home, serving(home, root, settings=chosen) as started:
        yield started
        log = started.read_log()
        refused = log.count(
            "pickle is not allowed in main server"
        )  # BentoML shows where it says so
        assert log.count("Traceback") == refused, started.tail()


CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance", "unsupported_method"),
)


def test_every_answer_is_one_that_the_description_has(stormed: Server, tmp_path: Path) -> None:
    options = {
        "--checks": ",".join(CHECKS),
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "60",
        "--request-timeout": str(fuzz.PATIENCE),
    }
    done = subprocess.run(
        [
            *(BIN / "schemathesis", "run", f"{stormed.url}/docs.json", "--no-color"),
            *("--generation-deterministic", "--continue-on-failure"),
            *(part for option in options.items() for part in option),
        ],
        cwd=tmp_path,  # it leaves its files where it is called
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    assert "24 passed" in done.stdout, done.stdout[-3_000:]


def test_no_nonsense_is_answered_5xx_or_not_at_all_or_kept(stormed: Server) -> None:
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


def test_a_case_is_made_of_the_seed_and_its_number_alone() -> None:
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
def test_what_is_wrong_with_an_answer_is_seen(
    case: Case, status: int, body: bytes, wrong: str
) -> None:
    found = fuzz.check(case, status, body)
    assert (wrong in found) if wrong else not found
