"""One request and its answer: what is known of them while they last, in one record.

The front begins an exchange for every request; whoever learns something writes it down; at the end
the metrics, the access line and the trace are made from it.
"""

import itertools
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Receive

_PROCESS = secrets.token_hex(6)
_numbers = itertools.count(1)


@dataclass
class Exchange:
    """One request and its answer. What is not known when it begins has its default in the class.

    `receive` is ASGI's, once the whole body has been read from it; `departed` says that the caller
    went away before the answer. `endpoint`, `model`, `key` (the name of the caller's) and `reason`
    (why it failed) come from closed lists, since they label metrics. Times are `time.monotonic`
    seconds; those of the parts are durations in seconds.
    """

    id: str
    method: str
    path: str
    headers: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    receive: Receive | None = field(default=None, repr=False)
    started: float = field(default_factory=time.monotonic)
    departed: bool = field(default=False, init=False)
    endpoint: str = field(default="other", init=False)
    model: str = field(default="", init=False)
    version: str = field(default="", init=False)
    key: str = field(default="", init=False)
    status: int = field(default=500, init=False)
    reason: str = field(default="", init=False)
    rows: int = field(default=0, init=False)
    batch_rows: int = field(default=0, init=False)
    submitted: float = field(default=0.0, init=False)
    queue_seconds: float = field(default=0.0, init=False)
    compute_seconds: float = field(default=0.0, init=False)
    answered: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)

    def line(self) -> str:
        """One line for the log."""
        told = f"{self.method} {self.path[:200]!r} {self.status} in {self.seconds * 1e3:.2f} ms"
        if self.answered:
            told += (
                f", {self.model}/{self.version}: {self.rows} of {self.batch_rows} rows, queue "
                f"{self.queue_seconds * 1e3:.2f} ms, compute {self.compute_seconds * 1e3:.2f} ms"
            )
        return f"{told} [{self.id}]"

    def fields(self) -> dict[str, str | int | float]:
        """The same for a log of fields; times in milliseconds."""
        told: dict[str, str | int | float] = {
            "request_id": self.id,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "total_ms": round(self.seconds * 1e3, 3),
        }
        if self.key:
            told["key"] = self.key
        if self.reason:
            told["reason"] = self.reason
        if self.answered:
            told |= {
                "model": self.model,
                "version": self.version,
                "rows": self.rows,
                "batch_rows": self.batch_rows,
                "queue_ms": round(self.queue_seconds * 1e3, 3),
                "compute_ms": round(self.compute_seconds * 1e3, 3),
            }
        return told

    def attributes(self) -> dict[str, str | int]:
        """For the span of a trace, in OpenTelemetry's names where it has some."""
        return {
            "http.request.method": self.method,
            "http.route": self.endpoint,
            "http.response.status_code": self.status,
            "fitserve.request_id": self.id,
            "fitserve.model": self.model,
            "fitserve.rows": self.rows,
            "fitserve.batch_rows": self.batch_rows,
        }

    def parts(self) -> list[tuple[str, float, float]]:
        """The parts of an answered prediction: name, start (monotonic) and duration, in seconds."""
        if not self.answered:
            return []
        computing = self.submitted + self.queue_seconds
        ended = self.started + self.seconds
        return [
            ("decode", self.started, self.submitted - self.started),
            ("queue", self.submitted, self.queue_seconds),
            ("compute", computing, self.compute_seconds),
            ("encode", self.answered, ended - self.answered),
        ]


_current: ContextVar[Exchange] = ContextVar("exchange")


def begin(method: str, path: str, headers: dict[bytes, bytes]) -> Exchange:
    """The exchange of a request that has just come in, from now on the current one.

    Its id is the request's `X-Request-Id`, where that is plain text, or a new one.
    """
    given = headers.get(b"x-request-id", b"")
    if 0 < len(given) <= 100 and given.isascii() and given.decode().isprintable():
        identity = given.decode()
    else:
        identity = f"{_PROCESS}-{next(_numbers):x}"
    exchange = Exchange(identity, method, path, headers)
    _current.set(exchange)
    return exchange


def current() -> Exchange:
    """The exchange that this code runs for; a blank one where there is none."""
    found = _current.get(None)
    return found if found is not None else Exchange("", "", "")
