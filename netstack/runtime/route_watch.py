"""Notices by itself that the host is on another network: the kernel tells of routes and addresses.

Responsible for: listening to the kernel, waiting until it has said all, and finding out whether what matters is
different now: the addresses from which this host would reach its upstreams and the world.
Refuses to know: what follows from a change. rtnetlink(7).

For programs of their own on Linux; an app is told by its system, and Android forbids it netlink. Containers and
virtual machines come and go without a change of the way out, and are not heard.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from netstack.config import Config, parse_server
from netstack.core.errors import ConfigError
from netstack.upstream.streams import Poller

SETTLED = 0.03  # seconds after the first message: an address and its routes come together
PROBES = ("192.0.2.1", "2001:db8::1")  # reached by default routes; nothing is ever sent there
_DESTINATIONS_MOST = 16
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_READ = 65_536

Ways = tuple[str, ...]


class RouteWatch:
    """One netlink socket, served by the poller; `open` it and `close` it."""

    def __init__(
        self,
        poller: Poller,
        call_later: Callable[[float, Callable[[], None]], object],
        changed: Callable[[], None],
        destinations: Sequence[str] = PROBES,
        *,
        look: Callable[[Iterable[str]], Ways] | None = None,
    ) -> None:
        """`changed()` is called once for each change, `SETTLED` seconds after the kernel began to tell of it.

        `call_later(seconds, callback)` is the loop's. `look` finds the ways to the destinations, as `ways_to` does.
        """
        self.owner = self
        self._poller = poller
        self._call_later = call_later
        self._changed = changed
        self._destinations = tuple(destinations)
        self._look = look if look is not None else ways_to
        self._ways: Ways = ()
        self._waits = False
        self._socket: socket.socket | None = None

    def open(self) -> bool:
        """Begin; False where the kernel does not say."""
        family = getattr(socket, "AF_NETLINK", None)
        if family is None:
            return False
        try:
            made = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        except OSError:
            return False
        try:
            made.bind((0, _GROUPS))
        except OSError:
            made.close()
            return False
        self._socket = made
        self._ways = self._look(self._destinations)
        self._poller.watch(made.fileno(), self, True, False)
        return True

    def close(self) -> None:
        """Idempotent."""
        made, self._socket = self._socket, None
        if made is not None:
            self._poller.watch(made.fileno(), self, False, False)
            made.close()

    def on_readable(self, watch: RouteWatch, now: float) -> None:
        """The kernel says something; what, is looked at when it is done."""
        made = self._socket
        while made is not None:
            try:
                made.recv(_READ)
            except BlockingIOError:
                break
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:  # more than the buffer held: something changed for sure
                    self.close()
                    return
        self.told()

    def told(self) -> None:
        """Something may be different: look, soon."""
        if not self._waits:
            self._waits = True
            self._call_later(SETTLED, self._settled)

    def _settled(self) -> None:
        self._waits = False
        if self._socket is None:
            return
        ways = self._look(self._destinations)
        if ways != self._ways:
            self._ways = ways
            self._changed()


def ways_to(destinations: Iterable[str]) -> Ways:
    """The address from which each destination would be reached, empty where it cannot be. Sends nothing."""
    found = []
    for host in destinations:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        way = ""
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 53))
            way = str(probe.getsockname()[0])
        found.append(way)
    return tuple(found)


def destinations_of(config: Config) -> tuple[str, ...]:
    """What the way to matters to a resolver: the probes, and the upstreams that are given by address."""
    dns = config.dns
    upstreams = [*dns.upstreams, *(each for split in config.split for each in split.upstreams)] or list(dns.servers)
    found = dict.fromkeys(PROBES)
    for each in (*upstreams, *dns.bootstrap):
        with contextlib.suppress(ValueError, ConfigError):
            host = urlsplit(each).hostname if "://" in each else parse_server(each)[0]
            address = ipaddress.ip_address(host or "")
            if not address.is_loopback:
                found[str(address)] = None
    return tuple(found)[:_DESTINATIONS_MOST]
