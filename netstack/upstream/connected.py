"""A resolver for one upstream that is reached over a connection: TCP, DoT, DoH and DoQ alike.

Responsible for: finding the upstream's address, one channel to it, one answer or failure for each query, turning to
another address or connection when one fails or falls silent, asking again on a new network.
Refuses to know: what a channel speaks; other upstreams (`group`).
RFCs: 7766 6.2 (connection handling), 7858 3.4, 8467 (padding).

A query has a time limit here too, but the tactics between upstreams are the group's: failures are told early.

A connection on which a query waits and nothing is heard may be dead without anybody having been told (a NAT that forgot
it, a network that changed), or its server may be slow. So what waits on it is asked once more on a new one, and the old
one stays aside for a while: whichever answers first counts. A connection that takes no more queries but still owes
answers (GOAWAY) goes aside in the same way.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import Protocol

from netstack.core.drops import DropReason
from netstack.core.errors import DialError, ProtectError
from netstack.core.flow import Endpoint
from netstack.core.ports import ResolverOwner
from netstack.core.stats import Stats
from netstack.dns.message import HEADER_SIZE, parse_question
from netstack.dns.stage import earlier
from netstack.upstream.bootstrap import Location
from netstack.upstream.dns_channels import SILENT, ChannelOwner
from netstack.upstream.padding import padded
from netstack.upstream.proxy import Lookup, Server

TIMEOUT = 5.0
ASIDES_MOST = 4  # connections of one upstream that only owe answers
IDLE = 30.0  # seconds; RFC 7766 6.2.3 leaves it to the client, a TLS handshake makes more than TCP's 10 worthwhile


class Channel(Protocol):
    """A connection, made when needed and again when lost."""

    retired: bool
    """Set when another channel has taken its place: what is lost with the connection is not asked again here."""

    def ask(self, lookup: Lookup, now: float) -> None:
        """Send, or keep until connected. Raises DialError or OSError."""

    def is_silent(self, now: float) -> bool:
        """True when there is a connection and nothing was heard on it for `dns_channels.SILENT` seconds."""

    def reset(self) -> None:
        """Close the connection; who waits on it is not told."""

    def next_timeout(self) -> float | None:
        """When the channel wants `on_timeout`."""

    def on_timeout(self, now: float) -> None:
        """Close what is idle."""


ChannelFactory = Callable[[Endpoint, ChannelOwner], Channel]


class Line:
    """One channel and the address it goes to: a ChannelOwner that knows whose failure it is."""

    __slots__ = ("_resolver", "channel", "on_failed", "on_junk", "on_message", "server", "until")

    channel: Channel

    def __init__(self, resolver: ConnectedResolver, endpoint: Endpoint) -> None:
        self._resolver = resolver
        self.server = Server(endpoint)  # of its own, so that a look-up's `server` says which line it is on
        self.until = 0.0  # when it stands aside: how long
        self.on_message = resolver.on_message
        self.on_failed = resolver.on_failed
        self.on_junk = resolver.on_junk

    def on_refused(self, lookup: Lookup, why: str, now: float) -> None:
        """As `ChannelOwner.on_refused`."""
        self._resolver.on_refused(self, lookup, why, now)

    def on_leaving(self, lookups: list[Lookup], now: float) -> None:
        """As `ChannelOwner.on_leaving`."""
        self._resolver.on_leaving(self, lookups, now)


class ConnectedResolver:
    """Implements `core.ports.Resolver` for one upstream."""

    __slots__ = ("_asides", "_checks", "_line", "_locating", "_location", "_lookups", "_make_channel", "_owner", "_pad",
                 "_stats", "_timeout", "_timers")  # fmt: skip

    def __init__(
        self,
        location: Location,
        make_channel: ChannelFactory,
        *,
        timeout: float = TIMEOUT,
        padding: bool = False,
        stats: Stats | None = None,
    ) -> None:
        """`make_channel(endpoint, owner)` opens nothing yet; `padding` fills queries up to blocks (RFC 8467)."""
        self._location = location
        self._make_channel = make_channel
        self._timeout = timeout
        self._pad = padding
        self._stats = stats
        self._owner: ResolverOwner | None = None
        self._lookups: dict[int, Lookup] = {}
        self._timers: deque[tuple[float, Lookup]] = deque()
        self._checks: deque[tuple[float, Lookup]] = deque()
        self._line: Line | None = None
        self._asides: deque[Line] = deque()  # in order of `until`
        self._locating = False

    def __len__(self) -> int:
        return len(self._lookups)

    # --- Resolver ---

    def start(self, owner: ResolverOwner) -> None:
        """As `Resolver.start`."""
        self._owner = owner

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`. A message without a readable question fails at once."""
        question = parse_question(message) if len(message) > HEADER_SIZE else None
        if question is None:
            self._tell_failure(token, "unreachable", now)
            return
        if self._pad:
            message = padded(message, question)
        deadline = now + self._timeout
        lookup = Lookup(token, message, question, True, deadline, [], on_tcp=True)
        self._lookups[token] = lookup
        self._timers.append((deadline, lookup))
        self._checks.append((now + SILENT, lookup))
        self._ask(lookup, now)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        lookup = self._lookups.get(token)
        if lookup is not None:
            self._retire(lookup)

    def network_changed(self, now: float) -> None:
        """As `Resolver.network_changed`."""
        self._drop_lines()
        self._location.network_changed(now)
        for lookup in list(self._lookups.values()):
            lookup.tries = 0
            lookup.server = None
            lookup.give_back()
        for lookup in list(self._lookups.values()):
            if lookup.server is None:
                self._ask(lookup, now)

    def close(self) -> None:
        """As `Resolver.close`; queries that are pending are forgotten."""
        self._drop_lines()
        for lookup in list(self._lookups.values()):
            self._retire(lookup)
        self._location.close()

    def next_timeout(self) -> float | None:
        """The earliest of the queries' ends, the checks and the connection's idle limit."""
        best = self._location.next_timeout()
        if self._line is not None:
            best = earlier(best, self._line.channel.next_timeout())
        for aside in self._asides:
            best = earlier(earlier(best, aside.until), aside.channel.next_timeout())
        for queue in (self._timers, self._checks):
            while queue and queue[0][1].done:
                queue.popleft()
            if queue:
                best = earlier(best, queue[0][0])
        return best

    def on_timeout(self, now: float) -> None:
        """End queries whose time is over; give up a connection that says nothing."""
        self._location.on_timeout(now)
        timers, checks = self._timers, self._checks
        while timers and timers[0][0] <= now:
            lookup = timers.popleft()[1]
            if not lookup.done:
                self._fail(lookup, "timeout", now)
        doubted = False
        while checks and checks[0][0] <= now:
            lookup = checks.popleft()[1]
            if not lookup.done:
                checks.append((now + SILENT, lookup))
                doubted = doubted or (self._line is not None and lookup.server is self._line.server)
        line = self._line
        if doubted and line is not None and line.channel.is_silent(now):
            self._ask_beside(line, now)
        while self._asides and self._asides[0].until <= now:
            self._asides.popleft().channel.reset()
        for aside in list(self._asides):
            aside.channel.on_timeout(now)
        if self._line is not None:
            self._line.channel.on_timeout(now)

    # --- asking ---

    def _ask(self, lookup: Lookup, now: float) -> None:
        line = self._line
        if line is None:
            if not self._locating:
                self._locating = True
                self._location.locate(now, self._located)
            return
        lookup.server = line.server
        try:
            line.channel.ask(lookup, now)
        except ProtectError:
            self._fail(lookup, "protect", now)
        except (DialError, OSError) as problem:
            if problem.errno == errno.EBUSY:
                self._fail(lookup, "busy", now)
            else:
                self.on_refused(line, lookup, "unreachable", now)

    def _located(self, endpoint: Endpoint | None, now: float) -> None:
        if not self._locating:  # an earlier look-up's outcome: the network has changed since
            return
        self._locating = False
        waiting = [lookup for lookup in self._lookups.values() if lookup.server is None]
        if endpoint is None:
            for lookup in waiting:
                self._fail(lookup, "bootstrap", now)
            return
        line = self._line = Line(self, endpoint)
        line.channel = self._make_channel(endpoint, line)
        for lookup in waiting:
            if lookup.server is None and not lookup.done:
                self._ask(lookup, now)

    def _drop_line(self) -> None:
        line, self._line = self._line, None
        self._locating = False
        if line is not None:
            line.channel.reset()

    def _drop_lines(self) -> None:
        self._drop_line()
        while self._asides:
            self._asides.popleft().channel.reset()

    def _set_aside(self, line: Line, now: float) -> None:
        """The next query gets a new connection; this one is kept for what it owes."""
        if line is not self._line:
            return
        self._line = None
        line.channel.retired = True
        line.until = now + self._timeout
        self._asides.append(line)
        if len(self._asides) > ASIDES_MOST:
            oldest = self._asides.popleft()
            oldest.channel.reset()
            for lookup in list(self._lookups.values()):
                if lookup.server is oldest.server:
                    self.on_refused(oldest, lookup, "timeout", now)

    def _ask_beside(self, line: Line, now: float) -> None:
        """A silent connection: ask once more, elsewhere if there is an elsewhere."""
        self._set_aside(line, now)
        self._location.failed(now)
        for lookup in list(self._lookups.values()):
            if lookup.server is line.server and lookup.tries < max(1, self._location.count - 1):
                lookup.tries += 1
                lookup.server = None
                self._ask(lookup, now)

    # --- from the channel ---

    def on_message(self, lookup: Lookup, message: bytes, over_tcp: bool, now: float) -> None:
        """An answer that matches `lookup`."""
        if lookup.done:
            return
        self._retire(lookup)
        if self._owner is not None:
            self._owner.on_answer(lookup.token, lookup.message[:2] + message[2:], now)

    def on_refused(self, line: Line, lookup: Lookup, why: str, now: float) -> None:
        """The connection that `lookup` was on could not be had or broke: another address's turn."""
        if lookup.done or lookup.server is not line.server:  # asked elsewhere since
            return
        if line is self._line:
            self._drop_line()
            self._location.failed(now)
        lookup.give_back()
        lookup.server = None
        lookup.tries += 1
        # A connection may end at any moment, whatever was on its way (RFC 7766 6.2.4): that alone says nothing.
        if lookup.tries < self._location.count or (why == "closed" and lookup.tries == 1):
            self._ask(lookup, now)
        else:
            self._fail(lookup, why, now)

    def on_leaving(self, line: Line, lookups: list[Lookup], now: float) -> None:
        """The connection answers what it took and is otherwise gone: the rest goes on a new one."""
        self._set_aside(line, now)
        for lookup in lookups:
            if not lookup.done and lookup.server is line.server:
                lookup.give_back()
                lookup.server = None
                self._ask(lookup, now)

    def on_failed(self, lookup: Lookup, why: str, now: float) -> None:
        """The upstream will not answer `lookup`; its connection is well."""
        if not lookup.done:
            self._fail(lookup, why, now)

    def on_junk(self, reason: DropReason) -> None:
        """A message from upstream that answers nothing."""
        if self._stats is not None:
            self._stats.drops[reason] += 1

    def _fail(self, lookup: Lookup, why: str, now: float) -> None:
        self._retire(lookup)
        self._tell_failure(lookup.token, why, now)

    def _retire(self, lookup: Lookup) -> None:
        lookup.done = True
        self._lookups.pop(lookup.token, None)
        lookup.give_back()

    def _tell_failure(self, token: int, why: str, now: float) -> None:
        if self._owner is not None:
            self._owner.on_failure(token, why, now)
