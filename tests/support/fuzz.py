"""Send invalid requests to a running server: `make fuzz CASES=1000000`.

Every response must be below 500, in the shape of an error, and arrive within `PATIENCE` seconds;
the worker's memory must stay flat. A failing case is repeated with `--seed` and `--only`.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from invalid_requests import KINDS, Case, make, valid
from live_server import Server, serving

PATIENCE = 15.0  # seconds; the server's own limits are lower
CONNECTIONS = 16
WARM_UP = 3_000  # cases, or a tenth of all, until the worker has its usual memory
FLAT = 48 * 2**20  # bytes: the allowed growth of the worker after the warm-up
STATUSES = {200, 400, 403, 404, 405, 408, 413, 415, 421, 431}
OF_HTTP = {501, 505}  # the client's choice of a coding or version; only if headers are changed


class FuzzError(AssertionError):
    """A case that the server failed."""


@dataclass
class Tally:
    """The requests sent, and their responses."""

    cases: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)  # 0: closed without a response
    warm: int = 0
    end: int = 0

    def __str__(self) -> str:
        """Return a summary of four lines."""
        statuses = ", ".join(
            f"{status or 'closed'}: {n:,}" for status, n in self.statuses_by_count()
        )
        kinds = ", ".join(f"{kind}: {n:,}" for kind, n in sorted(self.kinds.items()))
        return (
            f"{self.cases:,} cases in {self.seconds:.0f} s\nby kind: {kinds}\n"
            f"by answer: {statuses}\nmemory of the worker after the warm-up: "
            f"{self.warm / 2**20:.0f} MiB, at the end: {self.end / 2**20:.0f} MiB"
        )

    def statuses_by_count(self) -> list[tuple[int, int]]:
        """Return the statuses, in order."""
        return sorted(self.statuses.items())


class Line:
    """One connection, reopened after a close."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, case: Case) -> tuple[int, bytes]:
        """Return the status and body of the response; 0 if the connection was closed instead."""
        if self._streams is None or not case.framed:
            await self.close()
            self._streams = await asyncio.open_connection(*self._address, limit=2**22)
        reader, writer = self._streams
        try:
            for number, part in enumerate(case.parts):
                if number:
                    await asyncio.sleep(0.001)
                writer.write(part)
            if case.framed:
                return await self._read(reader)
            return await self._read_what_comes(reader, writer)
        except ConnectionError:
            await self.close()
            return 0, b""

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            status, length, closes = _head(head)
            body = await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            await self.close()
            return 0, b""
        if closes:
            await self.close()
        return status, body

    async def _read_what_comes(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[int, bytes]:
        """Read all responses to what may be no, one or several requests; return the worst."""
        received = b""
        with suppress(TimeoutError, ConnectionError):
            received = await asyncio.wait_for(reader.read(2**20), 0.03)
        with suppress(ConnectionError, OSError):
            writer.write_eof()
            received += await reader.read()
        await self.close()
        worst, body = 0, b""
        while received.startswith(b"HTTP/1.1 "):
            head, end, received = received.partition(b"\r\n\r\n")
            status, length, _ = _head(head + end)
            if status == 100:
                continue
            content, received = received[:length], received[length:]
            if status >= worst:
                worst, body = status, content if len(content) == length else b""
        return worst, body

    async def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def _head(head: bytes) -> tuple[int, int, bool]:
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split()[1])
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    return status, length, b"connection: close" in lines


def check(case: Case, status: int, body: bytes) -> str:
    """Return what is wrong with a response; empty if it is correct."""
    if case.right is not None and (status, body) != (200, case.right):
        return "a valid request was not answered as at the start"
    if status == 0:
        return "" if not case.framed else "the connection was closed without an answer"
    told_of_http = status in OF_HTTP and not case.framed
    if status not in STATUSES and not told_of_http and not (status == 504 and case.late):
        return "the status is none that is described"
    if status != 200 and body:
        with suppress(ValueError):
            content = json.loads(body)
            if list(content) == ["error"] and isinstance(content["error"], str):
                return ""
        return "an error has not the shape of one"
    return ""


def resident(server: Server) -> int:
    """Return the memory of the worker, in bytes."""
    return max(process.memory_info().rss for process in server.workers())


async def _run(server: Server, seed: int, numbers: Sequence[int], kinds: Sequence[str]) -> Tally:
    host, port = server.url.removeprefix("http://").split(":")
    first = Line(host, int(port))
    right = []
    for number in range(8):
        status, body = await first.ask(Case("valid", (valid(number),)))
        if status != 200:
            raise FuzzError(f"a valid request was answered {status}: {body!r}")
        right.append(body)
    await first.close()
    tally, queue, started = Tally(), iter(numbers), time.monotonic()
    warm_up = max(WARM_UP, len(numbers) // 10)

    async def work() -> None:
        line = Line(host, int(port))
        for number in queue:
            case = make(seed, number, right, kinds)
            try:
                status, body = await asyncio.wait_for(line.ask(case), PATIENCE)
                wrong = check(case, status, body)
            except TimeoutError:
                status, body, wrong = 0, b"", f"no answer in {PATIENCE:g} s"
            if wrong:
                sent = b"".join(case.parts)
                raise FuzzError(
                    f"{wrong}: seed {seed}, case {number} ({case.kind}), status {status}\n"
                    f"sent: {sent[:1_500]!r}\nreceived: {body[:500]!r}"
                )
            tally.cases += 1
            tally.kinds[case.kind] += 1
            tally.statuses[status] += 1
            if tally.cases == warm_up:
                tally.warm = resident(server)
            if tally.cases % 100_000 == 0:
                print(f"{tally.cases:,}: {resident(server) / 2**20:.0f} MiB", flush=True)
        await line.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())
    tally.seconds = time.monotonic() - started
    tally.end = resident(server)
    return tally


def run(server: Server, seed: int, numbers: Sequence[int], kinds: Sequence[str] = KINDS) -> Tally:
    """Send the cases of these numbers, of these kinds.

    Raises:
        FuzzError: the server failed a case, which is named.
    """
    try:
        return asyncio.run(_run(server, seed, numbers, kinds))
    except* FuzzError as errors:
        raise errors.exceptions[0] from None


def check_memory(tally: Tally) -> None:
    """Check that the memory is flat.

    Raises:
        FuzzError: it is not.
    """
    grown = tally.end - tally.warm
    if grown > FLAT:
        raise FuzzError(f"the worker's memory has grown by {grown / 2**20:.0f} MiB\n{tally}")


def main() -> None:
    """Start a server, send the cases, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="ask this case alone, and show it")
    parser.add_argument(
        "--kinds", nargs="+", choices=sorted({*KINDS}), default=KINDS, help="which cases (all)"
    )
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="fs-") as home, serving(Path(home), root) as server:
        if options.only is not None:
            print(make(options.seed, options.only, kinds=options.kinds))
            print(run(server, options.seed, [options.only], options.kinds))
            return
        tally = run(server, options.seed, range(options.cases), options.kinds)
        print(tally)
        if options.cases > WARM_UP:
            check_memory(tally)
        assert httpx.get(f"{server.url}/readyz").status_code == 200


if __name__ == "__main__":
    sys.exit(main())
