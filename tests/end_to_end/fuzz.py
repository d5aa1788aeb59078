"""Asks a running server for nonsense, and sees that it stands: `make fuzz CASES=1000000`.

A case is made from the seed and its number alone, so that one that fails can be asked again with
`--seed` and `--only`. The cases are valid requests, changed: as JSON, as binary tensors,
compressed, as forms with pictures, as the typed endpoints take them, and as bytes on the wire. One
in ten is left as it is, and must be answered as at the start.

Whatever is sent, the answer is below 500, of the shape that errors have, and there in `PATIENCE`
seconds; and the worker's memory stays flat.
"""

import argparse
import asyncio
import gzip
import json
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from live_server import Server, serving
from PIL import Image, ImageDraw

PATIENCE = 15.0  # seconds; the server's own limits are below it
CONNECTIONS = 16
WARM_UP = 3_000  # cases, or a tenth of all, until the worker has the memory that it needs
FLAT = 48 * 2**20  # bytes: what the worker may have more at the end than after the warm-up
STATUSES = {200, 400, 404, 405, 408, 413, 415, 431}
LENGTH = "Inference-Header-Content-Length"


class FuzzError(AssertionError):
    """A case that the server did not stand."""


@dataclass(frozen=True)
class Case:
    """One request: `sent` in these parts. `framed` says that its end is where its head says."""

    kind: str
    parts: tuple[bytes, ...]
    framed: bool = True
    right: bytes | None = None
    late: bool = False  # it may name a deadline, whose answer is 504


@dataclass
class Tally:
    """What was asked, and what came back."""

    cases: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)  # 0: closed without an answer
    warm: int = 0
    end: int = 0

    def __str__(self) -> str:
        """In four lines."""
        statuses = ", ".join(f"{status or 'closed'}: {n:,}" for status, n in self.told())
        kinds = ", ".join(f"{kind}: {n:,}" for kind, n in sorted(self.kinds.items()))
        return (
            f"{self.cases:,} cases in {self.seconds:.0f} s\nby kind: {kinds}\n"
            f"by answer: {statuses}\nmemory of the worker after the warm-up: "
            f"{self.warm / 2**20:.0f} MiB, at the end: {self.end / 2**20:.0f} MiB"
        )

    def told(self) -> list[tuple[int, int]]:
        """The statuses, in order."""
        return sorted(self.statuses.items())


# What is changed.

