"""DNS over UDP to a stand-alone resolver.

Responsible for: reading queries in batches, who may ask, sending answers to where the query came from, repeating
the answers of the last second.
Refuses to know: what is asked and answered (`dns.bridge`), connections (`dns_connections`).
RFCs: 1035 4.2.1.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from netstack.core.drops import DropReason
from netstack.core.flow import UDP, Endpoint, FiveTuple
from netstack.core.stats import Stats
from netstack.dns.message import is_answer_to, parse_question
from netstack.upstream.datagrams import from_sockaddr
from netstack.upstream.streams import Poller

READS = 64  # datagrams taken from one socket before the others have their turn
LARGEST = 65_535
_KNOWN = 4096  # clients whose flow is remembered
_RECEIVE_BUFFER = 1 << 20
_REPEATED = 1.0  # seconds
_REPEATS = 4096
_LONGEST_KEPT = 1232
_REPEATED_CODES = (0, 3, 5)  # NOERROR, NXDOMAIN, REFUSED

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Ask = Callable[..., bool]
"""`DnsBridge.ask`."""


class Peers:
    """Who may ask: this host, and the networks that were named.

    `listening` are the addresses that are listened on: a host that asks one of its own asks from that address.
    """

    def __init__(self, networks: Sequence[Network], listening: Sequence[str] = ()) -> None:
        self._networks = tuple(networks)
        self._own = {ipaddress.ip_address(host.partition("%")[0]) for host in listening}
        self._known: dict[str, bool] = {}

    def admits(self, host: str) -> bool:
        """`host` as the socket module gives it."""
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            address = ipaddress.ip_address(host.partition("%")[0])
            known = (
                address.is_loopback
                or address in self._own
                or any(address in network for network in self._networks if network.version == address.version)
            )
            self._known[host] = known
        return known


class Repeats:
    """Answers of the last second, given again to the same octets without asking.

    Only what was answered at once is kept, that is what the cache or a rule said; the second is also how late a change
    of rules or a TTL may be felt.
    """

    __slots__ = ("_until", "answers", "flow", "message")

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}  # both without the id
        self._until = 0.0
        self.flow: FiveTuple | None = None  # who is asking at the moment
        self.message = b""

    def begin(self, now: float) -> None:
        """Forget what is older than a second."""
        if now >= self._until:
            self.answers.clear()
            self._until = now + _REPEATED

    def keep(self, answer: bytes) -> None:
        """An answer that came while its query was being asked."""
        message = self.message
        question = parse_question(message)
        if (
            question is not None
            and len(self.answers) < _REPEATS
            and len(message) <= _LONGEST_KEPT >= len(answer)
            and answer[3] & 0xF in _REPEATED_CODES
            and is_answer_to(answer, message[0] << 8 | message[1], question)
        ):
            self.answers[message[2:]] = answer[2:]

    def clear(self) -> None:
        """Something changed."""
        self.answers.clear()


class UdpListener:
    """One UDP socket that answers."""

    __slots__ = (
        "_ask", "_family", "_flows", "_here", "_output", "_peers", "_repeats", "_socket", "_stats", "_waiting", "owner",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        ask: Ask,
        peers: Peers,
        stats: Stats,
        repeats: Repeats | None = None,
        *,
        waiting: set[UdpListener],
    ) -> None:
        """`sock` is bound and becomes this object's. `repeats`: where an answer depends on nothing but its query.

        A listener with answers to send is in `waiting`; whoever made it calls `flush`.
        """
        self.owner = self
        self._socket = sock
        self._family = sock.family
        self._here = from_sockaddr(sock.family, sock.getsockname())
        self._ask = ask
        self._peers = peers
        self._stats = stats
        self._flows: dict[Any, FiveTuple] = {}
        self._repeats = repeats
        self._output: list[tuple[bytes, Any]] = []
        self._waiting = waiting
        sock.setblocking(False)
        poller.watch(sock.fileno(), self, True, False)

    def on_readable(self, listener: UdpListener, now: float) -> None:
        """Take what is there, a bounded number."""
        receive, ask, flows, reply, repeats = self._socket.recvfrom, self._ask, self._flows, self._reply, self._repeats
        if repeats is not None:
            repeats.begin(now)
        for _ in range(READS):
            try:
                message, sender = receive(LARGEST)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error about an answer of ours
                continue
            flow = flows.get(sender)
            if flow is None and (flow := self._flow(sender)) is None:
                continue
            if repeats is None:
                ask(flow, message, now, partial(reply, sender))
                continue
            again = repeats.answers.get(message[2:])
            if again is not None:
                self._stats.dns_queries += 1
                self._stats.dns_answers += 1
                self._send(message[:2] + again, sender)
                continue
            repeats.flow, repeats.message = flow, message
            ask(flow, message, now, partial(self._reply_and_keep, sender, flow))
            repeats.flow = None

    def on_writable(self, listener: UdpListener, now: float) -> None:
        """Never asked for."""

    def _flow(self, sender: tuple[Any, ...]) -> FiveTuple | None:
        """The flow of a client that may ask."""
        if not self._peers.admits(sender[0]) or not sender[1]:
            self._stats.drops[DropReason.DNS_PEER_NOT_ALLOWED] += 1
            return None
        if len(self._flows) >= _KNOWN:
            self._flows.clear()
        flow = self._flows[sender] = FiveTuple(UDP, from_sockaddr(self._family, sender), self._here)
        return flow

    def _reply_and_keep(self, sender: Any, flow: FiveTuple, message: bytes, now: float) -> None:
        repeats = self._repeats
        if repeats is not None and repeats.flow is flow:
            repeats.keep(message)
        self._reply(sender, message, now)

    def _reply(self, sender: Any, message: bytes, now: float) -> None:
        output = self._output
        output.append((message, sender))
        if len(output) == 1:
            self._waiting.add(self)

    def flush(self) -> None:
        """Send what was answered in this round, all together: whoever waits for it wakes up once and not each time."""
        output, self._output = self._output, []
        for message, sender in output:
            self._send(message, sender)

    def _send(self, message: bytes, sender: Any) -> None:
        try:
            self._socket.sendto(message, sender)
        except BlockingIOError:
            self._stats.drops[DropReason.UDP_BACKPRESSURE] += 1
        except OSError:
            self._stats.drops[DropReason.UDP_SEND_FAILED] += 1

    def close(self) -> None:
        """Answer nobody any more."""
        self._socket.close()


def bind(host: str, port: int, kind: int) -> socket.socket:
    """A bound socket of the address's family. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:  # bursts of queries: the system's default holds some 250
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def endpoint_text(host: str, port: int) -> str:
    """For messages."""
    return str(Endpoint.of(host, port))
