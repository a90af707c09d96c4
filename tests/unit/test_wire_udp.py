"""UDP headers and the meaning of a zero checksum."""

from __future__ import annotations

import pytest

from netstack.core.drops import DropReason
from netstack.wire import udp

A, B = bytes((10, 0, 0, 2)), bytes((1, 2, 3, 4))


def test_fields_survive() -> None:
    octets = udp.emit_udp(A, B, 5, 6, b"payload")
    header = udp.parse_udp(octets + b"trailer")
    assert isinstance(header, udp.UdpHeader)
    assert (header.source_port, header.destination_port, header.length) == (5, 6, 15)
    assert udp.checksum_problem(A, B, octets) is None
    assert udp.checksum_problem(A, B, octets[:-1] + b"x") is DropReason.BAD_UDP_CHECKSUM


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (bytes(7), DropReason.TRUNCATED_TRANSPORT),
        (bytes(8), DropReason.BAD_TRANSPORT_HEADER),
        (bytes((0, 0, 0, 0, 0, 9, 0, 0)), DropReason.BAD_TRANSPORT_HEADER),
    ],
)
def test_lengths_that_cannot_be(octets: bytes, reason: DropReason) -> None:
    assert udp.parse_udp(octets) is reason


def test_no_checksum_is_fine_over_ipv4_only() -> None:
    octets = udp.HEADER.pack(5, 6, 9, 0) + b"x"
    assert udp.checksum_problem(A, B, octets) is None
    assert udp.checksum_problem(A * 4, B * 4, octets) is DropReason.ZERO_UDP_CHECKSUM_V6


def test_a_computed_zero_goes_out_as_ffff() -> None:
    for filler in range(65_536):  # one of them sums to zero
        octets = udp.emit_udp(A, B, 5, 6, filler.to_bytes(2, "big"))
        assert octets[6:8] != b"\0\0"
        if octets[6:8] == b"\xff\xff":
            assert udp.checksum_problem(A, B, octets) is None
            return
    raise AssertionError("no payload made the checksum zero")
