"""Reassembly: any order, bounded, overlaps refused, time-outs."""

import random
import struct

import pytest

from netstack.config import LimitsConfig
from netstack.core.drops import DropReason
from netstack.core.stats import Stats
from netstack.forward.fragments import Reassembler
from netstack.wire.checksum import checksum

SOURCE, DESTINATION = b"\x0a\x00\x00\x02", b"\xc0\x00\x02\x01"
SOURCE6, DESTINATION6 = b"\xfd" + bytes(14) + b"\x02", b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"


def fragment4(payload: bytes, offset: int, more: bool, ident: int = 7) -> bytes:
    where = offset >> 3 | (0x2000 if more else 0)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, where, 64, 17, 0, SOURCE, DESTINATION)
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def fragment6(payload: bytes, offset: int, more: bool, ident: int = 7) -> bytes:
    extension = struct.pack("!BBHI", 17, 0, offset | more, ident)
    head = struct.pack("!IHBB16s16s", 6 << 28, 8 + len(payload), 44, 64, SOURCE6, DESTINATION6)
    return head + extension + payload


def pieces(make, payload: bytes, size: int, ident: int = 7) -> list[bytes]:
    return [make(payload[at : at + size], at, at + size < len(payload), ident) for at in range(0, len(payload), size)]


def assembler(**limits: float) -> tuple[Reassembler, Stats]:
    stats = Stats()
    return Reassembler(LimitsConfig(**limits), stats), stats


@pytest.mark.parametrize("make", [fragment4, fragment6])
@pytest.mark.parametrize("seed", range(5))
def test_any_order_with_duplicates(make, seed: int) -> None:
    rng = random.Random(seed)
    payload = rng.randbytes(5000)
    parts = pieces(make, payload, 1000)
    parts += rng.sample(parts[:-1], 2)
    rng.shuffle(parts)
    reassembler, _ = assembler()
    whole = [packet for part in parts if (packet := reassembler.add(part, 0.0)) is not None]
    assert len(whole) == 1
    header = 20 if make is fragment4 else 40
    assert whole[0][header:] == payload
    if make is fragment4:
        assert struct.unpack_from("!H", whole[0], 2)[0] == 5020 and whole[0][6:8] in (b"\0\0", b"\x40\0")
        assert checksum(whole[0][:20]) == 0
    else:
        assert struct.unpack_from("!HB", whole[0], 4) == (5000, 17)


@pytest.mark.parametrize("make", [fragment4, fragment6])
def test_overlap_refuses_the_whole_packet_and_its_late_pieces(make) -> None:
    reassembler, stats = assembler()
    assert reassembler.add(make(b"a" * 16, 0, True), 0.0) is None
    assert reassembler.add(make(b"b" * 16, 8, True), 0.0) is None
    assert stats.drops[DropReason.FRAGMENT_OVERLAP] == 2
    assert reassembler.add(make(b"c" * 8, 16, False), 0.0) is None
    assert reassembler.add(make(b"a" * 16, 0, True), 0.0) is None
    assert stats.drops[DropReason.FRAGMENT_OVERLAP] == 4
    assert reassembler.octets == 0


def test_beyond_the_known_end_is_refused() -> None:
    reassembler, stats = assembler()
    reassembler.add(fragment4(b"z" * 8, 16, False), 0.0)
    reassembler.add(fragment4(b"z" * 8, 24, False), 0.0)
    assert stats.drops[DropReason.FRAGMENT_OVERLAP] == 2


def test_packets_with_other_identity_do_not_mix() -> None:
    reassembler, _ = assembler()
    assert reassembler.add(fragment4(b"a" * 8, 0, True, 1), 0.0) is None
    assert reassembler.add(fragment4(b"b" * 8, 8, False, 2), 0.0) is None
    whole = reassembler.add(fragment4(b"c" * 8, 8, False, 1), 0.0)
    assert whole is not None and whole[20:] == b"a" * 8 + b"c" * 8
    assert len(reassembler) == 1


def test_time_out_reports_the_first_fragment() -> None:
    expired: list[tuple[bytes, float]] = []
    stats = Stats()
    limits = LimitsConfig(fragment_timeout=30.0)
    reassembler = Reassembler(limits, stats, lambda packet, now: expired.append((packet, now)))
    first = fragment4(b"a" * 8, 0, True, 1)
    reassembler.add(first, 0.0)
    reassembler.add(fragment4(b"b" * 8, 8, True, 2), 5.0)
    assert reassembler.next_timeout() == 30.0
    reassembler.on_timeout(30.0)
    assert expired == [(first, 30.0)]
    assert reassembler.next_timeout() == 35.0
    reassembler.on_timeout(40.0)
    assert len(expired) == 1, "without its first fragment nothing can be quoted"
    assert stats.drops[DropReason.FRAGMENT_TIMEOUT] == 2
    assert (len(reassembler), reassembler.octets, reassembler.next_timeout()) == (0, 0, None)


def test_flood_is_bounded_and_sheds_the_oldest() -> None:
    reassembler, stats = assembler(fragments=16)
    for ident in range(1000):
        reassembler.add(fragment4(b"a" * 8, 0, True, ident), 0.0)
    assert len(reassembler) == 16
    assert stats.drops[DropReason.FRAGMENT_TABLE_FULL] == 984
    assert reassembler.add(fragment4(b"b" * 8, 8, False, 999), 0.0) is not None


def test_octets_are_bounded() -> None:
    reassembler, _ = assembler(fragment_octets=10_000)
    for ident in range(100):
        reassembler.add(fragment4(b"a" * 1000, 0, True, ident), 0.0)
    assert reassembler.octets <= 10_000


def test_many_tiny_pieces_of_one_packet_are_bounded() -> None:
    reassembler, stats = assembler()
    for at in range(0, 8000, 16):
        reassembler.add(fragment4(b"a" * 8, at, True), 0.0)
    assert reassembler.octets == 0
    assert stats.drops[DropReason.FRAGMENT_TABLE_FULL] > 0


def test_ping_of_death() -> None:
    reassembler, stats = assembler()
    assert reassembler.add(fragment4(b"a" * 1000, 65_528, False), 0.0) is None
    assert sum(stats.drops.values()) == 1
    assert len(reassembler) == 0
