"""Every way in which a request can fail, each with the HTTP status that it answers.

The message of an error is the sentence that the caller reads: it says what to change.
"""

import math
from typing import ClassVar


class ServiceError(Exception):
    """A failure of the service's own, unless a subclass says otherwise.

    Its message goes to the caller as `{"error": message}`.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "fault"
    """What the metrics call it."""
    headers: tuple[tuple[str, str], ...] = ()


class BadInputError(ServiceError):
    """The request cannot be answered as it stands: wrong shape, type, range, field or encoding."""

    status = 400
    reason = "bad_input"


class UnauthorizedError(ServiceError):
    """The caller has not shown a key that is known."""

    status = 401
    reason = "unauthorized"
    headers = (("WWW-Authenticate", "Bearer"),)


class ForeignOriginError(ServiceError):
    """A web page of an origin that may not call the service sent the request."""

    status = 403
    reason = "foreign_origin"


class MisdirectedRequestError(ServiceError):
    """The request names a host that this service does not answer for."""

    status = 421
    reason = "misdirected"


class RateLimitError(ServiceError):
    """The caller's key has sent more than it may; `seconds` from now it may send again."""

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
    """There is nothing at this address."""

    status = 404
    reason = "unknown_path"


class MethodNotAllowedError(ServiceError):
    """There is something at this address, and it takes another method."""

    status = 405
    reason = "method"

    def __init__(self, method: str, *allowed: str) -> None:
        told = f"{' and '.join(allowed)} {'is' if len(allowed) == 1 else 'are'}"
        super().__init__(f"{method} is not allowed here; {told}.")
        self.headers = (("Allow", ", ".join(allowed)),)


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""

    status = 408
    reason = "body_timeout"
    headers = (("Connection", "close"),)  # what else comes of the body has no reader


class NotImplementedHttpError(ServiceError):
    """The request asks for a part of HTTP that this server does not have."""

    status = 501
    reason = "not_implemented"


class UnknownVersionError(ServiceError):
    """The request is of a version of HTTP that this server does not read."""

    status = 505
    reason = "http_version"


class HeadTimeoutError(ServiceError):
    """The request's line and headers did not arrive in time."""

    status = 408
    reason = "head_timeout"


class HeadTooLargeError(ServiceError):
    """The request's line and headers are larger than the service accepts."""

    status = 431
    reason = "head_too_large"


class BodyTooLargeError(ServiceError):
    """The request is larger than the service accepts."""

    status = 413
    reason = "too_large"
    headers = (("Connection", "close"),)


class UnsupportedMediaError(ServiceError):
    """The body's media type, its encoding, or a file's format is not one that the service reads.

    `accepted` is the header that names those that it reads: `Accept` or `Accept-Encoding`.
    """

    status = 415
    reason = "media_type"

    def __init__(self, message: str, *accepted: tuple[str, str]) -> None:
        super().__init__(message)
        self.headers = accepted


class ModelFaultError(ServiceError):
    """The model failed on this request: our fault, not the caller's."""

    status = 500
    reason = "model_fault"


class QueueFullError(ServiceError):
    """The model's queue is as long as it may be; nothing was computed, so retry."""

    status = 503
    reason = "queue_full"
    headers = (("Retry-After", "1"),)


class TooManyConnectionsError(ServiceError):
    """As many connections are open as may be; nothing was read from this one, so retry."""

    status = 503
    reason = "connections"
    headers = (("Retry-After", "1"),)


class BodiesFullError(ServiceError):
    """The bodies that are arriving take as much memory as they may together, so retry."""

    status = 503
    reason = "bodies_full"
    headers = (("Retry-After", "1"), ("Connection", "close"))


class NotReadyError(ServiceError):
    """The model, or the whole service, is starting, was refused, or is shutting down."""

    status = 503
    reason = "not_ready"
    headers = (("Retry-After", "1"),)


class DeadlineExceededError(ServiceError):
    """The request's deadline passed before its rows were computed."""

    status = 504
    reason = "deadline"
