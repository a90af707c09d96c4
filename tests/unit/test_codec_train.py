"""Shapes of trains: what they recognise and where they find it."""

from __future__ import annotations

import pytest

from netstack.codec import load
from netstack.codec.train import SHAPES
from netstack.core.flow import Endpoint, pack_key
from netstack.core.packet import ACK, PSH, SegmentRun
from netstack.wire.tcp import emit_timestamps

KEY4 = pack_key(6, Endpoint.of("10.0.0.2", 40000), Endpoint.of("1.2.3.4", 443))
KEY6 = pack_key(6, Endpoint.of("fd00::2", 40000), Endpoint.of("2001:db8::1", 443))


@pytest.mark.parametrize("key", [KEY4, KEY6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("options", [b"", emit_timestamps(7, 9)], ids=["plain", "stamped"])
def test_a_shape_knows_its_segments_and_their_fields(key: bytes, options: bytes) -> None:
    [first, second] = load("pure").cut_run(SegmentRun(key, 10, 20, ACK | PSH, 30, 3, options, b"abcdef"))
    shape = SHAPES[len(first) - 3]
    numbers = [int.from_bytes(packet, "little") for packet in (first, second)]
    assert [number & shape.marks_at for number in numbers] == [shape.marks] * 2
    assert numbers[0] & shape.same == numbers[1] & shape.same
    length, _, _, seq, ack, flags, window, *stamps = shape.unpack(second)
    assert (length, seq, ack, flags, window) == (len(second) - (0 if key is KEY4 else 40), 13, 20, ACK | PSH, 30)
    assert stamps == ([7, 9] if options else [])


def test_another_layout_is_no_shape() -> None:
    shifted = emit_timestamps(7, 9)[2:] + b"\0\0"
    [packet] = load("pure").cut_run(SegmentRun(KEY4, 10, 20, ACK, 30, 3, shifted, b"abc"))
    shape = SHAPES[len(packet) - 3]
    assert int.from_bytes(packet, "little") & shape.marks_at != shape.marks
