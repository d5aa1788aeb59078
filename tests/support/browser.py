"""Debian's Chromium for the tests, and pages that are monitored while they are open.

While a browser is open, its event loop is that of this thread: another test with an event loop must
run it in another thread. The browser is therefore a fixture of a module, not of the session.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from live_server import Server
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
NOWHERE = "http://127.0.0.1:9"  # a proxy that does not exist: requests to other machines fail
SECONDS = 20.0

AWAY = r"ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|ERR_SOCKET_NOT_CONNECTED"
"""The message on the console if a server does not respond."""

Stroke = Sequence[tuple[float, float]]

expect.set_options(timeout=1000 * SECONDS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser, headless and without a sandbox; skip the test if that fails."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed")
    try:
        playwright = sync_playwright().start()
    except (Error, OSError) as error:
        pytest.skip(f"Playwright does not run here: {error}")
    try:
        try:
            browser = playwright.chromium.launch(
                executable_path=program, args=[f"--proxy-server={NOWHERE}"]
            )
        except Error as error:
            pytest.skip(f"{program} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()
    finally:
        playwright.stop()


class Visitor:
    """Opens pages, and records failures, console messages and requests to other hosts.

    Args:
        browser: opens the pages.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._expected: list[str] = []
        self.faults: list[str] = []

    def arrive(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> Page:
        """Return a page with its own storage that is about to load `url`, and may call its host."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(1000 * SECONDS)
        self._contexts.append(context)
        page = context.new_page()
        host = urlsplit(url).netloc

        def note_outside(url: str) -> None:
            parts = urlsplit(url)
            if parts.netloc != host and parts.scheme not in ("about", "blob"):
                self.faults.append(f"it asks another host: {url}")

        def note_console(kind: str, text: str, address: str) -> None:
            if kind == "error" and not any(re.search(known, text) for known in self._expected):
                self.faults.append(f"on its console: {text} ({address})")

        page.on("request", lambda request: note_outside(request.url))
        page.on("websocket", lambda socket: note_outside(socket.url))
        page.on(
            "console",
            lambda message: note_console(message.type, message.text, message.location["url"]),
        )
        page.on("pageerror", lambda error: self.faults.append(f"not caught: {error}"))
        page.on("crash", lambda: self.faults.append("it crashed"))
        return page

    def open(self, url: str, **options: Any) -> Page:
        """Return a page that has just loaded; options as for `arrive`."""
        page = self.arrive(url, **options)
        page.goto(url)
        return page

    def expect(self, text: str) -> None:
        """Allow console messages that match this regular expression from now on.

        A browser logs there that a server does not respond, or responds with an error.
        """
        self._expected.append(text)

    def leave(self) -> None:
        """Close every page.

        Raises:
            AssertionError: a page did something forbidden.
        """
        for context in self._contexts:
            for page in context.pages:
                page.evaluate("0")  # all earlier events have been delivered after this call
            context.close()
        assert not self.faults, "\n".join(("the page is at fault:", *self.faults))


def opened(visitor: Visitor, server: Server, tab: str, **options: Any) -> Page:
    """Return a page that has just loaded, with this tab shown; options as for `Visitor.arrive`."""
    return visitor.open(f"{server.url}/#{tab}", **options)


def draw(page: Page, *strokes: Stroke, steps: int = 4) -> None:
    """Draw on the board with the mouse; points are in percent of the sides, from the top left.

    The mouse moves from one point to the next in this many `steps`.
    """
    board = page.locator("#board")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    assert box is not None
    for stroke in strokes:
        for index, (x, y) in enumerate(stroke):
            position = (box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"])
            page.mouse.move(*position, steps=1 if index == 0 else steps)
            if index == 0:
                page.mouse.down()
        page.mouse.up()
