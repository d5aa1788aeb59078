"""Who gets in: API keys, each with a name and, where it is set, a rate.

The file of `FITSERVE_API_KEYS_FILE` has a line for each key: its name, the SHA-256 of the key in
hexadecimal, and perhaps how many requests a second it may send to each worker. What stands behind a
`#` is a comment. `python -m service.http.access NAME` makes a key and its line. A key is 32 random
bytes, so a plain digest keeps it as well as a slow one would.

The file is read again while requests come, and compared by its content. Whatever cannot be used, a
file without a key too, changes nothing: it may stand in the middle of being written.
"""

import argparse
import hashlib
import hmac
import math
import secrets
import stat
import time
from pathlib import Path
from typing import NamedTuple

from service.errors import RateLimitError, UnauthorizedError, UnknownPathError
from service.http.exchange import Exchange
from service.http.playground import paths
from service.settings import Exposure, Settings
from service.telemetry.logs import logger

HEALTH = frozenset({"/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
METRICS = frozenset({"/metrics"})

LEAST_RATE = 1e-6
"""Requests a second: one in eleven days."""

_LOOK_SECONDS = 1.0  # how often the file is looked at, where requests come
_MOST_BYTES = 2**20  # of the file


class ApiKey(NamedTuple):
    """One line of the file; `rate` is in requests a second, infinite where none is set."""

    name: str
    digest: bytes
    rate: float


def read_keys(text: str) -> list[ApiKey]:
    """The keys in a file.

    Raises:
        ValueError: a line is malformed, which is reported by its number and never by its content;
            or there is no key at all.
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
        if len(digest) != 32 or not rate >= LEAST_RATE or len(rest) > 2 or not name.isprintable():
            raise ValueError(
                f"line {number} must be a name, the SHA-256 of a key in hexadecimal, "
                f"and perhaps a rate, in requests a second, of {LEAST_RATE:f} at the least"
            )
        if name in keys:
            raise ValueError(f"line {number} has the name of an earlier one")
        keys[name] = ApiKey(name, digest, rate)
    if not keys:
        raise ValueError("there is no key in it")
    return list(keys.values())


def _content_of(path: Path) -> str:
    """The file's text.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, too large, or no plain UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # to read a pipe could take for ever
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark; write it in UTF-8 without one")
    return text


class _Allowance:
    """What a key may still send: refilled at its rate, up to one second's worth."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._most = max(rate, 1.0)
        self._left = self._most
        self._at = time.monotonic()

    def take(self) -> float:
        """Take one request; the seconds until there is one, where there is none now."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self.rate
        self._left -= 1.0
        return 0.0


class Access:
    """Lets a request in, or not.

    Args:
        settings: the file of the keys, and how health and metrics are exposed.

    Raises:
        SystemExit: the file cannot be read, has no key, or a line of it is none.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.api_keys_file
        self._exposures: dict[str, Exposure] = (
            dict.fromkeys(HEALTH, settings.health)
            | dict.fromkeys(METRICS, settings.metrics)
            | dict.fromkeys(paths(), settings.playground)
        )
        self._keys: list[ApiKey] = []
        self._allowances: dict[str, _Allowance] = {}
        self._content: str | None = None  # of the file, when it was last read
        self._trouble = ""  # with it, as it was last logged
        self._looked = time.monotonic()
        if self._path is not None:
            try:
                self._read(self._path)
            except (OSError, ValueError) as error:
                raise SystemExit(
                    f"error: FITSERVE_API_KEYS_FILE {self._path}: {_told(error)}"
                ) from None

    def admit(self, exchange: Exchange) -> None:
        """Let the request in; its key's name is written into the exchange.

        Raises:
            UnauthorizedError: it has no key that is known.
            RateLimitError: its key has sent too many.
            UnknownPathError: the path is switched off.
        """
        exposure = self.require_exposed(exchange.path)
        if self._path is None or exposure == "open":
            return
        self._renew(self._path)
        key = self._find(exchange.headers)
        exchange.key = key.name
        if key.rate < math.inf:
            wait = self._allowances[key.name].take()
            if wait:
                raise RateLimitError(
                    f"The key {key.name!r} may send {key.rate:g} requests a second; "
                    f"wait {wait:.2g} s.",
                    wait,
                )

    def require_exposed(self, path: str) -> Exposure:
        """How a path is exposed.

        Raises:
            UnknownPathError: it is switched off.
        """
        exposure = self._exposures.get(path, "key")
        if exposure == "off":
            raise UnknownPathError(f"There is nothing at {path!r}.")
        return exposure

    def _find(self, headers: dict[bytes, bytes]) -> ApiKey:
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(given).digest()
        found: ApiKey | None = None
        for key in self._keys:  # all of them: the time tells nothing of where it was found
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise UnauthorizedError(
                "Send a valid API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
        return found

    def _renew(self, path: Path) -> None:
        """Read the file again where it has changed; keep the keys that were where it is no good."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            if self._read(path):
                logger.info("read %d API keys from %s", len(self._keys), path)
            self._trouble = ""
        except (OSError, ValueError) as error:
            trouble = _told(error)
            if trouble != self._trouble:  # else it was said a second ago
                logger.error("the API keys stay as they were: %s: %s", path, trouble)
            self._trouble = trouble

    def _read(self, path: Path) -> bool:
        """Take the keys from the file; whether it has changed."""
        content = _content_of(path)
        if content == self._content:
            return False
        self._content = content  # also where it is no good: it need not be found out again
        self._keys = read_keys(content)
        kept = self._allowances
        self._allowances = {
            key.name: old
            if (old := kept.get(key.name)) is not None and old.rate == key.rate
            else _Allowance(key.rate)
            for key in self._keys
        }
        return True


def _told(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def main() -> None:
    """Make a key, and the line that lets it in."""
    parser = argparse.ArgumentParser(description="Make an API key.")
    parser.add_argument("name", help="whose it is; the metrics show it")
    parser.add_argument("--rate", type=float, help="requests a second to each worker")
    given = parser.parse_args()
    key = f"fs_{secrets.token_urlsafe(32)}"
    rate = "" if given.rate is None else f" {given.rate:g}"
    line = f"{given.name} {hashlib.sha256(key.encode()).hexdigest()}{rate}"
    try:
        (_,) = read_keys(line)
    except ValueError:
        parser.error(f"a name has no spaces and no '#', and a rate is {LEAST_RATE:f} or more")
    print(f"the key, shown this once:       {key}\nits line in the file of the keys: {line}")  # noqa: T201


if __name__ == "__main__":
    main()
