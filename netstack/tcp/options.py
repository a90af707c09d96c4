"""The TCP options that a connection itself speaks.

Responsible for: what a SYN offers, SACK blocks in, and the option octets out.
Refuses to know: option syntax (`wire.tcp`). RFCs: 9293 section 3.2, 7323, 2018, 2883.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAX_SCALE = 14  # RFC 7323 section 2.3

_TIMESTAMPS = struct.Struct("!BBBBII")
_BLOCK = struct.Struct("!II")


@dataclass(slots=True)
class SynOptions:
    """What a SYN offers; None and False for what it does not."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None


def _walk(octets: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    at, size = 0, len(octets)
    while at < size:
        kind = octets[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= size:
            break
        length = octets[at + 1]
        if length < 2 or at + length > size:
            break
        found.append((kind, octets[at + 2 : at + length]))
        at += length
    return found


def parse_syn_options(octets: bytes) -> SynOptions:
    """The options of a SYN; unknown ones and those of a wrong length are passed over."""
    options = SynOptions()
    for kind, value in _walk(octets):
        if kind == 2 and len(value) == 2:
            options.mss = value[0] << 8 | value[1]
        elif kind == 3 and len(value) == 1:
            options.window_scale = min(value[0], MAX_SCALE)
        elif kind == 4 and not value:
            options.sack_permitted = True
        elif kind == 8 and len(value) == 8:
            options.timestamps = (int.from_bytes(value[:4], "big"), int.from_bytes(value[4:], "big"))
    return options


def parse_sack_blocks(octets: bytes) -> list[tuple[int, int]]:
    """(left, right) sequence numbers of the SACK option in `octets`, in its order."""
    for kind, value in _walk(octets):
        if kind == 5:
            return list(_BLOCK.iter_unpack(value[: len(value) // 8 * 8]))
    return []


def emit_syn_options(mss: int, scale: int | None, sack_permitted: bool, timestamps: tuple[int, int] | None) -> bytes:
    """Options of a SYN|ACK: only what the SYN offered (RFC 7323 section 1.3)."""
    out = struct.pack("!BBH", 2, 4, mss)
    if timestamps is not None:
        lead = b"\x04\x02" if sack_permitted else b"\x01\x01"
        out += lead + struct.pack("!BBII", 8, 10, *timestamps)
    elif sack_permitted:
        out += b"\x01\x01\x04\x02"
    if scale is not None:
        out += struct.pack("!BBBB", 1, 3, 3, scale)
    return out


def emit_timestamps(value: int, echo: int) -> bytes:
    """NOP NOP TSopt: 12 octets (RFC 7323 appendix A)."""
    return _TIMESTAMPS.pack(1, 1, 8, 10, value, echo)


def emit_sack(blocks: list[tuple[int, int]]) -> bytes:
    """NOP NOP SACK with these (left, right) sequence numbers."""
    return bytes((1, 1, 5, 2 + 8 * len(blocks))) + b"".join(_BLOCK.pack(*block) for block in blocks)
