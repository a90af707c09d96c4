"""Whole messages as records, for the few answers that must be changed.

Responsible for: reading every record of a message with its names written out, and emitting records with
compressed names.
Refuses to know: what is changed and why; the hot path, which passes answers on as octets.
RFCs: 1035 4.1, 3597 4 (which types may hold compressed names), 9267 (bounds), 2181 8.

dnspython would do the same in 40 to 100 us for a short answer and costs some 10 MB once imported; this takes
about a tenth, is bounded by the message, and never raises.
"""

from __future__ import annotations

from netstack.core.packet import Octets
from netstack.dns.message import FIXED, HEADER, HEADER_SIZE, MAX_MESSAGE, SOA, TC

_MAX_JUMPS = 32
_MAX_NAME = 255
_MAX_POINTER = 0x3FFF
IN = 1

# octets before the first name, number of names: RDATA with names that old servers compress (RFC 3597 4)
_NAMES = {
    2: (0, 1), 3: (0, 1), 4: (0, 1), 5: (0, 1), 6: (0, 2), 7: (0, 1), 8: (0, 1), 9: (0, 1), 12: (0, 1),
    14: (0, 2), 15: (2, 1), 17: (0, 2), 18: (2, 1), 21: (2, 1), 26: (2, 2), 33: (6, 1), 36: (2, 1), 39: (0, 1),
}  # fmt: skip
_COMPRESSED = frozenset((2, 5, 6, 12, 15))  # what every reader takes compressed


class Record:
    """One record: names uncompressed, in the case in which they came. `data` is RDATA without pointers."""

    __slots__ = ("cls", "data", "kind", "name", "ttl")

    def __init__(self, name: bytes, kind: int, ttl: int, data: bytes, cls: int = IN) -> None:
        self.name = name
        self.kind = kind
        self.cls = cls
        self.ttl = ttl
        self.data = data


class Message:
    """A message with one question or none. `sections` are answer, authority and additional."""

    __slots__ = ("flags", "id", "question", "sections")

    def __init__(self, ident: int, flags: int, question: bytes) -> None:
        self.id = ident
        self.flags = flags
        self.question = question  # wire form: name, type, class
        self.sections: tuple[list[Record], list[Record], list[Record]] = ([], [], [])


def read_message(message: bytes) -> Message | None:
    """All of `message`; None when any of it is malformed or it has several questions."""
    size = len(message)
    if size < HEADER_SIZE:
        return None
    ident, flags, questions, *counts = HEADER.unpack_from(message)
    if questions > 1:
        return None
    at, question = HEADER_SIZE, b""
    if questions:
        name, end = read_name(message, at)
        if name is None or end + 4 > size:
            return None
        at = end + 4
        question = name + message[end:at]
    whole = Message(ident, flags, question)
    for section, count in zip(whole.sections, counts, strict=True):
        for _ in range(count):
            name, end = read_name(message, at)
            if name is None or end + 10 > size:
                return None
            kind, cls, ttl, length = FIXED.unpack_from(message, end)
            start, at = end + 10, end + 10 + length
            if at > size:
                return None
            data = _read_data(message, kind, start, at) if kind in _NAMES else message[start:at]
            if data is None:
                return None
            section.append(Record(name, kind, ttl, data, cls))
    return whole


def read_name(message: Octets, at: int) -> tuple[bytes | None, int]:
    """A name uncompressed and the offset behind it; None when malformed. Pointers must lead backwards."""
    size = len(message)
    pieces: list[bytes] = []
    total, end, jumps, piece = 1, -1, 0, at
    while at < size:
        length = message[at]
        if length == 0:
            return b"".join(pieces) + b"\0", end if end >= 0 else at + 1
        if length >= 0xC0:
            if at + 2 > size:
                break
            target = (length & 0x3F) << 8 | message[at + 1]
            if end < 0:
                end = at + 2
            jumps += 1
            if target >= piece or target < HEADER_SIZE or jumps > _MAX_JUMPS:
                break
            at = piece = target
            continue
        total += 1 + length
        if length > 63 or at + 1 + length > size or total > _MAX_NAME:
            break
        pieces.append(bytes(message[at : at + 1 + length]))
        at += 1 + length
    return None, -1


