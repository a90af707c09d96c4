"""IPv4 headers, their options and fragments.

Responsible for: octets <-> header fields; cutting a packet into fragments and putting one together again.
Refuses to know: what is inside; when a reassembly is given up.
RFCs: 791 (header, fragmentation), 1122 3.2.1 (what a host checks), 6864 (the identification field).

`parse_ipv4` and `parse_fragment` return a DropReason in place of a header when the octets are wrong, so
that a hostile packet costs no exception.
"""

from __future__ import annotations

import struct

from netstack.core.drops import DropReason
from netstack.core.packet import Octets
from netstack.core.record import recordclass
from netstack.wire.checksum import checksum, is_valid

HEADER = struct.Struct("!BBHHHBBH4s4s")
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
OFFSET_MASK = 0x1FFF
MAX_PACKET = 65_535


@recordclass()
class Ipv4Header:
    """One header. `length` is the total length in octets, `fragment_offset` is in octets too."""

    source: bytes
    destination: bytes
    protocol: int
    header_length: int
    length: int
    tos: int = 0
    ident: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    fragment_offset: int = 0
    hop_limit: int = 64
    options: bytes = b""

    @property
    def is_fragment(self) -> bool:
        """True for any part of a fragmented packet."""
        return self.more_fragments or self.fragment_offset > 0


@recordclass()
class FragmentPart:
    """One fragment: which packet it belongs to, and which octets of that packet's payload it carries.

    `key` is the identity that all fragments of one packet share. The octets are ``packet[start:end]``
    and go to `offset`. `header` is what `rebuild` needs; only that of the fragment with offset 0 counts.
    """

    key: bytes
    offset: int
    more: bool
    start: int
    end: int
    header: bytes


def is_bad_source(source: Octets) -> bool:
    """True for sources that no host has: unspecified, multicast, broadcast (RFC 1122 3.2.1.3)."""
    return source[0] & 0xF0 == 0xE0 or source == b"\0\0\0\0" or source == b"\xff\xff\xff\xff"


def are_options_legal(options: Octets) -> bool:
    """True when the option lengths stay inside the header (RFC 791 3.1); the options themselves are skipped."""
    at, end = 0, len(options)
    while at < end:
        kind = options[at]
        if kind == 0:
            return True
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end or options[at + 1] < 2 or at + options[at + 1] > end:
            return False
        at += options[at + 1]
    return True


def fragment_problem(offset: int, more: bool, header_length: int, payload: int) -> bool:
    """True for a fragment that cannot be part of any packet (RFC 791 3.2); lengths and offset in octets."""
    return payload == 0 or (more and payload & 7 != 0) or header_length + offset + payload > MAX_PACKET


def parse_ipv4(packet: Octets, *, verify: bool = True) -> Ipv4Header | DropReason:
    """The header of a packet, checked as a host must; octets beyond the total length are not looked at."""
    if not packet:
        return DropReason.EMPTY
    if packet[0] >> 4 != 4:
        return DropReason.BAD_VERSION
    if len(packet) < 20:
        return DropReason.TRUNCATED_IP
    first, tos, length, ident, where, hop_limit, protocol, _, source, destination = HEADER.unpack_from(packet)
    header_length = (first & 15) * 4
    if header_length < 20 or length < header_length:
        return DropReason.BAD_IP_HEADER
    if length > len(packet):
        return DropReason.TRUNCATED_IP
    if verify and not is_valid(packet[:header_length]):
        return DropReason.BAD_IP_CHECKSUM
    options = bytes(packet[20:header_length])
    if options and not are_options_legal(options):
        return DropReason.BAD_IP_HEADER
    if is_bad_source(source):
        return DropReason.BAD_ADDRESS
    offset, more = (where & OFFSET_MASK) * 8, where & MORE_FRAGMENTS != 0
    if (offset or more) and fragment_problem(offset, more, header_length, length - header_length):
        return DropReason.BAD_FRAGMENT
    return Ipv4Header(
        source, destination, protocol, header_length, length, tos, ident,
        where & DONT_FRAGMENT != 0, more, offset, hop_limit, options,
    )  # fmt: skip


def emit_ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload_length: int,
    *,
    tos: int = 0,
    hop_limit: int = 64,
    ident: int = 0,
    dont_fragment: bool = True,
    more_fragments: bool = False,
    fragment_offset: int = 0,
) -> bytes:
    """A header of 20 octets. With DF set the identification means nothing and stays 0 (RFC 6864 4.1)."""
    where = fragment_offset >> 3 | (DONT_FRAGMENT if dont_fragment else 0) | (MORE_FRAGMENTS if more_fragments else 0)
    fields = (0x45, tos, 20 + payload_length, ident, where, hop_limit, protocol)
    return HEADER.pack(*fields, checksum(HEADER.pack(*fields, 0, source, destination)), source, destination)


def parse_fragment(packet: Octets, *, verify: bool = True) -> FragmentPart | DropReason:
    """What a reassembler needs of a packet that is a fragment; of a whole packet, offset 0 and no more."""
    header = parse_ipv4(packet, verify=verify)
    if not isinstance(header, Ipv4Header):
        return header
    key = b"\x04" + header.source + header.destination + bytes((header.protocol,)) + header.ident.to_bytes(2, "big")
    return FragmentPart(
        key, header.fragment_offset, header.more_fragments, header.header_length, header.length,
        bytes(packet[: header.header_length]),
    )  # fmt: skip


def rebuild(header: bytes, payload: Octets) -> bytes:
    """The whole packet of a finished reassembly: the first fragment's header, corrected, and all octets.

    Raises ValueError when both together are more than 65,535 octets; the reassembler bounds that before.
    """
    length = len(header) + len(payload)
    if length > MAX_PACKET:
        raise ValueError(f"an IPv4 packet of {length} octets cannot be")
    fixed = bytearray(header)
    fixed[2:4] = length.to_bytes(2, "big")
    fixed[6:8] = b"\0\0"
    fixed[10:12] = b"\0\0"
    fixed[10:12] = checksum(fixed).to_bytes(2, "big")
    return bytes(fixed) + payload


def cut_fragments(header: Ipv4Header, payload: Octets, mtu: int, ident: int) -> list[bytes]:
    """The fragments of a packet, each at most `mtu` octets (at least 28), options not repeated (RFC 791 3.2)."""
    room = (mtu - 20) & ~7
    packets = []
    for offset in range(0, len(payload), room):
        piece = payload[offset : offset + room]
        head = emit_ipv4(
            header.source, header.destination, header.protocol, len(piece), tos=header.tos,
            hop_limit=header.hop_limit, ident=ident, dont_fragment=False,
            more_fragments=offset + room < len(payload), fragment_offset=offset,
        )  # fmt: skip
        packets.append(head + piece)
    return packets
