"""The context of one request: its identity, timings and outcome, in one record.

The app starts a context for each request. The code that handles the request notes what it learns.
At the end, the metrics, the access log and the trace are made from it.
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
class RequestContext:
    """What is known of one request. Fields that are not known at its start have defaults.

    Attributes:
        id: `X-Request-Id` of the request, or a new one.
        method: of HTTP.
        path: without slashes at its end.
        headers: names in lower case.
        receive: ASGI's, once the whole body was read from it.
        started: `time.monotonic` seconds, as are `submitted` and `answered`.
        disconnected: whether the client disconnected before the response.
        response_started: whether the response has begun, on the ASGI path.
        endpoint: the label of the endpoint; it, `model`, `key` and `reason` come from closed lists,
            since they label metrics.
        model: the name of the model.
        version: of the model.
        key: the name of the API key.
        client: the address or network of the client; "" if it has none.
        status: of the response.
        reason: why the request failed.
        rows: of the request.
        batch_rows: of the last batch with rows of the request.
        submitted: when the request was submitted to the batcher.
        queue_seconds: duration of the wait in the queue.
        compute_seconds: duration of the compute.
        answered: when the batcher called back.
        seconds: duration of the whole request.
    """

    id: str
    method: str
    path: str
    headers: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    receive: Receive | None = field(default=None, repr=False)
    started: float = field(default_factory=time.monotonic)
    disconnected: bool = field(default=False, init=False)
    response_started: bool = field(default=False, init=False)
    endpoint: str = field(default="other", init=False)
    model: str = field(default="", init=False)
    version: str = field(default="", init=False)
    key: str = field(default="", init=False)
    client: str = field(default="", init=False)
    status: int = field(default=500, init=False)
    reason: str = field(default="", init=False)
    rows: int = field(default=0, init=False)
    batch_rows: int = field(default=0, init=False)
    submitted: float = field(default=0.0, init=False)
    queue_seconds: float = field(default=0.0, init=False)
    compute_seconds: float = field(default=0.0, init=False)
    answered: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)

    @property
    def caller(self) -> str:
        """Whose request it is: the name of the API key, or else the client's address."""
        return self.key or self.client

    def line(self) -> str:
        """Return one line for the log."""
        text = f"{self.method} {self.path[:200]!r} {self.status} in {self.seconds * 1e3:.2f} ms"
        if self.answered:
            text += (
                f", {self.model}/{self.version}: {self.rows} of {self.batch_rows} rows, queue "
                f"{self.queue_seconds * 1e3:.2f} ms, compute {self.compute_seconds * 1e3:.2f} ms"
            )
        return f"{text} [{self.id}]"

    def fields(self) -> dict[str, str | int | float]:
        """Return the fields for a JSON log, times in milliseconds."""
        values: dict[str, str | int | float] = {
            "request_id": self.id,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "total_ms": round(self.seconds * 1e3, 3),
        }
        if self.key:
            values["key"] = self.key
        if self.reason:
            values["reason"] = self.reason
        if self.answered:
            values |= {
                "model": self.model,
                "version": self.version,
                "rows": self.rows,
                "batch_rows": self.batch_rows,
                "queue_ms": round(self.queue_seconds * 1e3, 3),
                "compute_ms": round(self.compute_seconds * 1e3, 3),
            }
        return values

    def attributes(self) -> dict[str, str | int]:
        """Return the attributes of the request's span, under OpenTelemetry's names if defined."""
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
        """Return the parts of a prediction: name, start (monotonic) and duration, in seconds."""
        if not self.answered:
            return []
        compute_started = self.submitted + self.queue_seconds
        ended = self.started + self.seconds
        return [
            ("decode", self.started, self.submitted - self.started),
            ("queue", self.submitted, self.queue_seconds),
            ("compute", compute_started, self.compute_seconds),
            ("encode", self.answered, ended - self.answered),
        ]


_current: ContextVar[RequestContext] = ContextVar("request_context")


def start_request(method: str, path: str, headers: dict[bytes, bytes]) -> RequestContext:
    """Create the context of a new request, and make it the current one.

    Its ID is the request's `X-Request-Id` if that is printable ASCII of at most 100 characters,
    otherwise a new one.
    """
    sent_id = headers.get(b"x-request-id", b"")
    if 0 < len(sent_id) <= 100 and sent_id.isascii() and sent_id.decode().isprintable():
        identity = sent_id.decode()
    else:
        identity = f"{_PROCESS}-{next(_numbers):x}"
    context = RequestContext(identity, method, path, headers)
    _current.set(context)
    return context


def current_request() -> RequestContext:
    """Return the context of the current request, or a blank one outside a request."""
    context = _current.get(None)
    return context if context is not None else RequestContext("", "", "")
