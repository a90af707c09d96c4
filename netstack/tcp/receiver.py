"""The app's half of the stream: reassembly, the receive window, what to acknowledge.

Responsible for: RCV.NXT, the octets that arrived out of order, the window we advertise, SACK blocks.
Refuses to know: states, timers' owner, where the octets go.
RFCs: 9293 sections 3.4, 3.8.6; 2018 and 2883 (blocks); 7323 section 2 (scaling).

Positions are sequence numbers that do not wrap: the 32-bit number is ``position & MASK``. They are
plain integers, so they compare with ``<`` and no comparison can be wrong at the wrap.

The right edge of the window never moves to the left. It is kept apart (`edge`) from what the window
should be (`limit` less the octets delivered but not consumed): the edge follows when it is worth a
segment, and stays where it is when the limit falls.
"""

from __future__ import annotations

from netstack.core.packet import Octets
from netstack.core.seq import MASK
from netstack.tcp.timers import NEVER

MAX_RANGES = 256
"""Separate out-of-order ranges of one connection. Contiguous segments share one, so an honest sender needs few."""

_HALF = 0x80000000
_EDGE_SLACK = 4096  # octets that rounding the window up may add to the edge, in all


class _Range:
    """Contiguous octets above RCV.NXT."""

    __slots__ = ("octets", "stamp", "start")

    def __init__(self, start: int, octets: bytearray, stamp: int) -> None:
        self.start = start
        self.octets = octets
        self.stamp = stamp  # when it was last touched, to report the most recent first


