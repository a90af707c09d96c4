"""UDP sockets that take and give many datagrams with one system call, by way of the native library.

Responsible for: the memory that all sockets of one thread receive into; runs of datagrams; what the kernel can do.
Refuses to know: whose datagrams these are. Errors and single datagrams are `datagrams.UdpSocket`'s.
RFCs: 768; Linux udp(7) UDP_SEGMENT, UDP_GRO; recvmmsg(2).

A datagram costs 0.7 us in the kernel when it is sent alone and a tenth of that in a run that the kernel cuts itself.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from typing import Any

from netstack.core.errors import CodecError
from netstack.core.packet import Octets
from netstack.core.ports import ReceivedRun, SocketOwner
from netstack.upstream.datagrams import UdpSocket
from netstack.upstream.streams import Poller

SLOTS = 32  # datagrams of one call
SLOT = 65_600  # the largest datagram, or what the kernel joined; not a power of two, which caches dislike
RECORD = struct.Struct("=18sHIII")  # sender, datagrams, size, offset and length: netstack_received
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104


class Bursts:
    """The native calls, and one arena for all sockets of a thread. Pages that no datagram touched take no memory:
    with datagrams of ordinary size it is 4 to 8 KiB for each slot."""

    __slots__ = ("_arena", "_receive", "_records", "_send", "_used", "_view", "from_buffer", "gso")

    def __init__(self) -> None:
        """Raises CodecError without the native library, or with one of another layout."""
        try:
            from netstack.codec._native import ffi, lib
            from netstack.codec.native import check_layout
        except ImportError as problem:
            raise CodecError(f"the native library is not there: {problem}") from problem
        check_layout(lib)
        # bytearray() would write all of it; private, so that a forked program does not hold it too
        self._view = memoryview(mmap.mmap(-1, SLOTS * SLOT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._arena = ffi.from_buffer("uint8_t[]", self._view)
        records = bytearray(SLOTS * RECORD.size)
        self._records = memoryview(records), ffi.from_buffer("netstack_received[]", records)
        self._used = ffi.new("uint32_t *")
        self._receive = lib.netstack_receive_datagrams
        self._send = lib.netstack_send_datagrams
        self.from_buffer = ffi.from_buffer
        self.gso: bool | None = None  # whether the kernel cuts runs; unknown before the first socket

    def receive(self, fd: int) -> tuple[list[ReceivedRun], bool]:
        """What waits, views valid until the next call; True when there may be more. Raises OSError."""
        view, records = self._records
        count = self._receive(fd, self._arena, SLOT, SLOTS, records, self._used)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        octets = self._view
        if count == 1:
            sender, datagrams, size, at, length = RECORD.unpack_from(view)
            return [(sender, datagrams, size, octets[at : at + length])], self._used[0] == SLOTS
        runs = [
            (sender, datagrams, size, octets[at : at + length])
            for sender, datagrams, size, at, length in RECORD.iter_unpack(view[: count * RECORD.size])
        ]
        return runs, self._used[0] == SLOTS

    def send(self, fd: int, version: int, octets: Octets, size: int, place: bytes) -> int:
        """How many datagrams went. Raises OSError when none did."""
        data = octets if type(octets) is bytes else self.from_buffer(octets)
        count: int = self._send(fd, version, place, data, len(octets), size, self.gso is True)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        return count


class BurstSocket(UdpSocket):
    """As `core.ports.RunSocket`: a UDP socket for runs of datagrams."""

    __slots__ = ("_bursts", "_joins", "_version")

    def __init__(
        self,
        sock: socket.SocketType,
        poller: Poller,
        owner: SocketOwner,
        room: memoryview,
        bursts: Bursts,
        version: int,
    ) -> None:
        super().__init__(sock, poller, owner, room, version)
        self._bursts = bursts
        self._joins = False
        self._version = version
        if bursts.gso is None:
            bursts.gso = _knows(sock, _UDP_SEGMENT)

    def send_run(self, octets: Octets, size: int, place: bytes) -> int:
        """As `RunSocket.send_run`."""
        try:
            return self._bursts.send(self._fd, self._version, octets, size, place)
        except OSError as problem:
            if problem.errno == errno.EAGAIN:
                raise
            # As in `sendto`: it may be about an earlier datagram.
            self.error_pending = True
            return self._bursts.send(self._fd, self._version, octets, size, place)

    def recv_runs(self) -> tuple[list[ReceivedRun], bool]:
        """As `RunSocket.recv_runs`."""
        try:
            found = self._bursts.receive(self._fd)
        except OSError as problem:
            raise self.explained(problem) from None
        if found[1] and not self._joins:
            self._joins = True  # busy: let the kernel join what arrives together
            _ask(self._socket, _UDP_GRO)
        return found


def native_bursts(codec: str) -> Bursts | None:
    """Bursts beside the native codec; None beside another, where datagrams go one by one."""
    if codec != "native":
        return None
    try:
        return Bursts()
    except CodecError:
        return None


def _knows(sock: Any, option: int) -> bool:
    """A kernel that does not know UDP_SEGMENT would send a run as one large datagram."""
    try:
        sock.getsockopt(_SOL_UDP, option)
    except OSError:
        return False
    return True


def _ask(sock: Any, option: int) -> None:
    try:
        sock.setsockopt(_SOL_UDP, option, 1)
    except OSError:
        pass  # an older kernel: they come one by one
