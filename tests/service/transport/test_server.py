"""A worker's server obeys the signals of the supervisor, in whatever order they arrive."""

import signal

import pytest
import uvicorn

from service.settings import Settings
from service.transport.server import Server


async def _app(*_: object) -> None:
    raise AssertionError("no request is sent")


@pytest.mark.parametrize(
    ("signals", "at_once"),
    [
        ([signal.SIGTERM], False),
        ([signal.SIGTERM, signal.SIGTERM], False),
        ([signal.SIGTERM, signal.SIGINT], True),
        ([signal.SIGINT, signal.SIGTERM], True),  # both pending: Python handles SIGINT first
    ],
)
def test_ctrl_c_ends_a_worker_that_is_told_to_end(
    signals: list[signal.Signals], at_once: bool
) -> None:
    server = Server(uvicorn.Config(_app), Settings())
    server.started = True
    for number in signals:
        server.handle_exit(number, None)
    assert server.should_exit
    assert server.force_exit == at_once


@pytest.mark.parametrize(("option", "kept"), [({}, 75), ({"timeout_keep_alive": 2}, 2)])
def test_an_idle_connection_stays_open_for_the_setting_or_the_option(
    option: dict[str, int], kept: int
) -> None:
    config = uvicorn.Config(_app, **option)  # type: ignore[arg-type]  # one option
    assert Server(config, Settings()).config.timeout_keep_alive == kept
