"""Drives one engine and one packet device: readiness and time in, one flush for everything that happened together.

Responsible for: deadlines, a defect that costs one flow, a device in trouble, a device that is gone.
Refuses to know: who else runs on the thread, and how the engine came to be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from netstack.core.errors import TunnelClosed
from netstack.runtime.poller import Served

_STALL_FIRST: Final = 0.02  # seconds between looks at a device that is in trouble
_STALL_MOST: Final = 1.0


class Waiting(Protocol):
    """As `poller.EnginePoller`."""

    served: Served | None

    def watch_tunnel(self, fd: int, readable: bool) -> None:
        """Interest in the packet device."""

    def forget(self, fd: int) -> None:
        """No more interest."""


class Later(Protocol):
    """As `loop.Loop`."""

    def call_later(self, seconds: float, callback: Callable[[], object], /) -> None:
        """Call when that many seconds are over."""


class Run(Protocol):
    """Who is told of trouble."""

    def report(self, problem: Exception, where: str = "engine") -> None:
        """Something raised what it should not have."""

    def lose(self, problem: TunnelClosed) -> None:
        """The device went away by itself."""


class Driver:
    """Implements `poller.Served`. The engine and the device are anything with their methods."""

    next_deadline: Callable[[], float | None]
    """As `Served.next_deadline`: the engine's own, unless the device has deadlines or packets of its own."""

    def __init__(self, poller: Waiting, loop: Later, engine: Any, tunnel: Any, run: Run) -> None:
        self._poller = poller
        self._loop = loop
        self._engine = engine
        self._run = run
        self._busy = False
        self._serve(tunnel)

    def _serve(self, tunnel: Any) -> None:
        self._tunnel = tunnel
        self._fd: int = tunnel.fileno()
        self._stall = _STALL_FIRST
        # Links that hold packets back have deadlines, links of queued packets may have more than one batch takes.
        self._tunnel_deadline: Callable[[], float | None] | None = getattr(tunnel, "next_timeout", None)
        self._has_backlog = hasattr(tunnel, "pending")
        self._may_fail = hasattr(tunnel, "stalled")  # a device, not a queue in memory
        is_plain = self._tunnel_deadline is None and not self._has_backlog
        self.next_deadline = self._engine.next_timeout if is_plain else self._next_deadline

    def replace(self, tunnel: Any) -> None:
        """Serve another device from now on; the old one is closed."""
        self.detach()
        self.close()
        self._serve(tunnel)
        self.attach()

    def close(self) -> None:
        """Close the device."""
        self._tunnel.close()

    def attach(self) -> None:
        """Be told of readiness and time."""
        if self._fd >= 0:
            self._poller.watch_tunnel(self._fd, True)
        self._poller.served = self

    def detach(self) -> None:
        """No longer."""
        self._poller.served = None
        if self._fd >= 0:
            self._poller.forget(self._fd)

    def _next_deadline(self) -> float | None:
        if self._has_backlog and self._tunnel.pending:
            return 0.0
        deadline: float | None = self._engine.next_timeout()
        if self._tunnel_deadline is not None:
            of_tunnel = self._tunnel_deadline()
            if of_tunnel is not None and (deadline is None or of_tunnel < deadline):
                deadline = of_tunnel
        return deadline

    def on_deadline(self, now: float) -> None:
        """As `Served.on_deadline`."""
        self._busy = True
        try:
            if self._tunnel_deadline is not None:
                due = self._tunnel_deadline()
                if due is not None and due <= now and self._tunnel.on_timeout(now):
                    self.on_tunnel_readable(now)
            due = self._engine.next_timeout()
            if due is not None and due <= now:
                self._engine.on_timeout(now)
        except Exception as problem:
            self._run.report(problem)
        if self._has_backlog and self._tunnel.pending:
            self.on_tunnel_readable(now)

    def on_tunnel_readable(self, now: float) -> None:
        """As `Served.on_tunnel_readable`."""
        self._busy = True
        try:
            self._engine.on_tunnel_readable(now)
        except TunnelClosed as problem:
            self._lose(problem)
            return
        except Exception as problem:
            self._run.report(problem, "tunnel")
        if self._may_fail:
            if self._tunnel.stalled:
                self._rest()
            else:
                self._stall = _STALL_FIRST

    def on_readable(self, socket: Any, now: float) -> None:
        """As `Served.on_readable`."""
        self._busy = True
        try:
            self._engine.on_readable(socket, now)
        except Exception as problem:
            self._give_up(socket, problem)

    def on_writable(self, socket: Any, now: float) -> None:
        """As `Served.on_writable`."""
        self._busy = True
        try:
            self._engine.on_writable(socket, now)
        except Exception as problem:
            self._give_up(socket, problem)

    def finish(self, now: float) -> None:
        """As `Served.finish`."""
        if not self._busy:
            return
        self._busy = False
        try:
            self._engine.flush(now)
        except TunnelClosed as problem:
            self._lose(problem)
        except Exception as problem:
            self._run.report(problem)
        if self._may_fail and self._tunnel.gone:
            self._lose(TunnelClosed("the packet device is gone"))

    def _rest(self) -> None:
        """Look away from a device in trouble: it may poll readable all the time."""
        self._poller.watch_tunnel(self._fd, False)
        self._loop.call_later(self._stall, self._look_again)
        self._stall = min(2 * self._stall, _STALL_MOST)

    def _look_again(self) -> None:
        if self._poller.served is self:
            self._poller.watch_tunnel(self._fd, True)

    def _lose(self, problem: TunnelClosed) -> None:
        self._poller.forget(self._fd)
        self._run.lose(problem)

    # A defect in the engine must cost one flow, not the device's network.

    def _give_up(self, socket: Any, problem: Exception) -> None:
        self._run.report(problem)
        with contextlib.suppress(Exception):
            socket.watch(readable=False, writable=False)
