"""Reads and writes pcapng.

Responsible for: sections, interfaces and their time resolution, the packet blocks; writing packets with comments.
Refuses to know: the other blocks, which are skipped without being held in memory.

Source: draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from netstack.core.packet import Octets
from netstack.core.record import recordclass
from netstack.link.linktype import RAW
from netstack.link.pcap import LARGEST_RECORD, Frame, Source

SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_BYTE_ORDER_MAGIC = b"\x1a\x2b\x3c\x4d"
_LARGEST_DESCRIPTION = 1 << 20  # octets of an interface block
_OPT_COMMENT, _IF_TSRESOL, _IF_TSOFFSET, _IF_NAME = 1, 9, 14, 2


@recordclass()
class _Interface:
    linktype: int
    snaplen: int
    ticks: int  # per second
    offset: int  # seconds to add

    def time_ns(self, ticks: int) -> int:
        return ticks * 1_000_000_000 // self.ticks + self.offset * 1_000_000_000


def read_sections(source: Source) -> Iterator[Frame]:
    """The frames of a pcapng file of which the first 4 octets (the section block's type) were read."""
    interfaces: list[_Interface] = []
    base = 0  # interfaces of earlier sections, so that `Frame.interface` is unique in the file
    order = _section(source, source.offset - 4)
    number = 0
    while True:
        start = source.offset
        octets = source.read(4)
        if not octets:
            return
        if len(octets) < 4:
            raise source.problem("the file ends inside a block header", start)
        if octets == b"\x0a\x0d\x0d\x0a":
            base += len(interfaces)
            interfaces = []
            order = _section(source, start)
            continue
        (kind,) = struct.unpack(order + "I", octets)
        (size,) = struct.unpack(order + "I", source.exactly(4, "a block header"))
        if size < 12 or size % 4:
            raise source.problem(f"block of type {kind:#x} with impossible length {size}", start)
        if kind == INTERFACE:
            if size > _LARGEST_DESCRIPTION:
                raise source.problem(f"interface block of {size} octets", start)
            interfaces.append(_interface(source, order, source.exactly(size - 12, "an interface block"), start))
        elif kind in (ENHANCED_PACKET, OLD_PACKET, SIMPLE_PACKET):
            if size > LARGEST_RECORD:
                raise source.problem(f"packet block of {size} octets", start)
            body = source.exactly(size - 12, "a packet block")
            number += 1
            yield _packet(source, order, kind, body, number, interfaces, base, start)
        else:
            source.skip(size - 12, f"a block of type {kind:#x}")
        (again,) = struct.unpack(order + "I", source.exactly(4, "a block trailer"))
        if again != size:
            raise source.problem(f"block lengths disagree ({size} and {again})", start)


def _section(source: Source, start: int) -> str:
    """Read the rest of a section header block; returns the byte order of the section."""
    head = source.exactly(8, "a section header")
    magic = head[4:]
    if magic == _BYTE_ORDER_MAGIC:
        order = ">"
    elif magic == _BYTE_ORDER_MAGIC[::-1]:
        order = "<"
    else:
        raise source.problem(f"section header with byte-order magic {magic.hex()}", start)
    (size,) = struct.unpack(order + "I", head[:4])
    if size < 28 or size % 4:
        raise source.problem(f"section header with impossible length {size}", start)
    major, _ = struct.unpack(order + "HH", source.exactly(4, "a section header"))
    if major != 1:
        raise source.problem(f"pcapng version {major} is not known", start)
    source.skip(size - 16, "a section header")
    return order


def _interface(source: Source, order: str, body: bytes, start: int) -> _Interface:
    if len(body) < 8:
        raise source.problem("interface block too short", start)
    linktype, _, snaplen = struct.unpack_from(order + "HHI", body)
    ticks, offset = 1_000_000, 0
    for code, value in _options(order, body, 8):
        if code == _IF_TSRESOL and len(value) >= 1:
            exponent = value[0] & 0x7F
            ticks = 1 << exponent if value[0] & 0x80 else int(10 ** min(exponent, 30))
        elif code == _IF_TSOFFSET and len(value) == 8:
            (offset,) = struct.unpack(order + "q", value)
    return _Interface(linktype, snaplen, ticks, offset)


def _options(order: str, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Option code and value pairs until the end mark or the first one that does not fit."""
    while at + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, at)
        if code == 0 or at + 4 + size > len(body):
            return
        yield code, body[at + 4 : at + 4 + size]
        at += 4 + ((size + 3) & ~3)


def _packet(
    source: Source,
    order: str,
    kind: int,
    body: bytes,
    number: int,
    interfaces: list[_Interface],
    base: int,
    start: int,
) -> Frame:
    fixed = 4 if kind == SIMPLE_PACKET else 20
    if len(body) < fixed:
        raise source.problem("packet block too short", start)
    which = high = low = 0
    if kind == SIMPLE_PACKET:
        (length,) = struct.unpack_from(order + "I", body)
        captured = min(length, len(body) - fixed)
    elif kind == OLD_PACKET:
        which, _, high, low, captured, length = struct.unpack_from(order + "HHIIII", body)
    else:
        which, high, low, captured, length = struct.unpack_from(order + "IIIII", body)
    if which >= len(interfaces):
        raise source.problem(f"packet of interface {which}, which was not described", start)
    interface = interfaces[which]
    if kind == SIMPLE_PACKET and interface.snaplen:
        captured = min(captured, interface.snaplen)
    if captured > len(body) - fixed:
        raise source.problem(f"packet of {captured} octets in a block of {len(body)}", start)
    data = body[fixed : fixed + captured]
    return Frame(number, interface.time_ns(high << 32 | low), interface.linktype, base + which, data, length)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


class PcapngWriter:
    """One section, one interface of raw IP with nanosecond stamps, packets with comments."""

    def __init__(self, file: BinaryIO, *, linktype: int = RAW, interface: str = "netstack", live: bool = False) -> None:
        """With `live` each packet is handed to the system at once: the file of a killed process is whole."""
        self._file = file
        self._live = live
        section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
        description = struct.pack("<HHI", linktype, 0, 0) + _option(_IF_NAME, interface.encode())
        description += _option(_IF_TSRESOL, b"\x09") + _option(0, b"")
        file.write(_block(SECTION, section) + _block(INTERFACE, description))
        if live:
            file.flush()

    def write(self, packet: Octets, time_ns: int, comment: str = "") -> None:
        """Append one packet in a single write, so that a killed process leaves whole blocks."""
        size = len(packet)
        body = struct.pack("<IIIII", 0, time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF, size, size)
        body += bytes(packet) + bytes(-size % 4)
        if comment:
            text = comment.encode("utf-8")[:0xFFF0]
            body += _option(_OPT_COMMENT, text) + _option(0, b"")
        self._file.write(_block(ENHANCED_PACKET, body))
        if self._live:
            self._file.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()
