"""Clients without API keys are distinguished by their network."""

import pytest

from service.http.client_network import client_network


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("a:b", "a:b"),
        ("x" * 1_000, "x" * 64),
    ],
)
def test_the_network_of_a_client(host: str, network: str) -> None:
    assert client_network((host, 1234)) == network


def test_a_client_without_an_address_has_no_network() -> None:
    assert client_network(None) == ""
