"""What may become one super-segment, what never does, and in which order things stand."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from netstack.codec.base import PacketBatch, PacketCodec
from netstack.core.packet import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Datagram, DatagramRun, Segment
from netstack.wire import ipv4, tcp, udp
from tests.differential.both import APP4, FAR4, each_codec, items, random_packets, tcp4, udp4

STAMPS = tcp.emit_timestamps(100, 50)


@dataclass
class Pair:
    """Two segments of one flow, contiguous data unless said otherwise."""

    why: str
    first: dict[str, Any]
    second: dict[str, Any]

    def packets(self) -> list[bytes]:
        plain = {"payload": b"a" * 100, "ack": 7}
        return [tcp4(**{"seq": 1000, **plain, **self.first}), tcp4(**{"seq": 1100, **plain, **self.second})]


SACK = tcp.emit_options(sack=((1, 2),))
EMPTY_FIRST = {"payload": b"", "seq": 1100}
REFUSALS = [
    Pair("SYN", {}, {"flags": SYN}),
    Pair("a lane that began with SYN", {"flags": SYN, "payload": b"a" * 99}, {}),
    Pair("FIN", {}, {"flags": ACK | FIN}),
    Pair("data behind a FIN", {"flags": ACK | FIN}, {}),
    Pair("RST", {}, {"flags": ACK | RST}),
    Pair("URG", {}, {"flags": ACK | URG}),
    Pair("ECE", {"flags": ACK | ECE}, {"flags": ACK | ECE}),
    Pair("CWR", {}, {"flags": ACK | CWR}),
    Pair("no ACK flag", {"flags": PSH}, {"flags": PSH}),
    Pair("ACK on one only", {}, {"flags": PSH}),
    Pair("a gap", {}, {"seq": 1101}),
    Pair("an overlap", {}, {"seq": 1099}),
    Pair("the same again", {}, {"seq": 1000}),
    Pair("acknowledgment backwards", {}, {"ack": 6}),
    Pair("acknowledgment backwards over the wrap", {"ack": 1}, {"ack": 0xFFFFFFFF}),
    Pair("acknowledgment too far ahead", {}, {"ack": 7 + 65536}),
    Pair("another ECN or DSCP", {}, {"tos": 3}),
    Pair("another hop limit", {}, {"hop_limit": 63}),
    Pair("SACK on the second", {}, {"options": SACK}),
    Pair("SACK on the first", {"options": SACK}, {}),
    Pair("an unknown option", {}, {"options": b"\xfd\x04\x00\x00"}),
    Pair("timestamps on one only", {}, {"options": STAMPS}),
    Pair("timestamp backwards", {"options": STAMPS}, {"options": tcp.emit_timestamps(99, 50)}),
    Pair("another port", {}, {"sport": 40001}),
    Pair("data behind a pure ACK", EMPTY_FIRST, {}),
    Pair("a pure ACK behind data", {}, {"payload": b"", "ack": 8}),
    Pair("a duplicate ACK", EMPTY_FIRST, {"payload": b""}),
    Pair("a window update: the same ACK", EMPTY_FIRST, {"payload": b"", "window": 2000}),
    Pair("pure ACKs that go backwards", EMPTY_FIRST, {"payload": b"", "ack": 6}),
    Pair("a keep-alive", EMPTY_FIRST, {"payload": b"", "seq": 1099, "ack": 8}),
]


@each_codec
@pytest.mark.parametrize("pair", REFUSALS, ids=lambda pair: pair.why)
def test_never_merged(codec: PacketCodec, pair: Pair) -> None:
    found = items(codec, pair.packets())
    assert [segment.nsegs for segment in found] == [1, 1]


MERGED = [
    Pair("contiguous data", {}, {}),
    Pair("with an acknowledgment that advances", {}, {"ack": 8}),
    Pair("PSH on the first", {"flags": ACK | PSH}, {}),
    Pair("PSH on the second", {}, {"flags": ACK | PSH}),
    Pair("another window", {}, {"window": 7}),
    Pair("the same timestamps", {"options": STAMPS}, {"options": STAMPS}),
    Pair("timestamps in another dress", {"options": STAMPS}, {"options": STAMPS[2:] + b"\0\0"}),
    Pair("timestamp over the wrap", {"options": tcp.emit_timestamps(0xFFFFFFFF, 1)}, {"options": STAMPS}),
    Pair("sequence over the wrap", {"seq": 0xFFFFFFFF - 99}, {"seq": 0}),
    Pair("acknowledgment over the wrap", {"ack": 0xFFFFFFFF}, {"ack": 1}),
    Pair("pure ACKs that advance", EMPTY_FIRST, {"payload": b"", "ack": 8}),
]


@each_codec
@pytest.mark.parametrize("pair", MERGED, ids=lambda pair: pair.why)
def test_merged(codec: PacketCodec, pair: Pair) -> None:
    first, second = items(codec, pair.packets(), coalesce=False)
    [segment] = items(codec, pair.packets())
    assert segment.nsegs == 2
    assert segment.seq == first.seq
    assert bytes(segment.payload) == bytes(first.payload) + bytes(second.payload)
    assert (segment.ack, segment.window) == (second.ack, second.window)
    assert (segment.has_ts, segment.ts_val, segment.ts_ecr) == (second.has_ts, second.ts_val, second.ts_ecr)
    assert segment.flags == first.flags | second.flags
    assert bytes(segment.packet) == pair.packets()[0]
    assert segment.options == b""


@each_codec
def test_a_super_segment_stands_where_its_first_segment_did(codec: PacketCodec) -> None:
    a = [tcp4(10 * n, b"%d" % n * 10, sport=1) for n in range(3)]
    b = [tcp4(10 * n, b"%d" % (n + 5) * 10, sport=2) for n in range(3)]
    first, between, second = items(codec, [a[0], udp4(b"mid"), b[0], a[1], b[1], b[2], a[2]])
    assert bytes(first.payload) == b"000000000011111111112222222222"
    assert bytes(between.payload) == b"mid"
    assert bytes(second.payload) == b"555555555566666666667777777777"
    assert (first.nsegs, second.nsegs) == (3, 3)


@each_codec
def test_nothing_jumps_over_a_segment_of_its_own_flow(codec: PacketCodec) -> None:
    data = [tcp4(n, b"x") for n in range(4)]
    stream = [data[0], data[1], tcp4(2, ack=9), data[2], tcp4(2, flags=ACK | URG), data[3]]
    kinds = [(len(segment.payload), segment.nsegs) for segment in items(codec, stream)]
    assert kinds == [(2, 2), (0, 1), (1, 1), (0, 1), (1, 1)]


@each_codec
def test_pure_acks_of_two_flows_merge_each_to_its_own(codec: PacketCodec) -> None:
    acks = [tcp4(5, ack=n, sport=1 + n % 2) for n in range(10)]
    assert [(segment.ack, segment.nsegs) for segment in items(codec, acks)] == [(8, 5), (9, 5)]


@each_codec
def test_a_trailer_behind_a_packet_is_no_data(codec: PacketCodec) -> None:
    [segment] = items(codec, [tcp4(0, b"abc") + b"trailer", tcp4(3, b"def") + b"more"])
    assert bytes(segment.payload) == b"abcdef"
    assert bytes(segment.packet) == tcp4(0, b"abc")


@each_codec
def test_as_many_flows_as_a_batch_can_hold(codec: PacketCodec) -> None:
    batch = PacketBatch(capacity=1024, slot=64)
    assert codec.parse_batch([tcp4(n // 512, b"x", sport=n % 512) for n in range(1024)], batch) == 1024
    assert [segment.nsegs for segment in batch.items() if isinstance(segment, Segment)] == [2] * 512


@each_codec
@pytest.mark.parametrize("seed", range(30))
def test_coalescing_loses_and_reorders_nothing(codec: PacketCodec, seed: int) -> None:
    packets = random_packets(random.Random(seed), 60)
    apart, together = items(codec, packets, coalesce=False), items(codec, packets)
    assert streams(apart) == streams(together)
    assert sum(segment.nsegs for segment in together if isinstance(segment, Segment)) == len(
        [segment for segment in apart if isinstance(segment, Segment)]
    )


def streams(found: list[Any]) -> dict[bytes, list[tuple[int, bytes]]]:
    """For each flow its octets with their sequence numbers, in order; and the last acknowledgment."""
    shown: dict[bytes, list[tuple[int, bytes]]] = {}
    for segment in found:
        if isinstance(segment, Segment):
            flow = shown.setdefault(segment.key, [])
            flow += [
                ((segment.seq + at) & 0xFFFFFFFF, bytes(segment.payload[at : at + 1]))
                for at in range(len(segment.payload))
            ]
            shown[segment.key + b"ack"] = [(segment.ack, struct.pack("!H", segment.window))]
    return shown


# --- datagrams -------------------------------------------------------------------------------


def sized(*payloads: bytes, sport: int = 40000, tos: int = 0) -> list[bytes]:
    packets = []
    for payload in payloads:
        octets = udp.emit_udp(APP4.address, FAR4.address, sport, 53, payload)
        packets.append(ipv4.emit_ipv4(APP4.address, FAR4.address, 17, len(octets), tos=tos) + octets)
    return packets


def shown(codec: PacketCodec, packets: list[bytes]) -> list[list[bytes]]:
    """The datagrams of each run."""
    return [
        [bytes(one.payload) for one in (item.datagrams() if isinstance(item, DatagramRun) else [item])]
        for item in items(codec, packets)
        if isinstance(item, DatagramRun | Datagram)
    ]


@each_codec
def test_datagrams_of_one_size_are_a_run_and_a_shorter_one_ends_it(codec: PacketCodec) -> None:
    assert shown(codec, sized(b"aa", b"bb", b"c", b"dd")) == [[b"aa", b"bb", b"c"], [b"dd"]]
    assert shown(codec, sized(b"aa", b"bbb", b"ccc")) == [[b"aa"], [b"bbb", b"ccc"]]


@each_codec
def test_an_empty_datagram_stays_alone(codec: PacketCodec) -> None:
    assert shown(codec, sized(b"aa", b"", b"", b"bb")) == [[b"aa"], [b""], [b""], [b"bb"]]


@each_codec
def test_runs_of_flows_that_take_turns_keep_their_order(codec: PacketCodec) -> None:
    a, b = sized(b"a1", b"a2", b"a3"), sized(b"b1", b"b2", b"b3", sport=40001)
    mixed = [packet for both in zip(a, b, strict=True) for packet in both]
    assert shown(codec, mixed) == [[b"a1", b"a2", b"a3"], [b"b1", b"b2", b"b3"]]


@each_codec
def test_another_mark_begins_another_run(codec: PacketCodec) -> None:
    assert shown(codec, sized(b"aa") + sized(b"bb", tos=3) + sized(b"cc", tos=3)) == [[b"aa"], [b"bb", b"cc"]]
    [run] = items(codec, sized(b"aa", b"bb", tos=2))
    assert isinstance(run, DatagramRun)
    assert (run.tos, run.hop_limit, run.size, run.count, len(run.header)) == (2, 64, 2, 2, 28)
    assert bytes(run.datagrams()[0].packet) == sized(b"aa", tos=2)[0]


@each_codec
def test_without_coalescing_datagrams_stay_apart(codec: PacketCodec) -> None:
    batch = PacketBatch()
    codec.parse_batch(sized(b"aa", b"bb"), batch, coalesce=False)
    assert [type(item) for item in batch.items()] == [Datagram, Datagram]
