"""API keys, each with a name and optionally a rate limit.

The file of `FITSERVE_API_KEYS_FILE` has one line per key: its name, the SHA-256 digest of the key
in hexadecimal, and optionally its rate in requests per second and worker. A `#` starts a comment.
`python -m service.http.auth NAME` creates a key and its line. A key has 32 random bytes, so a plain
digest is as safe as a slow one.

The file is read again while requests arrive, and its content is compared. An invalid file, also one
without keys, changes nothing: it may be half written.
"""

import argparse
import hashlib
import hmac
import math
import secrets
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from service.errors import RateLimitError, UnauthorizedError, UnknownPathError
from service.settings import Exposure, Settings
from service.telemetry.logs import logger
from service.telemetry.request_context import RequestContext

HEALTH = frozenset(
    {"/livez", "/readyz", "/healthz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"}
)
METRICS = frozenset({"/metrics"})

MIN_RATE = 1e-6
"""Requests per second: one in eleven days."""

_CHECK_SECONDS = 1.0  # interval of the checks of the file, while requests arrive
_MAX_FILE_BYTES = 2**20  # of the file


class ApiKey(NamedTuple):
    """One line of the file; `rate` is in requests per second, infinite by default."""

    name: str
    digest: bytes
    rate: float


def read_keys(text: str) -> list[ApiKey]:
    """Return the keys in the text of a file.

    Raises:
        ValueError: a line is malformed, or there is no key. The line is reported by its number,
            never by its content.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, *rest = line.partition("#")[0].split() or [""]
        if not name:
            continue
        try:
            digest, rate = bytes.fromhex(rest[0]), float(rest[1]) if rest[1:] else math.inf
        except (IndexError, ValueError):
            digest, rate = b"", 0.0
        if len(digest) != 32 or not rate >= MIN_RATE or len(rest) > 2 or not name.isprintable():
            raise ValueError(
                f"line {number} must be a name, the SHA-256 of a key in hexadecimal, "
                f"and perhaps a rate, in requests a second, of {MIN_RATE:f} at the least"
            )
        if name in keys:
            raise ValueError(f"line {number} has the name of an earlier one")
        keys[name] = ApiKey(name, digest, rate)
    if not keys:
        raise ValueError("there is no key in it")
    return list(keys.values())


def _content_of(path: Path) -> str:
    """Return the text of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a regular file, too large, or not plain UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a read of a pipe could block forever
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {_MAX_FILE_BYTES:,} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark; write it in UTF-8 without one")
    return text


class TokenBucket:
    """A rate limit as a token bucket: refilled at the rate of the key, up to one second's worth."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._capacity = max(rate, 1.0)
        self._tokens = self._capacity
        self._refilled = time.monotonic()

    def take(self) -> float:
        """Take one token; return 0, or the seconds until a token is available."""
        now = time.monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._refilled) * self.rate)
        self._refilled = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self.rate
        self._tokens -= 1.0
        return 0.0


class ApiKeyAuth:
    """Authentication of requests by API keys.

    Args:
        settings: the file of the keys, and the exposure of health, metrics and playground.
        public_paths: the paths of the pages at `/` and `/docs`.

    Raises:
        SystemExit: the file cannot be read, has no key, or a malformed line.
    """

    def __init__(self, settings: Settings, public_paths: Iterable[str] = ()) -> None:
        self._path = settings.api_keys_file
        self._exposures: dict[str, Exposure] = (
            dict.fromkeys({*HEALTH, settings.vertex_health_route or "/ping"}, settings.health)
            | dict.fromkeys(METRICS, settings.metrics)
            | dict.fromkeys(public_paths, settings.playground)
        )
        self._keys: list[ApiKey] = []
        self._buckets: dict[str, TokenBucket] = {}
        self._content: str | None = None  # of the file at the last read
        self._problem = ""  # the last logged problem of the file
        self._checked = time.monotonic()
        if self._path is not None:
            try:
                self._read(self._path)
            except (OSError, ValueError) as error:
                raise SystemExit(
                    f"error: FITSERVE_API_KEYS_FILE {self._path}: {_reason_of(error)}"
                ) from None

    def authenticate(self, context: RequestContext) -> None:
        """Authenticate the request, and note the name of its key in the context.

        Raises:
            UnauthorizedError: the request has no known key.
            RateLimitError: the key has exceeded its rate.
            UnknownPathError: the path is disabled.
        """
        exposure = self.require_exposed(context.path)
        if self._path is None or exposure == "open":
            return
        self._renew(self._path)
        key = self._find(context.headers)
        context.key = key.name
        if key.rate < math.inf:
            wait = self._buckets[key.name].take()
            if wait:
                raise RateLimitError(
                    f"The key {key.name!r} may send {key.rate:g} requests a second; "
                    f"wait {wait:.2g} s.",
                    wait,
                )

    def require_exposed(self, path: str) -> Exposure:
        """Return the exposure of a path.

        Raises:
            UnknownPathError: the path is disabled.
        """
        exposure = self._exposures.get(path, "key")
        if exposure == "off":
            raise UnknownPathError(f"There is nothing at {path!r}.")
        return exposure

    def _find(self, headers: dict[bytes, bytes]) -> ApiKey:
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        secret = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(secret).digest()
        match: ApiKey | None = None
        for key in self._keys:  # no early exit, so the time does not reveal the position
            if hmac.compare_digest(key.digest, digest):
                match = key
        if match is None:
            raise UnauthorizedError(
                "Send a valid API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
        return match

    def _renew(self, path: Path) -> None:
        """Read the file again if it has changed; keep the current keys if it is invalid."""
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            if self._read(path):
                logger.info("read %d API keys from %s", len(self._keys), path)
            self._problem = ""
        except (OSError, ValueError) as error:
            problem = _reason_of(error)
            if problem != self._problem:  # logged once per problem
                logger.error("the API keys are unchanged: %s: %s", path, problem)
            self._problem = problem

    def _read(self, path: Path) -> bool:
        """Read the keys from the file; return whether the file has changed."""
        content = _content_of(path)
        if content == self._content:
            return False
        self._content = content  # an invalid file is not parsed again
        self._keys = read_keys(content)
        buckets = self._buckets
        self._buckets = {
            key.name: bucket
            if (bucket := buckets.get(key.name)) is not None and bucket.rate == key.rate
            else TokenBucket(key.rate)
            for key in self._keys
        }
        return True


def _reason_of(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def main() -> None:
    """Create a key and its line for the file."""
    parser = argparse.ArgumentParser(description="Make an API key.")
    parser.add_argument("name", help="whose it is; the metrics show it")
    parser.add_argument("--rate", type=float, help="requests a second to each worker")
    options = parser.parse_args()
    key = f"fs_{secrets.token_urlsafe(32)}"
    rate = "" if options.rate is None else f" {options.rate:g}"
    line = f"{options.name} {hashlib.sha256(key.encode()).hexdigest()}{rate}"
    try:
        (_,) = read_keys(line)
    except ValueError:
        parser.error(f"a name has no spaces and no '#', and a rate is {MIN_RATE:f} or more")
    print(f"the key, shown this once:       {key}\nits line in the file of the keys: {line}")  # noqa: T201


if __name__ == "__main__":
    main()
