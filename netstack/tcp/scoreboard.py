"""Which of the octets in flight the app says it holds.

Responsible for: the sender's SACK scoreboard: adding blocks, which octets count as lost, the pipe.
Refuses to know: the congestion window, and when something is sent. RFCs: 2018, 6675.

Positions are sequence numbers that do not wrap (see `sender`).
"""

from __future__ import annotations

from collections.abc import Iterable

DUP_THRESH = 3


class Scoreboard:
    """Sorted, disjoint ranges above SND.UNA that were selectively acknowledged."""

    __slots__ = ("octets", "ranges")

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.octets = 0

    def clear(self) -> None:
        """Forget everything (the receiver may have reneged, RFC 2018 section 8)."""
        self.ranges.clear()
        self.octets = 0

    def add(self, blocks: Iterable[tuple[int, int]], una: int, nxt: int) -> int:
        """Take in SACK blocks; how many octets were news. Impossible blocks and DSACK are passed over."""
        before = self.octets
        for start, stop in blocks:
            if una < start < stop <= nxt:
                self._insert(start, stop)
        return self.octets - before

    def _insert(self, start: int, stop: int) -> None:
        ranges = self.ranges
        if ranges and start <= ranges[-1][1]:
            kept: list[tuple[int, int]] = []
            for left, right in ranges:
                if right < start or left > stop:
                    kept.append((left, right))
                else:
                    start, stop = min(start, left), max(stop, right)
            kept.append((start, stop))
            kept.sort()
            self.ranges = ranges = kept
        else:
            ranges.append((start, stop))
        self.octets = sum(right - left for left, right in ranges)

    def advance(self, una: int) -> None:
        """The cumulative acknowledgement reached `una`. A range that begins there was reneged on."""
        self.ranges = [item for item in self.ranges if item[0] > una]
        self.octets = sum(right - left for left, right in self.ranges)

    def lost_below(self, mss: int) -> int:
        """Below this position every octet that is in no range counts as lost (RFC 6675 section 4, IsLost); 0: none."""
        above = 0
        for count, (left, right) in enumerate(reversed(self.ranges), 1):
            above += right - left
            if count >= DUP_THRESH or above > (DUP_THRESH - 1) * mss:
                return left
        return 0

    def missing(self, start: int, stop: int) -> int:
        """Octets of ``start .. stop`` that are in no range."""
        if stop <= start:
            return 0
        missing = stop - start
        for left, right in self.ranges:
            overlap = min(right, stop) - max(left, start)
            if overlap > 0:
                missing -= overlap
        return missing

    def hole(self, start: int, stop: int) -> tuple[int, int] | None:
        """The first stretch in no range at or after `start` and before `stop`."""
        for left, right in self.ranges:
            if right <= start:
                continue
            if left > start:
                stop = min(stop, left)
                break
            start = right
        return (start, stop) if start < stop else None
