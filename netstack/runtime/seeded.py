"""Entropy that is the same in every run: for replay.

Responsible for: `core.ports.Entropy` from a seed, with the initial sequence numbers of a capture.
Refuses to know: where the captured numbers come from. Never for live use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable


class SeededEntropy:
    """`captured_isn(key)` gives the captured initial sequence number of the far end of a flow, or None."""

    __slots__ = ("_captured_isn", "_count", "_seed")

    def __init__(self, seed: int = 0, captured_isn: Callable[[bytes], int | None] | None = None) -> None:
        self._seed = str(seed).encode()
        self._count = 0
        self._captured_isn = captured_isn

    def octets(self, count: int) -> bytes:
        """The next `count` octets."""
        self._count += 1
        return hashlib.shake_256(b"%s/%d" % (self._seed, self._count)).digest(count)

    def below(self, limit: int) -> int:
        """0 .. limit - 1; the bias of a 64-bit remainder is of no concern here."""
        return int.from_bytes(self.octets(8), "big") % limit

    def initial_sequence(self, key: bytes, now: float) -> int:
        """The captured one, so that the captured app's ACK numbers fit; else a hash of seed and flow."""
        if self._captured_isn is not None and (isn := self._captured_isn(key)) is not None:
            return isn
        return int.from_bytes(hashlib.sha256(self._seed + b"/" + key).digest()[:4], "big")
