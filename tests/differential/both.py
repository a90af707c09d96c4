"""Both codecs side by side, packets to give them, and what they say in a form that compares."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from netstack.codec import load
from netstack.codec.base import DESCRIPTOR, DESCRIPTOR_SIZE, PacketBatch, PacketCodec
from netstack.core.errors import CodecError
from netstack.core.flow import Endpoint, FlowKey, pack_key
from netstack.core.packet import ACK, Datagram, IcmpMessage, SegmentRun
from netstack.wire import ipv4, ipv6, tcp, udp

CAPTURES = Path(__file__).resolve().parents[3] / "shared" / "captures"

try:
    NATIVE: PacketCodec | None = load("native")
except CodecError:
    NATIVE = None
PURE = load("pure")

needs_native = pytest.mark.skipif(NATIVE is None, reason="the native codec is not built here")
each_codec = pytest.mark.parametrize(
    "codec", [pytest.param(PURE, id="pure"), pytest.param(NATIVE, id="native", marks=needs_native)]
)

APP4, FAR4 = Endpoint.of("10.0.0.2", 40000), Endpoint.of("93.184.216.34", 443)
APP6, FAR6 = Endpoint.of("fd00::2", 40000), Endpoint.of("2001:db8::22", 443)
OPTIONS = [b"", tcp.emit_timestamps(7, 9), tcp.emit_options(mss=1400, window_scale=7, sack_permitted=True)]


def key4(protocol: int = 6, sport: int = 40000) -> FlowKey:
    return pack_key(protocol, Endpoint(APP4.address, sport), FAR4)


def key6(protocol: int = 6, sport: int = 40000) -> FlowKey:
    return pack_key(protocol, Endpoint(APP6.address, sport), FAR6)


def tcp4(
    seq: int = 0, payload: bytes = b"", *, ack: int = 0, flags: int = ACK, window: int = 1000, options: bytes = b"",
    sport: int = 40000, tos: int = 0, hop_limit: int = 64,
) -> bytes:  # fmt: skip
    segment = tcp.emit_tcp(APP4.address, FAR4.address, sport, 443, seq, ack, flags, window, options, payload)
    return ipv4.emit_ipv4(APP4.address, FAR4.address, 6, len(segment), tos=tos, hop_limit=hop_limit) + segment


def udp4(payload: bytes = b"x") -> bytes:
    octets = udp.emit_udp(APP4.address, FAR4.address, 40000, 53, payload)
    return ipv4.emit_ipv4(APP4.address, FAR4.address, 17, len(octets)) + octets


def udp6(payload: bytes = b"x", extensions: bytes = b"", first: int = 17) -> bytes:
    octets = udp.emit_udp(APP6.address, FAR6.address, 40000, 53, payload)
    return ipv6.emit_ipv6(APP6.address, FAR6.address, first, len(extensions) + len(octets)) + extensions + octets


def described(batch: PacketBatch, *, places: bool = True) -> list[tuple[Any, ...]]:
    """Every descriptor with the octets that it points at."""
    shown = []
    view = batch.view
    for fields in DESCRIPTOR.iter_unpack(batch.descriptors[: batch.count * DESCRIPTOR_SIZE]):
        at, length, payload, payload_length, options, options_length = fields[13:19]
        parts = tuple(
            bytes(view[start : start + size])
            for start, size in ((at, length), (payload, payload_length), (options, options_length))
        )
        shown.append((fields if places else fields[:13], parts))
    return shown


def parse(codec: PacketCodec, packets: Sequence[bytes], **switches: bool) -> tuple[int, int, int, list[Any]]:
    """What a codec makes of packets: (taken, packets, octets, descriptors)."""
    batch = PacketBatch(capacity=64, slot=2048)
    taken = codec.parse_batch(packets, batch, **switches)
    return taken, batch.packets, batch.octets, described(batch)


def items(codec: PacketCodec, packets: Iterable[bytes], **switches: bool) -> list[Any]:
    """The parsed packets; their memory lives as long as they do."""
    batch = PacketBatch(capacity=64, slot=2048)
    codec.parse_batch(list(packets), batch, **switches)
    return list(batch.items())


def random_packets(chance: random.Random, count: int) -> list[bytes]:
    """Valid packets of every kind, some of them of one flow and contiguous."""
    packets: list[bytes] = []
    seq = dict.fromkeys(range(4), 0xFFFFFF00)
    while len(packets) < count:
        flow = chance.randrange(4)
        kind = chance.randrange(10)
        key = (key4 if flow & 1 else key6)(6, 1000 + flow)
        if kind < 6:
            size = chance.choice((0, 1, 100, 1000))
            run = SegmentRun(
                key, seq[flow], chance.choice((5, 5, 6)), chance.choice((16, 16, 16, 24, 17, 2, 4, 0x50)), 900,
                chance.choice((300, 536)), chance.choice(OPTIONS[:2] * 4 + OPTIONS), chance.randbytes(size),
            )  # fmt: skip
            packets += PURE.cut_run(run)
            seq[flow] = (seq[flow] + size) & 0xFFFFFFFF if chance.random() < 0.9 else chance.getrandbits(32)
        elif kind < 8:
            payload = chance.randbytes(chance.choice((0, 1, 20, 2000)))
            packets += PURE.emit_datagram(Datagram((key4 if flow & 1 else key6)(17), payload, hop_limit=flow), 1280)
        else:
            version = 4 if flow & 1 else 6
            near, far = (APP4, FAR4) if version == 4 else (APP6, FAR6)
            icmp_type = chance.choice((0, 8, 3, 128, 129, 1))
            message = IcmpMessage(
                version, near.address, far.address, icmp_type, 0, chance.getrandbits(32), chance.randbytes(flow)
            )  # fmt: skip
            packets += PURE.emit_icmp(message, 1280)
    return packets[:count]


def mutate(chance: random.Random, packet: bytes, *, repair: bool = True) -> bytes:
    """A few octets changed, cut or added; now and then with its IP and transport checksums made right again."""
    octets = bytearray(packet)
    for _ in range(chance.randrange(4)):
        if octets:
            where = chance.randrange(min(len(octets), chance.choice((8, 60, 2000))))
            octets[where] = chance.choice((0, 1, 255, chance.randrange(256), octets[where] ^ 1 << chance.randrange(8)))
    if chance.random() < 0.2:
        del octets[chance.randrange(len(octets) + 1) :]
    if chance.random() < 0.1:
        octets += chance.randbytes(chance.randrange(9))
    return repaired(octets) if repair and chance.random() < 0.7 else bytes(octets)


def repaired(octets: bytearray) -> bytes:
    """The same with right checksums wherever a header can be found at all."""
    from netstack.wire.checksum import checksum, transport_checksum

    if len(octets) < 40 or octets[0] >> 4 not in (4, 6):
        return bytes(octets)
    if octets[0] >> 4 == 4:
        start = min(max((octets[0] & 15) * 4, 20), len(octets))
        end = min(max(struct.unpack_from("!H", octets, 2)[0], start), len(octets))
        octets[10:12] = b"\0\0"
        octets[10:12] = checksum(octets[:start]).to_bytes(2, "big")
        protocol, source, destination = octets[9], bytes(octets[12:16]), bytes(octets[16:20])
    else:
        start, end = 40, min(40 + struct.unpack_from("!H", octets, 4)[0], len(octets))
        protocol, source, destination = octets[6], bytes(octets[8:24]), bytes(octets[24:40])
        if protocol in ipv6.CHAIN:
            reason, protocol, start, _ = ipv6.walk(octets, protocol, 40, end)
            if reason:
                return bytes(octets)
    where = {6: 16, 17: 6, 1: 2, 58: 2}.get(protocol)
    if protocol == 17 and end - start >= 8:
        end = min(start + max(struct.unpack_from("!H", octets, start + 4)[0], 8), end)
    if where is None or start + where + 2 > end:
        return bytes(octets)
    octets[start + where : start + where + 2] = b"\0\0"
    inside = octets[start:end]
    total = checksum(inside) if protocol == 1 else transport_checksum(source, destination, protocol, inside)
    octets[start + where : start + where + 2] = total.to_bytes(2, "big")
    return bytes(octets)
