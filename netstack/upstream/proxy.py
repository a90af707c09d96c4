"""The resolver that asks a DNS server by address: UDP first, TCP when an answer does not fit.

Responsible for: upstream ids, retransmission, fail-over between servers, falling back to TCP, asking again
on a new network, one answer or one failure for each query.
Refuses to know: what an answer says, the apps' flows, leases.
RFCs: 1035, 5452 (random id and port), 7766 (TCP), 9715 and 1123 6.1.3 (UDP then TCP).

Sans-IO over the Dialer seam: sockets come from there, protected, and time comes in with every call.

A query is tried against one server after the other: those that are not known to be silent first, then
the rest. Each try waits longer than the one before; a refusal by ICMP moves on at once. An answer to an
earlier try is still welcome while the query lives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from netstack.config import parse_server
from netstack.core.drops import DropReason
from netstack.core.errors import DialError, ProtectError
from netstack.core.flow import Endpoint
from netstack.core.ports import Dialer, Entropy, ResolverOwner
from netstack.core.stats import Stats
from netstack.dns.message import HEADER_SIZE, TC, Question, parse_question
from netstack.upstream.dns_channels import TcpChannel, UdpPool

WAITS = (1.0, 2.0, 1.8)  # seconds that each try may take; together below the bridge's limit of 5 s
SILENT_FOR = 10.0  # seconds that a server which did not answer is asked last
SILENT_AFTER = 3  # tries in a row without an answer


class Server:
    """An upstream. `silent_until`: it did not answer and is asked last until then."""

    __slots__ = ("endpoint", "missed", "silent_until")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.missed = 0
        self.silent_until = 0.0


class Lookup:
    """A query on its way. `places` are where its ids are registered, so that they can be given back."""

    __slots__ = (
        "deadline", "done", "message", "on_tcp", "order", "over_tcp", "places", "question", "refused", "serial",
        "server", "token", "tries", "truncated", "why",
    )  # fmt: skip

    def __init__(
        self,
        token: int,
        message: bytes,
        question: Question,
        over_tcp: bool,
        deadline: float,
        order: list[Server],
        on_tcp: bool = False,
        server: Server | None = None,
    ) -> None:
        """`on_tcp`: the current try goes over TCP."""
        self.token = token
        self.message = message
        self.question = question
        self.over_tcp = over_tcp
        self.deadline = deadline
        self.order = order
        self.on_tcp = on_tcp
        self.tries = 0
        self.server = server
        self.serial = 0  # of the current try; a timer of an earlier one is stale
        self.done = False
        self.truncated = b""  # an answer with TC, better than none
        self.refused: set[int] = set()  # servers (by identity) that refused
        self.why = "timeout"
        self.places: list[tuple[dict[int, Lookup], int]] = []

    def give_back(self) -> None:
        """Its ids are free: no answer to them is taken any more."""
        for place, ident in self.places:
            if place.get(ident) is self:
                del place[ident]
        self.places.clear()


class ProxyResolver:
    """Implements `core.ports.Resolver` for plain DNS servers."""

    __slots__ = ("_channels", "_dialer", "_entropy", "_lookups", "_owner", "_pool", "_serial", "_stats", "_timeout",
                 "_timers", "servers")  # fmt: skip

    def __init__(
        self,
        dialer: Dialer,
        servers: Sequence[str | Endpoint],
        entropy: Entropy,
        *,
        timeout: float = 5.0,
        tcp_idle: float = 2.0,
        stats: Stats | None = None,
    ) -> None:
        """`servers` as in the configuration, in order of preference. `stats` counts junk from upstream.

        `timeout` is for a query in all, `tcp_idle` closes an unused connection; seconds. It is short since some
        servers (dnsmasq in the foreground) answer nobody else while a connection is open.
        """
        self._dialer = dialer
        self._entropy = entropy
        self._stats = stats
        self._timeout = timeout
        endpoints = [each if isinstance(each, Endpoint) else Endpoint.of(*parse_server(each)) for each in servers]
        self.servers = [Server(endpoint) for endpoint in endpoints]
        self._owner: ResolverOwner | None = None
        self._lookups: dict[int, Lookup] = {}
        self._serial = 0
        self._timers: list[deque[tuple[float, Lookup, int]]] = [deque() for _ in WAITS]  # a queue for each wait
        self._pool = UdpPool(dialer, entropy, self)
        self._channels = {
            id(server): TcpChannel(dialer, entropy, server.endpoint, self, idle=tcp_idle) for server in self.servers
        }

    def __len__(self) -> int:
        return len(self._lookups)

    # --- Resolver ---

    def start(self, owner: ResolverOwner) -> None:
        """As `Resolver.start`."""
        self._owner = owner

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`. A message without a readable question fails at once."""
        question = parse_question(message) if len(message) > HEADER_SIZE else None
        if question is None or not self.servers:
            self._tell_failure(token, "unreachable", now)
            return
        lookup = Lookup(token, message, question, over_tcp, now + self._timeout, self._order(now), on_tcp=over_tcp)
        self._lookups[token] = lookup
        self._try_next(lookup, now)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        lookup = self._lookups.get(token)
        if lookup is not None:
            self._retire(lookup)

    def network_changed(self, now: float) -> None:
        """As `Resolver.network_changed`: every pending query starts over."""
        self._close_sockets()
        for server in self.servers:
            server.missed, server.silent_until = 0, 0.0
        for lookup in list(self._lookups.values()):
            lookup.give_back()
            lookup.tries = 0
            lookup.refused.clear()
            lookup.order = self._order(now)
            lookup.on_tcp = lookup.over_tcp
            self._try_next(lookup, now)

    def close(self) -> None:
        """As `Resolver.close`; queries that are pending are forgotten."""
        self._close_sockets()
        for lookup in list(self._lookups.values()):
            self._retire(lookup)

    def _close_sockets(self) -> None:
        self._pool.close()
        for channel in self._channels.values():
            channel.reset()

    def next_timeout(self) -> float | None:
        """The earliest of the tries' ends and the sockets' idle limits."""
        best = self._pool.next_timeout()
        for channel in self._channels.values():
            idle = channel.next_timeout()
            if idle is not None and (best is None or idle < best):
                best = idle
        for queue in self._timers:
            while queue and (queue[0][1].done or queue[0][1].serial != queue[0][2]):
                queue.popleft()
            if queue and (best is None or queue[0][0] < best):
                best = queue[0][0]
        return best

    def on_timeout(self, now: float) -> None:
        """End the tries whose time is over; close what is idle."""
        for queue in self._timers:
            while queue and queue[0][0] <= now:
                _, lookup, serial = queue.popleft()
                if not lookup.done and lookup.serial == serial:
                    self._missed(lookup, now)
        self._pool.on_timeout(now)
        for channel in self._channels.values():
            channel.on_timeout(now)

    # --- tries ---

    def _order(self, now: float) -> list[Server]:
        servers = self.servers
        if len(servers) == 1:
            return servers
        return sorted(servers, key=lambda server: server.silent_until > now)  # stable: preference stays

    def _try_next(self, lookup: Lookup, now: float) -> None:
        """Send to the next server that did not refuse; report failure when there is none or time is up."""
        order = lookup.order
        while lookup.tries < len(WAITS) + len(lookup.refused) and now < lookup.deadline:
            server = order[lookup.tries % len(order)]
            lookup.tries += 1
            if id(server) in lookup.refused:
                if len(lookup.refused) >= len(order):
                    break
                continue
            if self._send(lookup, server, now):
                return
        self._give_up(lookup, now)

    def _send(self, lookup: Lookup, server: Server, now: float) -> bool:
        """One try; False when it could not even be sent (then the server counts as refusing)."""
        lookup.server = server
        self._serial += 1
        serial = lookup.serial = self._serial
        wait = min(lookup.tries - 1, len(WAITS) - 1)
        try:
            if lookup.on_tcp:
                self._channels[id(server)].ask(lookup, now)
            else:
                self._pool.ask(lookup, server.endpoint, now)
        except ProtectError:
            lookup.why = "protect"
        except (DialError, OSError):
            lookup.why = "unreachable"
        else:
            if lookup.serial == serial:  # else an error that was waiting in the socket has moved it on already
                self._timers[wait].append((now + WAITS[wait], lookup, serial))
            return True
        lookup.refused.add(id(server))
        return False

    def _missed(self, lookup: Lookup, now: float) -> None:
        """A try got no answer in its time."""
        server = lookup.server
        if server is not None:
            server.missed += 1
            if server.missed >= SILENT_AFTER:
                server.silent_until = now + SILENT_FOR
            if lookup.on_tcp:
                self._channels[id(server)].doubt(now)
        lookup.why = "timeout"
        self._try_next(lookup, now)

    def _give_up(self, lookup: Lookup, now: float) -> None:
        self._retire(lookup)
        if lookup.truncated and not lookup.over_tcp:
            self._tell_answer(lookup, lookup.truncated, now)
        else:
            self._tell_failure(lookup.token, lookup.why, now)

    def _retire(self, lookup: Lookup) -> None:
        lookup.done = True
        self._lookups.pop(lookup.token, None)
        lookup.give_back()

    # --- from the channels ---

    def on_message(self, lookup: Lookup, message: bytes, over_tcp: bool, now: float) -> None:
        """An answer that matches `lookup` in id, question and sender."""
        if lookup.done:
            return
        server = lookup.server
        if server is not None:
            server.missed, server.silent_until = 0, 0.0
        if not over_tcp and (message[2] << 8 | message[3]) & TC:
            lookup.truncated = message
            if lookup.on_tcp:
                return
            lookup.on_tcp = True
            lookup.tries -= 1  # the same server again
            lookup.refused.clear()
            self._try_next(lookup, now)
            return
        self._retire(lookup)
        self._tell_answer(lookup, message, now)

    def on_refused(self, lookup: Lookup, why: str, now: float) -> None:
        """The server of the current try refused it or cut the connection."""
        if lookup.done or lookup.server is None:
            return
        lookup.serial = 0
        lookup.refused.add(id(lookup.server))
        lookup.why = why
        if lookup.on_tcp and lookup.over_tcp and not lookup.truncated and len(lookup.refused) >= len(lookup.order):
            lookup.on_tcp = False  # no server speaks TCP: UDP may do
            lookup.refused.clear()
        self._try_next(lookup, now)

    def on_failed(self, lookup: Lookup, why: str, now: float) -> None:
        """Not on these channels: a server without an answer says nothing."""
        self.on_refused(lookup, why, now)

    def on_leaving(self, lookups: list[Lookup], now: float) -> None:
        """Not on these channels: TCP has no word for it."""

    def on_junk(self, reason: DropReason) -> None:
        """A datagram or message from upstream that answers nothing."""
        if self._stats is not None:
            self._stats.drops[reason] += 1

    def _tell_answer(self, lookup: Lookup, message: bytes, now: float) -> None:
        if self._owner is not None:
            self._owner.on_answer(lookup.token, lookup.message[:2] + message[2:], now)

    def _tell_failure(self, token: int, why: str, now: float) -> None:
        if self._owner is not None:
            self._owner.on_failure(token, why, now)
