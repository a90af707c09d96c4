"""scapy and dpkt as third voices: what they say of valid and of captured packets, both codecs say too."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import dpkt
import pytest

from netstack.codec.base import PacketCodec
from netstack.core.drops import DropReason
from netstack.core.flow import unpack_key
from netstack.core.packet import BadPacket, Datagram, Fragment, IcmpMessage, OtherPacket, Segment
from tests.differential.both import CAPTURES, NATIVE, PURE, each_codec, items, needs_native, parse, random_packets
from tests.differential.captured import packets

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
scapy = pytest.importorskip("scapy.layers.inet")
scapy6 = pytest.importorskip("scapy.layers.inet6")


def one(codec: PacketCodec, packet: bytes, **switches: bool) -> Any:
    [item] = items(codec, [packet], **switches)
    return item


def ours(item: Any) -> Any:
    """What can be compared of a parsed packet."""
    if isinstance(item, Segment):
        flow = unpack_key(item.key)
        return (
            "tcp", flow.source.address, flow.destination.address, flow.source.port, flow.destination.port,
            item.seq, item.ack, item.flags, item.window, bytes(item.payload),
        )  # fmt: skip
    if isinstance(item, Datagram):
        flow = unpack_key(item.key)
        return (
            "udp", flow.source.address, flow.destination.address, flow.source.port, flow.destination.port,
            bytes(item.payload),
        )  # fmt: skip
    if isinstance(item, IcmpMessage):
        return "icmp", item.source, item.destination, item.type, item.code, item.rest, bytes(item.payload)
    return type(item).__name__


def dpkts(packet: bytes) -> Any:
    """The same by dpkt; None when dpkt cannot say."""
    ip: Any
    if packet[0] >> 4 == 4:
        ip = dpkt.ip.IP(packet[: int.from_bytes(packet[2:4], "big")])
        if ip.mf or ip.offset:
            return "Fragment"
    else:
        ip = dpkt.ip6.IP6(packet[: 40 + int.from_bytes(packet[4:6], "big")])
        if ip.extension_hdrs:
            return None
    inside = ip.data
    if isinstance(inside, dpkt.tcp.TCP):
        flags = inside.flags & 0xFF
        return (
            "tcp", ip.src, ip.dst, inside.sport, inside.dport, inside.seq, inside.ack, flags, inside.win,
            bytes(inside.data),
        )  # fmt: skip
    if isinstance(inside, dpkt.udp.UDP):
        return "udp", ip.src, ip.dst, inside.sport, inside.dport, bytes(inside.data)[: max(inside.ulen - 8, 0)]
    if isinstance(inside, (dpkt.icmp.ICMP, dpkt.icmp6.ICMP6)):
        raw = bytes(packet[-len(inside) :]) if len(inside) else b""
        start = ip.hl * 4 if packet[0] >> 4 == 4 else 40
        raw = packet[start : start + len(raw)]
        return "icmp", ip.src, ip.dst, inside.type, inside.code, int.from_bytes(raw[4:8], "big"), raw[8:]
    return "OtherPacket" if not isinstance(inside, bytes) else None


@each_codec
def test_dpkt_says_the_same_of_valid_packets(codec: PacketCodec) -> None:
    compared = 0
    for packet in random_packets(random.Random(11), 400):
        theirs = dpkts(packet)
        if theirs is not None:
            assert ours(one(codec, packet)) == theirs
            compared += 1
    assert compared > 300


@each_codec
def test_scapy_finds_our_checksums_and_lengths_right(codec: PacketCodec) -> None:
    """scapy fills in what is deleted; the packet must be the same afterwards."""
    for packet in random_packets(random.Random(12), 150):
        theirs = (scapy.IP if packet[0] >> 4 == 4 else scapy6.IPv6)(packet)
        if isinstance(one(codec, packet), Fragment):
            continue
        layer = theirs
        while layer.name != "NoPayload":
            for field in ("len", "plen", "chksum", "cksum", "dataofs", "ihl"):
                if field in layer.fields and layer.name not in ("IP in ICMP", "TCP in ICMP", "UDP in ICMP"):
                    layer.delfieldval(field)
            layer = layer.payload
            if "in ICMP" in layer.name or "Raw" in layer.name:
                break
        assert bytes(theirs) == packet


@each_codec
def test_packets_that_scapy_builds_are_understood(codec: PacketCodec) -> None:
    ip4 = {"src": "10.0.0.2", "dst": "1.2.3.4"}
    ip6 = {"src": "fd00::2", "dst": "2001:db8::1"}
    tcp_layer = scapy.TCP(
        sport=5, dport=6, seq=7, ack=8, flags="PA", options=[("MSS", 1400), ("NOP", None), ("Timestamp", (1, 2))]
    )  # fmt: skip
    for head in (
        scapy.IP(**ip4, options=[scapy.IPOption_NOP(), scapy.IPOption_EOL()]),
        scapy6.IPv6(**ip6) / scapy6.IPv6ExtHdrHopByHop(options=[scapy6.RouterAlert(), scapy6.PadN(optdata=b"")]),
        scapy6.IPv6(**ip6) / scapy6.IPv6ExtHdrDestOpt() / scapy6.IPv6ExtHdrRouting(segleft=0),
        scapy6.IPv6(**ip6) / scapy6.IPv6ExtHdrFragment(m=0, offset=0, id=9),
    ):
        segment = one(codec, bytes(head / tcp_layer / b"hello"))
        assert isinstance(segment, Segment)
        assert (segment.seq, segment.ack, segment.flags, bytes(segment.payload)) == (7, 8, 24, b"hello")
        assert (segment.ts_val, segment.ts_ecr, segment.options[:4]) == (1, 2, b"\x02\x04\x05\x78")
        datagram = one(codec, bytes(head / scapy.UDP(sport=5, dport=6) / b"hello"))
        assert isinstance(datagram, Datagram)
        assert bytes(datagram.payload) == b"hello"
    assert isinstance(one(codec, bytes(scapy.IP(**ip4, frag=5) / b"12345678")), Fragment)
    assert isinstance(one(codec, bytes(scapy.IP(**ip4, proto=47) / b"12345678")), OtherPacket)


def captured(folder: str) -> list[Path]:
    return sorted((CAPTURES / folder).glob("*"))


@pytest.mark.parametrize("folder", ["real", "malformed"])
@needs_native
def test_both_codecs_say_the_same_of_captures(folder: str) -> None:
    if not captured(folder):
        pytest.skip("no captures beside the repository")
    assert NATIVE is not None
    seen = 0
    for path in captured(folder):
        some = [packet[:2048] for packet in packets(path)][:400]
        for start in range(0, len(some), 60):
            group = some[start : start + 60]
            for verify in (True, False):
                assert parse(NATIVE, group, verify=verify) == parse(PURE, group, verify=verify), path
            seen += len(group)
    assert seen > (1000 if folder == "real" else 50)


CHECKSUMS = {
    DropReason.BAD_IP_CHECKSUM,
    DropReason.BAD_TCP_CHECKSUM,
    DropReason.BAD_UDP_CHECKSUM,
    DropReason.BAD_ICMP_CHECKSUM,
    DropReason.ZERO_UDP_CHECKSUM_V6,
}


@each_codec
def test_dpkt_says_the_same_of_captures(codec: PacketCodec) -> None:
    if not captured("real"):
        pytest.skip("no captures beside the repository")
    compared = 0
    for path in captured("real"):
        for packet in list(packets(path))[:600]:
            item = one(codec, packet, verify=False)
            if isinstance(item, (BadPacket, OtherPacket)):
                continue
            try:
                theirs = dpkts(packet)
            except dpkt.Error:
                continue
            if theirs is None or theirs == "OtherPacket":
                continue
            assert ours(item) == theirs, (path, packet.hex())
            compared += 1
    assert compared > 2000
