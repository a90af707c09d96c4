"""Lenient reading of captured headers: whatever is there is told, nothing is refused.

Responsible for: the outermost IP header of a frame and the transport header right above it.
Refuses to know: whether the packet is acceptable (`wire/` and the codecs judge that), inner headers of tunnels and
of ICMP errors, reassembly.
RFCs: 791, 8200, 4302 (headers), 9293 3.1, 768.

A capture holds half packets and broken ones. The engine drops those with a reason; an account of the capture has to
say what they are all the same, and each layer counts as present once the layer under it announced it.
"""

from __future__ import annotations

import struct

from netstack.core.flow import ICMP, ICMPV6, TCP, UDP
from netstack.core.record import recordclass

NOTHING = -1
"""`IpHeader.protocol` where no transport can be told: cut short, contradictory, or a later fragment."""

_V4 = struct.Struct("!BBHHHBBH4s4s")
_V6 = struct.Struct("!IHBB16s16s")
_TCP = struct.Struct("!HHIIHHHH")
_UDP = struct.Struct("!HHHH")

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _NO_NEXT, _DESTINATION = 0, 43, 44, 51, 59, 60
_EXTENSIONS = frozenset((_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION))


@recordclass()
class IpHeader:
    """One IP header as far as it was captured.

    `at` is the transport's offset in the frame, `end` where the captured part of the IP packet ends, and `size`
    how many octets of transport the header announces and the frame had room for. `source` is empty when the
    addresses were not captured. `checksum_destination` is the last stop of a routing header (RFC 8200 8.1).
    """

    version: int
    start: int
    source: bytes = b""
    destination: bytes = b""
    protocol: int = NOTHING
    at: int = 0
    end: int = 0
    size: int = 0
    fragment: bool = False
    extensions: bool = False
    fragment_header: bool = False
    checksum_destination: bytes = b""

    @property
    def whole(self) -> bool:
        """All octets that the header announces were captured."""
        return self.end - self.at >= self.size


def read_ip(frame: bytes, version: int, start: int, length: int) -> IpHeader:
    """The header at `start`; `length` is that of the frame on the wire."""
    return _read_v4(frame, start, length) if version == 4 else _read_v6(frame, start, length)


def _read_v4(frame: bytes, start: int, length: int) -> IpHeader:
    header = IpHeader(4, start)
    if start + 20 > len(frame):
        return header
    first, _, total, _, where, _, protocol, _, source, destination = _V4.unpack_from(frame, start)
    header.source, header.destination, header.checksum_destination = source, destination, destination
    header_length = (first & 15) * 4
    if first >> 4 != 4 or header_length < 20:
        return header
    offset = where & 0x1FFF
    header.fragment = bool(offset or where & 0x2000)
    on_wire = max(length, len(frame)) - start
    if total == 0:  # the sender left it to its network card (TCP segmentation offload)
        total = on_wire
    if total < header_length or start + header_length > len(frame):
        return header
    total = min(total, on_wire)
    header.at = start + header_length
    header.end = min(len(frame), start + total)
    header.size = total - header_length
    if not offset:
        header.protocol = protocol
    return header


def _read_v6(frame: bytes, start: int, length: int) -> IpHeader:
    header = IpHeader(6, start)
    if start + 40 > len(frame):
        return header
    _, payload, kind, _, source, destination = _V6.unpack_from(frame, start)
    header.source, header.destination = source, destination
    if payload == 0 and kind == _HOP_BY_HOP:
        payload = _jumbo(frame, start + 40)
    payload = min(payload, max(length, len(frame)) - start - 40)
    at, end = start + 40, min(len(frame), start + 40 + payload)
    header.end = end
    header.checksum_destination = destination
    while kind in _EXTENSIONS:  # each is at least 8 octets long
        header.extensions = True
        header.fragment_header = header.fragment_header or kind == _FRAGMENT
        if at + 8 > end:
            return header
        follows = frame[at]
        size = 8 if kind == _FRAGMENT else (frame[at + 1] + 2) * 4 if kind == _AH else (frame[at + 1] + 1) * 8
        if at + size > end:
            return header
        if kind == _FRAGMENT:
            where = frame[at + 2] << 8 | frame[at + 3]
            header.fragment = header.fragment or bool(where & 0xFFF9)
            if where & 0xFFF8:
                return header
        elif kind == _ROUTING:
            header.checksum_destination = _final_destination(frame, at, size) or header.checksum_destination
        kind, at = follows, at + size
    header.at = at
    header.size = start + 40 + payload - at
    if kind != _NO_NEXT:
        header.protocol = kind
    return header


