"""Which coding an answer is sent in."""

import asyncio
import gzip
import zlib

import pytest

from service.http.compression import asked_coding, compressed


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br, zstd", None),
        ("*", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip"),
        ("gzip;q=0.5, deflate;q=0.9", "deflate"),
        ("gzip;q=0", None),
        ("gzip; q = 0.0 , deflate", "deflate"),
        ("gzip;q=x, deflate;q=0.1", "deflate"),
        ("gzip;q=nan", None),
        ("gzip;q=0.5, identity", None),
        ("identity, gzip", "gzip"),
        ("identity;q=0, br", None),
        (",,gzip;;,", "gzip"),
        ("gzip;level=9", "gzip"),
        ("a," * 10_000 + "gzip", None),
        ("\u00e9, gzip", "gzip"),
    ],
)
def test_the_coding_that_is_liked_best_is_taken(accepted: str | None, coding: str | None) -> None:
    headers = {} if accepted is None else {b"accept-encoding": accepted.encode("latin-1")}
    found = asked_coding(headers)
    assert (found and found.decode()) == coding


def test_what_is_compressed_is_what_every_reader_of_its_coding_reads() -> None:
    body = bytes(range(256)) * 300

    async def run() -> tuple[bytes, bytes]:
        return await compressed(body, b"gzip"), await compressed(body, b"deflate")

    packed, deflated = asyncio.run(run())
    assert gzip.decompress(packed) == zlib.decompress(deflated) == body
    assert len(packed) < len(body) / 10
