"""Packets out of pcap and pcapng files, as far as they can be read.

Responsible for: both formats, either byte order, and the link types that carry IP.
Refuses to know: what is in the packets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_SKIPPED = {1: 14, 113: 16, 276: 20, 0: 4, 108: 4, 12: 0, 14: 0, 101: 0, 228: 0, 229: 0, 9: 4, 50: 4}
"""Link type -> octets before the IP header (Ethernet, SLL, SLL2, null, loop, raw, IPv4, IPv6, PPP)."""


def ip_packets(path: Path) -> Iterator[bytes]:
    """The IP packets of a capture; a file that breaks off just ends."""
    octets = path.read_bytes()
    frames = _pcapng(octets) if octets[:4] == b"\x0a\x0d\x0d\x0a" else _pcap(octets)
    for link, frame in frames:
        at = _SKIPPED.get(link)
        if at is None:
            continue
        while link == 1 and frame[at - 2 : at] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
        if len(frame) > at:
            yield frame[at:]


def _pcap(octets: bytes) -> Iterator[tuple[int, bytes]]:
    order = {
        b"\xd4\xc3\xb2\xa1": "<",
        b"\x4d\x3c\xb2\xa1": "<",
        b"\xa1\xb2\xc3\xd4": ">",
        b"\xa1\xb2\x3c\x4d": ">",
    }.get(octets[:4])
    if order is None or len(octets) < 24:
        return
    link, at = struct.unpack_from(order + "I", octets, 20)[0] & 0xFFFF, 24
    while at + 16 <= len(octets):
        size = struct.unpack_from(order + "I", octets, at + 8)[0]
        yield link, octets[at + 16 : at + 16 + size]
        at += 16 + size


def _pcapng(octets: bytes) -> Iterator[tuple[int, bytes]]:
    links: list[int] = []
    at, order = 0, "<"
    while at + 12 <= len(octets):
        if octets[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order, links = ("<" if octets[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"), []
        kind, size = struct.unpack_from(order + "II", octets, at)
        if size < 12:
            return
        body = octets[at + 8 : at + size - 4]
        if kind == 1 and len(body) >= 2:
            links.append(struct.unpack_from(order + "H", body)[0])
        elif kind == 6 and len(body) >= 20:
            interface, _, _, captured = struct.unpack_from(order + "IIII", body)
            if interface < len(links):
                yield links[interface], body[20 : 20 + captured]
        elif kind == 3 and links and len(body) >= 4:
            yield links[0], body[4:]
        at += size
