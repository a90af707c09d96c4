"""Real UDP and ICMP echo sockets as `DatagramSocket`s.

Responsible for: datagrams and the ICMP errors that the kernel keeps about them.
Refuses to know: whose datagrams these are.
RFCs: 768, 792, 4443; Linux ip(7) IP_RECVERR, icmp(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import Any

from netstack.core.flow import Endpoint
from netstack.core.packet import Octets
from netstack.core.ports import SocketOwner
from netstack.core.record import recordclass
from netstack.upstream.streams import Poller

_LARGEST = 65_535
_ERROR_READS = 16
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_KNOWN = 64  # endpoints whose two forms a socket remembers

# linux/in.h, linux/in6.h, linux/errqueue.h
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0
_MSG_ERRQUEUE = 0x2000
_EXTENDED = struct.Struct("=IBBBxII")  # errno, origin, type, code, info, data
_LINUX = sys.platform.startswith(("linux", "android"))


@recordclass()
class DatagramError:
    """As `core.ports.SocketError`."""

    errno: int
    icmp_type: int
    icmp_code: int
    info: int
    destination: Endpoint
    offender: bytes | None
    payload: bytes


class UdpSocket:
    """An unconnected UDP socket of one family."""

    __slots__ = ("_family", "_fd", "_from", "_interest", "_kept", "_poller", "_room", "_socket",
                 "_to", "error_pending", "owner")  # fmt: skip

    def __init__(
        self,
        sock: socket.SocketType,
        poller: Poller,
        owner: SocketOwner,
        room: memoryview | None = None,
        version: int = 0,
    ) -> None:
        """`room` receives datagrams; 64 KiB that all sockets of one thread may share. `version`: IP, if known."""
        self.owner = owner
        self._socket = sock
        self._room = room if room is not None else memoryview(bytearray(_LARGEST))
        # the property makes an enumeration member each time, which takes as long as a system call
        self._family = _FAMILY[version] if version else sock.family
        self._poller = poller
        self._fd = sock.fileno()
        self._interest = 0
        self._kept: DatagramError | None = None
        self.error_pending = False  # set by the poller too: the error queue is not worth a call for each datagram
        # Most sockets speak with one peer: making both forms of its address for each datagram would cost as much
        # as sending it.
        self._to: dict[Endpoint, tuple[str, int]] = {}
        self._from: dict[tuple[Any, ...], Endpoint] = {}

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._fd

    def watch(self, *, readable: bool, writable: bool) -> None:
        """As `DatagramSocket.watch`."""
        interest = readable | writable << 1
        if interest != self._interest and self._fd >= 0:
            self._interest = interest
            self._poller.watch(self._fd, self, readable, writable)

    def sendto(self, octets: Octets, destination: Endpoint) -> None:
        """As `DatagramSocket.sendto`."""
        address = self._to.get(destination)
        if address is None:
            if len(self._to) >= _KNOWN:
                self._to.clear()
            address = self._to[destination] = to_sockaddr(destination)
        try:
            self._socket.sendto(octets, address)
        except OSError as problem:
            if problem.errno == errno.EAGAIN:
                raise
            # It may be about an earlier datagram: the kernel reports that once, on any call. Then this one can go.
            self.error_pending = True
            self._socket.sendto(octets, address)

    def recvfrom(self) -> tuple[bytes, Endpoint]:
        """As `DatagramSocket.recvfrom`."""
        octets, address = self._receive()
        endpoint = self._from.get(address)
        return octets, endpoint if endpoint is not None else self._endpoint(address)

    def _receive(self) -> tuple[bytes, Any]:
        try:
            # Into shared memory, then a copy of what came: making 64 KiB for each datagram costs half as much again.
            size, address = self._socket.recvfrom_into(self._room)
            return bytes(self._room[:size]), address
        except OSError as problem:
            raise self.explained(problem) from None

    def explained(self, problem: OSError) -> OSError:
        """What a failed read means: a socket with kept errors polls as ready for ever, so that whoever reads it must
        learn of them."""
        if problem.errno != errno.EAGAIN:
            self.error_pending = True
        elif self.error_pending:
            self._kept = self.recv_error()
            if self._kept is not None:
                return OSError(self._kept.errno, os.strerror(self._kept.errno))
        return problem

    def recv_error(self) -> DatagramError | None:
        """As `DatagramSocket.recv_error`; always None where there is no error queue (not Linux)."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        for _ in range(_ERROR_READS):
            if not (_LINUX and self.error_pending):
                break
            try:
                octets, ancillary, _, address = self._socket.recvmsg(_LARGEST, 512, _MSG_ERRQUEUE)
            except OSError as problem:
                # A pending error of the socket itself is raised (and cleared) by any call; it is in the queue too.
                if problem.errno in (errno.EAGAIN, errno.EBADF):
                    self.error_pending = False
                continue
            for level, kind, data in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    return self._error(data, octets, address)
        return None

    def local_port(self) -> int:
        """As `DatagramSocket.local_port`."""
        try:
            port: int = self._socket.getsockname()[1]
        except OSError:
            return 0
        return port

    def close(self) -> None:
        """As `DatagramSocket.close`."""
        if self._fd >= 0:
            if self._interest:
                self._poller.watch(self._fd, self, False, False)
            self._fd = -1
            self._interest = 0
            self._socket.close()

    def _endpoint(self, address: tuple[Any, ...]) -> Endpoint:
        endpoint = self._from.get(address)
        if endpoint is None:
            if len(self._from) >= _KNOWN:
                self._from.clear()
            endpoint = self._from[address] = from_sockaddr(self._family, address)
        return endpoint

    def _error(self, data: bytes, octets: bytes, address: tuple[Any, ...]) -> DatagramError:
        code, _, icmp_type, icmp_code, info, _ = _EXTENDED.unpack_from(data)
        return DatagramError(
            code, icmp_type, icmp_code, info, self._endpoint(address), _offender(data[_EXTENDED.size :]), octets
        )


