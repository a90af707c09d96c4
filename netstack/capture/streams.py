"""Puts the octets of one direction of a captured TCP connection in order.

Responsible for: retransmissions, overlaps (what came first stays), reordering, and telling where octets are missing.
Refuses to know: what the octets mean, windows, whether a real receiver would have taken them.
RFCs: 9293 3.4.

The stream starts with the first segment that was seen. A hole is given up when the other side acknowledges octets
behind it: the receiver had them, the capture does not.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable

from netstack.core.seq import seq_add, seq_diff

Sink = Callable[[bytes], None]
_MOST_HELD = 16 << 20
"""Octets kept out of order for one direction; beyond that the hole is given up."""


class StreamOrder:
    """One direction. `on_octets` gets octets in order, `on_gap` the size of each hole that never filled."""

    __slots__ = ("_arrivals", "_held", "_held_octets", "_on_gap", "_on_octets", "_position", "next_seq", "started")

    def __init__(self, on_octets: Sink, on_gap: Callable[[int], None]) -> None:
        self._on_octets = on_octets
        self._on_gap = on_gap
        self._held: list[tuple[int, int, bytes]] = []  # heap of position, arrival, octets
        self._held_octets = 0
        self._arrivals = 0
        self._position = 0  # of `next_seq`, counted without wrapping
        self.next_seq = 0
        self.started = False

    def segment(self, seq: int, octets: bytes, syn: bool) -> None:
        """Take a segment of this direction; SYN occupies the first sequence number."""
        if not self.started:
            self.started = True
            self.next_seq = seq_add(seq, len(octets) + syn)
            if octets:
                self._on_octets(octets)
            return
        if syn and seq == self.next_seq:
            self.next_seq = seq_add(seq, 1)
        if not octets:
            return
        ahead = seq_diff(seq_add(seq, 1) if syn else seq, self.next_seq)
        if ahead > 0:
            self._arrivals += 1
            heapq.heappush(self._held, (self._position + ahead, self._arrivals, octets))
            self._held_octets += len(octets)
            if self._held_octets > _MOST_HELD:
                self._give_up()
        elif ahead + len(octets) > 0:
            self._take(octets[-ahead:] if ahead else octets)
            self._fill()

    def acknowledged(self, ack: int) -> None:
        """The other side has everything before `ack`."""
        while self._held and self._held[0][0] < self._position + seq_diff(ack, self.next_seq):
            self._give_up()

    def finish(self) -> None:
        """No more will come: what is held goes out behind its holes."""
        while self._held:
            self._give_up()

    def _move(self, octets: int) -> None:
        self._position += octets
        self.next_seq = seq_add(self.next_seq, octets)

    def _take(self, octets: bytes) -> None:
        self._move(len(octets))
        self._on_octets(octets)

    def _fill(self) -> None:
        """Whatever is held and fits now."""
        held = self._held
        while held and held[0][0] <= self._position:
            position, _, octets = heapq.heappop(held)
            self._held_octets -= len(octets)
            known = self._position - position
            if known < len(octets):
                self._take(octets[known:] if known else octets)

    def _give_up(self) -> None:
        missing = self._held[0][0] - self._position
        self._on_gap(missing)
        self._move(missing)
        self._fill()


class StreamDigest:
    """SHA-256 and length of a stream; `gaps` counts holes, after which the digest says nothing."""

    __slots__ = ("_hash", "gaps", "length")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.length = 0
        self.gaps = 0

    def add(self, octets: bytes) -> None:
        """The next octets."""
        self._hash.update(octets)
        self.length += len(octets)

    def gap(self, size: int) -> None:
        """A hole of `size` octets."""
        self.gaps += 1

    @property
    def hex(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()
