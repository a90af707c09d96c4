"""The pure codec by itself; tests/differential holds it together with the native one, packet by packet."""

from __future__ import annotations

import pytest

from netstack.codec import load
from netstack.codec.base import DESCRIPTOR, DESCRIPTOR_SIZE, PacketBatch
from netstack.codec.pure import PureCodec
from netstack.core.flow import Endpoint, pack_key, unpack_key
from netstack.core.packet import (
    ACK,
    PSH,
    Datagram,
    Fragment,
    IcmpMessage,
    OtherPacket,
    Segment,
    SegmentRun,
)
from netstack.wire import ipv4

NEAR, FAR = Endpoint.of("10.0.0.2", 40000), Endpoint.of("1.2.3.4", 443)
KEY = pack_key(6, NEAR, FAR)
CODEC = PureCodec()


def test_a_descriptor_is_88_octets() -> None:
    assert DESCRIPTOR_SIZE == DESCRIPTOR.size == 88


def test_a_run_that_is_cut_and_parsed_is_one_segment_again() -> None:
    payload = bytes(range(256)) * 40
    batch = PacketBatch()
    packets = CODEC.cut_run(SegmentRun(KEY, 0xFFFFFFF0, 5, ACK | PSH, 99, 1000, b"", payload))
    assert CODEC.parse_batch(packets, batch) == 11
    [segment] = batch.items()
    assert isinstance(segment, Segment)
    assert unpack_key(segment.key).source == NEAR
    assert (segment.seq, segment.ack, segment.flags, segment.window, segment.nsegs) == (0xFFFFFFF0, 5, 24, 99, 11)
    assert bytes(segment.payload) == payload
    assert bytes(segment.packet) == packets[0]


def test_a_bulk_flow_touches_only_the_first_half_of_the_arena() -> None:
    batch = PacketBatch()
    CODEC.parse_batch(CODEC.cut_run(SegmentRun(KEY, 1, 5, ACK, 99, 1000, b"", b"x" * 30_000)), batch)
    assert not any(batch.arena[len(batch.arena) // 2 :])


def test_each_kind_of_packet() -> None:
    batch = PacketBatch()
    echo = IcmpMessage(4, NEAR.address, FAR.address, 8, 0, 77 << 16 | 1, b"ping")
    packets = [
        *CODEC.emit_datagram(Datagram(pack_key(17, NEAR, FAR), b"hi"), 1500),
        *CODEC.emit_icmp(echo, 1500),
        ipv4.emit_ipv4(NEAR.address, FAR.address, 6, 8, more_fragments=True, dont_fragment=False) + bytes(8),
        ipv4.emit_ipv4(NEAR.address, FAR.address, 47, 8) + bytes(8),
    ]
    CODEC.parse_batch(packets, batch)
    datagram, message, fragment, other = batch.items()
    assert isinstance(datagram, Datagram)
    assert bytes(datagram.payload) == b"hi"
    assert isinstance(message, IcmpMessage)
    assert (message.type, message.rest, bytes(message.payload)) == (8, 77 << 16 | 1, b"ping")
    assert isinstance(fragment, Fragment)
    assert bytes(fragment.packet) == packets[2]
    assert isinstance(other, OtherPacket)
    assert other.protocol == 47


def test_an_echo_has_its_identifier_as_source_port() -> None:
    batch = PacketBatch()
    for kind, port in ((8, 77), (0, 77), (3, 0)):
        message = IcmpMessage(4, NEAR.address, FAR.address, kind, 0, 77 << 16 | 1)
        CODEC.parse_batch(CODEC.emit_icmp(message, 1500), batch)
        fields = DESCRIPTOR.unpack_from(batch.descriptors)
        assert unpack_key(fields[7]) == unpack_key(pack_key(1, Endpoint(NEAR.address, port), Endpoint(FAR.address, 0)))


def test_a_batch_is_used_again() -> None:
    batch = PacketBatch()
    for payload in (b"first", b"second"):
        CODEC.parse_batch(CODEC.emit_datagram(Datagram(pack_key(17, NEAR, FAR), payload), 1500), batch)
        [datagram] = batch.items()
        assert isinstance(datagram, Datagram)
        assert bytes(datagram.payload) == payload


def test_load_gives_it_by_name() -> None:
    assert load("pure").name == "pure"
    assert load("auto").name in ("pure", "native")
    with pytest.raises(ValueError, match="auto, pure or native"):
        load("fast")
