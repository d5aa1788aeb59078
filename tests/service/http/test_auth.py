"""Authentication: known keys, their rates, and disabled paths."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.static_pages import public_paths
from service.errors import RateLimitError, UnauthorizedError, UnknownPathError
from service.http import auth
from service.http.auth import ApiKeyAuth, read_keys
from service.settings import Settings
from service.telemetry.request_context import RequestContext

INFER = "/v2/models/line/infer"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def context(path: str = INFER, **headers: str) -> RequestContext:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return RequestContext("id", "POST", path, raw)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as the only element of a list."""
    now = [1000.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: now[0])
    return now


def auth_of(folder: Path, *lines: str, **settings: Any) -> ApiKeyAuth:
    file = folder / "keys"
    file.write_text("\n".join(lines))
    return ApiKeyAuth(Settings(api_keys_file=file, **settings), public_paths())


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret"},
        {"authorization": "bearer  secret"},
        {"x_api_key": "secret"},
    ],
)
def test_a_known_key_is_authenticated_by_its_name(tmp_path: Path, headers: dict[str, str]) -> None:
    request_context = context(**headers)
    auth_of(tmp_path, f"someone {digest('other')}", f"ann {digest('secret')} # hers").authenticate(
        request_context
    )
    assert request_context.key == "ann"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer Secret"},
        {"authorization": "Basic secret"},
        {"authorization": "secret"},
        {"x_api_key": ""},
        {"x_api_key": digest("secret")},
    ],
)
def test_a_request_without_a_known_key_is_refused_with_instructions(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    request_context = context(**headers)
    with pytest.raises(UnauthorizedError, match="Authorization: Bearer KEY") as refused:
        auth_of(tmp_path, f"ann {digest('secret')}").authenticate(request_context)
    assert (refused.value.status, dict(refused.value.headers)) == (
        401,
        {"WWW-Authenticate": "Bearer"},
    )
    assert request_context.key == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no key in it"),
        (b"# none yet\n\n  # nor here\n", "there is no key in it"),
        (b"\xef\xbb\xbfann " + b"0" * 64, "it begins with a byte order mark"),
        ("jos\u00e9 ".encode("latin-1") + b"0" * 64, "it is not text in UTF-8"),
        ("ann ".encode("utf-16"), "it is not text in UTF-8"),
        (b"# long\n" * 200_000, "it is larger than 1,048,576 bytes"),
    ],
)
def test_a_file_without_keys_prevents_the_start_with_one_sentence(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(SystemExit) as refused:
        ApiKeyAuth(Settings(api_keys_file=file), public_paths())
    assert str(refused.value).startswith(f"error: FITSERVE_API_KEYS_FILE {file}: {message}")
    assert "\n" not in str(refused.value)


def test_a_path_that_is_not_a_regular_file_prevents_the_start_without_blocking(
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(SystemExit, match="it is not a regular file"):
            ApiKeyAuth(Settings(api_keys_file=path), public_paths())


def test_without_a_file_every_request_is_accepted() -> None:
    ApiKeyAuth(Settings(), public_paths()).authenticate(context())


def test_a_rate_is_enforced_and_reported(tmp_path: Path, clock: list[float]) -> None:
    index_page = auth_of(tmp_path, f"ann {digest('a')} 2", f"bob {digest('b')}")
    for _ in range(2):
        index_page.authenticate(context(x_api_key="a"))
    with pytest.raises(RateLimitError, match="'ann' may send 2 requests a second") as refused:
        index_page.authenticate(context(x_api_key="a"))
    assert (refused.value.status, dict(refused.value.headers)) == (429, {"Retry-After": "1"})
    for _ in range(100):
        index_page.authenticate(context(x_api_key="b"))  # other keys are not affected
    clock[0] += 0.5
    index_page.authenticate(context(x_api_key="a"))
    with pytest.raises(RateLimitError):
        index_page.authenticate(context(x_api_key="a"))
    clock[0] += 3600
    for _ in range(2):  # unused tokens beyond one second are lost
        index_page.authenticate(context(x_api_key="a"))
    with pytest.raises(RateLimitError):
        index_page.authenticate(context(x_api_key="a"))


@given(rate=st.floats(0.1, 50), gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_no_more_requests_pass_than_the_rate_allows(rate: float, gaps: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now = 0.0
        patch.setattr(auth.time, "monotonic", lambda: now)
        allowance, through = auth.TokenBucket(rate), 0
        for gap in gaps:
            now += gap
            wait = allowance.take()
            assert wait >= 0
            through += wait == 0
    assert through <= max(rate, 1) + rate * now + 1e-6


def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path, clock: list[float]) -> None:
    index_page = auth_of(tmp_path, f"ann {digest('old')}")
    (tmp_path / "keys").write_text(f"ann {digest('newer')} 5")
    clock[0] += 1.5
    with pytest.raises(UnauthorizedError):
        index_page.authenticate(context(x_api_key="old"))
    index_page.authenticate(context(x_api_key="newer"))


def test_an_invalid_new_file_leaves_the_keys_unchanged(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    index_page, file = auth_of(tmp_path, f"ann {digest('secret')}"), tmp_path / "keys"
    for spoil in (
        lambda: file.write_text("ann not-a-digest"),
        lambda: file.write_text(""),
        lambda: file.write_bytes(b"\xff"),
        lambda: file.write_text("# all gone\n"),
        file.unlink,
        file.mkdir,
    ):
        caplog.clear()
        spoil()
        for _ in range(5):
            clock[0] += 1.5
            index_page.authenticate(context(x_api_key="secret"))
            with pytest.raises(UnauthorizedError):
                index_page.authenticate(context(x_api_key=""))
        (record,) = caplog.records
        assert record.getMessage().startswith(f"the API keys are unchanged: {file}: ")
        assert "\n" not in record.getMessage()
        assert record.exc_info is None
    file.rmdir()
    file.write_text(f"bob {digest('other')}")
    clock[0] += 1.5
    index_page.authenticate(context(x_api_key="other"))
    with pytest.raises(UnauthorizedError):
        index_page.authenticate(context(x_api_key="secret"))


def test_a_second_problem_is_logged_after_the_old_content_was_restored(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    index_page, file = auth_of(tmp_path, f"ann {digest('secret')}"), tmp_path / "keys"
    for content in ("", file.read_text(), ""):
        file.write_text(content)
        clock[0] += 1.5
        index_page.authenticate(context(x_api_key="secret"))
    assert caplog.text.count("there is no key in it") == 2


def test_a_large_file_is_read_quickly_and_an_invalid_one_only_once(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"name{number} {digest(str(number))}" for number in range(10_000)]

    def seconds(count: int) -> float:
        started = time.process_time()
        read_keys("\n".join(lines[:count]))
        return time.process_time() - started

    assert seconds(10_000) < 50 * min(seconds(1_000) for _ in range(5)), "the square of the lines"
    read: list[str] = []
    monkeypatch.setattr(auth, "read_keys", lambda text: read.append(text) or read_keys(text))
    let_in = auth_of(tmp_path, *lines)
    (tmp_path / "keys").write_text("\n".join([*lines, "bad"]))
    for _ in range(3):
        clock[0] += 2.0
        let_in.authenticate(context(x_api_key="3"))
    assert len(read) == 2


def test_a_rate_below_the_minimum_is_refused() -> None:
    for rate in ("1e-320", "1e-7", "nan", "-1", "0"):
        with pytest.raises(ValueError, match=r"a rate, in requests a second, of 0\.000001"):
            read_keys(f"ann {digest('k')} {rate}")


def test_a_file_is_compared_by_its_content(tmp_path: Path, clock: list[float]) -> None:
    index_page, file = auth_of(tmp_path, f"ann {digest('old')}"), tmp_path / "keys"
    before = file.stat()
    with file.open("r+") as opened:  # the same file with the same size
        opened.write(f"ann {digest('new')}")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_ino,
    )
    clock[0] += 1.5
    with pytest.raises(UnauthorizedError):
        index_page.authenticate(context(x_api_key="old"))
    index_page.authenticate(context(x_api_key="new"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ann", "line 2 must be a name"),
        ("ann my-own-secret", "line 2 must be a name"),
        (f"ann {digest('a')[:-2]}", "line 2 must be a name"),
        (f"ann {digest('a')} 0", "line 2 must be a name"),
        (f"ann {digest('a')} nan", "line 2 must be a name"),
        (f"ann {digest('a')} 5 6", "line 2 must be a name"),
        (f"first {digest('a')}", "line 2 has the name of an earlier one"),
    ],
)
def test_a_malformed_line_prevents_the_start_and_is_not_shown(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=message) as refused:
        auth_of(tmp_path, f"first {digest('b')}", line)
    assert not any(word in str(refused.value) for word in line.split() if len(word) > 5)


def test_a_missing_file_prevents_the_start(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"FITSERVE_API_KEYS_FILE .*missing"):
        ApiKeyAuth(Settings(api_keys_file=tmp_path / "missing"), public_paths())


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/metrics"])
def test_health_and_metrics_are_open_or_need_a_key_or_are_off(tmp_path: Path, path: str) -> None:
    setting = "metrics" if path == "/metrics" else "health"
    lines = (f"ann {digest('secret')}",)
    auth_of(tmp_path, *lines).authenticate(context(path))
    auth = auth_of(tmp_path, *lines, **{setting: "key"})
    auth.authenticate(context(path, x_api_key="secret"))
    with pytest.raises(UnauthorizedError):
        auth.authenticate(context(path))
    off = auth_of(tmp_path, *lines, **{setting: "off"})
    with pytest.raises(UnknownPathError):
        off.authenticate(context(path, x_api_key="secret"))
    with pytest.raises(UnknownPathError):
        ApiKeyAuth(Settings(**{setting: "off"}), public_paths()).authenticate(context(path))
    ApiKeyAuth(Settings(**{setting: "off"}), public_paths()).authenticate(context())


PAGES = sorted(public_paths())


def test_the_pages_are_public_or_off(tmp_path: Path) -> None:
    line = f"ann {digest('secret')}"
    index_page = auth_of(tmp_path, line)
    off = (
        auth_of(tmp_path, line, playground="off"),
        ApiKeyAuth(Settings(playground="off"), public_paths()),
    )
    for path in PAGES:
        request_context = context(path)
        index_page.authenticate(request_context)
        assert request_context.key == ""
        for closed in off:
            with pytest.raises(UnknownPathError, match="There is nothing at"):
                closed.authenticate(context(path, x_api_key="secret"))


@pytest.mark.parametrize(
    "path",
    [
        *("/models", "/models/line/report/loss.png", "/docs.json", "/docs/x"),
        *("/playground/", "/playground"),
    ],
)
def test_other_paths_need_a_key_although_the_page_does_not(tmp_path: Path, path: str) -> None:
    index_page = auth_of(tmp_path, f"ann {digest('secret')}")
    with pytest.raises(UnauthorizedError):
        index_page.authenticate(context(path))
    index_page.authenticate(context(path, x_api_key="secret"))


def test_the_command_creates_a_key_that_its_line_accepts(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.http.auth", "ann", "--rate", "7"]
    message = subprocess.run(
        command, cwd=root, env=os.environ, capture_output=True, text=True, check=True
    ).stdout
    key, line = (shown.partition(":")[2].strip() for shown in message.splitlines())
    (made,) = read_keys(line)
    assert (made.name, made.rate) == ("ann", 7)
    request_context = context(x_api_key=key)
    auth_of(tmp_path, line).authenticate(request_context)
    assert request_context.key == "ann"
    assert key not in line
