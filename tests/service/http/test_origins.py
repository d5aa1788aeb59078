"""Accepted hosts and origins, in every form of the headers."""

import hashlib
import timeit
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import ForeignOriginError, MisdirectedRequestError
from service.http import origins
from service.http.origins import Authority, OriginPolicy, parse_authority
from service.settings import Settings

ADDRESS = "192.168.1.5"


def raw(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    return {
        name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()
    }


def check(
    address: str | None = ADDRESS, given: Mapping[str, Any] | None = None, **headers: str
) -> None:
    OriginPolicy(Settings(**(given or {}))).check(raw(headers), address)


LOCAL = [
    *(
        "localhost",
        "localhost:3000",
        "LocalHost:3000",
        "localhost.",
        "a.b.localhost",
        "localhost:0",
    ),
    *("localhost:", "127.0.0.1", "127.0.0.1:65535", "127.255.1.2", "127.0.0.1.", "[::1]:3000"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]", "[::1%25lo]:3000"),
    *("0.0.0.0:3000", "[::]", ADDRESS, f"{ADDRESS}:8080", f"[::ffff:{ADDRESS}]"),
]
OTHER_HOSTS = [
    *(
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.nip",
    ),
    *("", " ", ".", "localhost..", "192.168.1.6", "10.0.0.1", "[::2]", "[fe80::1]", "1.1.1.1"),
    *(
        "evil@localhost",
        "localhost@evil",
        "evil:x@127.0.0.1",
        "localhost, evil",
        "localhost,localhost",
    ),
    *("evil localhost", "localhost/", "localhost#evil", "localhost?evil", "localhost:evil"),
    *("localhost:3000:3000", "localhost:123456", "http://localhost", "[::1", "::1", "[localhost]"),
    *(
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "l\u00f6calhost",
        "\u00b9localhost",
        "localhost\t",
    ),
    *("local%68ost", "[::1]evil", "[::1].evil", "[::1%evil.example/]"),
]


@pytest.mark.parametrize("host", LOCAL)
def test_a_local_host_is_accepted(host: str) -> None:
    check(host=host)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_a_foreign_host_is_refused_as_misdirected_and_the_setting_is_named(host: str) -> None:
    with pytest.raises(MisdirectedRequestError, match="FITSERVE_ALLOWED_HOSTS") as refused:
        check(host=host)
    assert refused.value.status == 421
    assert str(refused.value).count(". ") == 0


def test_a_missing_host_is_accepted_for_http_1_0() -> None:
    check()


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("fe80::1%eth0", "[fe80::1]:3000"),
        ("fe80::1", "[fe80::1%25eth0]"),
        ("::ffff:10.0.0.9", "10.0.0.9"),
    ],
)
def test_the_address_of_the_server_is_local(address: str, host: str) -> None:
    check(address, host=host)
    for other in ("10.0.0.8", "/run/fitserve.sock", None):
        with pytest.raises(MisdirectedRequestError):
            check(other, host=host)


def test_a_forwarded_host_is_not_trusted() -> None:
    with pytest.raises(MisdirectedRequestError):
        check(host="evil.example", x_forwarded_host="localhost", forwarded="host=localhost")
    with pytest.raises(ForeignOriginError):
        check(host="localhost", origin="http://evil.example", x_forwarded_host="evil.example")


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        (["*"], "evil.example"),
        (["*"], ""),
        (["fit.example"], "FIT.example.:8080"),
        (["Fit.Example"], "fit.example"),
        (["*.example.com"], "a.b.example.com"),
        (["10.0.0.7", "[fd00::7]"], "10.0.0.7:80"),
        (["10.0.0.7", "[fd00::7]"], "[fd00:0::7]:80"),
        (["fd00::7"], "[fd00::7]"),
    ],
)
def test_an_allowed_host_is_accepted(allowed: list[str], host: str) -> None:
    check(host=host, given={"allowed_hosts": allowed})
    check(host="localhost", given={"allowed_hosts": allowed})


@pytest.mark.parametrize(
    "host",
    ["example.com", "xexample.com", "a.example.com.evil", "fit.example.evil", "a.fit.example"],
)
def test_a_host_similar_to_an_allowed_one_is_refused(host: str) -> None:
    with pytest.raises(MisdirectedRequestError):
        check(host=host, given={"allowed_hosts": ["*.example.com", "fit.example"]})


@pytest.mark.parametrize(
    "host", ["http://a.example", "a.example:80", "", "a.*.example", "*a.example", "a b", "*."]
)
def test_a_setting_that_is_not_a_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="without a scheme or port"):
        Settings(allowed_hosts=(host,))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:3000", "http://localhost:3000"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost:443", "https://localhost"),
        ("LOCALHOST:3000", "http://localhost:3000"),
        ("[::1]:3000", "http://[::1]:3000"),
        ("localhost", "https://localhost"),  # a proxy terminates TLS
    ],
)
def test_a_page_of_this_service_may_call_it(host: str, origin: str) -> None:
    check(host=host, origin=origin)


