"""One thread's loop around an `EnginePoller`: callbacks, timers, other threads, signals.

Responsible for: running what was asked for, in order, between the poller's turns; ending; a defect in a callback
costs that callback.
Refuses to know: engines and sockets.

It does what an engine needs of asyncio under the same names, for a tenth of its memory and start-up. Whoever needs
asyncio itself gets a loop that runs inside this one (`runtime.asyncio_guest`).
"""

from __future__ import annotations

import contextlib
import heapq
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from netstack.runtime.poller import EnginePoller

Callback = Callable[..., object]


class Loop:
    """Make it and `run_forever` on one thread; `call_soon_threadsafe` is for all others.

    It holds two descriptors until `close`. `on_defect` gets what a callback raised.
    """

    def __init__(self, poller: EnginePoller, on_defect: Callable[[Exception], None]) -> None:
        self._poller = poller
        self._on_defect = on_defect
        self._ready: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Callback, tuple[Any, ...]]] = []
        self._count = 0  # timers of one time fire in the order in which they were asked for
        self._stopping = False
        self._closed = False
        self._lock = threading.Lock()  # no thread writes to a descriptor that is closed and used again
        self._signals: dict[int, Any] = {}  # whose handlers stood there before
        self._wakeup_before = -1
        self._awake, self._waker = os.pipe()
        os.set_blocking(self._awake, False)
        os.set_blocking(self._waker, False)
        poller.watch_reader(self._awake, self._drain)

    # --- the run ---

    def run_forever(self) -> None:
        """Until `stop`; what was asked for before that is still done."""
        select = self._poller.select
        while True:
            if self._ready or self._timers:
                self._run_due()
            if self._stopping:
                return
            if self._ready:
                select(0.0)
            elif self._timers:
                select(max(0.0, self._timers[0][0] - time.monotonic()))
            else:
                select(None)

    def _run_due(self) -> None:
        ready, timers = self._ready, self._timers
        if timers:
            now = time.monotonic()
            while timers and timers[0][0] <= now:
                _, _, callback, arguments = heapq.heappop(timers)
                ready.append((callback, arguments))
        for _ in range(len(ready)):  # what these ask for waits until sockets have had their turn
            callback, arguments = ready.popleft()
            try:
                callback(*arguments)
            except Exception as problem:
                self._on_defect(problem)

    def stop(self) -> None:
        """End `run_forever`. The loop's thread only."""
        self._stopping = True

    def close(self) -> None:
        """Give back descriptors and signals. Nothing is called any more."""
        for number in list(self._signals):
            self.remove_signal_handler(number)
        with self._lock:
            self._closed = True
            self._poller.forget(self._awake)
            os.close(self._awake)
            os.close(self._waker)
        self._ready.clear()
        self._timers.clear()

    # --- the loop's thread ---

    def call_soon(self, callback: Callback, *arguments: Any) -> None:
        """Call in the next turn."""
        self._ready.append((callback, arguments))

    def call_later(self, seconds: float, callback: Callback, *arguments: Any) -> None:
        """Call when that many seconds are over."""
        self.call_at(time.monotonic() + seconds, callback, *arguments)

    def call_at(self, when: float, callback: Callback, *arguments: Any) -> None:
        """Call at a time of time.monotonic."""
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, callback, arguments))

    def add_reader(self, fd: int, callback: Callback, *arguments: Any) -> None:
        """Call in every turn in which the descriptor is readable."""
        self._poller.watch_reader(fd, lambda: self.call_soon(callback, *arguments))

    def remove_reader(self, fd: int) -> None:
        """No more; also for a descriptor that may be closed already."""
        self._poller.forget(fd)

    # --- any thread ---

    def call_soon_threadsafe(self, callback: Callback, *arguments: Any) -> None:
        """Call in the next turn, which is now. Raises RuntimeError when the loop is closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the loop is closed")
            self._ready.append((callback, arguments))
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: then it is readable
            os.write(self._waker, b"\0")

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._awake, 4096)

    # --- signals, main thread only ---

    def add_signal_handler(self, number: int, callback: Callback, *arguments: Any) -> None:
        """Call in a turn after the signal, instead of what it did. Raises ValueError on any but the main thread."""
        import signal  # a host app has its own

        def note(*_: object) -> None:  # on the loop's own thread, wherever in its work that is: so without the lock
            self._ready.append((callback, arguments))
            self._wake()

        if not self._signals:  # or a signal just before the wait would not end it
            self._wakeup_before = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        before = signal.signal(number, note)
        signal.siginterrupt(number, False)
        self._signals.setdefault(number, before)

    def remove_signal_handler(self, number: int) -> None:
        """The signal does again what it did before."""
        import signal

        before = self._signals.pop(number)
        signal.signal(number, before if before is not None else signal.SIG_DFL)
        if not self._signals:
            signal.set_wakeup_fd(self._wakeup_before)


def describe_defect(problem: Exception) -> str:
    """One line for an `EngineError`: what was raised, and where."""
    trace = problem.__traceback__
    if trace is None:
        return f"internal error: {problem!r}"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"internal error: {problem!r} at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
