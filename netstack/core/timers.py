"""Deadlines in order: a heap with lazy cancellation, O(log n) to set and O(1) to look.

Responsible for: which owner is due next.
Refuses to know: the clock; the caller says what time it is.

An owner that moves its deadline later does nothing: when the old entry fires, `due()` asks the owner
for its true deadline and puts it back. Only an earlier deadline costs a push. A connection whose
retransmission timer is re-armed by every ACK therefore costs nothing per packet.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Protocol


class TimerOwner(Protocol):
    """Anything with a deadline."""

    timer_at: float | None  # where the queue will look at this owner next; owned by TimerQueue

    def next_timeout(self) -> float | None:
        """The owner's true next deadline on the engine's clock, or None."""

    def on_timeout(self, now: float) -> None:
        """Called when the deadline has come."""


class TimerQueue:
    """The engine's deadlines."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, TimerOwner]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    def touch(self, owner: TimerOwner) -> None:
        """Tell the queue that `owner`'s deadline may have become earlier."""
        deadline = owner.next_timeout()
        if deadline is None:
            return
        planned = owner.timer_at
        if planned is None or deadline < planned:
            self._push(deadline, owner)

    def _push(self, deadline: float, owner: TimerOwner) -> None:
        owner.timer_at = deadline
        self._serial += 1
        heapq.heappush(self._heap, (deadline, self._serial, owner))

    def cancel(self, owner: TimerOwner) -> None:
        """Forget `owner`; its entry in the heap dies when it is reached."""
        owner.timer_at = None

    def next_timeout(self) -> float | None:
        """When `due` should be called next, or None. Stale entries are discarded on the way."""
        heap = self._heap
        while heap:
            deadline, _, owner = heap[0]
            if owner.timer_at == deadline:
                true = owner.next_timeout()
                if true is not None and true <= deadline:
                    return deadline
                heapq.heappop(heap)
                owner.timer_at = None
                if true is not None:
                    self._push(true, owner)
                continue
            heapq.heappop(heap)
        return None

    def due(self, now: float) -> Iterator[TimerOwner]:
        """Owners whose deadline is at or before `now`, in order; each is asked again by `touch`."""
        while (deadline := self.next_timeout()) is not None and deadline <= now:
            owner = heapq.heappop(self._heap)[2]
            owner.timer_at = None
            yield owner
