"""The selector under the live runtime's asyncio loop: engine sockets are served in it, asyncio's own go on to asyncio.

Responsible for: level-triggered interest in descriptors, and calling the engine for those that are ready.
Refuses to know: what an engine does.

asyncio's add_reader makes a handle and a context for each event, and changes of interest cost more than the system
call under them: 2.3 us for each packet, where the packet itself takes under 1. Waiting in the selector that asyncio
was given and serving engine sockets right there costs none of that, and still leaves an ordinary asyncio loop for
everything else.
"""

from __future__ import annotations

import select
import selectors
import time
from collections.abc import Mapping
from typing import Any, Protocol

_IN, _OUT, _ERR, _HUP = 0x1, 0x4, 0x8, 0x10  # the numbers of poll(2) and epoll(7) alike
_RDHUP = 0x2000 if hasattr(select, "epoll") else 0  # the far end's FIN is here, behind whatever is unread
_EVENTS = 256  # taken at a time


class Served(Protocol):
    """Who is told of engine sockets."""

    def before_wait(self) -> float | None:
        """Finish what is pending; seconds until the next deadline, 0 for now, None for none."""

    def begin(self) -> float:
        """Waiting is over; the time that everything of this round happened at."""

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

    __slots__ = ("mask", "socket")

    def __init__(self, socket: Any, mask: int) -> None:
        self.socket = socket
        self.mask = mask


_TUNNEL = object()


class EnginePoller(selectors.BaseSelector):
    """Both a selector for asyncio and the `upstream.streams.Poller` of the engine's sockets."""

    def __init__(self) -> None:
        self._wait: Any = select.epoll() if hasattr(select, "epoll") else _Portable()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._watched: dict[int, _Watched] = {}
        self.served: Served | None = None
        self.stays = False  # `select` goes on as long as only the engine has work; its loop must set `interrupted`
        self.interrupted = False  # asyncio has got something to do: `select` returns after this round

    # --- the engine's side ---

    def watch(self, fd: int, socket: Any, readable: bool, writable: bool) -> None:
        """As `upstream.streams.Poller.watch`."""
        mask = (_IN if readable else 0) | (_OUT if writable else 0)
        if readable and hasattr(socket, "ended"):
            mask |= _RDHUP
        watched = self._watched.get(fd)
        if watched is None:
            if mask:
                self._wait.register(fd, mask)
                self._watched[fd] = _Watched(socket, mask)
        elif not mask:  # epoll reports errors and hang-ups even without interest: such a socket would spin
            del self._watched[fd]
            self._wait.unregister(fd)
        elif mask != watched.mask:
            self._wait.modify(fd, mask)
            watched.mask = mask

    def watch_tunnel(self, fd: int, readable: bool) -> None:
        """Interest in the packet device."""
        self.watch(fd, _TUNNEL, readable, False)

    def forget(self, fd: int) -> None:
        """No more interest; also for a descriptor that may be closed already."""
        try:
            self.watch(fd, None, False, False)
        except (OSError, ValueError, KeyError):
            pass

    def __len__(self) -> int:
        return len(self._watched)

    # --- asyncio's side ---

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait at most `timeout` seconds; serve the engine's sockets; return the others that are ready.

        With `stays` there is no return as long as only the engine has work: asyncio's own round costs as much
        as a small packet.
        """
        self.interrupted = False
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            ready = self._round(timeout)
            if ready or self.interrupted or self.served is None or not self.stays:
                return ready
            if until is not None:
                timeout = until - time.monotonic()
                if timeout <= 0:
                    return ready

    def _round(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        served = self.served
        if served is not None:
            until = served.before_wait()
            if until is not None and (timeout is None or until < timeout):
                timeout = until
        if timeout is not None and timeout < 0:
            timeout = 0
        try:
            events = self._wait.poll(timeout, _EVENTS)
        except InterruptedError:
            return []
        watched = self._watched
        ready: list[tuple[selectors.SelectorKey, int]] = []
        mine = []
        for fd, mask in events:
            found = watched.get(fd)
            if found is not None:
                mine.append((fd, found, mask))
            elif (key := self._keys.get(fd)) is not None:
                wanted = (mask & ~_IN and selectors.EVENT_WRITE) | (mask & ~_OUT and selectors.EVENT_READ)
                if wanted & key.events:
                    ready.append((key, wanted & key.events))
        if served is not None:
            now = served.begin()
            for fd, found, mask in mine:
                if watched.get(fd) is found:
                    self._serve(served, fd, found, mask, now)
            served.finish(now)
        return ready

    def _serve(self, served: Served, fd: int, found: _Watched, mask: int, now: float) -> None:
        if found.socket is _TUNNEL:
            served.on_tunnel_readable(now)
            return
        if mask & _ERR and hasattr(found.socket, "error_pending"):
            found.socket.error_pending = True
        if mask & _RDHUP:
            found.socket.ended = True
        if mask & ~_OUT and found.mask & _IN:
            served.on_readable(found.socket, now)
        if mask & ~_IN and found.mask & _OUT and self._watched.get(fd) is found:
            served.on_writable(found.socket, now)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As selectors.BaseSelector."""
        fd = _descriptor(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} is already registered")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._wait.register(fd, _mask(events))
        self._keys[fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As selectors.BaseSelector."""
        key = self._keys.pop(_descriptor(fileobj))
        try:
            self._wait.unregister(key.fd)
        except OSError:  # closed before it was unregistered
            pass
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As selectors.BaseSelector."""
        old = self._keys[_descriptor(fileobj)]
        if events != old.events:
            self._wait.modify(old.fd, _mask(events))
        key = self._keys[old.fd] = old._replace(events=events, data=data)
        return key

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As selectors.BaseSelector."""
        return self._keys[_descriptor(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """As selectors.BaseSelector; by descriptor."""
        return self._keys

    def close(self) -> None:
        """As selectors.BaseSelector."""
        self._keys.clear()
        self._watched.clear()
        self._wait.close()


def _descriptor(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


def _mask(events: int) -> int:
    return (_IN if events & selectors.EVENT_READ else 0) | (_OUT if events & selectors.EVENT_WRITE else 0)


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
