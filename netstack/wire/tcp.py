"""TCP headers and options.

Responsible for: octets <-> header fields and options; the checksum with its pseudo-header.
Refuses to know: what a segment does to a connection; every combination of flags passes.
RFCs: 9293 3.1 and 3.2 (header, options), 7323 (window scale, timestamps), 2018 (SACK).
"""

from __future__ import annotations

import struct

from netstack.core.drops import DropReason
from netstack.core.flow import TCP
from netstack.core.packet import Octets
from netstack.core.record import recordclass
from netstack.wire.checksum import is_transport_valid, transport_checksum

HEADER = struct.Struct("!HHIIBBHHH")
PADDED_TIMESTAMPS = struct.Struct("!III")
_TIMESTAMPS_WORD = 0x0101080A  # NOP, NOP, kind 8, length 10: RFC 7323 appendix A

# The SYN of most systems and our answer to it: MSS, SACK permitted, timestamps, NOP, window scale, each behind its kind
# and length.
_OF_SYN = struct.Struct("!HHHHIIHBB")
_OF_SYN_KINDS = (0x0204, 0x0402, 0x080A, 0x0103, 3)

END, NOP, MSS, WINDOW_SCALE, SACK_PERMITTED, SACK, TIMESTAMPS = 0, 1, 2, 3, 4, 5, 8


@recordclass()
class TcpHeader:
    """One header; `options` are its raw octets, `header_length` is in octets."""

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    header_length: int = 20
    checksum: int = 0
    urgent: int = 0
    options: bytes = b""


@recordclass()
class TcpOptions:
    """What the known options said; None for one that was not there. `sack` holds (left, right) edges."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    timestamps: tuple[int, int] | None = None


def parse_tcp(octets: Octets) -> TcpHeader | DropReason:
    """The header of a segment (without checking its checksum or the options inside)."""
    if len(octets) < 20:
        return DropReason.TRUNCATED_TRANSPORT
    sport, dport, seq, ack, offset, flags, window, total, urgent = HEADER.unpack_from(octets)
    header_length = (offset >> 4) * 4
    if not 20 <= header_length <= len(octets):
        return DropReason.BAD_TRANSPORT_HEADER
    options = bytes(octets[20:header_length])
    return TcpHeader(sport, dport, seq, ack, flags, window, header_length, total, urgent, options)


def is_checksum_valid(source: bytes, destination: bytes, octets: Octets) -> bool:
    """True when the checksum of the segment between the two packed addresses is right (RFC 9293 MUST-3)."""
    return is_transport_valid(source, destination, TCP, octets)


def scan_options(options: Octets) -> tuple[bool, bool, bool, int, int]:
    """One quick look: (legal, something besides padding and timestamps, has timestamps, value, echo).

    Illegal is a length below 2 or beyond the header (RFC 9293 MUST-7).
    """
    at, end = 0, len(options)
    more = has_ts = False
    value = echo = 0
    while at < end:
        kind = options[at]
        if kind == END:
            break
        if kind == NOP:
            at += 1
            continue
        if at + 1 >= end or options[at + 1] < 2 or at + options[at + 1] > end:
            return False, False, False, 0, 0
        size = options[at + 1]
        if kind == TIMESTAMPS and size == 10:
            has_ts = True
            value = int.from_bytes(options[at + 2 : at + 6], "big")
            echo = int.from_bytes(options[at + 6 : at + 10], "big")
        else:
            more = True
        at += size
    return True, more, has_ts, value, echo


def parse_options(options: Octets) -> TcpOptions | None:
    """What the options say; None when a length is illegal (RFC 9293 MUST-7).

    Unknown kinds (MUST-6) and known kinds of a length that is not theirs are skipped.
    """
    if len(options) == _OF_SYN.size:
        first, mss, second, third, value, echo, fourth, size, scale = _OF_SYN.unpack(options)
        if (first, second, third, fourth, size) == _OF_SYN_KINDS:
            return TcpOptions(mss, scale, True, (), (value, echo))
    found = TcpOptions()
    at, end = 0, len(options)
    while at < end:
        kind = options[at]
        if kind == END:
            break
        if kind == NOP:
            at += 1
            continue
        if at + 1 >= end or options[at + 1] < 2 or at + options[at + 1] > end:
            return None
        size = options[at + 1]
        _take(found, kind, bytes(options[at + 2 : at + size]))
        at += size
    return found


def _take(found: TcpOptions, kind: int, value: bytes) -> None:
    size = len(value)
    if kind == MSS and size == 2:
        found.mss = value[0] << 8 | value[1]
    elif kind == WINDOW_SCALE and size == 1:
        found.window_scale = value[0]
    elif kind == SACK_PERMITTED and size == 0:
        found.sack_permitted = True
    elif kind == SACK and size and size % 8 == 0:
        found.sack = tuple(struct.iter_unpack("!II", value))
    elif kind == TIMESTAMPS and size == 8:
        found.timestamps = struct.unpack("!II", value)


def emit_timestamps(value: int, echo: int) -> bytes:
    """The 12 octets of a padded timestamps option: the fast path of `emit_options`."""
    return PADDED_TIMESTAMPS.pack(_TIMESTAMPS_WORD, value, echo)


def emit_options(
    *,
    mss: int | None = None,
    window_scale: int | None = None,
    sack_permitted: bool = False,
    timestamps: tuple[int, int] | None = None,
    sack: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """Options padded to whole 32-bit words, at most 40 octets; SACK blocks that have no room are left out."""
    if mss is not None and window_scale is not None and sack_permitted and timestamps is not None and not sack:
        first, second, third, fourth, size = _OF_SYN_KINDS
        return _OF_SYN.pack(first, mss, second, third, *timestamps, fourth, size, window_scale)
    parts = []
    if mss is not None:
        parts.append(struct.pack("!BBH", MSS, 4, mss))
    if sack_permitted and timestamps is not None:
        parts.append(struct.pack("!BBBBII", SACK_PERMITTED, 2, TIMESTAMPS, 10, *timestamps))
    elif sack_permitted:
        parts.append(bytes((NOP, NOP, SACK_PERMITTED, 2)))
    elif timestamps is not None:
        parts.append(emit_timestamps(*timestamps))
    if window_scale is not None:
        parts.append(bytes((NOP, WINDOW_SCALE, 3, window_scale)))
    room = (40 - sum(map(len, parts)) - 4) // 8
    if sack and room > 0:
        blocks = sack[:room]
        parts.append(bytes((NOP, NOP, SACK, 2 + 8 * len(blocks))))
        parts += [struct.pack("!II", *block) for block in blocks]
    return b"".join(parts)


def emit_tcp(
    source: bytes,
    destination: bytes,
    source_port: int,
    destination_port: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes = b"",
    payload: Octets = b"",
    urgent: int = 0,
) -> bytes:
    """A whole segment with its checksum; `options` must be a multiple of 4 octets long, at most 40."""
    offset = (20 + len(options)) << 2
    fields = (source_port, destination_port, seq, ack, offset, flags, window)
    tail = b"".join((options, payload))
    total = transport_checksum(source, destination, TCP, HEADER.pack(*fields, 0, urgent) + tail)
    return HEADER.pack(*fields, total, urgent) + tail
