"""Packet types are slotted: a typo is an error, and they are cheap."""

import pytest

from netstack.core import packet


@pytest.mark.parametrize(
    "made",
    [
        packet.Segment(b"", 0, 0, 0, 0),
        packet.SegmentRun(b"", 0, 0, 0, 0),
        packet.Datagram(b"", b""),
        packet.IcmpMessage(4, b"", b"", 8, 0),
    ],
    ids=lambda made: type(made).__name__,
)
def test_slots(made: object) -> None:
    assert not hasattr(made, "__dict__")


def test_flags_are_the_bits_of_the_header() -> None:
    assert [
        1 << bit for bit in range(8)
    ] == [packet.FIN, packet.SYN, packet.RST, packet.PSH, packet.ACK, packet.URG, packet.ECE, packet.CWR]
