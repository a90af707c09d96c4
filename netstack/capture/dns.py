"""What DNS messages in a capture say, as far as they can be read.

Responsible for: header, questions and the answer section of messages, whole or broken; messages in a TCP stream.
Refuses to know: whether an answer deserves belief (`dns/` decides that), mDNS, LLMNR, encrypted DNS.
RFCs: 1035 (format), 7766 (framing over TCP), 3596 (AAAA).

A broken message is told up to where it breaks: in an account of a capture half an answer is a fact too. Names are
shown as text: labels joined by dots, no dot at the end, ``<Root>`` for the root, control
characters as C writes them, octets above 127 as replacement characters.
"""

from __future__ import annotations

import struct

from netstack.core.address import format_address
from netstack.core.record import field, recordclass

A, CNAME, AAAA = 1, 5, 28
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_MOST_POINTERS = 32
_LONGEST_NAME = 255
_MOST_RECORDS = 2048  # a message of 65,535 octets has room for some 4,000 of the shortest; honest ones hold few


@recordclass()
class Record:
    """One resource record of the answer section. `value` is the text of an address or alias, "" for other types."""

    name: str
    type: int
    ttl: int
    value: str = ""


@recordclass()
class DnsMessage:
    """One message as far as it could be read; `broken` when it ended before what its counts promise."""

    id: int
    response: bool
    truncated: bool
    rcode: int
    counts: tuple[int, int, int, int] = (0, 0, 0, 0)
    queries: list[tuple[str, int]] = field(default_factory=list)
    answers: list[Record] = field(default_factory=list)
    broken: bool = False


def read_message(octets: bytes) -> DnsMessage | None:
    """The message in `octets`; None when not even its flags are there."""
    if len(octets) < 4:
        return None
    ident, flags = octets[0] << 8 | octets[1], octets[2] << 8 | octets[3]
    message = DnsMessage(ident, bool(flags & 0x8000), bool(flags & 0x0200), flags & 15)
    if len(octets) < 12:
        message.broken = True
        return message
    _, _, questions, answers, authorities, additionals = _HEADER.unpack_from(octets)
    message.counts = (questions, answers, authorities, additionals)
    at = 12
    for _ in range(min(questions, _MOST_RECORDS)):
        at = _read_question(octets, at, message)
        if at < 0:
            break
    else:
        for _ in range(min(answers, _MOST_RECORDS)):
            at = _read_record(octets, at, message)
            if at < 0:
                break
    message.broken = at < 0
    return message


def _read_question(octets: bytes, at: int, message: DnsMessage) -> int:
    name, at = read_name(octets, at)
    if at < 0 or at + 4 > len(octets):
        return -1
    message.queries.append((name, octets[at] << 8 | octets[at + 1]))
    return at + 4


def _read_record(octets: bytes, at: int, message: DnsMessage) -> int:
    name, at = read_name(octets, at)
    if at < 0 or at + 10 > len(octets):
        return -1
    kind, _, ttl, size = _RECORD.unpack_from(octets, at)
    at += _RECORD.size
    record = Record(name, kind, ttl)
    message.answers.append(record)
    if at + size > len(octets):
        return -1
    if (kind == A and size == 4) or (kind == AAAA and size == 16):
        record.value = format_address(octets[at : at + size])
    elif kind == CNAME and size:
        record.value = read_name(octets, at)[0]
    end: int = at + size
    return end


def read_name(octets: bytes, at: int) -> tuple[str, int]:
    """A name as text and the offset behind it, -1 when the octets end or break inside it.

    A name that is whole but no name (a loop, too long, an unknown kind of label) says so in its text.
    """
    labels: list[str] = []
    behind = -1
    used = pointers = 0
    while at < len(octets):
        size = octets[at]
        if size == 0:
            return ".".join(labels) or "<Root>", at + 1 if behind < 0 else behind
        if size & 0xC0 == 0xC0:
            if at + 2 > len(octets):
                break
            behind = at + 2 if behind < 0 else behind
            pointers += 1
            if pointers > _MOST_POINTERS:
                return "<Name contains a pointer that loops>", behind
            at = (size & 0x3F) << 8 | octets[at + 1]
            continue
        if size & 0xC0 == 0x80:
            break
        if size & 0xC0:
            return "<Unknown extended label>", at + 1 if behind < 0 else behind
        if at + 1 + size > len(octets):
            break
        used += size + 1
        if used > _LONGEST_NAME:
            return "<Name too long>", at + 1 + size if behind < 0 else behind
        labels.append(_text(octets[at + 1 : at + 1 + size]))
        at += 1 + size
    return ".".join(labels), -1


_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}


def _text(label: bytes) -> str:
    if label.isascii() and label.decode("ascii").isprintable():
        return label.decode("ascii")
    return "".join(chr(c) if 32 <= c < 127 else _ESCAPES.get(c, f"\\{c:03o}") if c < 128 else "\ufffd" for c in label)


class MessageFraming:
    """Cuts one direction of a TCP stream into DNS messages: two octets of length, then the message."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, octets: bytes) -> list[bytes]:
        """The messages that are whole now."""
        held = self._held
        held += octets
        done = []
        at = 0
        while at + 2 <= len(held):
            end = at + 2 + (held[at] << 8 | held[at + 1])
            if end > len(held):
                break
            done.append(bytes(held[at + 2 : end]))
            at = end
        del held[:at]
        return done

    def lost(self) -> None:
        """Octets are missing: whatever comes next is taken for the start of a message."""
        self._held.clear()