class EchoSocket(UdpSocket):
    """An unprivileged ICMP echo socket: the kernel owns the identifier, which is the local port."""

    __slots__ = ()

    def recvfrom(self) -> tuple[bytes, Endpoint]:
        """As `DatagramSocket.recvfrom`: a whole ICMP message."""
        octets, address = self._receive()
        if not _LINUX and self._family == socket.AF_INET:  # Darwin leaves the IP header in front
            octets = octets[(octets[0] & 15) * 4 :]
        return octets, Endpoint(self._endpoint(address).address, 0)


class RawEchoSocket(UdpSocket):
    """A raw ICMP socket made to look like an `EchoSocket`: one identifier of its own, others' replies left out."""

    __slots__ = ("_identifier",)

    def __init__(
        self,
        sock: socket.SocketType,
        poller: Poller,
        owner: SocketOwner,
        identifier: int,
        room: memoryview | None = None,
    ) -> None:
        super().__init__(sock, poller, owner, room)
        self._identifier = identifier

    def local_port(self) -> int:
        """The identifier."""
        return self._identifier

    def sendto(self, octets: Octets, destination: Endpoint) -> None:
        """As `DatagramSocket.sendto`, with this socket's identifier put in."""
        message = bytearray(octets)
        message[4:6] = self._identifier.to_bytes(2, "big")
        if self._family == socket.AF_INET:  # the kernel sums ICMPv6 itself
            message[2:4] = bytes(2)
            message[2:4] = _checksum(message).to_bytes(2, "big")
        super().sendto(message, Endpoint(destination.address, 0))

    def recvfrom(self) -> tuple[bytes, Endpoint]:
        """As `DatagramSocket.recvfrom`; replies to other identifiers are passed over."""
        while True:
            octets, address = self._receive()
            if self._family == socket.AF_INET:
                octets = octets[(octets[0] & 15) * 4 :]
            if self._is_ours(octets):
                return octets, Endpoint(self._endpoint(address).address, 0)

    def recv_error(self) -> DatagramError | None:
        """As `DatagramSocket.recv_error`."""
        while (error := super().recv_error()) is not None:
            if self._is_ours(error.payload):
                return error
        return None

    def _is_ours(self, message: bytes) -> bool:
        return len(message) >= 8 and int.from_bytes(message[4:6], "big") == self._identifier


def _checksum(octets: Octets) -> int:
    padded = bytes(octets) + bytes(len(octets) & 1)
    return (int.from_bytes(padded, "big") % 65_535) ^ 0xFFFF


def to_sockaddr(endpoint: Endpoint) -> tuple[str, int]:
    """What the socket module takes."""
    address = endpoint.address
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address), endpoint.port


def from_sockaddr(family: int, address: tuple[Any, ...]) -> Endpoint:
    """What the socket module gives."""
    host: str = address[0]
    if "%" in host:  # a link-local address with its interface
        host = host.partition("%")[0]
    return Endpoint(socket.inet_pton(family, host), address[1])


def _offender(sockaddr: bytes) -> bytes | None:
    if len(sockaddr) < 8:
        return None
    family = int.from_bytes(sockaddr[:2], sys.byteorder)
    if family == socket.AF_INET:
        return sockaddr[4:8]
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return sockaddr[8:24]
    return None


def ask_for_errors(sock: socket.SocketType, version: int) -> None:
    """Have the kernel keep ICMP errors for `recv_error`, and fragment what is larger than the path (no DF bit)."""
    if not _LINUX:
        return
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
