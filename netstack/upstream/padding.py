"""Padding of queries, so that their length does not tell the name.

Responsible for: the EDNS padding option on queries that speak EDNS.
Refuses to know: which transports want it.
RFCs: 7830, 8467 4.1 (multiples of 128 octets).
"""

from __future__ import annotations

from netstack.dns.message import FIXED, HEADER, HEADER_SIZE, OPT, Question

BLOCK = 128
_OPTION = 12


def padded(message: bytes, question: Question) -> bytes:
    """`message` filled up to a multiple of 128 octets; as it is when it has no plain OPT record to carry that.

    A record is never added: the client would get one back without having asked for it.
    """
    at = HEADER_SIZE + len(question.wire)
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(message)
    if answers or authorities or additionals != 1 or len(message) < at + 11 or message[at]:
        return message
    kind, _, _, length = FIXED.unpack_from(message, at + 1)
    if kind != OPT or at + 11 + length != len(message) or _has_padding(message, at + 11):
        return message
    fill = -(len(message) + 4) % BLOCK
    return b"".join(
        (
            message[: at + 9], (length + 4 + fill).to_bytes(2, "big"), message[at + 11 :],
            _OPTION.to_bytes(2, "big"), fill.to_bytes(2, "big"), bytes(fill),
        )
    )  # fmt: skip


def _has_padding(message: bytes, at: int) -> bool:
    """Also true for options that cannot be read: such a message is not touched."""
    while at + 4 <= len(message):
        if message[at] << 8 | message[at + 1] == _OPTION:
            return True
        at += 4 + (message[at + 2] << 8 | message[at + 3])
    return at != len(message)