def _jumbo(frame: bytes, at: int) -> int:
    """Payload length from the jumbo option of a hop-by-hop header (RFC 2675), else 0."""
    if at + 8 > len(frame):
        return 0
    end = min(at + (frame[at + 1] + 1) * 8, len(frame))
    at += 2
    while at + 2 <= end:
        if frame[at] == 0:
            at += 1
            continue
        if frame[at] == 0xC2 and frame[at + 1] == 4:
            return int.from_bytes(frame[at + 2 : at + 6], "big")
        at += 2 + frame[at + 1]
    return 0


def _final_destination(frame: bytes, at: int, size: int) -> bytes:
    """Where a packet with this routing header ends up; empty when it is there already or the type is unknown."""
    kind, left = frame[at + 2], frame[at + 3]
    if not left or size < 24:
        return b""
    if kind in (0, 2):
        return frame[at + size - 16 : at + size]
    return frame[at + 8 : at + 24] if kind == 4 else b""  # a segment routing header lists the last one first


@recordclass()
class TcpFields:
    """A TCP header as captured. `size` is the payload on the wire, ``frame[at:end]`` what was captured of it.

    `mss`, `wscale` are None without the option. `broken` marks a data offset that cannot be.
    """

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    at: int
    end: int
    size: int
    mss: int | None = None
    wscale: int | None = None
    sack_permitted: bool = False
    timestamps: bool = False
    broken: bool = False
    sack_blocks: bool = False


def read_tcp(frame: bytes, ip: IpHeader) -> TcpFields | None:
    """The segment of `ip`, None when not enough of its header was captured to tell the flow and flags."""
    at = ip.at
    if at + 16 > ip.end:
        return None
    sport, dport, seq, ack, flags, window = struct.unpack_from("!HHIIHH", frame, at)
    header_length = (flags >> 12) * 4
    fields = TcpFields(sport, dport, seq, ack, flags & 0xFF, window, ip.end, ip.end, 0)
    fields.broken = header_length < 20 or header_length > ip.size
    fields.at = min(at + max(header_length, 20), ip.end)
    if not fields.broken and not ip.fragment:  # the length of a fragment's segment stands in no header
        fields.size = ip.size - header_length
    _read_options(frame, at + 20, fields.at, fields)
    return fields


def _read_options(frame: bytes, at: int, end: int, fields: TcpFields) -> None:
    while at < end:
        kind = frame[at]
        if kind == 0:
            return
        if kind == 1:
            at += 1
            continue
        size = frame[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            return
        if kind == 2 and size == 4:
            fields.mss = frame[at + 2] << 8 | frame[at + 3]
        elif kind == 3 and size == 3:
            fields.wscale = frame[at + 2]
        elif kind == 4 and size == 2:
            fields.sack_permitted = True
        elif kind == 5:
            fields.sack_blocks = True
        elif kind == 8 and size == 10:
            fields.timestamps = True
        at += size


@recordclass()
class UdpFields:
    """A UDP header as captured; `size` as its length field says, ``frame[at:end]`` what was captured of the payload."""

    source_port: int
    destination_port: int
    at: int
    end: int
    size: int
    broken: bool = False


def read_udp(frame: bytes, ip: IpHeader) -> UdpFields | None:
    """The datagram of `ip`, None when its header was not captured."""
    at = ip.at
    if at + 8 > ip.end:
        return None
    sport, dport, length, _ = _UDP.unpack_from(frame, at)
    if length == 0 and ip.version == 6:  # jumbogram (RFC 2675 section 4)
        length = ip.size
    if length < 8:
        return UdpFields(sport, dport, at + 8, at + 8, 0, broken=True)
    return UdpFields(sport, dport, at + 8, min(ip.end, at + length), length - 8)


TRANSPORTS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmpv6"}
