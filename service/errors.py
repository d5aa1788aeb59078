"""The errors of requests, each with the HTTP status of its response.

The message of an error is a sentence for the caller that says what to change.
"""

import math
from typing import ClassVar


class ServiceError(Exception):
    """A failure of the service itself, unless a subclass says otherwise.

    The response is `{"error": message}`.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "fault"
    """The value of the metrics' label `reason`."""
    headers: tuple[tuple[str, str], ...] = ()


class BadInputError(ServiceError):
    """The request is invalid: wrong shape, type, range, field or encoding."""

    status = 400
    reason = "bad_input"


class UnauthorizedError(ServiceError):
    """The request has no known API key."""

    status = 401
    reason = "unauthorized"
    headers = (("WWW-Authenticate", "Bearer"),)


class ForeignOriginError(ServiceError):
    """The request was sent by a web page of an origin that may not call the service."""

    status = 403
    reason = "foreign_origin"


class MisdirectedRequestError(ServiceError):
    """The request names a host that this service does not serve."""

    status = 421
    reason = "misdirected"


class RateLimitError(ServiceError):
    """The API key has exceeded its rate.

    Args:
        message: for the caller.
        seconds: the time until the next request is allowed.
    """

    status = 429
    reason = "rate_limited"

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.headers = (("Retry-After", str(math.ceil(seconds))),)


class UnknownModelError(ServiceError):
    """No model of that name (or version) is served."""

    status = 404
    reason = "unknown_model"


class UnknownPathError(ServiceError):
    """The path does not exist."""

    status = 404
    reason = "unknown_path"


class MethodNotAllowedError(ServiceError):
    """The path exists, but allows only other methods."""

    status = 405
    reason = "method"

    def __init__(self, method: str, *allowed: str) -> None:
        methods = f"{' and '.join(allowed)} {'is' if len(allowed) == 1 else 'are'}"
        super().__init__(f"{method} is not allowed here; {methods}.")
        self.headers = (("Allow", ", ".join(allowed)),)


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""

    status = 408
    reason = "body_timeout"
    headers = (("Connection", "close"),)  # the rest of the body is not read


class NotImplementedHttpError(ServiceError):
    """The request uses a part of HTTP that the server does not implement."""

    status = 501
    reason = "not_implemented"


class UnknownVersionError(ServiceError):
    """The HTTP version of the request is not supported."""

    status = 505
    reason = "http_version"


class HeaderTimeoutError(ServiceError):
    """The request line and header fields did not arrive in time."""

    status = 408
    reason = "head_timeout"


class HeaderTooLargeError(ServiceError):
    """The request line and header fields are larger than the service accepts."""

    status = 431
    reason = "head_too_large"


class BodyTooLargeError(ServiceError):
    """The request is larger than the service accepts."""

    status = 413
    reason = "too_large"
    headers = (("Connection", "close"),)


class UnsupportedMediaError(ServiceError):
    """The media type, coding or file format of the body is not supported.

    Args:
        message: for the caller.
        accepted: the header with the supported values: `Accept` or `Accept-Encoding`.
    """

    status = 415
    reason = "media_type"

    def __init__(self, message: str, *accepted: tuple[str, str]) -> None:
        super().__init__(message)
        self.headers = accepted


class ModelFaultError(ServiceError):
    """The model failed on this request, and the request is not at fault."""

    status = 500
    reason = "model_fault"


class QueueFullError(ServiceError):
    """The queue of the model is full. Nothing was computed, so the request can be retried.

    Args:
        message: for the caller.
        seconds: the time until the queue is expected to have room.
    """

    status = 503
    reason = "queue_full"

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.headers = (("Retry-After", str(max(1, math.ceil(seconds)))),)


class TooManyConnectionsError(ServiceError):
    """Too many connections are open. Nothing was read, so the request can be retried."""

    status = 503
    reason = "connections"
    headers = (("Retry-After", "1"),)


class BodiesFullError(ServiceError):
    """The bodies being received exceed their common memory limit. The request can be retried."""

    status = 503
    reason = "bodies_full"
    headers = (("Retry-After", "1"), ("Connection", "close"))


class ComputeMemoryError(ServiceError):
    """The computations in progress leave too little memory for this one. It can be retried."""

    status = 503
    reason = "compute_memory"
    headers = (("Retry-After", "1"),)


class NotReadyError(ServiceError):
    """The model or the service is starting, unavailable or shutting down."""

    status = 503
    reason = "not_ready"
    headers = (("Retry-After", "1"),)


class LoadingError(NotReadyError):
    """The model is being loaded, as the service has just started."""

    reason = "loading"


class DeadlineExceededError(ServiceError):
    """The deadline of the request passed before its rows were computed."""

    status = 504
    reason = "deadline"