class Receiver:
    """RFC 9293's RCV variables, by name, as positions."""

    __slots__ = (
        "ack_now",
        "asked",
        "delack_at",
        "dup_acks",
        "duplicate",
        "edge",
        "exchanges",
        "fin_at",
        "held",
        "last_ack_sent",
        "limit",
        "mss",
        "nxt",
        "ranges",
        "scale",
        "stamp",
        "unacked_segments",
    )

    def __init__(self, limit: int, mss: int) -> None:
        self.nxt = 0
        self.edge = 0  # right edge that the app was told (or may be told), never moves left
        self.limit = limit
        self.held = 0  # octets delivered and not yet consumed
        self.scale = 0
        self.mss = mss
        self.fin_at: int | None = None  # position of the app's FIN once one was seen in the window
        self.ranges: list[_Range] | None = None
        self.stamp = 0
        self.duplicate: tuple[int, int] | None = None  # the last duplicate arrival, for DSACK
        self.ack_now = False
        self.unacked_segments = 0
        self.asked = False  # octets came in since the last went out
        self.exchanges = 0  # questions in a row that were answered one by one
        self.dup_acks = 0  # duplicate ACKs owed for segments behind a gap
        self.delack_at = NEVER
        self.last_ack_sent = 0

    def begin(self, irs: int) -> None:
        """The SYN came: the stream begins after it."""
        self.nxt = irs + 1
        self.last_ack_sent = self.nxt
        self.edge = self.nxt + self.limit

    def position(self, seq: int) -> int:
        """The position of a 32-bit sequence number near RCV.NXT."""
        nxt = self.nxt
        return nxt + ((seq - nxt + _HALF) & MASK) - _HALF

    def is_acceptable(self, position: int, length: int) -> bool:
        """RFC 9293 section 3.10.7.4, first check; `length` counts FIN.

        One step more liberal for segments without octets: an app that filled the window, one of whose
        segments was lost, acknowledges from exactly the right edge, and its ACK must count.
        """
        if length == 0:
            return self.nxt <= position <= self.edge
        return position < self.edge and position + length > self.nxt

    # --- octets in ---

    def take(self, position: int, payload: Octets) -> tuple[list[Octets], bool]:
        """Octets that overlap the window, in any order. What may be delivered now, and whether all were kept.

        The octets delivered count as held until `consumed`.
        """
        nxt, length = self.nxt, len(payload)
        stop = position + length
        if position < nxt:  # old octets in front
            self.duplicate = (position, min(stop, nxt))
            payload = memoryview(payload)[nxt - position :]
            position = nxt
        last = self.edge if self.fin_at is None else min(self.edge, self.fin_at)
        kept_all = stop <= last
        if not kept_all:
            payload = memoryview(payload)[: max(last - position, 0)]
            stop = position + len(payload)
        if stop <= position:
            return [], kept_all
        if position > nxt:
            self.ack_now = True
            return [], self._keep(position, payload) and kept_all
        self.nxt = stop
        ready: list[Octets] = [payload]
        if self.ranges:
            self.ack_now = True  # a gap was filled, or part of it (RFC 5681 section 4.2)
            self._join(ready)
        self.held += self.nxt - position
        return ready, kept_all

    def _join(self, ready: list[Octets]) -> None:
        """Deliver the ranges that RCV.NXT has reached."""
        ranges = self.ranges
        while ranges and ranges[0].start <= self.nxt:
            first = ranges.pop(0)
            stop = first.start + len(first.octets)
            if first.start < self.nxt:
                self.duplicate = (first.start, min(stop, self.nxt))
            if stop > self.nxt:
                ready.append(memoryview(first.octets)[self.nxt - first.start :])
                self.nxt = stop
        if not ranges:
            self.ranges = None

    def _keep(self, start: int, payload: Octets) -> bool:
        """Put octets beyond a gap aside; False when there are too many gaps already."""
        ranges = self.ranges
        if ranges is None:
            ranges = self.ranges = []
        self.stamp += 1
        stop = start + len(payload)
        at = len(ranges)
        while at and ranges[at - 1].start > start:
            at -= 1
        if at:  # does it continue or repeat the range before it?
            before = ranges[at - 1]
            end = before.start + len(before.octets)
            if stop <= end:
                self.duplicate = (start, stop)
                before.stamp = self.stamp
                return True
            if start <= end:
                if start < end:
                    self.duplicate = (start, end)
                before.octets += memoryview(payload)[end - start :]
                before.stamp = self.stamp
                self._absorb(at - 1)
                return True
        if len(ranges) >= MAX_RANGES and not (at < len(ranges) and ranges[at].start <= stop):
            return False
        ranges.insert(at, _Range(start, bytearray(payload), self.stamp))
        self._absorb(at)
        return True

    def _absorb(self, at: int) -> None:
        """Merge the ranges that range `at` now reaches."""
        ranges = self.ranges
        assert ranges is not None
        grown = ranges[at]
        end = grown.start + len(grown.octets)
        while at + 1 < len(ranges) and ranges[at + 1].start <= end:
            following = ranges.pop(at + 1)
            overlap = end - following.start
            if overlap:
                self.duplicate = (following.start, min(end, following.start + len(following.octets)))
            grown.octets += memoryview(following.octets)[overlap:]
            end = grown.start + len(grown.octets)

    @property
    def reassembly_octets(self) -> int:
        """Octets put aside beyond a gap."""
        return sum(len(item.octets) for item in self.ranges) if self.ranges else 0

    # --- what to tell the app ---

    def sack_blocks(self, most: int) -> tuple[tuple[int, int], ...]:
        """Sequence numbers of at most `most` blocks: a duplicate first (RFC 2883), then the most recent ones."""
        blocks: list[tuple[int, int]] = []
        if self.duplicate is not None:
            blocks.append(self.duplicate)
            self.duplicate = None
        if self.ranges:
            recent = sorted(self.ranges, key=lambda item: -item.stamp)[: most - len(blocks)]
            blocks += [(item.start, item.start + len(item.octets)) for item in recent]
        return tuple((start & MASK, stop & MASK) for start, stop in blocks)

    def window_field(self) -> int:
        """The 16-bit window to put into a segment now; moves the edge when that is worth it."""
        nxt = self.nxt
        wanted = nxt + self.limit - self.held
        edge = self.edge
        if wanted > edge and wanted - edge >= self.step:
            edge = self.edge = wanted
        room = edge - nxt
        scale = self.scale
        field = room >> scale
        if room & ((1 << scale) - 1) and edge <= wanted + _EDGE_SLACK:
            field += 1  # rounding down would move the edge that the app sees to the left
            if field <= 65535:
                self.edge = nxt + (field << scale)
        return field if field <= 65535 else 65535

    @property
    def step(self) -> int:
        """The least by which the window opens (silly window avoidance, RFC 9293 section 3.8.6.2.2)."""
        return min(self.mss, self.limit // 2)

    def consumed(self, octets: int) -> bool:
        """Delivered octets left our hands; True when the app should be told at once."""
        self.held -= octets
        if self.held < 0:
            raise ValueError("more octets consumed than were delivered")
        return self.wants_update()

    def wants_update(self) -> bool:
        """Has the window opened so far that a segment of its own is worth it: at least to twice what the app knows?"""
        wanted = self.nxt + self.limit - self.held
        room = self.edge - self.nxt
        return wanted - self.edge >= self.step and wanted - self.nxt >= 2 * room

    def release(self) -> None:
        """The connection is over: hold nothing."""
        self.ranges = None
        self.duplicate = None
        self.ack_now = False
        self.unacked_segments = 0
        self.dup_acks = 0
        self.delack_at = NEVER
