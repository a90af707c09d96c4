"""Unpredictable numbers from the operating system.

Responsible for: `core.ports.Entropy` for live use.
Refuses to know: what the numbers are for. RFC 6528 (initial sequence numbers), RFC 4086.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

try:  # hashlib would load OpenSSL for it: 0.6 MiB
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

_POOL = 4096
_WORD = 1 << 32
_SMALL = 1 << 20


class SystemEntropy:
    """os.urandom, drawn in larger pieces: a system call for each port or id would be felt."""

    __slots__ = ("_at", "_numbers", "_pool", "_secret")

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._pool = b""
        self._at = 0
        self._numbers: Iterator[int] = iter(())

    def octets(self, count: int) -> bytes:
        """As `Entropy.octets`."""
        if count > _POOL:
            return os.urandom(count)
        if self._at + count > len(self._pool):
            self._pool = os.urandom(_POOL)
            self._at = 0
        self._at += count
        return self._pool[self._at - count : self._at]

    def below(self, limit: int) -> int:
        """As `Entropy.below`, without bias: numbers above the last whole multiple are drawn again."""
        if limit <= _SMALL:  # ids and ports, for each query
            while True:
                small = next(self._numbers, -1)
                if small < 0:
                    self._numbers = iter(memoryview(os.urandom(_POOL)).cast("I"))
                elif small < _WORD - _WORD % limit:
                    return small % limit
        size = (limit.bit_length() + 7) // 8
        ceiling = (1 << 8 * size) // limit * limit
        while (number := int.from_bytes(self.octets(size), "big")) >= ceiling:
            pass
        return number % limit

    def initial_sequence(self, key: bytes, now: float) -> int:
        """As `Entropy.initial_sequence`: a 4 us clock plus a keyed hash of the flow (RFC 6528 section 3)."""
        digest = blake2b(key, key=self._secret, digest_size=4).digest()
        return (int(now * 250_000) + int.from_bytes(digest, "big")) & 0xFFFFFFFF
