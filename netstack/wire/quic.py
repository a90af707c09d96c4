"""QUIC recognition: is this datagram QUIC, is it the Initial that opens a connection, or surely something else?

Responsible for: the version-independent long header, Initial packets of the versions in use, and the
protocols that share QUIC's ports and can be told apart from it with certainty.
Refuses to know: packet protection, what is done with a QUIC packet (`policy/`).
RFCs: 8999 (invariants), 9000 (version 1), 9369 (version 2), 9287 (the fixed bit), 9443 and 7983
(telling QUIC, STUN, DTLS, RTP apart), 8489 (STUN), 8656 (TURN), 9147 (DTLS).

Everything here takes any octets, reads inside them only and never raises.
"""

from __future__ import annotations

from netstack.core.packet import Octets
from netstack.core.record import recordclass

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF  # RFC 9369
VERSION_NEGOTIATION = 0
MAX_CONNECTION_ID = 20  # RFC 9000 17.2; the invariants allow 255, but no version in use does
MIN_INITIAL = 1200  # RFC 9000 14.1: a client pads the datagram of its Initial to this

LONG_HEADER = 0x80
FIXED_BIT = 0x40
_STUN_COOKIE = b"\x21\x12\xa4\x42"
_SHORTEST_PROTECTED = 21  # RFC 9000 10.3: a short-header packet worth the name is at least this long


@recordclass(frozen=True)
class LongHeader:
    """The parts of a long header that no version changes (RFC 8999 5.1). `rest` is where they end."""

    first: int
    version: int
    destination_id: bytes
    source_id: bytes
    rest: int


def parse_long_header(payload: Octets) -> LongHeader | None:
    """The long header at the start of `payload`; None when there is none."""
    size = len(payload)
    if size < 7 or not payload[0] & LONG_HEADER:
        return None
    destination_end = 6 + payload[5]
    if payload[5] > MAX_CONNECTION_ID or destination_end >= size:
        return None
    source_size = payload[destination_end]
    source_end = destination_end + 1 + source_size
    if source_size > MAX_CONNECTION_ID or source_end > size:
        return None
    return LongHeader(
        payload[0],
        int.from_bytes(payload[1:5], "big"),
        bytes(payload[6:destination_end]),
        bytes(payload[destination_end + 1 : source_end]),
        source_end,
    )


def is_known_version(version: int) -> bool:
    """Version 1, version 2, or one of the IETF drafts that deployed clients still offer (27 to 34)."""
    return version in (VERSION_1, VERSION_2) or 0xFF00001B <= version <= 0xFF000022


def is_reserved_version(version: int) -> bool:
    """A version that exists to provoke negotiation (RFC 9000 15: ``0x?a?a?a?a``)."""
    return version & 0x0F0F0F0F == 0x0A0A0A0A


def is_quic_initial(payload: Octets) -> bool:
    """True only for what can be nothing but a client's Initial, on any port.

    Long header and fixed bit, a version in use, type Initial as that version numbers it, and token
    and length fields that fit the datagram. Unknown versions count when they are the reserved ones
    and the datagram is padded as an Initial must be.
    """
    if len(payload) < 7 or payload[0] & 0xC0 != 0xC0:
        return False
    header = parse_long_header(payload)
    if header is None:
        return False
    if not is_known_version(header.version):
        return is_reserved_version(header.version) and len(payload) >= MIN_INITIAL
    kind = header.first >> 4 & 3
    if kind != (1 if header.version == VERSION_2 else 0):
        return False
    token_size, at = _varint(payload, header.rest)
    if at < 0 or at + token_size > len(payload):
        return False
    length, at = _varint(payload, at + token_size)
    return at >= 0 and 0 < length <= len(payload) - at


def is_quic_short_maybe(payload: Octets) -> bool:
    """True when this may be a 1-RTT packet: short header, fixed bit, and long enough to be protected.

    Nothing in a short header proves QUIC; use this only where QUIC is expected.
    """
    return len(payload) >= _SHORTEST_PROTECTED and payload[0] & 0xC0 == FIXED_BIT


def is_quic_maybe(payload: Octets) -> bool:
    """True for a well-formed long header of any version or a plausible short header."""
    if len(payload) == 0:
        return False
    if payload[0] & LONG_HEADER:
        header = parse_long_header(payload)
        return header is not None and (header.version == VERSION_NEGOTIATION or bool(header.first & FIXED_BIT))
    return is_quic_short_maybe(payload)


def is_not_quic(payload: Octets) -> bool:
    """True when the datagram is positively of another protocol: STUN, TURN, DTLS, RTP or WireGuard."""
    return (
        is_stun(payload)
        or is_rtp(payload)
        or is_dtls(payload)
        or is_turn_channel(payload)
        or is_wireguard(payload)
    )


def is_stun(payload: Octets) -> bool:
    """A STUN message with the magic cookie (RFC 8489 section 5)."""
    size = len(payload)
    return (
        size >= 20
        and payload[0] < 4
        and payload[4:8] == _STUN_COOKIE
        and payload[3] & 3 == 0
        and 20 + (payload[2] << 8 | payload[3]) <= size
    )


def is_turn_channel(payload: Octets) -> bool:
    """TURN ChannelData (RFC 8656 12.4): a channel number where QUIC has its short header, and its own length.

    A short header has protected octets there, so one in 2**14 of them is taken for ChannelData; a
    connection whose Initial was refused sends none.
    """
    if len(payload) < 4 or payload[0] & 0xF0 != 0x40:
        return False
    return 0 <= len(payload) - 4 - (payload[2] << 8 | payload[3]) < 4


def is_dtls(payload: Octets) -> bool:
    """A DTLS record with a plaintext header, versions 1.0 to 1.2 (1.3 opens with the same, RFC 9147 4)."""
    return (
        len(payload) >= 13
        and 20 <= payload[0] <= 25
        and payload[1] == 0xFE
        and payload[2] in (0xFF, 0xFD)
        and 13 + (payload[11] << 8 | payload[12]) <= len(payload)
    )


def is_wireguard(payload: Octets) -> bool:
    """A WireGuard message: type, three zero octets, and the length that the type has."""
    size = len(payload)
    if size < 32 or payload[1] or payload[2] or payload[3]:
        return False
    kind = payload[0]
    return (
        (kind == 1 and size == 148)
        or (kind == 2 and size == 92)
        or (kind == 3 and size == 64)
        or (kind == 4 and size % 16 == 0)
    )


def is_rtp(payload: Octets) -> bool:
    """RTP or RTCP by its first two bits (RFC 9443 section 2: 128 to 191 is never a QUIC long header).

    A long header without the fixed bit is legal only once a connection agreed to it (RFC 9287), so
    it cannot be how a connection starts; a version that is QUIC's is refused all the same.
    """
    if len(payload) < 12 or payload[0] & 0xC0 != 0x80:
        return False
    header = parse_long_header(payload)
    return header is None or not (header.version == VERSION_NEGOTIATION or is_known_version(header.version))


def _varint(payload: Octets, at: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000 16) and the offset behind it; offset -1 when cut short."""
    if at >= len(payload):
        return 0, -1
    size = 1 << (payload[at] >> 6)
    if at + size > len(payload):
        return 0, -1
    return int.from_bytes(payload[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size
