"""IPv6 headers, the chain of extension headers, and fragments.

Responsible for: octets <-> header fields; walking extension headers up to the transport or a fragment.
Refuses to know: what the transport holds; when a reassembly is given up.
RFCs: 8200 (headers, options, fragments), 6946 (atomic fragments), 5095 (routing type 0), 4302 (AH).

`parse_ipv6` and `parse_fragment` return a DropReason in place of a header when the octets are wrong.
"""

from __future__ import annotations

import struct

from netstack.core.drops import DropReason
from netstack.core.packet import Octets
from netstack.core.record import recordclass
from netstack.wire.ipv4 import MAX_PACKET, FragmentPart

HEADER = struct.Struct("!IHBB16s16s")
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NO_NEXT_HEADER, DESTINATION = 0, 43, 44, 51, 59, 60
CHAIN = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NO_NEXT_HEADER, DESTINATION))
MAX_EXTENSIONS = 8  # RFC 8504 5.3 lets a host limit the chain; honest ones have at most 4
UNSPECIFIED = bytes(16)


@recordclass()
class Ipv6Header:
    """One header and where its chain leads.

    `length` is that of the whole packet. `protocol` is the transport's, which starts at `header_length`;
    of a fragment it is what follows the fragment header, which starts at `fragment_at` (else 0).
    """

    source: bytes
    destination: bytes
    protocol: int
    header_length: int
    length: int
    tos: int = 0
    flow_label: int = 0
    hop_limit: int = 64
    fragment_at: int = 0

    @property
    def is_fragment(self) -> bool:
        """True for a part of a fragmented packet; an atomic fragment is a whole packet (RFC 6946)."""
        return self.fragment_at > 0


def is_bad_source(source: Octets) -> bool:
    """True for the unspecified address and for multicast (RFC 4291 2.5.2, 2.7)."""
    return source[0] == 0xFF or source == UNSPECIFIED


def are_options_legal(options: Octets) -> bool:
    """True when all options of a hop-by-hop or destination header may be skipped (RFC 8200 4.2).

    `options` starts behind the two octets of next header and length. None of the options that demand
    something is known here, so action bits other than 00 mean that the packet must be discarded.
    """
    at, end = 0, len(options)
    while at < end:
        kind = options[at]
        if kind == 0:
            at += 1
            continue
        if at + 2 > end or at + 2 + options[at + 1] > end or kind & 0xC0:
            return False
        at += 2 + options[at + 1]
    return True


def walk(packet: Octets, kind: int, at: int, end: int) -> tuple[int, int, int, int]:
    """Follow the chain: (drop reason or 0, transport protocol, its offset, offset of a fragment header or 0).

    `kind` is the next header of what ends at `at`; `end` bounds the packet. Stops at the first header
    that is no extension, and at a fragment header that really belongs to a fragment.
    """
    first = at
    for _ in range(MAX_EXTENSIONS + 1):
        if kind not in CHAIN:
            return 0, kind, at, 0
        if kind == NO_NEXT_HEADER:
            return DropReason.NO_NEXT_HEADER, kind, at, 0
        if at + 8 > end or (kind == HOP_BY_HOP and at != first):
            break
        follows, size = packet[at], (packet[at + 1] + 1) * 8
        if kind == FRAGMENT:
            size = 8
            where = packet[at + 2] << 8 | packet[at + 3]
            if where & 0xFFF9:
                length = end - at - 8
                if not length or (where & 1 and length & 7) or at - 40 + (where & 0xFFF8) + length > MAX_PACKET:
                    return DropReason.BAD_FRAGMENT, kind, at, 0
                return 0, follows, at + 8, at
        elif kind == AUTHENTICATION:
            size = (packet[at + 1] + 2) * 4
        if at + size > end:
            break
        if kind == ROUTING:
            if packet[at + 3]:
                return DropReason.ROUTING_HEADER, kind, at, 0
        elif kind in (HOP_BY_HOP, DESTINATION) and not are_options_legal(packet[at + 2 : at + size]):
            break
        kind, at = follows, at + size
    return DropReason.BAD_EXTENSION_HEADER, kind, at, 0


