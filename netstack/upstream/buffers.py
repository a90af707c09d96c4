"""Memory for large reads, used again once nobody refers to what was read into it.

Responsible for: handing out buffers and knowing which are free.
Refuses to know: who reads what.

A read of 128 KiB into new memory costs more in page faults than in copying: the allocator gives so large a piece back
to the system as soon as it is free. Here a buffer is free when no view of it is left, which its reference count tells;
whoever holds a view (the send queue, until the app has acknowledged) says nothing when it lets go.
"""

from __future__ import annotations

import sys
from typing import Final

SIZE: Final = 131_072  # octets of one buffer


class ReadBuffers:
    """At most `most` buffers, made when they are first needed and kept."""

    __slots__ = ("_buffers", "_free", "_most", "_next")

    def __init__(self, most: int) -> None:
        self._most = most if hasattr(sys, "getrefcount") else 0  # not every Python counts references
        self._buffers: list[bytearray] = []
        self._next = 0
        self._free = 0  # what `_references` says of a buffer without views

    def _references(self, at: int) -> int:
        return sys.getrefcount(self._buffers[at])

    def take(self) -> memoryview | None:
        """`SIZE` octets that nobody uses; None when all are in use. Let go of every view to give them back."""
        buffers, at = self._buffers, self._next
        if not buffers or self._references(at) > self._free:
            # The one that was handed out longest ago is in use: a new one comes before it in the round.
            if len(buffers) >= self._most:
                return None
            buffers.insert(at, bytearray(SIZE))
            if not self._free:
                self._free = self._references(at)
        self._next = (at + 1) % len(buffers)
        return memoryview(buffers[at])
