"""DNS messages as the hot path needs them: a header and one question in, the engine's own answers out.

Responsible for: telling DNS from other datagrams on its port, reading queries, comparing questions, making
answers without records (SERVFAIL, REFUSED, NXDOMAIN, NODATA, FORMERR, TC).
Refuses to know: answer records (`filter`), who asks whom (`bridge`).
RFCs: 1035 section 4, 6891 (EDNS), 9619 (one question), 5625 (proxies), 4343 (case).

A light reader of our own: a general parser takes ten times as long for a query, of which only the
question matters here. Reads are bounded and never raise.
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum

from netstack.core.packet import Octets

HEADER = struct.Struct("!HHHHHH")
HEADER_SIZE = 12
FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of a record behind its name

QR = 0x8000
OPCODE = 0x7800
AA = 0x0400
TC = 0x0200
RD = 0x0100
RA = 0x0080
CD = 0x0010

MIN_UDP = 512  # RFC 1035 4.2.1: what a client without EDNS takes
MAX_MESSAGE = 65_535

A, CNAME, SOA, AAAA, DNAME, OPT, SVCB, HTTPS = 1, 5, 6, 28, 39, 41, 64, 65
TYPE_NAMES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 28: "AAAA", 29: "LOC",
    33: "SRV", 35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3",
    52: "TLSA", 64: "SVCB", 65: "HTTPS", 251: "IXFR", 252: "AXFR", 255: "ANY", 257: "CAA",
}  # fmt: skip

_OPCODES = (0, 1, 2, 4, 5, 6)  # assigned by IANA
_MOST_RECORDS = 64  # in one section of a query; more is not DNS
_PLAIN = re.compile(rb"[a-z0-9_-]+")
_ONE_QUESTION = b"\0\1" + bytes(6)  # the counts
ONE_QUESTION_AND_MORE = b"\0\1\0\0\0\0\0\1"  # with one additional record
_OPT_SIZE = 11
_OPT_ANSWER = b"\0" + FIXED.pack(OPT, 1232, 0, 0)
_STUN_COOKIE = b"\x21\x12\xa4\x42"


class Rcode(IntEnum):
    """Response codes that the engine itself uses (RFC 1035 4.1.1)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


RCODE_NAMES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED",
    6: "YXDOMAIN", 7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE",
}  # fmt: skip


def type_name(number: int) -> str:
    """``A``, ``HTTPS``; ``TYPE65280`` for one without a name here (RFC 3597)."""
    return TYPE_NAMES.get(number) or f"TYPE{number}"


def rcode_name(number: int) -> str:
    """``NXDOMAIN``; ``RCODE12`` for one without a name here."""
    return RCODE_NAMES.get(number) or f"RCODE{number}"


class Question:
    """The question of a message.

    `wire` is the octets as they came (name, type, class), `folded` the same with the name in lower case, for
    comparison.
    """

    __slots__ = ("_name", "folded", "wire")

    def __init__(self, wire: bytes) -> None:
        # length octets are below 64 and so never letters: lower() on a whole name is safe
        self.wire = wire
        name = wire[:-4]
        folded = name.lower()
        self.folded = wire if folded == name else folded + wire[-4:]
        self._name = ""

    @property
    def name(self) -> str:
        """Lower-case presentation form without the final dot ("." for the root); made when first wanted."""
        name = self._name
        if not name:
            name = self._name = name_text(self.folded[:-4])
        return name

    @property
    def type(self) -> int:
        """QTYPE."""
        return self.wire[-4] << 8 | self.wire[-3]

    @property
    def cls(self) -> int:
        """QCLASS."""
        return self.wire[-2] << 8 | self.wire[-1]


class Query:
    """A query. `udp_size` is what the client takes over UDP; `edns` whether it spoke EDNS."""

    __slots__ = ("edns", "flags", "id", "message", "question", "udp_size")

    def __init__(
        self, id: int, flags: int, question: Question, message: bytes, udp_size: int = MIN_UDP, edns: bool = False
    ) -> None:
        self.id = id
        self.flags = flags
        self.question = question
        self.message = message
        self.udp_size = udp_size
        self.edns = edns


