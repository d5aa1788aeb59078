"""The coding of responses."""

import gzip
import zlib

import pytest

from service.http.compression import compressed, preferred_coding


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
def test_the_coding_with_the_highest_quality_is_used(
    accepted: str | None, coding: str | None
) -> None:
    headers = {} if accepted is None else {b"accept-encoding": accepted.encode("latin-1")}
    preferred = preferred_coding(headers)
    assert (preferred and preferred.decode()) == coding


async def test_compressed_bodies_are_readable_by_standard_decoders() -> None:
    body = bytes(range(256)) * 300

    packed, deflated = await compressed(body, b"gzip"), await compressed(body, b"deflate")
    assert gzip.decompress(packed) == zlib.decompress(deflated) == body
    assert len(packed) < len(body) / 10
