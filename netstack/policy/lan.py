"""What kind of place an address is: the open Internet, the local network, many hosts, this host, nowhere.

Responsible for: classifying packed addresses fast, and saying which may never be leased.
Refuses to know: what is allowed (`firewall`), names.
RFCs: 1918, 6598 (CGNAT), 3927 and 4291 (link-local), 4193 (ULA), 3879 (site-local), 1122 3.2.1.3, 5771.

Documentation and benchmark ranges (RFC 5737, RFC 2544, RFC 3849) are ordinary addresses here: real
networks and every test rig use them.
"""

from __future__ import annotations

from enum import IntEnum


class Scope(IntEnum):
    """Where an address leads."""

    ORDINARY = 0
    LAN = 1  # RFC 1918, CGNAT, unique local, site-local
    LINK_LOCAL = 2
    MULTICAST = 3
    BROADCAST = 4  # 255.255.255.255
    LOOPBACK = 5
    UNSPECIFIED = 6  # 0.0.0.0/8 and ::


_ORDINARY, _LAN, _LINK_LOCAL, _MULTICAST = Scope.ORDINARY, Scope.LAN, Scope.LINK_LOCAL, Scope.MULTICAST
_BY_SECOND = -1  # the first octet does not decide


def _first_octets() -> list[int]:
    table: list[int] = [_ORDINARY] * 256
    table[0], table[10], table[127] = Scope.UNSPECIFIED, _LAN, Scope.LOOPBACK
    for octet in (100, 169, 172, 192, 255):
        table[octet] = _BY_SECOND
    for octet in range(224, 240):
        table[octet] = _MULTICAST
    return table


_FIRST_V4 = _first_octets()
_V4_BROADCAST = b"\xff\xff\xff\xff"
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"
_V6_UNSPECIFIED = bytes(16)
_V6_LOOPBACK = bytes(15) + b"\x01"


def classify(address: bytes) -> int:
    """The `Scope` of a packed address of 4 or 16 octets."""
    if len(address) == 4:
        scope = _FIRST_V4[address[0]]
        return scope if scope >= 0 else _by_second(address)
    first = address[0]
    if first == 0:
        return _classify_v6_zero(address)
    if first < 0xFC:
        return _ORDINARY
    if first == 0xFF:
        return _MULTICAST
    if first == 0xFE:
        second = address[1] & 0xC0
        return _LINK_LOCAL if second == 0x80 else _LAN if second == 0xC0 else _ORDINARY
    return _LAN


def _by_second(address: bytes) -> int:
    first, second = address[0], address[1]
    if first == 192:
        return _LAN if second == 168 else _ORDINARY
    if first == 172:
        return _LAN if second & 0xF0 == 16 else _ORDINARY
    if first == 100:
        return _LAN if second & 0xC0 == 64 else _ORDINARY
    if first == 169:
        return _LINK_LOCAL if second == 254 else _ORDINARY
    return Scope.BROADCAST if address == _V4_BROADCAST else _ORDINARY


def _classify_v6_zero(address: bytes) -> int:
    if address[:12] == _V4_MAPPED:
        return classify(address[12:])  # RFC 4291 2.5.5.2: the same place in other clothes
    if address == _V6_UNSPECIFIED:
        return Scope.UNSPECIFIED
    if address == _V6_LOOPBACK:
        return Scope.LOOPBACK
    return _ORDINARY


def is_leasable(address: bytes) -> bool:
    """False for what a DNS answer must never open: loopback, unspecified, link-local, multicast, broadcast.

    Block pages answer 0.0.0.0 or 127.0.0.1; leasing those would open the host itself.
    """
    return classify(address) <= _LAN


def is_group(address: bytes) -> bool:
    """True for multicast and limited broadcast: many hosts may answer, none may be told of an error."""
    return _MULTICAST <= classify(address) <= Scope.BROADCAST


def is_local(address: bytes) -> bool:
    """True for neighbours: private and link-local addresses."""
    return classify(address) in (_LAN, _LINK_LOCAL)
