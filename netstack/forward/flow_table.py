"""The table of TCP flows: capped, with a shed order.

Responsible for: finding a flow by its key; keeping apart the half-open and the finished ones, so that
they go first when room is needed; choosing whom to shed.
Refuses to know: how a flow is ended; the forwarder does that to whom this names.

Shed order: flows in TIME-WAIT (nothing is lost), then the half-open that waited longest (a SYN flood
sheds itself), then the carried flows that were idle longest.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.forward.relay import TcpFlow

FINISHED_MOST = 1024  # flows in TIME-WAIT: 4 kB each, kept for nothing but a lost last ACK
SHED_SHARE = 32  # at a full table one flow in so many goes at once, so that the search is paid rarely


class FlowTable:
    """Flows by key; `half_open` and `finished` are subsets in order of arrival."""

    __slots__ = ("_capacity", "_half_open_capacity", "finished", "flows", "half_open")

    def __init__(self, capacity: int, half_open: int) -> None:
        self._capacity = capacity
        self._half_open_capacity = half_open
        self.flows: dict[bytes, TcpFlow] = {}
        self.half_open: dict[bytes, TcpFlow] = {}
        self.finished: dict[bytes, TcpFlow] = {}

    def __len__(self) -> int:
        return len(self.flows)

    def __iter__(self) -> Iterator[TcpFlow]:
        return iter(list(self.flows.values()))

    def add(self, flow: TcpFlow) -> None:
        """A new flow is half-open until `established`."""
        self.flows[flow.key] = flow
        self.half_open[flow.key] = flow

    def established(self, flow: TcpFlow) -> None:
        """The handshake is complete."""
        self.half_open.pop(flow.key, None)

    def finish(self, flow: TcpFlow) -> TcpFlow | None:
        """The flow only waits out TIME-WAIT; the oldest such flow when there are too many, to be forgotten."""
        finished = self.finished
        if self.flows.get(flow.key) is not flow or flow.key in finished:
            return None
        finished[flow.key] = flow
        return next(iter(finished.values())) if len(finished) > FINISHED_MOST else None

    def remove(self, flow: TcpFlow) -> None:
        """Forget `flow` unless another has taken its key."""
        if self.flows.get(flow.key) is flow:
            del self.flows[flow.key]
            self.half_open.pop(flow.key, None)
            self.finished.pop(flow.key, None)

    def to_shed(self) -> list[TcpFlow]:
        """Whom to end before one more flow is added; empty while there is room."""
        if len(self.half_open) >= self._half_open_capacity:
            return [next(iter(self.half_open.values()))]
        if len(self.flows) < self._capacity:
            return []
        for first in (self.finished, self.half_open):
            if first:
                return [next(iter(first.values()))]
        share = max(1, self._capacity // SHED_SHARE)
        return heapq.nsmallest(share, self.flows.values(), key=lambda flow: flow.last_seen)
