"""Where addresses lead, compared with the standard library where it has an opinion."""

import random
from ipaddress import ip_address

import pytest

from netstack.policy.lan import Scope, classify, is_group, is_leasable, is_local


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("8.8.8.8", Scope.ORDINARY),
        ("0.0.0.0", Scope.UNSPECIFIED),
        ("0.1.2.3", Scope.UNSPECIFIED),
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.255.255.255", Scope.LOOPBACK),
        ("10.0.0.1", Scope.LAN),
        ("172.15.255.255", Scope.ORDINARY),
        ("172.16.0.0", Scope.LAN),
        ("172.31.255.255", Scope.LAN),
        ("172.32.0.0", Scope.ORDINARY),
        ("192.168.1.1", Scope.LAN),
        ("192.169.0.0", Scope.ORDINARY),
        ("100.63.255.255", Scope.ORDINARY),
        ("100.64.0.0", Scope.LAN),
        ("100.127.255.255", Scope.LAN),
        ("100.128.0.0", Scope.ORDINARY),
        ("169.254.1.1", Scope.LINK_LOCAL),
        ("169.253.1.1", Scope.ORDINARY),
        ("224.0.0.251", Scope.MULTICAST),
        ("239.255.255.250", Scope.MULTICAST),
        ("240.0.0.1", Scope.ORDINARY),
        ("255.255.255.255", Scope.BROADCAST),
        ("255.255.255.254", Scope.ORDINARY),
        ("192.0.2.1", Scope.ORDINARY),
        ("198.51.100.1", Scope.ORDINARY),
        ("203.0.113.1", Scope.ORDINARY),
        ("198.18.0.1", Scope.ORDINARY),
        ("2001:db8::1", Scope.ORDINARY),
        ("2606:4700::1", Scope.ORDINARY),
        ("64:ff9b::8.8.8.8", Scope.ORDINARY),
        ("::", Scope.UNSPECIFIED),
        ("::1", Scope.LOOPBACK),
        ("::2", Scope.ORDINARY),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("::ffff:192.168.0.1", Scope.LAN),
        ("::ffff:8.8.8.8", Scope.ORDINARY),
        ("fc00::1", Scope.LAN),
        ("fd12::1", Scope.LAN),
        ("fe80::1", Scope.LINK_LOCAL),
        ("febf::1", Scope.LINK_LOCAL),
        ("fec0::1", Scope.LAN),
        ("fe00::1", Scope.ORDINARY),
        ("ff02::fb", Scope.MULTICAST),
    ],
)
def test_scope(address: str, scope: Scope) -> None:
    assert classify(ip_address(address).packed) == scope


def test_never_leased() -> None:
    local = ("0.0.0.0", "127.0.0.1", "::", "::1", "169.254.0.1", "fe80::1")
    for text in (*local, "224.0.0.1", "255.255.255.255", "ff02::1"):
        assert not is_leasable(ip_address(text).packed), text
    for text in ("192.0.2.1", "10.1.2.3", "100.64.0.1", "fd00::1", "2001:db8::1"):
        assert is_leasable(ip_address(text).packed), text


def test_agrees_with_the_standard_library_on_random_addresses() -> None:
    source = random.Random(3)
    for _ in range(3000):
        packed = source.randbytes(source.choice((4, 16)))
        address = ip_address(packed)
        scope = classify(packed)
        assert (scope == Scope.MULTICAST) == address.is_multicast
        assert (scope == Scope.LOOPBACK) == address.is_loopback
        assert (scope == Scope.LINK_LOCAL) == address.is_link_local


def test_groups_and_neighbours() -> None:
    def packed(*texts: str) -> list[bytes]:
        return [ip_address(text).packed for text in texts]

    assert all(map(is_group, packed("224.0.0.251", "239.255.255.250", "255.255.255.255", "ff02::fb")))
    assert not any(map(is_group, packed("192.168.1.255", "198.51.100.1", "127.0.0.1", "0.0.0.0", "fe80::1")))
    assert all(map(is_local, packed("10.1.2.3", "192.168.1.7", "169.254.3.4", "fe80::1", "fd00::1")))
    assert not any(map(is_local, packed("198.51.100.1", "224.0.0.1", "127.0.0.1", "2001:db8::1")))
