"""Sequence-number arithmetic modulo 2**32 (RFC 9293 section 3.4; RFC 1982 for the ordering).

Responsible for: comparing and moving 32-bit sequence numbers across the wrap.
Refuses to know: what a sequence number stands for.
"""

from __future__ import annotations

MASK = 0xFFFFFFFF
_HALF = 0x80000000


def seq_add(number: int, octets: int) -> int:
    """The sequence number `octets` after `number` (`octets` may be negative)."""
    return (number + octets) & MASK


def seq_diff(left: int, right: int) -> int:
    """Signed distance ``left - right``, in -2**31 .. 2**31 - 1."""
    return ((left - right + _HALF) & MASK) - _HALF


def seq_lt(left: int, right: int) -> bool:
    """True when `left` comes before `right`."""
    return ((left - right) & MASK) >= _HALF


def seq_le(left: int, right: int) -> bool:
    """True when `left` comes before `right` or is the same."""
    return ((right - left) & MASK) < _HALF


def seq_max(left: int, right: int) -> int:
    """The later of the two."""
    return right if seq_lt(left, right) else left
