"""The OPT record of a query: found, read as far as caches and privacy need, and edited.

Responsible for: where the OPT record is, its DO bit, client subnet and cookie options; taking an option out;
OPT records of answers that the engine makes.
Refuses to know: questions, who may see what.
RFCs: 6891 (EDNS), 3225 (DO), 7871 (client subnet), 7873 (cookies), 8914 (extended errors).
"""

from __future__ import annotations

from netstack.dns.message import FIXED, HEADER, OPT, skip_name

DO = 0x8000  # of the low 16 bits of the TTL field
CLIENT_SUBNET = 8
COOKIE = 10
STALE_ANSWER = b"\0\x0f\0\x02\0\x03"  # RFC 8914 4.4 as a whole option
_SIZE = 1232


class Edns:
    """An OPT record at ``at:end`` of its message. `options` is its RDATA, `flags` the lower half of its TTL."""

    __slots__ = ("at", "end", "flags", "options")

    def __init__(self, at: int, end: int, flags: int, options: bytes) -> None:
        self.at = at
        self.end = end
        self.flags = flags
        self.options = options

    @property
    def dnssec_ok(self) -> bool:
        """The DO bit."""
        return bool(self.flags & DO)

    def option(self, code: int) -> bytes | None:
        """The value of the first option `code`; None when there is none or the list is damaged before it."""
        for found, start, end in _walk(self.options):
            if found == code:
                return self.options[start + 4 : end]
        return None


def _walk(options: bytes) -> list[tuple[int, int, int]]:
    """Code, start and end of each whole option."""
    found = []
    at = 0
    while at + 4 <= len(options):
        end = at + 4 + (options[at + 2] << 8 | options[at + 3])
        if end > len(options):
            break
        found.append((options[at] << 8 | options[at + 1], at, end))
        at = end
    return found


def read_edns(message: bytes, at: int) -> Edns | None:
    """The OPT record of a message whose question ends at `at`; None without one or when it cannot be reached."""
    size = len(message)
    _, _, _, answers, authorities, additionals = HEADER.unpack_from(message)
    for _ in range(answers + authorities + additionals):
        name_end = at + 1 if at < size and not message[at] else skip_name(message, at)
        if name_end < 0 or name_end + 10 > size:
            return None
        kind, _, ttl, length = FIXED.unpack_from(message, name_end)
        end = name_end + 10 + length
        if end > size:
            return None
        if kind == OPT and name_end == at + 1:
            return Edns(at, end, ttl & 0xFFFF, message[name_end + 10 : end])
        at = end
    return None


def without_option(message: bytes, edns: Edns, code: int) -> bytes:
    """`message` with every option `code` taken out of its OPT record."""
    options = edns.options
    kept = b"".join(options[start:end] for found, start, end in _walk(options) if found != code)
    fixed = edns.end - len(options) - 2  # where the length of RDATA is
    return message[: edns.at] + message[edns.at : fixed] + len(kept).to_bytes(2, "big") + kept + message[edns.end :]


def emit_opt(dnssec_ok: bool, options: bytes = b"") -> bytes:
    """An OPT record for an answer."""
    return b"\0" + FIXED.pack(OPT, _SIZE, DO if dnssec_ok else 0, len(options)) + options
