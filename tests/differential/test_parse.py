"""Native and pure make the same descriptors of the same octets, whatever the octets are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstack.codec.base import PacketBatch, PacketCodec
from netstack.core.drops import DropReason
from netstack.core.packet import ACK, PSH, BadPacket, SegmentRun
from netstack.wire import ipv4, ipv6, tcp
from tests.differential.both import (
    APP4,
    FAR4,
    NATIVE,
    OPTIONS,
    PURE,
    described,
    each_codec,
    items,
    key4,
    key6,
    mutate,
    needs_native,
    parse,
    random_packets,
    repaired,
    tcp4,
    udp4,
    udp6,
)

SWITCHES = [(True, True), (False, True), (True, False), (False, False)]


def assert_alike(packets: list[bytes], **switches: bool) -> None:
    assert NATIVE is not None
    assert parse(NATIVE, packets, **switches) == parse(PURE, packets, **switches)


@needs_native
@pytest.mark.parametrize(("verify", "coalesce"), SWITCHES)
def test_valid_packets(verify: bool, coalesce: bool) -> None:
    for seed in range(25):
        assert_alike(random_packets(random.Random(seed), 60), verify=verify, coalesce=coalesce)


@needs_native
@pytest.mark.parametrize(("verify", "coalesce"), SWITCHES)
def test_mutated_packets(verify: bool, coalesce: bool) -> None:
    for seed in range(100):
        chance = random.Random(seed)
        packets = [mutate(chance, packet) for packet in random_packets(chance, 40)]
        assert_alike(packets, verify=verify, coalesce=coalesce)


@needs_native
def test_every_length_of_every_kind_of_packet() -> None:
    chance = random.Random(1)
    for packet in random_packets(chance, 30):
        cuts = [packet[:length] for length in range(min(len(packet), 140) + 1)]
        for start in range(0, len(cuts), 50):
            assert_alike(cuts[start : start + 50], verify=False)


@needs_native
@given(st.lists(st.binary(max_size=120), max_size=20), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_octets(packets: list[bytes], verify: bool) -> None:
    assert_alike(packets, verify=verify)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """An honest IP header in front of anything, so that the transports and extension headers are reached."""
    body = draw(st.binary(max_size=90))
    protocol = draw(st.sampled_from((0, 1, 6, 17, 43, 44, 50, 51, 58, 59, 60)))
    if draw(st.booleans()):
        head = ipv4.emit_ipv4(APP4.address, FAR4.address, protocol, len(body), dont_fragment=draw(st.booleans()))
    else:
        head = ipv6.emit_ipv6(b"\xfd" + bytes(15), b"\xfd" + bytes(14) + b"\1", protocol, len(body))
    return repaired(bytearray(head + body)) if draw(st.booleans()) else head + body


@needs_native
@given(st.lists(headers(), max_size=12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_anything_behind_an_honest_header(packets: list[bytes], verify: bool) -> None:
    assert_alike(packets, verify=verify)


# --- trains: segments that go on where the one before ended -----------------------------------


def train(chance: random.Random, count: int) -> list[bytes]:
    """Contiguous segments (or ACKs that advance) of one flow, of one length but for the last."""
    key = chance.choice((key4, key6))(6, chance.randrange(1, 60_000))
    size = chance.choice((0, 1, 100, 999, 1448))
    options = chance.choice((b"", tcp.emit_timestamps(0xFFFFFFFE, 9), tcp.emit_timestamps(3, 4)[2:] + b"\0\0"))
    seq, ack = chance.choice((1, 0xFFFFF000)), chance.choice((7, 0xFFFFFFF0))
    if size:
        run = SegmentRun(key, seq, ack, ACK | PSH, 500, size, options, chance.randbytes(size * count - size // 2))
        return PURE.cut_run(run)
    acks = (SegmentRun(key, seq, (ack + n) & 0xFFFFFFFF, ACK, 500 + n, 536, options) for n in range(count))
    return [PURE.cut_run(run)[0] for run in acks]


def derailed(chance: random.Random, packets: list[bytes]) -> list[bytes]:
    """A train in which something is not as the packet before made one expect."""
    packets = list(packets)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(packets))
        octets = bytearray(packets[at])
        kind = chance.randrange(6)
        if kind == 0:
            packets.pop(at)
            if not packets:
                return packets
        elif kind == 1:
            packets.insert(at, bytes(octets))
        elif kind == 2:
            packets[at] = bytes(octets) + chance.randbytes(chance.randrange(4))
        elif kind == 3:  # two 16-bit words changed so that their sum stays: the checksum cannot tell
            first, second = (chance.randrange(len(octets) // 2) * 2 for _ in range(2))
            octets[first : first + 2], octets[second : second + 2] = (
                octets[second : second + 2],
                octets[first : first + 2],
            )
            packets[at] = bytes(octets)
        else:  # any bit of the headers or of the payload
            octets[chance.randrange(min(len(octets), chance.choice((80, 80, 2000))))] ^= 1 << chance.randrange(8)
            packets[at] = repaired(octets) if kind == 4 else bytes(octets)
    return packets


@needs_native
@pytest.mark.parametrize(("verify", "coalesce"), SWITCHES)
def test_trains(verify: bool, coalesce: bool) -> None:
    for seed in range(60):
        chance = random.Random(seed)
        assert_alike(train(chance, 30), verify=verify, coalesce=coalesce)
        assert_alike(derailed(chance, train(chance, 30)), verify=verify, coalesce=coalesce)


@needs_native
def test_trains_that_meet() -> None:
    for seed in range(150):
        chance = random.Random(seed)
        waiting = [derailed(chance, train(chance, 12)) for _ in range(3)]
        packets = []
        while any(waiting):
            line = chance.choice([line for line in waiting if line])
            count = chance.choice((1, 3, 8))
            packets += line[:count]
            del line[:count]
        assert_alike(packets)


@needs_native
def test_every_bit_of_the_third_header_of_a_train() -> None:
    for key in (key4(6), key6(6)):
        for options in (b"", tcp.emit_timestamps(5, 6)):
            packets = PURE.cut_run(SegmentRun(key, 1, 7, ACK, 500, 11, options, bytes(range(44))))
            for bit in range((len(packets[0]) - 11) * 8):
                octets = bytearray(packets[2])
                octets[bit >> 3] ^= 1 << (bit & 7)
                assert_alike([*packets[:2], repaired(octets), packets[3]])
                assert_alike([*packets[:2], bytes(octets), packets[3]])


@needs_native
def test_sums_that_make_up_for_each_other() -> None:
    """One more in a word, one less in another: the whole packet sums to the same, its parts do not."""
    packets = [tcp4(1 + 10 * n, b"\0\x07" * 5, options=OPTIONS[1]) for n in range(4)]
    third = bytearray(packets[2])
    third[5] += 1  # identification
    third[-1] -= 1
    assert_alike([*packets[:2], bytes(third), packets[3]])
    third[5] -= 1
    trailer = bytes((0, 1))  # behind the second, and no part of it
    assert_alike([packets[0], packets[1] + trailer, bytes(third), packets[3]])
    third[-1] += 2
    assert_alike([packets[0], packets[1] + trailer, bytes(third), packets[3]])


@needs_native
def test_a_pure_ack_in_a_train_of_data_and_data_in_one_of_acks() -> None:
    data = [tcp4(1 + 10 * n, bytes(10)) for n in range(4)]
    assert_alike([*data[:3], tcp4(31, ack=1), data[3]])
    acks = [tcp4(1, ack=n) for n in range(4)]
    assert_alike([*acks[:3], tcp4(1, b"data", ack=3), tcp4(5, b"more", ack=3)])


@needs_native
@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("slot", [60, 120, 700])
def test_a_train_longer_than_the_batch(capacity: int, slot: int) -> None:
    assert NATIVE is not None
    packets = PURE.cut_run(SegmentRun(key4(6), 1, 7, ACK, 500, 90, b"", bytes(range(250)) * 10))
    for arena in (2 * slot, 1000, 3000):
        found = []
        for codec in (NATIVE, PURE):
            batch = PacketBatch(capacity=capacity, slot=slot, arena=max(arena, 2 * slot))
            taken = codec.parse_batch(packets, batch)
            found.append((taken, batch.packets, batch.octets, described(batch)))
        assert found[0] == found[1]


# --- each reason that a codec can give -------------------------------------------------------


def changed(packet: bytes, where: int, *octets: int, repair: bool = True) -> bytes:
    new = bytearray(packet)
    new[where : where + len(octets)] = bytes(octets)
    return repaired(new) if repair else bytes(new)


ICMP4 = ipv4.emit_ipv4(APP4.address, FAR4.address, 1, 8) + bytes.fromhex("0800f7ff00000000")
NO_SUM6 = changed(udp6(), 46, 0, 0, repair=False)
EXTENSION = bytes((17, 0, 1, 4, 0, 0, 0, 0))  # an 8-octet header of one PadN option
REFUSED = [
    (b"", DropReason.EMPTY),
    (b"\x50" * 40, DropReason.BAD_VERSION),
    (tcp4()[:19], DropReason.TRUNCATED_IP),
    (tcp4()[:39], DropReason.TRUNCATED_IP),
    (udp6()[:39], DropReason.TRUNCATED_IP),
    (udp6()[:-1], DropReason.TRUNCATED_IP),
    (changed(tcp4(), 0, 0x44), DropReason.BAD_IP_HEADER),
    (changed(tcp4(), 2, 0, 19), DropReason.BAD_IP_HEADER),
    (changed(tcp4(), 0, 0x46), DropReason.BAD_IP_HEADER),  # the ports, read as an option, run over the end
    (changed(tcp4(), 8, 63, repair=False), DropReason.BAD_IP_CHECKSUM),
    (ipv4.emit_ipv4(APP4.address, FAR4.address, 6, 19) + bytes(19), DropReason.TRUNCATED_TRANSPORT),
    (ipv4.emit_ipv4(APP4.address, FAR4.address, 17, 7) + bytes(7), DropReason.TRUNCATED_TRANSPORT),
    (ipv4.emit_ipv4(APP4.address, FAR4.address, 1, 7) + bytes(7), DropReason.TRUNCATED_TRANSPORT),
    (changed(tcp4(), 32, 0x40), DropReason.BAD_TRANSPORT_HEADER),
    (changed(tcp4(), 32, 0x60), DropReason.BAD_TRANSPORT_HEADER),
    (changed(udp4(), 24, 0, 7, repair=False), DropReason.BAD_TRANSPORT_HEADER),
    (changed(udp4(), 24, 0, 10, repair=False), DropReason.BAD_TRANSPORT_HEADER),
    (changed(tcp4(0, b"abc"), 42, 0, repair=False), DropReason.BAD_TCP_CHECKSUM),
    (changed(udp4(), 28, 0, repair=False), DropReason.BAD_UDP_CHECKSUM),
    (NO_SUM6, DropReason.ZERO_UDP_CHECKSUM_V6),
    (changed(ICMP4, 27, 1, repair=False), DropReason.BAD_ICMP_CHECKSUM),
    (tcp4(options=b"\x02\x00\x05\xb4"), DropReason.BAD_TCP_OPTION),
    (tcp4(options=b"\x02\x05\x05\xb4"), DropReason.BAD_TCP_OPTION),
    (tcp4(options=b"\x01\x01\x01\x02"), DropReason.BAD_TCP_OPTION),
    (udp6(extensions=b"\x3c\0\x05\x02\0\0\0\0" + b"\0\0\x01\x04\0\0\0\0", first=0), DropReason.BAD_EXTENSION_HEADER),
    (udp6(extensions=changed(EXTENSION, 3, 5, repair=False), first=60), DropReason.BAD_EXTENSION_HEADER),
    (udp6(extensions=changed(EXTENSION, 2, 0x41, repair=False), first=60), DropReason.BAD_EXTENSION_HEADER),
    (udp6(extensions=changed(EXTENSION, 2, 0xC2, repair=False), first=0), DropReason.BAD_EXTENSION_HEADER),
    (udp6(extensions=changed(EXTENSION, 1, 9, repair=False), first=60), DropReason.BAD_EXTENSION_HEADER),
    (udp6(extensions=b"\x3c\0\x01\4\0\0\0\0" * 8 + EXTENSION, first=60), DropReason.BAD_EXTENSION_HEADER),
    (changed(tcp4(), 12, 224, 0, 0, 1), DropReason.BAD_ADDRESS),
    (changed(tcp4(), 12, 0, 0, 0, 0), DropReason.BAD_ADDRESS),
    (changed(tcp4(), 12, 255, 255, 255, 255), DropReason.BAD_ADDRESS),
    (changed(udp6(), 8, 0xFF), DropReason.BAD_ADDRESS),
    (changed(udp6(), 8, *bytes(16)), DropReason.BAD_ADDRESS),
    (changed(tcp4(0, b"1234567"), 6, 0x20, 0), DropReason.BAD_FRAGMENT),  # 27 octets, but more to come
    (changed(tcp4(0, b"12345678"), 6, 0x1F, 0xFF), DropReason.BAD_FRAGMENT),  # would end beyond 65,535
    (ipv4.emit_ipv4(APP4.address, FAR4.address, 6, 0, more_fragments=True), DropReason.BAD_FRAGMENT),
    (udp6(extensions=b"\x11\0\0\x01\0\0\0\x07", first=44), DropReason.BAD_FRAGMENT),  # 9 octets, but more to come
    (udp6(extensions=b"\x11\0\xff\xf8\0\0\0\x07", first=44), DropReason.BAD_FRAGMENT),
    (udp6(first=59), DropReason.NO_NEXT_HEADER),
    (udp6(extensions=b"\x11\0\0\x01\0\0\0\0", first=43), DropReason.ROUTING_HEADER),
]


@each_codec
@pytest.mark.parametrize(("packet", "reason"), REFUSED, ids=lambda value: getattr(value, "name", ""))
def test_a_bad_packet_is_refused_by_its_reason(codec: PacketCodec, packet: bytes, reason: DropReason) -> None:
    [bad] = items(codec, [packet])
    assert isinstance(bad, BadPacket)
    assert bad.reason is reason
    assert bytes(bad.packet) == packet


def test_every_reason_of_the_codec_is_among_them() -> None:
    given_here = {reason for _, reason in REFUSED} | {DropReason.BAD_GSO}  # that one is in test_vnet.py
    assert given_here == {reason for reason in DropReason if reason < 32}


CHECKSUMS = {
    DropReason.BAD_IP_CHECKSUM,
    DropReason.BAD_TCP_CHECKSUM,
    DropReason.BAD_UDP_CHECKSUM,
    DropReason.BAD_ICMP_CHECKSUM,
    DropReason.ZERO_UDP_CHECKSUM_V6,
}


@each_codec
@pytest.mark.parametrize(("packet", "reason"), REFUSED, ids=lambda value: getattr(value, "name", ""))
def test_without_verification_only_checksums_pass(codec: PacketCodec, packet: bytes, reason: DropReason) -> None:
    [item] = items(codec, [packet], verify=False)
    assert isinstance(item, BadPacket) is (reason not in CHECKSUMS)


@each_codec
def test_a_packet_without_room_in_an_empty_batch_is_truncated(codec: PacketCodec) -> None:
    batch = PacketBatch(capacity=4, slot=64, arena=256)
    assert codec.parse_batch([tcp4(0, bytes(200)), tcp4()], batch) == 1
    [bad] = batch.items()
    assert isinstance(bad, BadPacket)
    assert bad.reason is DropReason.TRUNCATED_IP
    assert len(bad.packet) == 128


@each_codec
def test_a_batch_stops_when_its_memory_or_its_capacity_is_used(codec: PacketCodec) -> None:
    small = PacketBatch(capacity=64, slot=64, arena=400)
    assert codec.parse_batch([udp4(bytes(22))] * 10, small, coalesce=False) == 4  # of 50 octets into 200
    few = PacketBatch(capacity=3, slot=64)
    assert codec.parse_batch([udp4()] * 10, few, coalesce=False) == 3
    assert (few.count, few.packets, few.octets) == (3, 3, 87)
    assert codec.parse_batch([], few) == 0
    assert (few.count, few.packets, few.octets, described(few)) == (0, 0, 0, [])