def parse_ipv6(packet: Octets) -> Ipv6Header | DropReason:
    """The header of a packet, its chain walked; octets beyond the payload length are not looked at."""
    if not packet:
        return DropReason.EMPTY
    if packet[0] >> 4 != 6:
        return DropReason.BAD_VERSION
    if len(packet) < 40:
        return DropReason.TRUNCATED_IP
    word, length, kind, hop_limit, source, destination = HEADER.unpack_from(packet)
    end = 40 + length
    if end > len(packet):
        return DropReason.TRUNCATED_IP
    if is_bad_source(source):
        return DropReason.BAD_ADDRESS
    reason, protocol, at, fragment_at = walk(packet, kind, 40, end)
    if reason:
        return DropReason(reason)
    return Ipv6Header(
        source, destination, protocol, at, end, word >> 20 & 0xFF, word & 0xFFFFF, hop_limit, fragment_at
    )  # fmt: skip


def emit_ipv6(
    source: bytes, destination: bytes, protocol: int, payload_length: int, *, tos: int = 0, hop_limit: int = 64
) -> bytes:
    """A header of 40 octets, flow label 0."""
    return HEADER.pack(0x60000000 | tos << 20, payload_length, protocol, hop_limit, source, destination)


def parse_fragment(packet: Octets) -> FragmentPart | DropReason:
    """What a reassembler needs of a packet that is a fragment; BAD_FRAGMENT for a packet that is none.

    The identity is source, destination and identification (RFC 8200 4.5). The header that `rebuild`
    wants is the unfragmentable part, with its last "next header" already that of the fragmentable part.
    """
    header = parse_ipv6(packet)
    if not isinstance(header, Ipv6Header):
        return header
    at = header.fragment_at
    if not at:
        return DropReason.BAD_FRAGMENT
    where = packet[at + 2] << 8 | packet[at + 3]
    key = b"\x06" + header.source + header.destination + bytes(packet[at + 4 : at + 8])
    head = bytearray(packet[:at])
    head[_next_header_before(packet, at)] = packet[at]
    return FragmentPart(key, where & 0xFFF8, where & 1 != 0, at + 8, header.length, bytes(head))


def _next_header_before(packet: Octets, fragment_at: int) -> int:
    """Offset of the "next header" octet that leads to the fragment header; the chain was walked before."""
    kind, at, field = packet[6], 40, 6
    while at < fragment_at:
        field = at
        size = 8 if kind == FRAGMENT else (packet[at + 1] + 2) * 4 if kind == AUTHENTICATION else packet[at + 1] * 8 + 8
        kind, at = packet[at], at + size
    return field


def rebuild(header: bytes, payload: Octets) -> bytes:
    """The whole packet of a finished reassembly: the first fragment's unfragmentable part and all octets.

    Raises ValueError when the payload length would be more than 65,535; the reassembler bounds that before.
    """
    length = len(header) - 40 + len(payload)
    if length > MAX_PACKET:
        raise ValueError(f"an IPv6 payload of {length} octets cannot be")
    return header[:4] + length.to_bytes(2, "big") + header[6:] + payload


def cut_fragments(header: Ipv6Header, payload: Octets, mtu: int, ident: int) -> list[bytes]:
    """The fragments of a packet without extension headers, each at most `mtu` octets (RFC 8200 4.5)."""
    room = (mtu - 48) & ~7
    packets = []
    for offset in range(0, len(payload), room):
        piece = payload[offset : offset + room]
        more = offset + room < len(payload)
        head = emit_ipv6(
            header.source, header.destination, FRAGMENT, 8 + len(piece), tos=header.tos, hop_limit=header.hop_limit
        )  # fmt: skip
        packets.append(head + struct.pack("!BBHI", header.protocol, 0, offset | more, ident) + piece)
    return packets
