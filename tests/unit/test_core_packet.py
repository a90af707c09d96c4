"""Packet types are slotted: a typo is an error, and they are cheap."""

import pytest

from netstack.core import packet


@pytest.mark.parametrize("kind", [packet.Segment, packet.SegmentRun, packet.Datagram, packet.IcmpMessage])
def test_slots(kind: type) -> None:
    assert not hasattr(kind.__new__(kind), "__dict__")


def test_flags_are_the_bits_of_the_header() -> None:
    assert [
        1 << bit for bit in range(8)
    ] == [packet.FIN, packet.SYN, packet.RST, packet.PSH, packet.ACK, packet.URG, packet.ECE, packet.CWR]