TENSORS: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    ("curve-tanh", [{"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [0, 5, 10.5]}]),
    ("moons-tanh", [{"name": "point", "shape": [1, 2], "datatype": "FP32", "data": [[0.5, -1]]}]),
    ("mnist-mlp", [{"name": "image", "shape": [1, 28, 28], "datatype": "UINT8",
                    "data": [number % 256 for number in range(784)]}]),
)  # fmt: skip
EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"id": "seven"},
    {"outputs": [{"name": "y"}]},
    {"outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]},
    {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
    {"parameters": {"timeout": 30_000_000, "priority": 0, "binary_data_output": True}},
)
TYPED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/predict_curve", {"x": [0, 5, 10.5], "model": "curve-tanh"}),
    ("/classify_points", {"points": [[0, 1], [1, -0.5]], "model": "moons-tanh"}),
    ("/classify_digits", {"images": [[0] * 784], "model": "mnist-mlp"}),
)
PATHS = (
    *("/v2", "/v2/health/live", "/v2/models", "/v2/models/stats", "/v2/repository/index"),
    *("/v2/models/curve-tanh", "/v2/models/curve-tanh/ready", "/v2/models/curve-tanh/config"),
    *("/v2/models/curve-tanh/versions/1/infer", "/v2/models/curve-tanh/versions/9", "/v2/models//"),
    *("/", "/models", "/models/mnist-cnn", "/models/nobody", "/docs.json", "/metrics", "/livez"),
    *("/v2/../metrics", "/v2/models/%00/infer", "/v2/models/%ff%2f../ready", "//v2//models", "/%"),
    *("/v2/models/" + "a" * 4_000, "/?" + "q=" * 2_000, "*", "http://other/v2", "/classify_image"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 2**31, 2**63 - 1, 2**63, -(2**63), 2**70),
    *(0.5, -0.0, 1e308, 1e-320, 3.5e38, "", "x", "é", "\0", "\ud7ff", "1", "NaN", "a" * 3_000),
    *(
        [],
        {},
        [[]],
        [[[]]],
        [0] * 300,
        [1, [2]],
        {"a": {}},
        ["a"],
        [None],
        [-1],
        [0, 1],
        [10**9, 1],
    ),
    *("BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES", "fp32", "image", "y"),
    *("https://127.0.0.1/x.png", "file:///etc/passwd", "curve-tanh", "../curve-tanh", "mnist-cnn"),
)
NAMES = ("x", "y", "name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs")
NAMES += ("outputs", "classification", "binary_data", "model", "id", "timeout", "priority", "")
TOKENS: tuple[bytes, ...] = (
    *(b"\0", b"\xff", b'"', b"[", b"]", b"{", b"}", b",", b":", b"\\", b"\\u0000", b"\\ud800"),
    *(b"NaN", b"Infinity", b"1e999", b"-", b"0" * 400, b"9" * 400, b"true", b"null", b"\r\n", b" "),
    *(b"[" * 1_100, b'{"a":' * 1_100, b"\r\n\r\n", b"--", b"%", b";", b"\x1f\x8b", b"\xef\xbb\xbf"),
)
ENCODINGS = ("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip", "", "GZIP", "x" * 2_000)
LENGTHS = (10**9, 10**30, -1, "", "x", "0x10", " 7", "1e3", "7, 7", "+7", "1_0", "\xb2")
HEADERS: tuple[dict[str, str], ...] = (
    *({}, {"Origin": "https://a.example"}, {"X-Request-Id": "\xe9" * 9}, {"Range": "bytes=0-"}),
    *({"Authorization": "Bearer x"}, {"traceparent": "00-x"}, {"Cookie": "a" * 2_000}),
    *({"Accept": "application/vnd.bentoml+pickle"}, {"Upgrade": "websocket"}, {"Expect": "x"}),
)
KINDS = (
    "valid",
    "json",
    "json",
    "binary",
    "binary",
    "compressed",
    "typed",
    "typed",
    "path",
    "http",
)
UPLOADS = 0.05  # the share of forms with pictures, which take the longest


@cache
def pictures() -> tuple[bytes, ...]:
    """One small picture in every format that is read, and in one that is not."""
    found = []
    for kind, mode in (("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P"),
                       ("WEBP", "RGB"), ("BMP", "RGB"), ("BMP", "1"), ("TIFF", "L")):  # fmt: skip
        picture = Image.new("L", (48, 40), 255)
        ImageDraw.Draw(picture).line([(10, 8), (36, 8), (22, 34)], fill=0, width=5)
        stream = BytesIO()
        picture.convert(mode).save(stream, kind)
        found.append(stream.getvalue())
    return tuple(found)


def changed(chance: random.Random, value: Any) -> Any:
    """The value with one place in it changed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        done = chance.random()
        if done < 0.1:
            return {key: kept for key, kept in value.items() if key != name}
        if done < 0.2:
            return {chance.choice(NAMES) if key == name else key: k for key, k in value.items()}
        if done < 0.3:
            return {**value, chance.choice(NAMES): chance.choice(VALUES)}
        return {**value, name: changed(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        done = chance.random()
        if done < 0.15:
            return value[:place] + value[place + 1 :]
        if done < 0.3:
            return value[:place] + [value[place]] * chance.choice((2, 3, 50)) + value[place:]
        return [*value[:place], changed(chance, value[place]), *value[place + 1 :]]
    return chance.choice(VALUES)


def broken(chance: random.Random, content: bytes) -> bytes:
    """The bytes with some places in them changed."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 12))):
        place, end = chance.randrange(len(found) + 1), chance.randrange(len(found) + 1)
        match chance.randrange(6):
            case 0 if found:
                found[place - 1] = chance.randrange(256)
            case 1:
                found[place:place] = chance.choice(TOKENS)
            case 2:
                del found[place : place + chance.choice((1, 1, 4, 64))]
            case 3:
                found[place:place] = found[end : end + chance.choice((1, 8, 200))]
            case 4 if found:
                found[place - 1] ^= 1 << chance.randrange(8)
            case 5 if chance.random() < 0.3:
                del found[place:]
    return bytes(found)


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """A request as it goes over the wire."""
    headers = {"Host": "t", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def form(mark: bytes, *files: bytes) -> tuple[bytes, str]:
    """A form with these files, and its media type; `mark` parts them."""
    parts = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n%s\r\n" % (mark, file)
        for file in files
    )
    text = b'--%s\r\nContent-Disposition: form-data; name="model"\r\n\r\nmnist-mlp\r\n' % mark
    return parts + text + b"--%s--\r\n" % mark, f"multipart/form-data; boundary={mark.decode()}"


def tensors(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """The path and the body of an inference."""
    model, inputs = chance.choice(TENSORS)
    return f"/v2/models/{model}/infer", {"inputs": inputs, **chance.choice(EXTRAS)}


def with_tail(body: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The same with its first input as bytes behind the JSON."""
    first = dict(body["inputs"][0])
    del first["data"]
    width = 1 if first["datatype"] == "UINT8" else 4
    size = width
    for length in first["shape"]:
        size *= length
    return {**body, "inputs": [{**first, "parameters": {"binary_data_size": size}}]}, b"\0" * size


# The cases. Each maker gets its own chance, and gives what is sent.


def valid(number: int) -> bytes:
    """One of the requests that are answered 200."""
    which = number % 8
    if which < 3:
        model, inputs = TENSORS[which]
        return request(f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}).encode())
    if which < 6:
        path, body = TYPED[which - 3]
        return request(path, json.dumps(body).encode(), Content_Type="application/json")
    if which == 6:
        content, kind = form(b"mark", pictures()[0])
        return request("/classify_image", content, Content_Type=kind)
    model, inputs = TENSORS[0]
    head, tail = with_tail({"inputs": inputs})
    start = json.dumps(head).encode()
    length = {LENGTH: str(len(start))}
    return request(f"/v2/models/{model}/infer", start + tail, **length)


def a_json(chance: random.Random) -> bytes:
    """An inference in JSON."""
    path, body = tensors(chance)
    if chance.random() < 0.5:
        return request(path, broken(chance, json.dumps(body).encode()))
    for _ in range(chance.choice((1, 1, 2, 5))):
        body = changed(chance, body)
    return request(path, json.dumps(body).encode())


def a_binary(chance: random.Random) -> bytes:
    """An inference with bytes behind its JSON, and perhaps a lie about where those begin."""
    path, body = tensors(chance)
    head, tail = with_tail(body)
    if chance.random() < 0.4:
        head = changed(chance, head)
    start = json.dumps(head).encode()
    if chance.random() < 0.2:
        start = broken(chance, start)
    if chance.random() < 0.4:
        tail = broken(chance, tail)
    length: Any = len(start)
    if chance.random() < 0.4:
        near = (0, 1, length - 1, length + 1, length + len(tail), len(start + tail) + 1)
        length = chance.choice((*near, *LENGTHS))
    return request(path, start + tail, **{LENGTH: str(length)})


def a_compressed(chance: random.Random) -> bytes:
    """An inference that is compressed, or says so."""
    path, body = tensors(chance)
    content = json.dumps(body).encode()
    if chance.random() < 0.05:
        content = b" " * 70 * 2**20 if chance.random() < 0.01 else b" " * 2**20
    packed = gzip.compress(content, 1) if chance.random() < 0.5 else zlib.compress(content, 1)
    if chance.random() < 0.7:
        packed = broken(chance, packed)
    return request(path, packed, Content_Encoding=chance.choice(ENCODINGS))


def a_typed(chance: random.Random) -> bytes:
    """What a typed endpoint takes."""
    path, body = chance.choice(TYPED)
    if chance.random() < 0.5:
        body = changed(chance, body)
    content = json.dumps(body).encode()
    if chance.random() < 0.5:
        content = broken(chance, content)
    kind = "application/json"
    if chance.random() < 0.1:
        kind = chance.choice(("", "text/plain", "application/vnd.bentoml+pickle", "*/*", "a" * 999))
    return request(path, content, Content_Type=kind)


def an_upload(chance: random.Random) -> bytes:
    """A form with pictures."""
    file = chance.choice(pictures())
    if chance.random() < 0.8:
        file = broken(chance, file)
    content, kind = form(b"mark%d" % chance.randrange(1_000), *[file] * chance.choice((1, 1, 2)))
    if chance.random() < 0.3:
        content = broken(chance, content)
    if chance.random() < 0.05:
        kind = chance.choice(
            ("multipart/form-data", "multipart/form-data; boundary=", "a/b", kind[:-1])
        )
    return request("/classify_image", content, Content_Type=kind)


def a_path(chance: random.Random) -> bytes:
    """A path and a method of any kind."""
    method = chance.choice(("GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"))
    return request(chance.choice(PATHS), b"", method, **chance.choice(HEADERS))


def an_http(chance: random.Random) -> bytes:
    """A request whose bytes are changed wherever they stand, its head too."""
    whole = chance.choice((a_json, a_binary, a_path, a_typed))(chance)
    if chance.random() < 0.3:
        head, _, body = whole.partition(b"\r\n\r\n")
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        whole = head.replace(b"Content-Length:", b"Transfer-Encoding: chunked\r\nX:") + b"\r\n\r\n"
        whole += broken(chance, chunks)
    if chance.random() < 0.3:
        whole = whole[: chance.randrange(len(whole) + 1)]
    return broken(chance, whole[:400]) + whole[400:]


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "json": a_json,
    "binary": a_binary,
    "compressed": a_compressed,
    "typed": a_typed,
    "upload": an_upload,
    "path": a_path,
    "http": an_http,
}


def make(seed: int, number: int, right: Sequence[bytes] = ()) -> Case:
    """The case of this number; `right` are the answers to the valid requests."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - to be made again, not to be secret
    kind = "upload" if chance.random() < UPLOADS else chance.choice(KINDS)
    sent = valid(number) if kind == "valid" else MAKERS[kind](chance)
    parts: tuple[bytes, ...] = (sent,)
    if chance.random() < 0.1:
        cut = chance.randrange(len(sent) + 1)
        parts = (sent[:cut], sent[cut:])
    wanted = right[number % 8] if right and kind == "valid" else None
    late = kind in ("json", "binary", "compressed", "http")
    return Case(kind, parts, kind != "http", wanted, late)


# The asking.


class Line:
    """One connection, opened again where it was closed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, case: Case) -> tuple[int, bytes]:
        """The status and the body of the answer; 0 where the connection was closed instead."""
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
        """Every answer to what may be none, one or several requests: the worst of them."""
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
        """Hang up."""
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
    """What is wrong with an answer; empty where nothing is."""
    if case.right is not None and (status, body) != (200, case.right):
        return "a valid request was not answered as at the start"
    if status == 0:
        return "" if not case.framed else "the connection was closed without an answer"
    if status not in STATUSES and not (status == 504 and case.late):
        return "the status is none that is described"
    if status != 200 and body:
        with suppress(ValueError):
            content = json.loads(body)
            if list(content) == ["error"] and isinstance(content["error"], str):
                return ""
        return "an error has not the shape of one"
    return ""


def resident(server: Server) -> int:
    """The memory of the worker, in bytes."""
    return max(process.memory_info().rss for process in server.workers())


async def _run(server: Server, seed: int, numbers: Sequence[int]) -> Tally:
    host, port = server.url.removeprefix("http://").split(":")
    first = Line(host, int(port))
    right = []
    for number in range(8):
        status, body = await first.ask(Case("valid", (valid(number),)))
        if status != 200:
            raise FuzzError(f"a valid request was answered {status}: {body!r}")
        right.append(body)
    await first.close()
    tally, queue, begun = Tally(), iter(numbers), time.monotonic()
    warm_up = max(WARM_UP, len(numbers) // 10)

    async def work() -> None:
        line = Line(host, int(port))
        for number in queue:
            case = make(seed, number, right)
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
    tally.seconds = time.monotonic() - begun
    tally.end = resident(server)
    return tally


def run(server: Server, seed: int, numbers: Sequence[int]) -> Tally:
    """Ask the cases of these numbers.

    Raises:
        FuzzError: the server did not stand one of them; says which.
    """
    try:
        return asyncio.run(_run(server, seed, numbers))
    except* FuzzError as errors:
        raise errors.exceptions[0] from None


def check_memory(tally: Tally) -> None:
    """See that the memory is flat.

    Raises:
        FuzzError: it is not.
    """
    grown = tally.end - tally.warm
    if grown > FLAT:
        raise FuzzError(f"the worker's memory has grown by {grown / 2**20:.0f} MiB\n{tally}")


def main() -> None:
    """Start a server, ask it, and print what came back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="ask this case alone, and show it")
    given = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="fs-") as home, serving(Path(home), root) as server:
        if given.only is not None:
            print(make(given.seed, given.only))
            print(run(server, given.seed, [given.only]))
            return
        tally = run(server, given.seed, range(given.cases))
        print(tally)
        if given.cases > WARM_UP:
            check_memory(tally)
        assert httpx.get(f"{server.url}/readyz").status_code == 200


if __name__ == "__main__":
    sys.exit(main())
