"""Reassembly of IPv4 and IPv6 fragments before any verdict, in bounded memory.

Responsible for: holding fragments until a packet is whole (RFC 815's idea of holes, kept as sorted
pieces), refusing overlaps outright (RFC 5722; for IPv4 too, RFC 1858 shows why), time-outs and caps.
Refuses to know: what is inside the packet.

The oldest packet in reassembly is the first to go when a cap is reached, so that a flood of
unfinished fragments cannot lock honest ones out for longer than it lasts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable

from netstack.config import LimitsConfig
from netstack.core.drops import DropReason
from netstack.core.packet import Octets
from netstack.core.stats import Stats
from netstack.wire import ipv4, ipv6
from netstack.wire.ipv4 import FragmentPart

MAX_PIECES = 128  # fragments of one packet: 65,535 octets in pieces of 512
MAX_PACKET = 65_535


class _Partial:
    """One packet in reassembly; `refused` stays as a tombstone so that late pieces are dropped too."""

    __slots__ = ("deadline", "end", "first", "header", "octets", "pieces", "refused")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.pieces: list[tuple[int, bytes]] = []  # sorted by offset, never overlapping
        self.octets = 0
        self.end: int | None = None  # payload length once the last fragment is known
        self.header = b""  # of the fragment with offset 0
        self.first = b""  # the whole first fragment, to quote in a time exceeded
        self.refused = False

    def fits(self, start: int, end: int, is_last: bool) -> bool:
        """False when the octets `start` to `end` overlap others or contradict where the packet ends."""
        if self.end is not None and (end > self.end or (is_last and end != self.end)):
            return False
        at = bisect_left(self.pieces, (start, b""))
        if at and self.pieces[at - 1][0] + len(self.pieces[at - 1][1]) > start:
            return False
        return not (at < len(self.pieces) and (is_last or self.pieces[at][0] < end))

    def holds(self, start: int, piece: bytes) -> bool:
        """True for a fragment that is here already, octet for octet."""
        at = bisect_left(self.pieces, (start, piece))
        return at < len(self.pieces) and self.pieces[at] == (start, piece)

    @property
    def is_whole(self) -> bool:
        """True when no octet is missing."""
        return self.end == self.octets and self.header != b""


class Reassembler:
    """Fragments in, whole packets out. A timer owner: it wakes only while something is held."""

    __slots__ = ("_expired", "_limits", "_octets", "_partials", "_stats", "timer_at")

    def __init__(
        self, limits: LimitsConfig, stats: Stats, on_expired: Callable[[bytes, float], None] | None = None
    ) -> None:
        """`on_expired(first_fragment, now)` is told of packets that timed out with their first fragment there."""
        self._limits = limits
        self._stats = stats
        self._expired = on_expired
        self._partials: dict[Hashable, _Partial] = {}  # in order of arrival, which is order of deadline
        self._octets = 0
        self.timer_at: float | None = None

    def __len__(self) -> int:
        return len(self._partials)

    @property
    def octets(self) -> int:
        """Octets held."""
        return self._octets

    def add(self, packet: Octets, now: float) -> bytes | None:
        """Take one fragment (copied); the whole packet when this was the last piece, else None."""
        is_v4 = packet[0] >> 4 == 4
        fragment = ipv4.parse_fragment(packet) if is_v4 else ipv6.parse_fragment(packet)
        if isinstance(fragment, DropReason):
            self._stats.drops[fragment] += 1
            return None
        piece = bytes(packet[fragment.start : fragment.end])
        problem = _problem(fragment, len(piece))
        if problem is not None:
            self._stats.drops[problem] += 1
            return None
        partial = self._partials.get(fragment.key)
        if partial is None:
            partial = self._partials[fragment.key] = _Partial(now + self._limits.fragment_timeout)
        if partial.holds(fragment.offset, piece):
            return None  # the same fragment again (RFC 8200 4.5 allows to ignore it)
        self._place(partial, fragment, piece, packet)
        if partial.is_whole:
            self._forget(fragment.key)
            payload = b"".join(octets for _, octets in partial.pieces)
            return ipv4.rebuild(partial.header, payload) if is_v4 else ipv6.rebuild(partial.header, payload)
        self._shed()
        return None

    def _place(self, partial: _Partial, fragment: FragmentPart, piece: bytes, packet: Octets) -> None:
        start, end = fragment.offset, fragment.offset + len(piece)
        if partial.refused or not partial.fits(start, end, not fragment.more):
            self._refuse(partial, DropReason.FRAGMENT_OVERLAP)
            return
        if len(partial.pieces) >= MAX_PIECES:
            self._refuse(partial, DropReason.FRAGMENT_TABLE_FULL)
            return
        insort(partial.pieces, (start, piece))
        partial.octets += len(piece)
        self._octets += len(piece)
        if not fragment.more:
            partial.end = end
        if start == 0:
            partial.header = fragment.header
            partial.first = bytes(packet)

    def _refuse(self, partial: _Partial, reason: DropReason) -> None:
        self._stats.drops[reason] += 1 + len(partial.pieces)
        self._octets -= partial.octets
        partial.pieces, partial.octets, partial.end, partial.refused, partial.first = [], 0, None, True, b""
        partial.header = b""

    def _forget(self, key: Hashable) -> _Partial:
        partial = self._partials.pop(key)
        self._octets -= partial.octets
        return partial

    def _shed(self) -> None:
        limits = self._limits
        while len(self._partials) > limits.fragments or self._octets > limits.fragment_octets:
            partial = self._forget(next(iter(self._partials)))
            self._stats.drops[DropReason.FRAGMENT_TABLE_FULL] += max(1, len(partial.pieces))

    def next_timeout(self) -> float | None:
        """When the oldest packet in reassembly is given up."""
        for partial in self._partials.values():
            return partial.deadline
        return None

    def on_timeout(self, now: float) -> None:
        """Give up what is overdue (RFC 1122 3.3.2, RFC 8200 4.5)."""
        while (deadline := self.next_timeout()) is not None and deadline <= now:
            partial = self._forget(next(iter(self._partials)))
            if not partial.refused:
                self._stats.drops[DropReason.FRAGMENT_TIMEOUT] += len(partial.pieces)
            if partial.first and self._expired is not None:
                self._expired(partial.first, now)


def _problem(fragment: FragmentPart, octets: int) -> DropReason | None:
    """What makes a fragment impossible by itself."""
    if not octets or (fragment.more and octets % 8):
        return DropReason.BAD_FRAGMENT
    if fragment.offset + octets + len(fragment.header) > MAX_PACKET:
        return DropReason.FRAGMENT_TOO_LARGE
    return None
