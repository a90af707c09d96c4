"""A real TCP connection as a `Stream`.

Responsible for: the calls on one non-blocking socket, and its interest at the poller.
Refuses to know: whose octets these are. RFC 9293 section 3.9 (the user interface).
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any, Final, Protocol

from netstack.core.packet import Octets
from netstack.core.ports import SocketOwner
from netstack.upstream.buffers import SIZE, ReadBuffers

LARGE: Final = SIZE // 2  # what is less is copied, so that it does not keep a whole buffer
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Poller(Protocol):
    """Where sockets leave their interest; `runtime.live` implements it."""

    def watch(self, fd: int, socket: Any, readable: bool, writable: bool) -> None:
        """Level-triggered interest of `socket`, replacing the one before; neither means forget."""


class SocketStream:
    """A connected or connecting socket, owned by this object."""

    __slots__ = ("_buffers", "_fd", "_interest", "_poller", "_socket", "ended", "owner")

    def __init__(
        self, sock: socket.SocketType, poller: Poller, owner: SocketOwner, buffers: ReadBuffers | None = None
    ) -> None:
        """`buffers`: large reads go there."""
        self.owner = owner
        self.ended = False
        self._socket = sock
        self._poller = poller
        self._buffers = buffers
        self._fd = sock.fileno()
        self._interest = 0

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._fd

    def watch(self, *, readable: bool, writable: bool) -> None:
        """As `Stream.watch`."""
        interest = readable | writable << 1
        if interest != self._interest and self._fd >= 0:
            self._interest = interest
            self._poller.watch(self._fd, self, readable, writable)

    def connect_error(self) -> int:
        """As `Stream.connect_error`."""
        try:
            return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as problem:
            return problem.errno or 0

    def recv(self, limit: int) -> Octets:
        """As `Stream.recv`."""
        if self._buffers is not None and limit >= LARGE:
            room = self._buffers.take()
            if room is not None:
                size = self._socket.recv_into(room, min(limit, SIZE))
                return room[:size] if size >= LARGE else room[:size].tobytes()
        return self._socket.recv(limit)

    def send(self, octets: Octets) -> int:
        """As `Stream.send`."""
        return self._socket.send(octets)

    def sendmsg(self, buffers: list[Any]) -> int:
        """As `Stream.sendmsg`."""
        return self._socket.sendmsg(buffers)

    def shutdown_write(self) -> None:
        """As `Stream.shutdown_write`."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:  # the connection is gone already: the next recv says so
            pass

    def close(self) -> None:
        """As `Stream.close`."""
        if self._fd >= 0:
            if self._interest:
                self._poller.watch(self._fd, self, False, False)
            self._fd = -1
            self._interest = 0
            self._socket.close()

    def abort(self) -> None:
        """As `Stream.abort`."""
        if self._fd >= 0:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:  # closing is what matters
                pass
            self.close()

    def is_alive(self) -> bool:
        """As `Stream.is_alive`: whether this host still has the connection's own address."""
        try:
            address = self._socket.getsockname()
            # Binding, unlike asking for a list of interfaces, works on every platform. This socket sends nothing.
            with socket.socket(self._socket.family, socket.SOCK_DGRAM) as probe:
                probe.bind((address[0], 0, *address[2:]))
        except OSError as problem:
            return problem.errno not in (errno.EADDRNOTAVAIL, errno.EBADF)
        return True
