"""Waits for the engine's sockets and serves those that are ready.

Responsible for: level-triggered interest in descriptors, and telling of those that are ready, a round at a time.
Refuses to know: what an engine does, and what else its thread has to do (`runtime.loop`).

asyncio's add_reader makes a handle and a context for each event, and changes of interest cost more than the system
call under them: 2.3 us for each packet, where the packet itself takes under 1. Here nothing stands between epoll and
the engine.
"""

from __future__ import annotations

import select
import selectors
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

_IN: Final = 0x1  # the numbers of poll(2) and epoll(7) alike
_OUT: Final = 0x4
_ERR: Final = 0x8
_RDHUP: Final = 0x2000 if hasattr(select, "epoll") else 0  # the far end's FIN is here, behind whatever is unread
_EVENTS: Final = 256  # taken at a time

_SOCKET: Final = 0
_TUNNEL: Final = 1
_CALL: Final = 2


class Served(Protocol):
    """Who is told of engine sockets."""

    def next_deadline(self) -> float | None:
        """When it wants `on_deadline`, in the time of time.monotonic; 0 for at once, None for never."""

    def on_deadline(self, now: float) -> None:
        """The deadline is over; told before all else of its round."""

    def on_tunnel_readable(self, now: float) -> None:
        """The packet device has packets, or trouble."""

    def on_readable(self, socket: Any, now: float) -> None:
        """A watched socket is readable."""

    def on_writable(self, socket: Any, now: float) -> None:
        """A watched socket is writable."""

    def finish(self, now: float) -> None:
        """Everything that happened together has been told."""


class _Watched:
    """One registration. A closed descriptor's number may come back within a round: this object then differs."""

    __slots__ = ("kind", "mask", "readable", "socket")

    def __init__(self, socket: Any, kind: int) -> None:
        self.socket = socket
        self.kind = kind
        self.mask = 0
        self.readable = _IN | _RDHUP if kind == _SOCKET and hasattr(socket, "ended") else _IN


class EnginePoller:
    """The `upstream.streams.Poller` of the engine's sockets. `served` is told of them."""

    def __init__(self) -> None:
        self._wait: Any = select.epoll() if hasattr(select, "epoll") else _Portable()
        self._watched: dict[int, _Watched] = {}
        self.served: Served | None = None

    def watch(self, fd: int, socket: Any, readable: bool, writable: bool) -> None:
        """As `upstream.streams.Poller.watch`."""
        self._watch(fd, socket, _SOCKET, readable, writable)

    def watch_tunnel(self, fd: int, readable: bool) -> None:
        """Interest in the packet device."""
        self._watch(fd, None, _TUNNEL, readable, False)

    def watch_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back in each round in which a descriptor that is not the engine's is readable."""
        self._watch(fd, callback, _CALL, True, False)

    def _watch(self, fd: int, socket: Any, kind: int, readable: bool, writable: bool) -> None:
        watched = self._watched.get(fd)
        if watched is None:
            if readable or writable:
                watched = _Watched(socket, kind)
                watched.mask = (watched.readable if readable else 0) | (_OUT if writable else 0)
                self._wait.register(fd, watched.mask)
                self._watched[fd] = watched
            return
        mask = (watched.readable if readable else 0) | (_OUT if writable else 0)
        if not mask:  # epoll reports errors and hang-ups even without interest: such a socket would spin
            del self._watched[fd]
            self._wait.unregister(fd)
        elif mask != watched.mask:
            self._wait.modify(fd, mask)
            watched.mask = mask

    def forget(self, fd: int) -> None:
        """No more interest; also for a descriptor that may be closed already."""
        if self._watched.pop(fd, None) is not None:
            try:
                self._wait.unregister(fd)
            except (OSError, ValueError, KeyError):
                pass

    def __len__(self) -> int:
        return len(self._watched)

    def select(self, timeout: float | None = None) -> None:
        """One round: wait at most `timeout` seconds, and no longer than `served` wants; tell what is ready."""
        served = self.served
        if served is None:
            for fd, _ in self._wait.poll(timeout, _EVENTS):
                found = self._watched.get(fd)
                if found is not None and found.kind == _CALL:
                    found.socket()
            return
        deadline = served.next_deadline()
        if deadline is not None:
            until = deadline - time.monotonic()
            if timeout is None or until < timeout:
                timeout = until if until > 0.0 else 0.0
        events: list[tuple[int, int]] = self._wait.poll(timeout, _EVENTS)
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            served.on_deadline(now)
        if len(events) == 1:
            fd, mask = events[0]
            found = self._watched.get(fd)
            if found is not None:
                if mask == _IN and found.kind == _SOCKET:
                    served.on_readable(found.socket, now)
                else:
                    self._serve(served, fd, found, mask, now)
        elif events:
            # Who was meant is settled before the first is told: that one may close others, and open new ones.
            watched = self._watched
            for fd, found, mask in [(fd, watched.get(fd), mask) for fd, mask in events]:
                if found is not None and watched.get(fd) is found:
                    self._serve(served, fd, found, mask, now)
        served.finish(now)

    def _serve(self, served: Served, fd: int, found: _Watched, mask: int, now: float) -> None:
        if found.kind == _TUNNEL:
            served.on_tunnel_readable(now)
            return
        if found.kind == _CALL:
            found.socket()
            return
        if mask & (_ERR | _RDHUP):
            if mask & _ERR and hasattr(found.socket, "error_pending"):
                found.socket.error_pending = True
            if mask & _RDHUP:
                found.socket.ended = True
        if mask & ~_OUT and found.mask & _IN:
            served.on_readable(found.socket, now)
        if mask & ~_IN and found.mask & _OUT and self._watched.get(fd) is found:
            served.on_writable(found.socket, now)

    def close(self) -> None:
        """Nothing is watched any more."""
        self._watched.clear()
        self._wait.close()


class _Portable:
    """epoll's calls over whatever the platform has (kqueue on Apple's)."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        self._selector.register(fd, _events(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, _events(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        return [(key.fd, _mask(events)) for key, events in self._selector.select(timeout)[:limit]]

    def close(self) -> None:
        self._selector.close()


def _events(mask: int) -> int:
    return (selectors.EVENT_READ if mask & _IN else 0) | (selectors.EVENT_WRITE if mask & _OUT else 0)


def _mask(events: int) -> int:
    return (_IN if events & selectors.EVENT_READ else 0) | (_OUT if events & selectors.EVENT_WRITE else 0)
