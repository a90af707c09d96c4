"""Storms: the same thing asked for again and again although it is refused, which empties batteries.

Responsible for: noticing one, and how long it has gone on, in a bounded table.
Refuses to know: what is refused, and what is done about it.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 10.0  # seconds in which refusals are counted
MOST: Final = 512  # things watched at a time; the one seen first goes first
LEVEL_MOST: Final = 6


class _Watched:
    __slots__ = ("count", "level", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self.level = 0


class StormGauge:
    """``level, rose = gauge.hit(key, now)`` for each refusal.

    `level` is 0 while all is calm. It goes up by one for each window in which `limit` refusals were counted, and back
    to 0 with the first window in which they were not. `rose` is true for the refusal with which it went up.
    """

    __slots__ = ("_limit", "_watched")

    def __init__(self, limit: int) -> None:
        """`limit` 0 notices nothing."""
        self._limit = limit
        self._watched: dict[bytes, _Watched] = {}

    def hit(self, key: bytes, now: float) -> tuple[int, bool]:
        """One more refusal of `key`."""
        limit = self._limit
        if not limit:
            return 0, False
        watched = self._watched.get(key)
        if watched is None:
            if len(self._watched) >= MOST:
                del self._watched[next(iter(self._watched))]
            watched = self._watched[key] = _Watched(now)
        elif now - watched.since >= WINDOW:
            if watched.count < limit or now - watched.since >= 2 * WINDOW:
                watched.level = 0
            watched.since = now
            watched.count = 0
        watched.count += 1
        if watched.count == limit and watched.level < LEVEL_MOST:
            watched.level += 1
            return watched.level, True
        return watched.level, False

    def clear(self) -> None:
        """Policy has changed: nothing is known."""
        self._watched.clear()

    def reconfigure(self, limit: int) -> None:
        """Another limit."""
        self._limit = limit
        self.clear()

    def __len__(self) -> int:
        return len(self._watched)
