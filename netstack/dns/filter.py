"""What a DNS answer gives away: the addresses that belong to its question, put into the tracker.

Responsible for: reading answer records with bounds, following CNAME and DNAME from the question's name,
collecting A, AAAA and the address hints of HTTPS and SVCB, and leasing them before the answer leaves.
Refuses to know: queries in flight (`bridge`), what may be leased (the tracker).
RFCs: 1035 (3.2, 4.1.3, 4.1.4), 2181 5.4.1 and 8, 6672 (DNAME), 9460 (SVCB, HTTPS), 6891 (OPT).

An answer that contradicts itself anywhere is no answer: it is not forwarded, because the app's parser
might see addresses in it that this one did not. Pointers must go backwards and names end at 255 octets,
so no loop is possible and the work is bounded by the message.
"""

from __future__ import annotations

import re
from typing import Protocol

from netstack.core.address import format_address
from netstack.dns.message import (
    AAAA,
    CNAME,
    DNAME,
    FIXED,
    HEADER,
    HEADER_SIZE,
    HTTPS,
    OPT,
    SVCB,
    A,
    Question,
    skip_name,
)

IN = 1
_MAX_NAME = 255
_MAX_JUMPS = 32  # compression pointers in one name
_MAX_MOVES = 64  # names made by DNAME records in one answer
_MAX_TTL = 0x7FFFFFFF  # RFC 2181 8
_ADDRESS_SIZE = 16
# Address records of the question's own name, as servers write them: all there is in most answers.
_ADDRESSES = re.compile(rb"(?:\xc0\x0c\x00\x01\x00\x01[\x00-\x7f]...\x00\x04....)+", re.DOTALL)
_PLAIN_OPT_SIZE = 11
_IPV4HINT = 4
_IPV6HINT = 6


class AddressBook(Protocol):
    """The tracker, as far as this package needs it."""

    def learn(self, name: str, address: bytes, ttl: int | None, now: float, app: str | None = None) -> bool:
        """Lease a packed address to a name; False when it may never be leased."""


class Answer:
    """An upstream answer, read. `addresses` holds packed addresses and TTLs; `opt` the OPT record's octets."""

    __slots__ = ("addresses", "flags", "opt", "rcode")

    def __init__(
        self, flags: int, rcode: int, addresses: list[tuple[bytes, int]] | None = None, opt: bytes = b""
    ) -> None:
        self.flags = flags
        self.rcode = rcode
        self.addresses: list[tuple[bytes, int]] = [] if addresses is None else addresses
        self.opt = opt


def read_answer(message: bytes, question: Question) -> Answer | None:
    """Read an answer to `question`; None when any part of it is malformed."""
    size = len(message)
    if size < HEADER_SIZE:
        return None
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    answer = Answer(flags, flags & 0xF)
    at = HEADER_SIZE + (len(question.wire) if questions else 0)
    if questions and answers and not authorities:
        end = at + answers * _ADDRESS_SIZE
        if (end == size if not additionals else additionals == 1 and end + _PLAIN_OPT_SIZE == size) and (
            _ADDRESSES.fullmatch(message, at, end) is not None
        ):
            if not additionals:
                opt = b""
            elif message.startswith(b"\0\0\x29", end) and message.endswith(b"\0\0"):
                opt = message[end:]
            else:
                opt = None
            if opt is not None:
                found = [
                    (message[each + 12 : each + 16], int.from_bytes(message[each + 6 : each + 10], "big"))
                    for each in range(at, end, _ADDRESS_SIZE)
                ]
                return Answer(flags, flags & 0xF, found, opt)
    if answers:
        at = _read_records(message, at, answers, question.folded[:-4], answer)
    for _ in range(authorities + additionals):
        if at < 0:
            return None
        name_end = skip_name(message, at)
        if name_end < 0 or name_end + 10 > size:
            return None
        kind, _, _, length = FIXED.unpack_from(message, name_end)
        end = name_end + 10 + length
        if end > size:
            return None
        if kind == OPT and name_end == at + 1:
            answer.opt = message[at:end]
        at = end
    return answer if at >= 0 else None


