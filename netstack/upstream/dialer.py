"""Makes the real sockets, and has each one protected before anything else is done with it.

Responsible for: socket options, the protect call, naming what went wrong.
Refuses to know: which flow wants the socket.

On Android a socket that was not protected would be routed back into the tunnel that it serves. So protect(fd) comes
right after socket(), before bind, connect or a first send, for every socket, and a refusal closes it
(VpnService.protect). SO_RCVBUF and SO_SNDBUF are left alone: setting them switches the kernel's auto-tuning off.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable

from netstack.core.errors import DialError, ProtectError
from netstack.core.flow import Endpoint, FiveTuple
from netstack.core.ports import SocketOwner
from netstack.upstream.buffers import SIZE, ReadBuffers
from netstack.upstream.bursts import Bursts, BurstSocket
from netstack.upstream.datagrams import EchoSocket, RawEchoSocket, UdpSocket, ask_for_errors, to_sockaddr
from netstack.upstream.streams import Poller, SocketStream

Protect = Callable[[int], bool]

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_LINUX = sys.platform.startswith(("linux", "android"))
_NONBLOCK: int = getattr(socket, "SOCK_NONBLOCK", 0)  # not on Apple's systems
_SOL_RAW, _SOL_ICMPV6 = 255, 58
_ICMP_FILTER = 1
_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR})


class SocketDialer:
    """Implements `core.ports.Dialer` with the operating system's sockets.

    `protect` gets the descriptor of every socket and says whether it will bypass the tunnel; None where there is
    no tunnel to bypass.
    """

    def __init__(
        self, poller: Poller, protect: Protect | None = None, bursts: Bursts | None = None, read_memory: int = 0
    ) -> None:
        """`bursts`: UDP sockets send and receive runs of datagrams through it.

        `read_memory`: octets that large reads of the app's flows may keep to be used again.
        """
        self._poller = poller
        self._protect = protect
        self._bursts = bursts
        self._buffers = ReadBuffers(read_memory // SIZE)
        self._room = memoryview(bytearray(65_535))  # one datagram at a time, whichever socket it comes from

    def dial_tcp(self, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None = None) -> SocketStream:
        """As `Dialer.dial_tcp`. A connect that fails at once is a DialError with its errno."""
        sock = self._open(_FAMILY[destination.version], socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(to_sockaddr(destination))
        except OSError as problem:
            code = problem.errno or errno.EINVAL
        if code not in _UNDER_WAY:
            sock.close()
            raise DialError(f"connect to {destination}: {os.strerror(code)}", code)
        return SocketStream(sock, self._poller, owner, self._buffers if flow is not None else None)

    def open_udp(self, version: int, owner: SocketOwner, flow: FiveTuple | None = None) -> UdpSocket:
        """As `Dialer.open_udp`."""
        sock = self._datagram(version, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        if self._bursts is None:
            return UdpSocket(sock, self._poller, owner, self._room)
        return BurstSocket(sock, self._poller, owner, self._room, self._bursts, version)

    def open_icmp(self, version: int, owner: SocketOwner, flow: FiveTuple | None = None) -> UdpSocket:
        """As `Dialer.open_icmp`: unprivileged where net.ipv4.ping_group_range allows, else raw where permitted."""
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        try:
            sock = self._datagram(version, socket.SOCK_DGRAM, protocol)
        except ProtectError:
            raise
        except DialError as problem:
            if problem.errno not in (errno.EACCES, errno.EPERM, errno.EPROTONOSUPPORT):
                raise
            return self._open_raw(version, protocol, owner)
        try:
            sock.bind(("" if version == 4 else "::", 0))  # the identifier is chosen here
        except OSError as problem:
            sock.close()
            raise DialError(f"ICMP socket: {problem.strerror}", problem.errno or 0) from problem
        return EchoSocket(sock, self._poller, owner, self._room)

    def _open_raw(self, version: int, protocol: int, owner: SocketOwner) -> RawEchoSocket:
        sock = self._datagram(version, socket.SOCK_RAW, protocol)
        try:
            if version == 4 and _LINUX:
                sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << 0)))
            elif version == 6:
                passing = [0xFFFFFFFF] * 8
                passing[129 >> 5] &= ~(1 << (129 & 31))
                sock.setsockopt(_SOL_ICMPV6, _ICMP_FILTER, struct.pack("=8I", *passing))
        except OSError as problem:
            sock.close()
            raise DialError(f"raw ICMP socket: {problem.strerror}", problem.errno or 0) from problem
        return RawEchoSocket(sock, self._poller, owner, int.from_bytes(os.urandom(2), "big"), self._room)

    def _datagram(self, version: int, kind: int, protocol: int) -> socket.SocketType:
        sock = self._open(_FAMILY[version], kind, protocol)
        try:
            if version == 6 and kind == socket.SOCK_DGRAM:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            elif protocol == socket.IPPROTO_UDP:  # an app's broadcast is policy's business, not the kernel's
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            ask_for_errors(sock, version)
        except OSError as problem:
            sock.close()
            raise DialError(f"socket options: {problem.strerror}", problem.errno or 0) from problem
        return sock

    def _open(self, family: int, kind: int, protocol: int) -> socket.SocketType:
        try:
            # the type under socket.socket: its constructor and close are those of C, without a round of Python before
            sock = socket.SocketType(family, kind | _NONBLOCK, protocol)
        except OSError as problem:
            raise DialError(f"no socket to be had: {problem.strerror}", problem.errno or 0) from problem
        if self._protect is not None:
            try:
                protected = self._protect(sock.fileno())
            except Exception as problem:  # the host's code
                sock.close()
                raise ProtectError(f"protecting a socket failed: {problem!r}") from problem
            if not protected:
                sock.close()
                raise ProtectError("the host refused to protect a socket")
        if not _NONBLOCK:
            sock.setblocking(False)
        return sock