def is_dns(payload: Octets) -> bool:
    """True when a payload on a DNS port has a header that a DNS message can have (RFC 7983's problem, on port 53).

    Whether the message is a good one is another question; STUN, DTLS, WireGuard and random octets are not.
    """
    if len(payload) < HEADER_SIZE or payload[4:8] == _STUN_COOKIE:
        return False
    _, flags, questions, answers, authorities, additionals = HEADER.unpack_from(payload)
    if questions > 8 or answers > _MOST_RECORDS or authorities > _MOST_RECORDS or additionals > 8:
        return False
    return (flags & OPCODE) >> 11 in _OPCODES


def parse_query(message: bytes) -> Query | Rcode:
    """A query, or the response code with which to refuse it: FORMERR or NOTIMP."""
    size = len(message)
    if size < HEADER_SIZE:
        return Rcode.FORMERR
    if message.startswith(_ONE_QUESTION, 4) and not message[2] & 0x78:  # nothing but a question, as most queries are
        question = parse_question(message)
        if question is None:
            return Rcode.FORMERR
        return Query(message[0] << 8 | message[1], message[2] << 8 | message[3], question, message)
    if message.startswith(ONE_QUESTION_AND_MORE, 4) and not message[2] & 0x78:  # or that and EDNS without options
        question = parse_question(message)
        if question is None:
            return Rcode.FORMERR
        at = HEADER_SIZE + len(question.wire)
        if is_plain_opt(message, at):
            udp_size = max(message[at + 3] << 8 | message[at + 4], MIN_UDP)
            ident = message[0] << 8 | message[1]
            return Query(ident, message[2] << 8 | message[3], question, message, udp_size, True)
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    if flags & OPCODE:
        return Rcode.NOTIMP
    if questions != 1:  # RFC 9619
        return Rcode.FORMERR
    question = parse_question(message)
    if question is None:
        return Rcode.FORMERR
    query = Query(ident, flags, question, message)
    at = HEADER_SIZE + len(question.wire)
    for _ in range(answers + authorities + additionals):
        name_end = skip_name(message, at)
        if name_end < 0 or name_end + 10 > size:
            return Rcode.FORMERR
        kind, cls, _, length = FIXED.unpack_from(message, name_end)
        at_end = name_end + 10 + length
        if at_end > size:
            return Rcode.FORMERR
        if kind == OPT and name_end == at + 1:
            query.edns = True
            query.udp_size = max(cls, MIN_UDP)  # RFC 6891 6.2.5: below 512 means 512
        at = at_end
    return query


def is_plain_opt(message: bytes, at: int) -> bool:
    """True when a message ends with an OPT record without options, of version 0, that begins `at` (RFC 6891 6.1.2)."""
    return (
        at + _OPT_SIZE == len(message)
        and message.startswith(b"\0\0\x29", at)
        and not message[at + 6]
        and message.endswith(b"\0\0")
    )


# On its way each message is read by several, one right after the other: the bridge, stages, the resolver.
_last: tuple[bytes, Question | None] = (b"", None)


def parse_question(message: bytes) -> Question | None:
    """The first question, right behind the header; None when it is not whole or its name is not plain.

    Nothing precedes the first question that its name could point to, so compression is refused.
    """
    global _last
    known, question = _last
    if known is message:
        return question
    question = _read_question(message)
    _last = (message, question)
    return question


def _read_question(message: bytes) -> Question | None:
    size = len(message)
    at = HEADER_SIZE
    while True:
        if at >= size:
            return None
        length = message[at]
        if length == 0:
            break
        if length > 63:
            return None
        at += 1 + length
    end = at + 5
    if end > size or at - HEADER_SIZE > 254:
        return None
    return Question(message[HEADER_SIZE:end])


def labels_text(labels: list[bytes]) -> str:
    """Presentation form in lower case (RFC 1035 5.1 escapes); "." for no labels."""
    if not labels:
        return "."
    joined = b".".join(labels).lower()
    if joined.count(b".") == len(labels) - 1 and _PLAIN.fullmatch(joined.replace(b".", b"-")):
        return joined.decode("ascii")
    return ".".join(_escaped(label.lower()) for label in labels)