EVIL = [
    *("http://evil.example", "http://localhost:8080", "https://localhost:3000.evil", "null", ""),
    *("file://", "chrome-extension://abcdef", "http://127.0.0.1:3000", "localhost:3000", "http://"),
    *("http://localhost:3000, http://evil.example", "http://evil@localhost:3000", "*"),
    *("http://localhost:3000/", "javascript://localhost:3000", "ws://localhost:3000"),
    *("http://localhost", "https://localhost:443"),
]


@pytest.mark.parametrize("origin", EVIL)
def test_a_page_of_another_origin_may_not_call_the_service(origin: str) -> None:
    for more in ({}, {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}):
        with pytest.raises(ForeignOriginError, match="FITSERVE_CORS_ORIGINS") as refused:
            check(host="localhost:3000", origin=origin, **more)
        assert refused.value.status == 403


@pytest.mark.parametrize("origin", ["https://a.example", "null", "chrome-extension://abcdef"])
def test_an_origin_of_the_cors_setting_may_call_the_service(origin: str) -> None:
    for origins_given in ([origin], ["*"]):
        check(host="localhost", origin=origin, given={"cors_origins": origins_given})
        with pytest.raises(MisdirectedRequestError):
            check(host="evil", origin=origin, given={"cors_origins": origins_given})
    with pytest.raises(ForeignOriginError):
        check(host="localhost", origin=f"{origin}.evil", given={"cors_origins": [origin]})


def test_behind_a_proxy_with_another_host_name_same_origin_requests_are_accepted() -> None:
    same = {"host": "127.0.0.1:3000", "sec_fetch_site": "same-origin"}
    check(**same, origin="http://localhost:8080")
    check(**same, origin="https://fit.example", given={"allowed_hosts": ["fit.example"]})
    for origin in ("http://evil.example", "null", "https://fit.example"):
        with pytest.raises(ForeignOriginError):
            check(**same, origin=origin)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_load_pictures_or_scripts(site: str) -> None:
    for mode in ("no-cors", "cors", "websocket"):
        with pytest.raises(ForeignOriginError, match="FITSERVE_CORS_ORIGINS"):
            check(host="localhost", sec_fetch_site=site, sec_fetch_mode=mode)
    check(host="localhost", sec_fetch_site=site, sec_fetch_mode="navigate")  # a link
    check(host="localhost", sec_fetch_site=site, given={"cors_origins": ["https://a.example"]})
    for fine in ("same-origin", "none"):
        check(host="localhost", sec_fetch_site=fine, sec_fetch_mode="cors")


def test_with_api_keys_hosts_and_origins_are_not_checked() -> None:
    settings = {"api_keys_file": "keys"}
    check(host="evil", origin="http://evil", given=settings)
    assert OriginPolicy(Settings(**settings)).accepts_everywhere(raw({"host": "evil"}))


def test_the_fast_path_accepts_only_requests_that_the_check_accepts() -> None:
    policy = OriginPolicy(Settings(allowed_hosts=("fit.example",)))
    for host in (*LOCAL, "fit.example"):
        if ADDRESS not in host:
            assert policy.accepts_everywhere(raw({"host": host}))
    for host in (*OTHER_HOSTS, ADDRESS):
        assert not policy.accepts_everywhere(raw({"host": host}))
    for header in ("origin", "sec_fetch_site"):
        assert not policy.accepts_everywhere(raw({"host": "localhost", header: "same-origin"}))
    policy.check(raw({"host": ADDRESS}), ADDRESS)
    assert policy.accepts_everywhere(raw({"host": ADDRESS}))  # known as local from now on


def test_the_cache_of_hosts_is_bounded() -> None:
    policy = OriginPolicy(Settings())
    for number in range(3 * origins._MAX_KNOWN):
        policy.check(raw({"host": f"{'a' * (number % 600)}{number}.localhost"}), None)
        assert len(policy._known) <= origins._MAX_KNOWN
    assert max(len(host or b"") for host in policy._known) <= origins._MAX_KNOWN_BYTES
    assert policy.accepts_everywhere({})


def test_the_check_of_a_known_host_is_faster_than_hashing_a_kilobyte() -> None:
    policy, headers, kilobyte = (
        OriginPolicy(Settings()),
        raw({"host": "127.0.0.1:3000"}),
        bytes(1024),
    )
    policy.check(headers, None)
    own = min(timeit.repeat(lambda: policy.accepts_everywhere(headers), number=1000, repeat=9))
    hashing = min(timeit.repeat(lambda: hashlib.sha256(kilobyte), number=1000, repeat=9))
    assert own < hashing


def test_an_authority_is_a_host_and_a_port_and_nothing_else() -> None:
    assert parse_authority("Example.COM.:8080") == Authority("example.com", "8080")
    assert parse_authority("a:80") == parse_authority("a:") == parse_authority("a") == ("a", "")
    assert parse_authority("a:443", "https") == ("a", "")
    assert parse_authority("a@b") is None
