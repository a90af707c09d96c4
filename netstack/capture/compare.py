"""Compares a stream that was sent with the one that was captured, octet by octet, as both grow.

Responsible for: where they part, what is missing, holding no more than the lead of one over the other.
Refuses to know: which stream this is.
"""

from __future__ import annotations

_MOST_HELD = 64 << 20


class StreamComparison:
    """`expect` takes the captured octets, `got` those that were sent; both in order."""

    __slots__ = ("_ahead", "_waiting", "differs_at", "expected", "gaps", "sent")

    def __init__(self) -> None:
        self._waiting = bytearray()  # octets of the side that is ahead
        self._ahead = 0  # 1: captured octets wait, -1: sent ones do
        self.expected = 0
        self.sent = 0
        self.differs_at: int | None = None
        self.gaps = 0

    def expect(self, octets: bytes) -> None:
        """The next captured octets."""
        self._take(octets, 1)
        self.expected += len(octets)

    def got(self, octets: bytes) -> None:
        """The next octets that were sent."""
        self._take(octets, -1)
        self.sent += len(octets)

    def gap(self) -> None:
        """The capture has a hole here."""
        self.gaps += 1

    def _take(self, octets: bytes, side: int) -> None:
        if self.differs_at is not None or not octets:
            return
        waiting = self._waiting
        if self._ahead == side or not waiting:
            self._ahead = side
            if len(waiting) + len(octets) <= _MOST_HELD:
                waiting += octets
            else:
                self.differs_at = min(self.expected, self.sent)
            return
        common = min(len(waiting), len(octets))
        if waiting[:common] != octets[:common]:
            pairs = zip(waiting, octets, strict=False)
            self.differs_at = min(self.expected, self.sent) + next(at for at, (a, b) in enumerate(pairs) if a != b)
            waiting.clear()
            return
        del waiting[:common]
        if common < len(octets):
            self._ahead = side
            waiting += octets[common:]

    @property
    def result(self) -> str:
        """match, partial (equal as far as both go, or the capture has holes), or differs."""
        if self.differs_at is not None:
            return "partial" if self.gaps else "differs"
        return "match" if self.sent == self.expected and not self.gaps else "partial"

    def as_dict(self) -> dict[str, int | str]:
        """Plain JSON types; octets."""
        shown: dict[str, int | str] = {"result": self.result, "captured": self.expected, "sent": self.sent}
        if self.differs_at is not None:
            shown["differs_at"] = self.differs_at
        return shown
