"""ICMP and ICMPv6: messages, and the errors that answer a packet.

Responsible for: octets <-> messages; quoting the packet at fault; the cases in which no error may be sent.
Refuses to know: rate limits; who decides that a packet is refused.
RFCs: 792, 1122 3.2.2 (when not to send), 1812 4.3.2.3 (how much to quote), 4443 (ICMPv6), 1191 (next-hop MTU).
"""

from __future__ import annotations

import struct

from netstack.core.drops import DropReason
from netstack.core.flow import ICMP, ICMPV6
from netstack.core.packet import IcmpMessage, Octets
from netstack.wire import ipv4, ipv6
from netstack.wire.checksum import checksum, is_transport_valid, is_valid, transport_checksum

HEADER = struct.Struct("!BBHI")

ECHO_REPLY, UNREACHABLE, ECHO_REQUEST, TIME_EXCEEDED = 0, 3, 8, 11
V6_UNREACHABLE, V6_PACKET_TOO_BIG, V6_TIME_EXCEEDED, V6_ECHO_REQUEST, V6_ECHO_REPLY = 1, 2, 3, 128, 129
# codes of UNREACHABLE
NET, HOST, PROTOCOL, PORT, FRAGMENTATION_NEEDED, ADMINISTRATIVELY = 0, 1, 2, 3, 4, 13
# the same meanings as codes of V6_UNREACHABLE
_V6_CODES = {NET: 0, HOST: 3, PROTOCOL: 3, PORT: 4, ADMINISTRATIVELY: 1}
_V4_ERRORS = frozenset((3, 4, 5, 11, 12))
V4_LIMIT, V6_LIMIT = 576, 1280  # octets of a whole error packet


def parse_icmp(octets: Octets, source: bytes, destination: bytes, *, verify: bool = True) -> IcmpMessage | DropReason:
    """The message between two packed addresses: ICMP when they have 4 octets, ICMPv6 when 16."""
    if len(octets) < 8:
        return DropReason.TRUNCATED_TRANSPORT
    version = 4 if len(source) == 4 else 6
    if verify and not (is_valid(octets) if version == 4 else is_transport_valid(source, destination, ICMPV6, octets)):
        return DropReason.BAD_ICMP_CHECKSUM
    kind, code, _, rest = HEADER.unpack_from(octets)
    return IcmpMessage(version, source, destination, kind, code, rest, octets[8:])


def emit_icmp(message: IcmpMessage) -> bytes:
    """The message's octets with their checksum, without an IP header."""
    empty = HEADER.pack(message.type, message.code, 0, message.rest) + message.payload
    if message.version == 4:
        total = checksum(empty)
    else:
        total = transport_checksum(message.source, message.destination, ICMPV6, empty)
    return empty[:2] + total.to_bytes(2, "big") + empty[4:]


def is_echo(version: int, kind: int) -> bool:
    """True for an echo request or reply: the messages whose second word holds identifier and sequence."""
    return kind in (ECHO_REPLY, ECHO_REQUEST) if version == 4 else kind in (V6_ECHO_REQUEST, V6_ECHO_REPLY)


def unreachable(packet: Octets, code: int = PORT, source: bytes | None = None) -> IcmpMessage | None:
    """Destination unreachable about `packet`; `code` is one of the names above, translated for ICMPv6.

    `source` is the packed address that complains; by default the address that the packet was for.
    None when no error may be sent about this packet.
    """
    if _version(packet) == 4:
        return _error(packet, UNREACHABLE, code, 0, source)
    return _error(packet, V6_UNREACHABLE, _V6_CODES.get(code, 0), 0, source)


def time_exceeded(packet: Octets, source: bytes | None = None) -> IcmpMessage | None:
    """Hop limit exceeded in transit."""
    return _error(packet, TIME_EXCEEDED if _version(packet) == 4 else V6_TIME_EXCEEDED, 0, 0, source)


def reassembly_time_exceeded(packet: Octets, source: bytes | None = None) -> IcmpMessage | None:
    """Fragment reassembly time exceeded; `packet` is the first fragment (none is sent without it)."""
    return _error(packet, TIME_EXCEEDED if _version(packet) == 4 else V6_TIME_EXCEEDED, 1, 0, source)


def packet_too_big(packet: Octets, mtu: int, source: bytes | None = None) -> IcmpMessage | None:
    """Fragmentation needed and DF set (RFC 1191), or packet too big (RFC 4443 3.2)."""
    if _version(packet) == 4:
        return _error(packet, UNREACHABLE, FRAGMENTATION_NEEDED, mtu & 0xFFFF, source)
    return _error(packet, V6_PACKET_TOO_BIG, 0, mtu, source)


def _version(packet: Octets) -> int:
    return packet[0] >> 4 if packet else 0


def _error(packet: Octets, kind: int, code: int, rest: int, source: bytes | None) -> IcmpMessage | None:
    """An error that quotes as much of `packet` as the whole error may hold, or None (RFC 1122 3.2.2, 4443 2.4)."""
    if _version(packet) == 4:
        header = ipv4.parse_ipv4(_filled(packet, int.from_bytes(packet[2:4], "big")), verify=False)
        if not isinstance(header, ipv4.Ipv4Header) or header.fragment_offset or not _may_answer4(packet, header):
            return None
        quoted = bytes(packet[: min(header.length, V4_LIMIT - 28)])
        return IcmpMessage(4, source or header.destination, header.source, kind, code, rest, quoted)
    parsed = ipv6.parse_ipv6(_filled(packet, 40 + int.from_bytes(packet[4:6], "big")))
    if not isinstance(parsed, ipv6.Ipv6Header) or not _may_answer6(packet, parsed, kind):
        return None
    quoted = bytes(packet[: min(parsed.length, V6_LIMIT - 48)])
    return IcmpMessage(6, source or parsed.destination, parsed.source, kind, code, rest, quoted)


def _filled(packet: Octets, length: int) -> Octets:
    """A packet of which only the start was kept is as long as it says."""
    return packet if len(packet) >= length else bytes(packet) + bytes(length - len(packet))


def _may_answer4(packet: Octets, header: ipv4.Ipv4Header) -> bool:
    if header.destination[0] & 0xF0 == 0xE0 or header.destination == b"\xff\xff\xff\xff":
        return False
    at = header.header_length
    return header.protocol != ICMP or (at < header.length and packet[at] not in _V4_ERRORS)


def _may_answer6(packet: Octets, header: ipv6.Ipv6Header, kind: int) -> bool:
    at = header.fragment_at
    if at and (packet[at + 2] << 8 | packet[at + 3]) & 0xFFF8:
        return False
    if header.destination[0] == 0xFF and kind != V6_PACKET_TOO_BIG:
        return False
    at = header.header_length
    return header.protocol != ICMPV6 or (at < header.length and packet[at] >= 128)
