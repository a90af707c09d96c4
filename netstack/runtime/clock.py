"""A clock that moves only when told.

Responsible for: virtual time for replay.
Refuses to know: why it moves.
"""

from __future__ import annotations


class VirtualClock:
    """Seconds since the start of a replay. Never goes back, whatever a capture's stamps do."""

    __slots__ = ("_now",)

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Current time."""
        return self._now

    def advance(self, to: float) -> float:
        """Move to `to`, or stay when that is past; the time that is now."""
        if to > self._now:
            self._now = to
        return self._now
