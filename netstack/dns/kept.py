"""What a cache keeps of an answer, and an answer made of that again.

Responsible for: which queries and answers may be kept at all and for how long, taking answers apart, TTLs that count
down, the octets around the records for one client.
Refuses to know: when an entry is used, replaced or refreshed (`cache`).
RFCs: 1035 3.2.1, 2181 8, 2308 (negative), 6891, 6895 3.1 (meta types), 7871 (client subnet), 7873 (cookies).
"""

from __future__ import annotations

import struct

from netstack.dns.edns import CLIENT_SUBNET, COOKIE, Edns, emit_opt, read_edns
from netstack.dns.filter import read_answer
from netstack.dns.message import (
    AA,
    AAAA,
    CD,
    FIXED,
    HEADER,
    HEADER_SIZE,
    ONE_QUESTION_AND_MORE,
    OPCODE,
    OPT,
    QR,
    RD,
    SOA,
    TC,
    A,
    Question,
    is_answer_to,
    is_plain_opt,
    parse_question,
    skip_name,
)
from netstack.dns.records import IN, emit_message, read_message

NOERROR, NXDOMAIN = 0, 3
TTL = struct.Struct("!I")
_COUNTS = struct.Struct("!HHHH")
_ONLY_A_QUESTION = b"\0\1" + bytes(6)  # the counts
_NOT_KEPT = frozenset((0, OPT, *range(128, 256)))  # meta types and QTYPEs (RFC 6895 3.1)
# type and class of nearly all questions
_ORDINARY = frozenset(kind.to_bytes(2, "big") + b"\0\1" for kind in (1, 2, 5, 6, 12, 15, 16, 28, 33, 64, 65))


class Entry:
    """One kept answer. `body` is its records without OPT, `ttls` offset in the body and TTL of each."""

    __slots__ = (
        "age", "ask", "body", "counts", "expires", "failing", "flags", "fresh_until", "hits", "key", "octets",
        "patched", "recheck_at", "stored", "subnet", "ttls", "views",
    )  # fmt: skip

    def __init__(
        self,
        key: bytes,
        flags: int,
        counts: tuple[int, int, int],
        body: bytes,
        ttls: list[tuple[int, int]],
        stored: float,
        expires: float,
        fresh_until: float,
        ask: bytes,
        subnet: bytes,
        octets: int,
    ) -> None:
        """`fresh_until`: until when a hit needs no thought. `ask`: the query that refreshes it. `subnet`: the client
        subnet option as upstream returned it."""
        self.key = key
        self.flags = flags
        self.counts = counts
        self.body = body
        self.ttls = ttls
        self.stored = stored
        self.expires = expires
        self.fresh_until = fresh_until
        self.ask = ask
        self.subnet = subnet
        self.octets = octets
        self.views: list[bytes] = []
        self.patched = body
        self.age = 0  # of `patched`
        self.hits = 0
        self.failing = False
        self.recheck_at = 0.0
        patch(self, 0)


def read_query(message: bytes) -> tuple[Question, Edns | None] | None:
    """Question and EDNS of a query whose answer may be kept; None for any other."""
    if len(message) < HEADER_SIZE:
        return None
    if message[2] & 0xFB == 1:  # RD, not QR, OPCODE or TC; nearly all are such, and without options
        if message.startswith(_ONLY_A_QUESTION, 4):
            question = parse_question(message)
            if (
                question is not None
                and len(message) == HEADER_SIZE + len(question.wire)
                and question.wire[-4:] in _ORDINARY
            ):
                return question, None
        elif message.startswith(ONE_QUESTION_AND_MORE, 4):
            question = parse_question(message)
            if question is not None and question.wire[-4:] in _ORDINARY:
                at = HEADER_SIZE + len(question.wire)
                if is_plain_opt(message, at):
                    return question, Edns(at, len(message), message[at + 7] << 8 | message[at + 8], b"")
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    if flags & (QR | OPCODE | TC | RD) != RD or (questions, answers, authorities) != (1, 0, 0) or additionals > 1:
        return None
    question = parse_question(message)
    if question is None or question.cls != IN or question.type in _NOT_KEPT:
        return None
    at = HEADER_SIZE + len(question.wire)
    if not additionals:
        return (question, None) if at == len(message) else None
    edns = read_edns(message, at)
    if edns is None or message[edns.at + 6] or edns.end != len(message):  # TSIG, another version, more behind it
        return None
    return question, edns


def plain_query(message: bytes, edns: Edns | None) -> bytes:
    """The query without what belongs to one client only (a cookie, padding); with its subnet."""
    if edns is None or not edns.options:
        return message
    subnet = edns.option(CLIENT_SUBNET)
    kept = b"" if subnet is None else CLIENT_SUBNET.to_bytes(2, "big") + len(subnet).to_bytes(2, "big") + subnet
    return message[: edns.at] + emit_opt(edns.dnssec_ok, kept)


