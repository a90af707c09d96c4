"""As much rtnetlink as it takes to configure one interface: link up, addresses, routes.

Responsible for: sending one request at a time and reading the kernel's acknowledgement.
Refuses to know: which interface, and why. rtnetlink(7), netlink(7).

It works wherever the caller holds CAP_NET_ADMIN over the network namespace, so inside an unprivileged user namespace
too, and needs no `ip` program. Android forbids netlink to apps; nothing there calls this.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from types import TracebackType

from netstack.core.address import parse_address

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_ERROR = struct.Struct("=i")
_U32 = struct.Struct("=I")

_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_NLMSG_ERROR = 2
_IFLA_MTU, _IFLA_TXQLEN = 4, 13
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_IFF_UP = 1
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST = 254, 4, 0, 253, 1


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


class Netlink:
    """A route-netlink socket of the network namespace that the caller is in. Every failure is an OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._serial = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def set_up(self, interface: str, *, mtu: int | None = None, queue: int | None = None) -> None:
        """Bring the interface up, with this MTU (octets) and transmit queue length (packets)."""
        body = _LINK.pack(0, 0, socket.if_nametoindex(interface), _IFF_UP, _IFF_UP)
        if mtu is not None:
            body += _attribute(_IFLA_MTU, _U32.pack(mtu))
        if queue is not None:
            body += _attribute(_IFLA_TXQLEN, _U32.pack(queue))
        self._ask(_NEWLINK, 0, body)

    def add_address(self, interface: str, address: str) -> None:
        """Add ``ADDRESS/PREFIX``; an IPv6 address is usable at once (no duplicate address detection)."""
        import ipaddress  # `run` leaves addresses to others

        local = ipaddress.ip_interface(address)
        packed = local.ip.packed
        family = socket.AF_INET if local.version == 4 else socket.AF_INET6
        body = _ADDRESS.pack(family, local.network.prefixlen, 0, 0, socket.if_nametoindex(interface))
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        if local.version == 6:
            body += _attribute(_IFA_FLAGS, _U32.pack(_IFA_F_NODAD))
        self._ask(_NEWADDR, _CREATE | _REPLACE, body)

    def add_route(self, interface: str, destination: str, gateway: str | None = None) -> None:
        """Route ``NETWORK/PREFIX`` through the interface, by way of `gateway` when given."""
        import ipaddress

        network = ipaddress.ip_network(destination)
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        scope = _SCOPE_UNIVERSE if gateway or network.version == 6 else _SCOPE_LINK
        body = _ROUTE.pack(family, network.prefixlen, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _UNICAST, 0)
        if network.prefixlen:
            body += _attribute(_RTA_DST, network.network_address.packed)
        if gateway:
            body += _attribute(_RTA_GATEWAY, parse_address(gateway))
        body += _attribute(_RTA_OIF, _U32.pack(socket.if_nametoindex(interface)))
        self._ask(_NEWROUTE, _CREATE | _REPLACE, body)

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._serial += 1
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, _REQUEST | _ACK | flags, self._serial, 0) + body)
        while True:
            answer = self._socket.recv(65_536)
            _, answered, _, serial, _ = _HEADER.unpack_from(answer)
            if serial != self._serial:
                continue
            if answered != _NLMSG_ERROR:
                raise OSError(errno.EPROTO, "unexpected netlink answer")
            code = -_ERROR.unpack_from(answer, _HEADER.size)[0]
            if code:
                raise OSError(code, os.strerror(code))
            return
