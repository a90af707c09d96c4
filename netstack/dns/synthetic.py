"""Answers that rules make up: negative ones with their SOA, addresses, and another name's answer under an alias.

Responsible for: the octets of such answers; their TTLs; saying in EDNS that they are made up.
Refuses to know: which rule wants which answer.
RFCs: 1035 (3.3.13 SOA, 4.1), 2308 (negative answers), 6891 (EDNS), 8914 (extended errors).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from netstack.dns.filter import read_name
from netstack.dns.message import (
    AAAA,
    CD,
    CNAME,
    DNAME,
    FIXED,
    HEADER,
    HEADER_SIZE,
    OPCODE,
    OPT,
    QR,
    RA,
    RD,
    SOA,
    A,
    Query,
    Rcode,
)

BLOCKED, FILTERED = 15, 17  # extended error codes: by the operator, by the client's own wish
_IN = 1
_TO_QUESTION = b"\xc0\x0c"
_MINOR = b"\x07blocked\x07invalid\0"
_MAILBOX = b"\x0ahostmaster" + _MINOR
_TIMES = struct.Struct("!IIIII")
_NAMES_IN = {2: (0, 1), CNAME: (0, 1), SOA: (0, 2), 12: (0, 1), 15: (2, 1), DNAME: (0, 1), 33: (6, 1)}
"""Types whose data holds names that may be compressed: octets before them, and how many (RFC 3597 4)."""
_MOST_RECORDS = 256


def wire_name(name: str) -> bytes:
    """A name in plain presentation form as octets."""
    if name in ("", "."):
        return b"\0"
    return b"".join(bytes([len(label)]) + label for label in name.encode("ascii").split(b".")) + b"\0"


def _message(query: Query, rcode: int, answers: Sequence[bytes], authority: bytes, error: int) -> bytes:
    opt = b""
    if query.edns:
        option = struct.pack("!HHH", 15, 2, error) if error else b""
        opt = b"\0" + FIXED.pack(OPT, 1232, 0, len(option)) + option
    flags = QR | RA | query.flags & (OPCODE | RD | CD) | rcode
    header = HEADER.pack(query.id, flags, 1, len(answers), int(bool(authority)), int(query.edns))
    return header + query.question.wire + b"".join(answers) + authority + opt


def negative(query: Query, rcode: int, ttl: int, *, error: int = BLOCKED) -> bytes:
    """NXDOMAIN, or NODATA for NOERROR, which may be cached for `ttl` seconds: unblocking soon takes effect."""
    # the zone is the name's parent, which is in the question already
    above = HEADER_SIZE + (1 + query.question.wire[0] if query.question.wire[0] else 0)
    data = _MINOR + _MAILBOX + _TIMES.pack(1, 1800, 900, 604_800, ttl)
    soa = struct.pack("!H", 0xC000 | above) + FIXED.pack(SOA, _IN, ttl, len(data)) + data
    return _message(query, rcode, (), soa, error)


def refusal(query: Query, *, error: int = BLOCKED) -> bytes:
    """REFUSED. It cannot be cached."""
    return _message(query, Rcode.REFUSED, (), b"", error)


def addresses(query: Query, packed: Sequence[bytes], ttl: int, *, error: int = 0) -> bytes:
    """The addresses that fit the question's type; NODATA when none does."""
    kind = query.question.type
    size = {A: 4, AAAA: 16}.get(kind, 0)
    fitting = [each for each in packed if len(each) == size]
    if not fitting:
        return negative(query, Rcode.NOERROR, ttl, error=error)
    records = [_TO_QUESTION + FIXED.pack(kind, _IN, ttl, size) + each for each in fitting]
    return _message(query, Rcode.NOERROR, records, b"", error)


def question_for(query: Query, name: bytes) -> bytes:
    """The client's query with another name."""
    wire = query.question.wire
    return query.message[:HEADER_SIZE] + name + query.message[HEADER_SIZE + len(wire) - 4 :]


def under_alias(query: Query, target: bytes, answer: bytes, ttl: int) -> bytes | None:
    """`answer`, which answers for `target`, as the answer to `query`: an alias, then its records. None if malformed."""
    if len(answer) < HEADER_SIZE:
        return None
    _, flags, questions, count, authorities, _ = HEADER.unpack_from(answer)
    at = HEADER_SIZE
    if questions:
        at += len(target) + 4
    records = [_TO_QUESTION + FIXED.pack(CNAME, _IN, ttl, len(target)) + target]
    names: dict[int, bytes] = {}
    if count + authorities > _MOST_RECORDS:
        return None
    authority = b""
    for number in range(count + authorities):
        copied = _copied(answer, at, names)
        if copied is None:
            return None
        kind, record, at = copied
        if number < count:
            records.append(record)
        elif kind == SOA:
            authority = record  # for the client's negative cache
    return _message(query, flags & 0xF, records, authority, 0)


def _copied(message: bytes, at: int, names: dict[int, bytes]) -> tuple[int, bytes, int] | None:
    """A record's type, its octets without compression, and the offset behind it; None when malformed."""
    owner, end = read_name(message, at, names)
    if owner is None or end + 10 > len(message):
        return None
    kind, cls, ttl, length = FIXED.unpack_from(message, end)
    start = end + 10
    stop = start + length
    if stop > len(message):
        return None
    data = message[start:stop]
    if kind in _NAMES_IN:
        before, count = _NAMES_IN[kind]
        pieces = [message[start : start + before]]
        place = start + before
        for _ in range(count):
            name, place = read_name(message, place, names)
            if name is None or place > stop:
                return None
            pieces.append(name)
        data = b"".join(pieces) + message[place:stop]
    return kind, owner + FIXED.pack(kind, cls, ttl, len(data)) + data, stop