def around(
    message: bytes, question: Question, edns: Edns | None, entry: Entry, extra: bytes = b""
) -> tuple[bytes, bytes]:
    """What goes before (without the id) and behind the records of `entry` for this client."""
    answers, authorities, additionals = entry.counts
    tail = b""
    if edns is not None:
        options = extra
        if edns.options:
            options += entry.subnet
            cookie = edns.option(COOKIE)
            if cookie is not None and len(cookie) >= 16:  # RFC 7873 5.3: who sent a server cookie wants one back
                options += COOKIE.to_bytes(2, "big") + len(cookie).to_bytes(2, "big") + cookie
        tail = emit_opt(edns.dnssec_ok, options)
        additionals += 1
    flags = entry.flags | RD | message[3] & CD
    head = flags.to_bytes(2, "big") + _COUNTS.pack(1, answers, authorities, additionals) + question.wire
    return head, tail


def patch(entry: Entry, age: int) -> None:
    """Make `entry.patched` the records as they are `age` seconds later."""
    body = bytearray(entry.body)
    pack = TTL.pack_into
    for offset, ttl in entry.ttls:
        pack(body, offset, ttl - age if ttl > age else 0)
    entry.patched = bytes(body)
    entry.age = age


def examine(
    message: bytes, question: Question, query: bytes, ttl_max: int, negative_max: int
) -> tuple[int, tuple[int, int, int], bytes, list[tuple[int, int]], int, bytes] | None:
    """Flags, counts, records without OPT, TTLs, lifetime and OPT of an answer; None when it must not be kept."""
    if not is_answer_to(message, query[0] << 8 | query[1], question):
        return None
    _, flags, questions, *counts = HEADER.unpack_from(message)
    if flags & TC or not questions or flags & 0xF not in (NOERROR, NXDOMAIN):
        return None
    base = at = HEADER_SIZE + len(question.wire)
    size, wanted = len(message), question.type
    ttls: list[tuple[int, int]] = []
    opt_at = -1
    positive, simple = False, True
    negative = -1
    lifetime = ttl_max
    for section, count in enumerate(counts):
        for _ in range(count):
            name_end = at + 2 if at < size and message[at] >= 0xC0 else skip_name(message, at)
            if name_end < 0 or name_end + 10 > size or (opt_at >= 0 and section < 2):
                return None
            kind, cls, ttl, length = FIXED.unpack_from(message, name_end)
            end = name_end + 10 + length
            if end > size or (ttl > 0x7FFFFFFF and kind != OPT):  # RFC 2181 8: as if it were 0
                return None
            if kind == OPT:
                if section < 2 or opt_at >= 0 or message[name_end + 4]:  # an extended RCODE
                    return None
                opt_at = at
            else:
                if opt_at >= 0:
                    return examine(_without_opt(message), question, query, ttl_max, negative_max)
                if section == 0:
                    positive = positive or (kind == wanted and cls == IN)
                    simple = simple and kind in (A, AAAA) and length == (4 if kind == A else 16)
                elif section == 1 and kind == SOA and length >= 22:
                    negative = min(ttl, int.from_bytes(message[end - 4 : end], "big"))
                    if not positive:
                        ttl = negative  # RFC 2308 5
                ttls.append((name_end + 4 - base, ttl))
                if ttl < lifetime:
                    lifetime = ttl
            at = end
    if not positive or flags & 0xF:
        if negative < 0:
            return None  # RFC 2308 5: without SOA it should not be kept
        lifetime = min(lifetime, negative_max)
    if lifetime <= 0 or not (simple or read_answer(message, question)):
        return None
    body_end = at if opt_at < 0 else opt_at
    if opt_at >= 0:
        counts[2] -= 1
    opt = b"" if opt_at < 0 else message[opt_at:at]
    kept = flags & ~(AA | TC | RD | CD)
    capped = [(offset, ttl if ttl < ttl_max else ttl_max) for offset, ttl in ttls]
    return kept, (counts[0], counts[1], counts[2]), message[base:body_end], capped, lifetime, opt


def _without_opt(message: bytes) -> bytes:
    """`message` written anew without its OPT record, which stood before others; nothing when that cannot be read."""
    whole = read_message(message)
    if whole is None:
        return b""
    whole.sections[2][:] = [record for record in whole.sections[2] if record.kind != OPT]
    return emit_message(whole)


def is_of(key: bytes, wire: bytes, subtree: bool) -> bool:
    """True when the entry with `key` is for the name `wire`, or with `subtree` for one under it."""
    at = 0
    while True:
        if key.startswith(wire, at):
            return True
        if not subtree or not key[at]:
            return False
        at += 1 + key[at]