def _read_records(message: bytes, at: int, count: int, asked: bytes, answer: Answer) -> int:
    """Read the answer section into `answer`; the offset behind it, -1 when malformed."""
    size = len(message)
    names: dict[int, bytes] = {HEADER_SIZE: asked}  # nearly every owner is a pointer to the question
    found: list[tuple[bytes, bytes, int]] = []  # owner, address, TTL
    aliases: dict[bytes, list[bytes]] = {}
    subtrees: list[tuple[bytes, bytes]] = []
    for _ in range(count):
        owner, name_end = read_name(message, at, names)
        if owner is None or name_end + 10 > size:
            return -1
        kind, cls, ttl, length = FIXED.unpack_from(message, name_end)
        start = name_end + 10
        at = start + length
        if at > size:
            return -1
        if cls != IN:
            continue
        if ttl > _MAX_TTL:
            ttl = 0
        if kind in (A, AAAA):
            if length != (4 if kind == A else 16):
                return -1
            found.append((owner, message[start:at], ttl))
        elif kind in (CNAME, DNAME):
            target, end = read_name(message, start, names)
            if target is None or end != at:
                return -1
            if kind == CNAME:
                aliases.setdefault(owner, []).append(target)
            else:
                subtrees.append((owner, target))
        elif kind in (HTTPS, SVCB):
            hints = _service_hints(message, start, at)
            if hints is None:
                return -1
            found.extend((owner, address, ttl) for address in hints)
    if found:
        chain = _chain(asked, aliases, subtrees) if aliases or subtrees else (asked,)
        answer.addresses = [(address, ttl) for owner, address, ttl in found if owner in chain]
    return at


def read_name(message: bytes, at: int, names: dict[int, bytes]) -> tuple[bytes | None, int]:
    """A name in lower-case uncompressed form and the offset behind it; None when malformed.

    Every pointer must lead to before the piece that holds it, so it ends; their number is bounded too.
    """
    size = len(message)
    if at + 2 <= size and message[at] >= 0xC0:
        known = names.get((message[at] & 0x3F) << 8 | message[at + 1])
        if known is not None:
            return known, at + 2
    pieces: list[bytes] = []
    total = 1
    start = piece = at
    end = -1
    jumps = 0
    while True:
        if at >= size:
            return None, -1
        length = message[at]
        if length == 0:
            if end < 0:
                end = at + 1
            break
        if length >= 0xC0:
            if at + 2 > size:
                return None, -1
            target = (length & 0x3F) << 8 | message[at + 1]
            if end < 0:
                end = at + 2
            jumps += 1
            if target >= piece or target < HEADER_SIZE or jumps > _MAX_JUMPS:
                return None, -1
            at = piece = target
            continue
        if length > 63 or at + 1 + length > size:
            return None, -1
        total += 1 + length
        if total > _MAX_NAME:
            return None, -1
        pieces.append(message[at : at + 1 + length])
        at += 1 + length
    name = b"".join(pieces).lower() + b"\0"
    names[start] = name
    return name, end


def _service_hints(message: bytes, at: int, end: int) -> list[bytes] | None:
    """The addresses of ipv4hint and ipv6hint in SVCB RDATA (RFC 9460 2.2, 7.3); None when malformed."""
    at += 2
    while at < end and message[at]:  # TargetName, never compressed
        if message[at] > 63:
            return None
        at += 1 + message[at]
    at += 1
    if at > end:
        return None
    hints: list[bytes] = []
    while at < end:
        if at + 4 > end:
            return None
        key = message[at] << 8 | message[at + 1]
        stop = at + 4 + (message[at + 2] << 8 | message[at + 3])
        if stop > end:
            return None
        if key in (_IPV4HINT, _IPV6HINT):
            width = 4 if key == _IPV4HINT else 16
            if (stop - at - 4) % width:
                return None
            hints.extend(message[each : each + width] for each in range(at + 4, stop, width))
        at = stop
    return hints


def _chain(asked: bytes, aliases: dict[bytes, list[bytes]], subtrees: list[tuple[bytes, bytes]]) -> set[bytes]:
    """All names that CNAME and DNAME records lead to from `asked`, in whatever order they came."""
    chain = {asked}
    waiting = [asked]
    moves = 0
    while waiting:
        name = waiting.pop()
        targets = list(aliases.get(name, ()))
        if moves < _MAX_MOVES:  # DNAME records that feed one another would make names without end
            moved = [new for owner, target in subtrees if (new := _substituted(name, owner, target))]
            moves += len(moved)
            targets += moved
        for target in targets:
            if target not in chain:
                chain.add(target)
                waiting.append(target)
    return chain


def _substituted(name: bytes, owner: bytes, target: bytes) -> bytes | None:
    """`name` with its ancestor `owner` replaced by `target` (RFC 6672 2.3), or None."""
    at = 0
    while at < len(name) and name[at]:
        at += 1 + name[at]
        if name[at:] == owner:
            moved = name[:at] + target
            return moved if len(moved) <= _MAX_NAME else None
    return None


def admit(answer: Answer, name: str, book: AddressBook, now: float) -> tuple[str, ...]:
    """Lease every address of `answer` to `name`; the leased ones as text."""
    leased = []
    learn = book.learn
    for address, ttl in answer.addresses:
        if learn(name, address, ttl, now):
            leased.append(address)
    return tuple([_text(address) for address in leased])


def _text(address: bytes) -> str:
    if len(address) == 4:  # four times as fast as the general way, and it runs for every answer
        one, two, three, four = address
        return f"{one}.{two}.{three}.{four}"
    return format_address(address)
