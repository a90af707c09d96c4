"""What time does to a message on its way.

Responsible for: taking the seconds that an answer has spent elsewhere off its TTLs.
Refuses to know: where it spent them.
RFCs: 1035 (records), 2181 8 (TTL), 8484 5.1 (the Age of an HTTP response).
"""

from __future__ import annotations

import struct

from netstack.dns.message import FIXED, HEADER, HEADER_SIZE, OPT, skip_name

_TTL = struct.Struct("!I")
_MOST = 0x7FFFFFFF


def aged(message: bytes, seconds: int) -> bytes:
    """`message` with every TTL less by `seconds`, 0 at the least; as far as it can be read."""
    if len(message) < HEADER_SIZE:
        return message
    _, _, questions, *counts = HEADER.unpack_from(message)
    at, size = HEADER_SIZE, len(message)
    out = bytearray(message)
    for _ in range(questions):
        at = skip_name(message, at)
        if at < 0:
            return message
        at += 4
    for _ in range(sum(counts)):
        name_end = skip_name(message, at) if at < size else -1
        if name_end < 0 or name_end + 10 > size:
            break
        kind, _, ttl, length = FIXED.unpack_from(message, name_end)
        if kind != OPT:
            _TTL.pack_into(out, name_end + 4, ttl - seconds if seconds < ttl <= _MOST else 0)
        at = name_end + 10 + length
    return bytes(out)
