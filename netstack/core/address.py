"""IP addresses between text and octets.

Responsible for: reading literals as strictly as `ipaddress` does, writing them as RFC 5952 wants.
Refuses to know: networks, and what an address is for.

`ipaddress` itself takes half a MiB and a millisecond of every start, and twice as long for each address.
RFCs: 4291 2.2 (text forms), 5952 4 (the canonical one), 6943 3.1.1 (no leading zeros).
"""

from __future__ import annotations

_HEX = frozenset("0123456789abcdefABCDEF")


def parse_address(text: str) -> bytes:
    """The 4 or 16 octets of a literal; the zone of an IPv6 literal is left out. Raises ValueError."""
    octets = _parse6(text) if ":" in text else _parse4(text)
    if octets is None:
        raise ValueError(f"{text!r} is not an IP address")
    return octets


def format_address(address: bytes) -> str:
    """Text form of a packed address of 4 or 16 octets. Raises ValueError for another length."""
    if len(address) == 4:
        return ".".join(map(str, address))
    if len(address) != 16:
        raise ValueError(f"{address!r} is not a packed IP address")
    groups = ["%x" % (address[at] << 8 | address[at + 1]) for at in range(0, 16, 2)]
    longest = begin = run = 0
    for number, group in enumerate(groups, 1):
        run = run + 1 if group == "0" else 0
        if run > longest:
            longest, begin = run, number - run
    if longest < 2:
        return ":".join(groups)
    return ":".join(groups[:begin]) + "::" + ":".join(groups[begin + longest :])


def _parse4(text: str) -> bytes | None:
    parts = text.split(".")
    if len(parts) != 4:
        return None
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) <= 3) or (part[0] == "0" and part != "0"):
            return None
    numbers = [int(part) for part in parts]
    return bytes(numbers) if max(numbers) < 256 else None


def _parse6(text: str) -> bytes | None:
    text, percent, zone = text.partition("%")
    if percent and (not zone or "%" in zone):
        return None
    before, gap, after = text.partition("::")
    head = _groups(before, is_end=not gap)
    tail = _groups(after, is_end=True)
    if head is None or tail is None:
        return None
    missing = 16 - len(head) - len(tail)
    if missing < 2 if gap else missing:
        return None
    return head + bytes(missing) + tail


def _groups(text: str, *, is_end: bool) -> bytes | None:
    """Octets of groups between colons; the last one may be an IPv4 address where the literal ends."""
    octets = b""
    groups = text.split(":") if text else []
    for number, group in enumerate(groups, 1):
        if 0 < len(group) <= 4 and _HEX.issuperset(group):
            octets += int(group, 16).to_bytes(2, "big")
            continue
        last = _parse4(group) if is_end and number == len(groups) else None
        if last is None:
            return None
        octets += last
    return octets
