"""Reassembly of IPv4 and IPv6 fragments before any verdict, in bounded memory.

Responsible for: holding fragments until a packet is whole (RFC 815's idea of holes, kept as sorted
pieces), refusing overlaps outright (RFC 5722; for IPv4 too, RFC 1858 shows why), time-outs and caps.
Refuses to know: what is inside the packet.

The oldest packet in reassembly is the first to go when a cap is reached, so that a flood of
unfinished fragments cannot lock honest ones out for longer than it lasts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable

from netstack.config import LimitsConfig
from netstack.core.drops import DropReason
from netstack.core.packet import Octets
from netstack.core.stats import Stats
from netstack.wire import ipv4, ipv6

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
        wire = ipv4 if packet[0] >> 4 == 4 else ipv6
        fragment = wire.parse_fragment(packet)
        if isinstance(fragment, DropReason):
            return self._drop(fragment)
        start = fragment.offset
        piece = bytes(packet[fragment.start : fragment.end])
        end = start + len(piece)
        if (fragment.more and len(piece) % 8) or not piece:
            return self._drop(DropReason.BAD_FRAGMENT)
        if end + len(fragment.header) > MAX_PACKET:
            return self._drop(DropReason.FRAGMENT_TOO_LARGE)
        partial = self._partials.get(fragment.key)
        if partial is None:
            partial = self._partials[fragment.key] = _Partial(now + self._limits.fragment_timeout)
        if partial.refused:
            return self._drop(DropReason.FRAGMENT_OVERLAP)
        known_end = partial.end
        if (
            (not fragment.more and known_end is not None and known_end != end)
            or (known_end is not None and end > known_end)
            or (not fragment.more and partial.pieces and partial.pieces[-1][0] + len(partial.pieces[-1][1]) > end)
        ):
            return self._refuse(partial)
        at = bisect_left(partial.pieces, (start, b""))
        if at < len(partial.pieces) and partial.pieces[at] == (start, piece):
            return None  # the same fragment again (RFC 8200 4.5 allows to ignore it)
        if (at > 0 and partial.pieces[at - 1][0] + len(partial.pieces[at - 1][1]) > start) or (
            at < len(partial.pieces) and partial.pieces[at][0] < end
        ):
            return self._refuse(partial)
        if len(partial.pieces) >= MAX_PIECES:
            return self._refuse(partial, DropReason.FRAGMENT_TABLE_FULL)
        partial.pieces.insert(at, (start, piece))
        partial.octets += len(piece)
        self._octets += len(piece)
        if not fragment.more:
            partial.end = end
        if start == 0:
            partial.header = fragment.header
            partial.first = bytes(packet)
        if partial.end == partial.octets and partial.header:
            self._forget(fragment.key)
            return wire.rebuild(partial.header, b"".join(octets for _, octets in partial.pieces))
        self._shed()
        return None

    def _drop(self, reason: DropReason) -> None:
        self._stats.drops[reason] += 1

    def _refuse(self, partial: _Partial, reason: DropReason = DropReason.FRAGMENT_OVERLAP) -> None:
        self._stats.drops[reason] += 1 + len(partial.pieces)
        self._octets -= partial.octets
        partial.pieces, partial.octets, partial.refused, partial.first = [], 0, True, b""

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
