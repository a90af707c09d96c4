"""Whose a flow is, asked of the host on threads of its own: a host that takes its time makes nobody else wait.

Responsible for: a few threads that exist while there is something to ask; bringing answers to the engine's thread.
Refuses to know: how a host finds out, what follows from it, deadlines (`dns/rules.py`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from netstack.core.flow import FiveTuple
from netstack.core.ports import FlowOwner

WORKERS = 4  # look-ups at a time; a host that hangs holds that many
QUEUED = 1024
IDLE = 5.0  # seconds without a question until a thread ends

Told = Callable[[str | None, float], None]
Deliver = Callable[[Callable[[float], None]], object]


class OwnerThreads:
    """Implements `core.ports.FlowLookup` over a `FlowOwner`."""

    def __init__(self, owner: FlowOwner, deliver: Deliver, failed: Callable[[Exception], None]) -> None:
        """``deliver(call)`` has ``call(now)`` called on the engine's thread; `failed` is told what a look-up raised."""
        self._owner = owner
        self._deliver = deliver
        self._failed = failed
        self._questions: queue.Queue[tuple[FiveTuple, Told]] = queue.Queue(QUEUED)
        self._lock = threading.Lock()
        self._workers = 0
        self._open = 0  # questions without an answer

    def ask_owner_of(self, flow: FiveTuple, told: Told) -> None:
        """As `FlowLookup.ask_owner_of`. With too many questions waiting the app stays unknown."""
        try:
            self._questions.put_nowait((flow, told))
        except queue.Full:
            self._deliver(lambda now: told(None, now))
            return
        with self._lock:
            self._open += 1
            if self._open <= self._workers or self._workers >= WORKERS:
                return
            self._workers += 1
        threading.Thread(target=self._work, name="flow-owner", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                flow, told = self._questions.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if self._questions.empty():
                        self._workers -= 1
                        return
                continue
            self._answer(flow, told)
            with self._lock:
                self._open -= 1

    def _answer(self, flow: FiveTuple, told: Told) -> None:
        app = None
        try:
            app = self._owner.owner_of(flow)
        except Exception as problem:  # the host's code: its failure is an app that nobody knows
            self._failed(problem)
        self._deliver(lambda now: told(app, now))
