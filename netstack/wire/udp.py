"""UDP headers.

Responsible for: octets <-> header fields, the length rules, and the checksum with its meaning of zero.
Refuses to know: what a datagram is for.
RFCs: 768, 1122 4.1, 8200 8.1 (no zero checksum over IPv6).
"""

from __future__ import annotations

import struct

from netstack.core.drops import DropReason
from netstack.core.flow import UDP
from netstack.core.packet import Octets
from netstack.core.record import recordclass
from netstack.wire.checksum import is_transport_valid, transport_checksum

HEADER = struct.Struct("!HHHH")


@recordclass()
class UdpHeader:
    """One header; `length` counts header and payload in octets."""

    source_port: int
    destination_port: int
    length: int
    checksum: int = 0


def parse_udp(octets: Octets) -> UdpHeader | DropReason:
    """The header of a datagram; `octets` may hold more than the datagram (RFC 768 has its own length)."""
    if len(octets) < 8:
        return DropReason.TRUNCATED_TRANSPORT
    header = UdpHeader(*HEADER.unpack_from(octets))
    if not 8 <= header.length <= len(octets):
        return DropReason.BAD_TRANSPORT_HEADER
    return header


def checksum_problem(source: bytes, destination: bytes, octets: Octets) -> DropReason | None:
    """Why the checksum of a datagram (exactly its own octets) is refused, or None when it is right."""
    if octets[6] == 0 and octets[7] == 0:
        return None if len(source) == 4 else DropReason.ZERO_UDP_CHECKSUM_V6
    return None if is_transport_valid(source, destination, UDP, octets) else DropReason.BAD_UDP_CHECKSUM


def emit_udp(source: bytes, destination: bytes, source_port: int, destination_port: int, payload: Octets) -> bytes:
    """A whole datagram with its checksum; a computed 0 goes out as 0xFFFF (RFC 768)."""
    length = 8 + len(payload)
    empty = HEADER.pack(source_port, destination_port, length, 0)
    total = transport_checksum(source, destination, UDP, empty + payload) or 0xFFFF
    return HEADER.pack(source_port, destination_port, length, total) + payload