def _read_data(message: bytes, kind: int, start: int, end: int) -> bytes | None:
    before, names = _NAMES[kind]
    at = start + before
    if at > end:
        return None
    data = message[start:at]
    for _ in range(names):
        name, at = read_name(message, at)
        if name is None or at > end:
            return None
        data += name
    if (end - at) != (20 if kind == SOA else 0):
        return None
    return data + message[at:end]


def emit_message(message: Message, limit: int = MAX_MESSAGE) -> bytes:
    """The octets of `message`, names compressed; only its question, with TC, when it would exceed `limit`."""
    out = bytearray(HEADER_SIZE)
    known: dict[bytes, int] = {}
    if message.question:
        _emit_name(out, message.question[:-4], known)
        out += message.question[-4:]
    bare = bytes(out[HEADER_SIZE:])
    for section in message.sections:
        for record in section:
            _emit_name(out, record.name, known)
            at = len(out)
            out += FIXED.pack(record.kind, record.cls, record.ttl, 0)
            if record.kind in _COMPRESSED:
                _emit_data(out, record, known)
            else:
                out += record.data
            length = len(out) - at - 10
            if len(out) > limit or length > 0xFFFF:
                head = HEADER.pack(message.id, message.flags | TC, int(bool(bare)), 0, 0, 0)
                return head + bare
            out[at + 8 : at + 10] = length.to_bytes(2, "big")
    counts = [len(section) for section in message.sections]
    HEADER.pack_into(out, 0, message.id, message.flags, int(bool(message.question)), *counts)
    return bytes(out)


def _emit_data(out: bytearray, record: Record, known: dict[bytes, int]) -> None:
    before, names = _NAMES[record.kind]
    data = record.data
    out += data[:before]
    at = before
    for _ in range(names):
        end = at
        while data[end]:
            end += 1 + data[end]
        end += 1
        _emit_name(out, data[at:end], known)
        at = end
    out += data[at:]


def _emit_name(out: bytearray, name: bytes, known: dict[bytes, int]) -> None:
    """Labels up to the longest suffix that is already in the message, then a pointer. Case is kept."""
    at = 0
    while name[at]:
        suffix = name[at:]
        target = known.get(suffix)
        if target is not None:
            out += (0xC000 | target).to_bytes(2, "big")
            return
        if len(out) <= _MAX_POINTER:
            known[suffix] = len(out)
        out += name[at : at + 1 + name[at]]
        at += 1 + name[at]
    out.append(0)


# --- names ---


def wire_name(text: str) -> bytes | None:
    """``example.com`` (with or without the final dot, any case) as folded wire form; None when it is no name."""
    try:
        labels = [label.encode("ascii") for label in text.lower().rstrip(".").split(".")] if text.strip(".") else []
    except UnicodeEncodeError:
        return None
    if any(not 1 <= len(label) <= 63 for label in labels):
        return None
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return wire if len(wire) <= _MAX_NAME else None


def suffixes(name: bytes) -> list[bytes]:
    """`name` (wire form) and each of its ancestors, the root last."""
    found = []
    at = 0
    while name[at]:
        found.append(name[at:])
        at += 1 + name[at]
    found.append(b"\0")
    return found


def synthetic_soa(owner: bytes, ttl: int) -> Record:
    """An SOA record for an answer that the engine makes up: negative caching for `ttl` seconds (RFC 2308 5)."""
    names = b"\x08netstack\x07invalid\0" + b"\x0ahostmaster\x08netstack\x07invalid\0"
    numbers = b"".join(number.to_bytes(4, "big") for number in (1, 3600, 600, 86400, ttl))
    return Record(owner, SOA, ttl, names + numbers)
