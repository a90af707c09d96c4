"""Deadlines in order: a heap with lazy cancellation, O(log n) to set and O(1) to look.

Responsible for: which owner is due next.
Refuses to know: the clock; the caller says what time it is.

An owner that moves its deadline later does nothing: when the old entry comes up, `due()` asks the owner
for its true deadline and puts it back. Only an earlier deadline costs a push. A connection whose
retransmission timer is re-armed by every ACK therefore costs nothing per packet, and at most one idle
wake-up for each deadline that it once had.

An entry whose owner was cancelled, or has an earlier one, is stale. A flow's idle limit is hours away, so
stale entries would pile up and keep ended flows alive: when they outnumber the others they are swept out.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Protocol

SLACK = 256  # entries below which nothing is swept


class TimerOwner(Protocol):
    """Anything with a deadline."""

    timer_at: float | None  # where the queue will look at this owner next; owned by TimerQueue

    def next_timeout(self) -> float | None:
        """The owner's true next deadline on the engine's clock, or None."""

    def on_timeout(self, now: float) -> None:
        """Called when the deadline has come."""


_COMPACT = 64  # entries from which on it is worth looking at how many are dead


class TimerQueue:
    """The engine's deadlines."""

    __slots__ = ("_heap", "_live", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, TimerOwner]] = []
        self._live = 0  # owners whose `timer_at` is set: each has one entry that counts
        self._serial = 0

    def __len__(self) -> int:
        """Entries held, dead ones included."""
        return len(self._heap)

    def touch(self, owner: TimerOwner) -> None:
        """Tell the queue that `owner`'s deadline may have become earlier."""
        deadline = owner.next_timeout()
        if deadline is None:
            return
        planned = owner.timer_at
        if planned is None or deadline < planned:
            if planned is None:
                self._live += 1
            self._push(deadline, owner)

    def _push(self, deadline: float, owner: TimerOwner) -> None:
        owner.timer_at = deadline
        self._serial += 1
        heapq.heappush(self._heap, (deadline, self._serial, owner))
        if len(self._heap) > _COMPACT and len(self._heap) > 2 * self._live:
            self._compact()

    def _compact(self) -> None:
        """Drop dead entries: those of flows that ended would else keep them in memory until their idle limit."""
        self._heap = [entry for entry in self._heap if entry[2].timer_at == entry[0]]
        heapq.heapify(self._heap)

    def cancel(self, owner: TimerOwner) -> None:
        """Forget `owner`; its entry in the heap dies when it is reached or the heap is compacted."""
        if owner.timer_at is not None:
            owner.timer_at = None
            self._live -= 1

    def next_timeout(self) -> float | None:
        """When `due` should be called next, or None. It may be early by what an owner has postponed since."""
        heap = self._heap
        while heap:
            deadline, _, owner = heap[0]
            if owner.timer_at == deadline:
                return deadline
            heapq.heappop(heap)  # dead
        return None

    def due(self, now: float) -> Iterator[TimerOwner]:
        """Owners whose deadline is at or before `now`, in order; each is asked again by `touch`."""
        while (deadline := self.next_timeout()) is not None and deadline <= now:
            owner = heapq.heappop(self._heap)[2]
            true = owner.next_timeout()
            if true is not None and true > deadline:  # postponed: back it goes, at its true place
                self._push(true, owner)
                continue
            self.cancel(owner)
            if true is not None:
                yield owner