def _escaped(label: bytes) -> str:
    shown = []
    for octet in label:
        if octet in b'.\\"();@$':
            shown.append("\\" + chr(octet))
        elif 0x21 <= octet <= 0x7E:
            shown.append(chr(octet))
        else:
            shown.append(f"\\{octet:03d}")
    return "".join(shown)


def name_text(wire: bytes) -> str:
    """Presentation form of an uncompressed name."""
    labels = []
    at = 0
    while at < len(wire) and wire[at]:
        labels.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return labels_text(labels)


def skip_name(message: bytes, at: int) -> int:
    """The offset behind a possibly compressed name; -1 when it runs out of the message or has a bad label."""
    size = len(message)
    while at < size:
        length = message[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2 if at + 2 <= size else -1
        if length > 63:
            return -1
        at += 1 + length
    return -1


def is_answer_to(message: bytes, ident: int, question: Question) -> bool:
    """True when `message` has this id, QR, opcode QUERY, and repeats the question (in any case, RFC 4343).

    An error without records may leave the question out, as servers that could not read the query do.
    """
    if len(message) < HEADER_SIZE:
        return False
    if message.startswith(question.wire, HEADER_SIZE) and message.startswith(b"\0\1", 4):  # nearly all
        return message[0] << 8 | message[1] == ident and message[2] & 0xF8 == 0x80
    got, flags, questions, answers, _, _ = HEADER.unpack_from(message)
    if got != ident or flags & (QR | OPCODE) != QR:
        return False
    if questions == 0:
        return bool(flags & 0xF) and not answers
    wire = question.wire
    same = message[HEADER_SIZE : HEADER_SIZE + len(wire)]
    return questions == 1 and (same == wire or same[:-4].lower() + same[-4:] == question.folded)


# --- answers of the engine's own ---


def respond(query: Query, rcode: int, *, flags: int = 0) -> bytes:
    """An answer without records: the client's id and question, its RD and CD, EDNS if it spoke it."""
    header = HEADER.pack(query.id, QR | RA | query.flags & (OPCODE | RD | CD) | flags | rcode, 1, 0, 0, int(query.edns))
    return header + query.question.wire + (_OPT_ANSWER if query.edns else b"")


def servfail(query: Query) -> bytes:
    """The engine could not get an answer."""
    return respond(query, Rcode.SERVFAIL)


def refused(query: Query) -> bytes:
    """Policy does not answer."""
    return respond(query, Rcode.REFUSED)


def nxdomain(query: Query) -> bytes:
    """There is no such name."""
    return respond(query, Rcode.NXDOMAIN)


def nodata(query: Query) -> bytes:
    """The name exists, this type of record does not (RFC 2308 2.2)."""
    return respond(query, Rcode.NOERROR)


def error_without_question(message: bytes, rcode: int) -> bytes:
    """The answer to a message whose question could not be read: its id, opcode and RD, nothing else."""
    ident, flags = struct.unpack_from("!HH", message)
    return HEADER.pack(ident, QR | RA | flags & (OPCODE | RD) | rcode, 0, 0, 0, 0)


def truncated(query: Query, message: bytes, opt: bytes = b"") -> bytes:
    """`message`, an answer to `query`, without its records and with TC, so that the client asks over TCP.

    `opt` is the answer's own OPT record, kept when there is one (RFC 6891 7).
    """
    flags = message[2] << 8 | message[3]
    return HEADER.pack(query.id, flags | TC, 1, 0, 0, int(bool(opt))) + query.question.wire + opt


def with_identity(query: Query, message: bytes) -> bytes:
    """`message` with the id and the question exactly as the client wrote them.

    The question has the same length in any case, so compression pointers stay right.
    """
    if message[4:6] == b"\0\0":
        return respond(query, message[3] & 0xF)
    wire = query.question.wire
    if message.startswith(query.message[:2]) and message.startswith(wire, HEADER_SIZE):
        return message
    return query.message[:2] + message[2:HEADER_SIZE] + wire + message[HEADER_SIZE + len(wire) :]
