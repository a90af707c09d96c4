"""QUIC and its neighbours by their first octets."""

import random

import pytest

from netstack.wire import quic


def initial(version: int = quic.VERSION_1, *, first: int = 0xC3, pad: int = 1200, token: bytes = b"") -> bytes:
    head = bytes([first]) + version.to_bytes(4, "big") + b"\x08" + bytes(range(8)) + b"\x04" + bytes(4)
    head += bytes([len(token)]) + token
    return head + (0x4000 | pad - len(head) - 2).to_bytes(2, "big") + b"\x55" * (pad - len(head) - 2)


def test_initials_of_the_versions_in_use() -> None:
    for version, first in ((1, 0xC3), (quic.VERSION_2, 0xD3), (0xFF00001D, 0xC0)):
        assert quic.is_quic_initial(initial(version, first=first)), hex(version)
        assert quic.is_quic_initial(memoryview(initial(version, first=first)))
        assert quic.is_quic_maybe(initial(version, first=first))
    assert quic.is_quic_initial(initial(token=b"t" * 40))
    assert quic.is_quic_initial(initial(0x1A2A3A4A, first=0xC0)), "an unknown version that provokes negotiation"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc3",
        initial()[:20],
        initial(first=0x83),  # no fixed bit
        initial(first=0xE3),  # a handshake packet
        initial(quic.VERSION_2, first=0xC3),  # in version 2 this is a Retry
        initial(0x12345678),
        initial(0x1A2A3A4A, pad=300),
        b"\xc3\0\0\0\1\x15" + bytes(1200),  # connection id of 21 octets
        initial()[:-1],  # length beyond the datagram
        b"\x40" + bytes(1200),
    ],
)
def test_what_is_no_initial(payload: bytes) -> None:
    assert not quic.is_quic_initial(payload)


def test_long_header_fields() -> None:
    header = quic.parse_long_header(initial())
    assert header is not None
    assert (header.version, header.destination_id, header.source_id) == (1, bytes(range(8)), bytes(4))
    assert quic.parse_long_header(b"\x40" + bytes(50)) is None
    assert quic.parse_long_header(b"\xc0\0\0\0\1\x14" + bytes(19)) is None
    assert quic.parse_long_header(b"\xc0\0\0\0\1\0\x14" + bytes(19)) is None


def test_short_headers_are_only_maybe() -> None:
    assert quic.is_quic_short_maybe(b"\x5a" + bytes(30)) and quic.is_quic_maybe(b"\x5a" + bytes(30))
    assert not quic.is_quic_short_maybe(b"\x5a" + bytes(5))
    assert not quic.is_quic_short_maybe(b"\x1a" + bytes(30))
    assert quic.is_quic_maybe(b"\x80\0\0\0\0\0\0\x6b\x33\x43\xcf"), "version negotiation"
    assert not quic.is_quic_maybe(b"")


STUN = b"\0\1\0\x08\x21\x12\xa4\x42" + bytes(range(12)) + bytes(8)
DTLS = b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x10" + bytes(16)
RTP = b"\x80\x60" + bytes(range(2, 30))


@pytest.mark.parametrize(
    ("recognise", "payload"),
    [
        (quic.is_stun, STUN),
        (quic.is_dtls, DTLS),
        (quic.is_rtp, RTP),
        (quic.is_turn_channel, b"\x40\1\0\x10" + bytes(16)),
        (quic.is_turn_channel, b"\x4f\xff\0\x0e" + bytes(16)),
        (quic.is_wireguard, b"\1\0\0\0" + bytes(144)),
        (quic.is_wireguard, b"\2\0\0\0" + bytes(88)),
        (quic.is_wireguard, b"\3\0\0\0" + bytes(60)),
        (quic.is_wireguard, b"\4\0\0\0" + bytes(28)),
    ],
)
def test_neighbours(recognise, payload: bytes) -> None:  # type: ignore[no-untyped-def]
    assert recognise(payload) and quic.is_not_quic(payload) and not quic.is_quic_initial(payload)
    for size in range(12):
        assert not recognise(payload[:size])


def test_neighbours_that_are_not_quite() -> None:
    assert not quic.is_stun(STUN[:-1]), "shorter than it says"
    assert not quic.is_stun(STUN[:4] + b"\0" + STUN[5:])
    assert not quic.is_turn_channel(b"\x40\1\0\x10" + bytes(10))
    assert not quic.is_turn_channel(b"\x50\1\0\x10" + bytes(16))
    assert not quic.is_dtls(b"\x16\3\3" + DTLS[3:])
    assert not quic.is_wireguard(b"\1\0\0\0" + bytes(100))
    assert not quic.is_wireguard(b"\4\0\0\1" + bytes(28))
    for payload in (initial(), b"\x40" + bytes(40), initial(first=0x83)):
        assert not quic.is_not_quic(payload)


def test_no_octets_make_it_raise() -> None:
    source = random.Random(5)
    whole = initial(token=b"abc")
    for size in range(60):
        quic.is_quic_initial(whole[:size])
    for _ in range(3000):
        first = source.choice((0xC0, 0xD0, 0x80, source.randrange(256)))
        octets = bytes([first]) + source.randbytes(source.randrange(80))
        quic.is_quic_initial(octets)
        quic.is_quic_maybe(octets)
        quic.is_not_quic(octets)
