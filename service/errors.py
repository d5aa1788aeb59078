"""Every way in which a request can fail, each with the HTTP status that it answers.

The message of an error is the sentence that the caller reads: it says what to change.
"""

from typing import ClassVar


class ServiceError(Exception):
    """A failure of the service's own, unless a subclass says otherwise.

    Its message goes to the caller as `{"error": message}`.
    """

    status: ClassVar[int] = 500
    headers: tuple[tuple[str, str], ...] = ()


class BadInputError(ServiceError):
    """The request cannot be answered as it stands: wrong shape, type, range, field or encoding."""

    status = 400


class UnknownModelError(ServiceError):
    """No model of that name (or version) is served."""

    status = 404


class UnknownPathError(ServiceError):
    """There is nothing at this address."""

    status = 404


class MethodNotAllowedError(ServiceError):
    """There is something at this address, and it takes another method."""

    status = 405

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed here; {allowed} is.")
        self.headers = (("Allow", allowed),)


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""

    status = 408
    headers = (("Connection", "close"),)  # what else comes of the body has no reader


class BodyTooLargeError(ServiceError):
    """The request is larger than the service accepts."""

    status = 413
    headers = (("Connection", "close"),)


class UnsupportedMediaError(ServiceError):
    """The body's media type, or an uploaded file's format, is not one that the service reads."""

    status = 415


class ModelFaultError(ServiceError):
    """The model failed on this request: our fault, not the caller's."""

    status = 500


class QueueFullError(ServiceError):
    """The model's queue holds as many rows as it may; nothing was computed, so retry."""

    status = 503
    headers = (("Retry-After", "1"),)


class NotReadyError(ServiceError):
    """The model, or the whole service, is starting, was refused, or is shutting down."""

    status = 503
    headers = (("Retry-After", "1"),)


class DeadlineExceededError(ServiceError):
    """The request's deadline passed before its rows were computed."""

    status = 504
