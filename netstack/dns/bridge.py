"""The DNS bridge: between the apps' queries and the resolver, with the tracker in the middle.

Responsible for: matching answers to queries, coalescing retransmissions, the time limit, an answer for every
query (SERVFAIL at the latest), leases before answers leave, truncation for UDP.
Refuses to know: how the upstream is asked (`upstream/`), packets and streams (`forward/`), leases' rules.
RFCs: 1035, 5452 (matching), 5625 (proxies), 6891, 7766, 2308.

A query is known by flow, id and question together; the upstream id is the resolver's own. Nothing here
waits: a query that gets no answer costs one table entry until its time is over, and the table is capped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from netstack.config import DnsConfig, LimitsConfig
from netstack.core.drops import DropReason
from netstack.core.events import EventSink, QueryAnswered, QueryFailed
from netstack.core.flow import FiveTuple
from netstack.core.ports import Entropy, Resolver
from netstack.core.stats import Stats
from netstack.dns.filter import AddressBook, Answer, admit, read_answer
from netstack.dns.message import (
    HEADER_SIZE,
    MAX_MESSAGE,
    TC,
    Query,
    Rcode,
    error_without_question,
    is_answer_to,
    parse_query,
    rcode_name,
    refused,
    servfail,
    truncated,
    type_name,
    with_identity,
)
from netstack.dns.stage import DROPPED, DROPPED_LATE, earlier

Reply = Callable[[bytes, float], None]
QueryOf = Callable[[int, Query, FiveTuple, float, bool], None]
# protocol, source and destination (as parts: hashed far faster than a FiveTuple), id, question
Identity = tuple[int, bytes, int, bytes, int, int, bytes]

# Octets: a longest name and all that EDNS adds. Each pending query is kept whole, in several places.
QUERY_MOST: Final = 2048
_REPEATED_MOST = 1024
_REPEATED_LONGEST = 1232


class _Repeated:
    """What was read of a query, and of its answer, that was there at once: a cache gives the same octets again."""

    __slots__ = ("answer", "octets", "query", "size")

    def __init__(self, query: Query, message: bytes, answer: Answer) -> None:
        self.query = query
        self.octets = message[2:]  # of the answer
        self.size = len(message)
        self.answer = answer


class _Pending:
    """A query that was asked upstream."""

    __slots__ = ("asked_at", "deadline", "dropped", "flow", "identity", "limit", "query", "repeated", "reply")

    def __init__(
        self,
        query: Query,
        flow: FiveTuple,
        reply: Reply,
        identity: Identity,
        asked_at: float,
        deadline: float,
        limit: int,
        repeated: _Repeated | None,
    ) -> None:
        self.query = query
        self.flow = flow
        self.reply = reply
        self.identity = identity
        self.asked_at = asked_at
        self.deadline = deadline
        self.limit = limit  # octets of the largest answer
        self.dropped = False
        self.repeated = repeated


class DnsBridge:
    """All queries of one engine: a ResolverOwner and a TimerOwner."""

    __slots__ = (
        "_asking", "_by_identity", "_config", "_emit", "_entropy", "_limits", "_mixed", "_pending", "_query_of",
        "_repeated", "_resolver", "_retired", "_stats", "_token", "_tracker", "timer_at",
    )  # fmt: skip

    def __init__(
        self,
        resolver: Resolver,
        tracker: AddressBook | None,
        config: DnsConfig,
        limits: LimitsConfig,
        stats: Stats,
        emit: EventSink,
        entropy: Entropy,
    ) -> None:
        """The caller starts `resolver` with this bridge as its owner.

        A resolver that judges queries by their flow has `query_of` (see `rules.RuleStage`) and is asked by that.

        Without a `tracker` nobody is guarded by the answers and nobody is told of them: events are for failures only.
        """
        self._resolver = resolver
        self._tracker = tracker
        self._config = config
        self._limits = limits
        self._stats = stats
        self._emit = emit
        self._entropy = entropy
        self._pending: dict[int, _Pending] = {}  # by token; in order of deadline, for all wait equally long
        self._by_identity: dict[Identity, _Pending] = {}
        self._token = 0
        self._asking = 0  # the token that the resolver is being given
        self._repeated: dict[bytes, _Repeated] = {}  # by the query's octets without the id
        self._query_of: QueryOf | None = getattr(resolver, "query_of", None)
        self._mixed = False  # some wait for longer than those that came after them
        self._retired: list[tuple[float, Resolver]] = []  # with the end of their last query
        self.timer_at: float | None = None

    def __len__(self) -> int:
        return len(self._pending)

    # --- from the apps ---

    def ask(
        self,
        flow: FiveTuple,
        message: bytes,
        now: float,
        reply: Reply,
        *,
        over_tcp: bool = False,
        udp_limit: int = MAX_MESSAGE,
    ) -> bool:
        """A query of `flow`. `reply(answer, now)` is called once, maybe before this returns; with no octets, over TCP
        only, when a rule has come to drop the query after all.

        `udp_limit` is what fits the tunnel's MTU; ignored over TCP. False when `reply` will not be called: for
        what must not be answered (a response, octets without a header, a query that a rule drops) and for a
        retransmission of a query that is pending.
        """
        stats = self._stats
        if len(message) < HEADER_SIZE:
            stats.drops[DropReason.DNS_MALFORMED] += 1
            return False
        if message[2] & 0x80:  # answering a response would let two servers talk for ever
            stats.drops[DropReason.DNS_UNEXPECTED_ANSWER] += 1
            return False
        repeated = self._repeated.get(message[2:])
        if repeated is not None:
            known, ident = repeated.query, message[0] << 8 | message[1]
            query = Query(ident, known.flags, known.question, message, known.udp_size, known.edns)
        else:
            read = parse_query(message) if len(message) <= QUERY_MOST else Rcode.FORMERR
            if isinstance(read, Rcode):
                stats.drops[DropReason.DNS_MALFORMED] += 1
                reply(error_without_question(message, read), now)
                return True
            query = read
        source, asked = flow.source, flow.destination
        identity = (
            flow.protocol, source.address, source.port, asked.address, asked.port, query.id, query.question.folded,
        )  # fmt: skip
        if identity in self._by_identity:
            return False
        stats.dns_queries += 1
        if len(self._pending) >= self._limits.dns_pending:
            stats.drops[DropReason.DNS_TABLE_FULL] += 1
            self._fail(query, flow, reply, "table-full", now)
            return True
        limit = MAX_MESSAGE
        if not over_tcp:
            limit = max(512, min(query.udp_size, self._config.udp_size, udp_limit))
        pending = _Pending(query, flow, reply, identity, now, now + self._config.timeout, limit, repeated)
        self._token += 1
        token = self._asking = self._token
        self._pending[token] = pending
        self._by_identity[identity] = pending
        stats.dns_pending = len(self._pending)
        if self._query_of is None:
            self._resolver.query(token, message, now, over_tcp)
            self._asking = 0
            return True
        self._query_of(token, query, flow, now, over_tcp)
        self._asking = 0
        return not pending.dropped

    # --- from the resolver ---

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """The resolver's answer; checked again here, for what passes opens addresses."""
        pending = self._take(token)
        if pending is None:
            self._stats.drops[DropReason.DNS_LATE_ANSWER] += 1
            return
        query = pending.query
        answer: Answer | None
        repeated = pending.repeated
        if (
            repeated is not None
            and len(message) == repeated.size
            and message.endswith(repeated.octets)
            and message.startswith(query.message[:2])
        ):
            answer = repeated.answer
        else:
            if not is_answer_to(message, query.id, query.question):
                self._stats.drops[DropReason.DNS_UNEXPECTED_ANSWER] += 1
                self._fail(query, pending.flow, pending.reply, "unexpected", now)
                return
            answer = read_answer(message, query.question)
            if answer is None:
                self._stats.drops[DropReason.DNS_MALFORMED] += 1
                self._fail(query, pending.flow, pending.reply, "malformed", now)
                return
            if token == self._asking and len(message) <= _REPEATED_LONGEST:
                if repeated is None and len(self._repeated) >= _REPEATED_MOST:
                    del self._repeated[next(iter(self._repeated))]
                self._repeated[query.message[2:]] = _Repeated(query, message, answer)
        tracker = self._tracker
        addresses: tuple[str, ...] = ()
        if answer.addresses and tracker is not None:
            addresses = admit(answer, query.question.name, tracker, now)
        self._answered(query, pending.flow, answer.rcode, addresses, now - pending.asked_at, now)
        pending.reply(self._fitted(pending, message, answer), now)

    def _fitted(self, pending: _Pending, message: bytes, answer: Answer) -> bytes:
        """The answer as the client may have it: its own id and question, cut to its size with TC."""
        if len(message) > pending.limit or answer.flags & TC:
            return truncated(pending.query, message, answer.opt)
        return with_identity(pending.query, message)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """No answer will come from the resolver."""
        pending = self._take(token)
        if pending is None:
            return
        if why == DROPPED:  # counted by who decided it
            pending.dropped = True
            return
        if why == DROPPED_LATE:
            pending.reply(b"", now)
            return
        self._fail(pending.query, pending.flow, pending.reply, why, now)

    def _take(self, token: int) -> _Pending | None:
        pending = self._pending.pop(token, None)
        if pending is not None:
            del self._by_identity[pending.identity]
            self._stats.dns_pending = len(self._pending)
        return pending

    def _answered(
        self, query: Query, flow: FiveTuple, rcode: int, addresses: tuple[str, ...], elapsed: float, now: float
    ) -> None:
        self._stats.dns_answers += 1
        if self._tracker is None:
            return
        question = query.question
        self._emit(
            QueryAnswered(now, flow, question.name, type_name(question.type), rcode_name(rcode), addresses, elapsed)
        )

    def _fail(self, query: Query, flow: FiveTuple, reply: Reply, why: str, now: float) -> None:
        self._stats.dns_failures += 1
        self._emit(QueryFailed(now, flow, query.question.name, type_name(query.question.type), why))
        reply(servfail(query), now)

    # --- time and change ---

    def next_timeout(self) -> float | None:
        """The oldest query's deadline, or what a resolver of before has to do."""
        best: float | None = None
        for pending in self._pending.values():
            best = pending.deadline
            break
        if self._mixed and best is not None:
            best = min(pending.deadline for pending in self._pending.values())
        for until, resolver in self._retired:
            best = earlier(earlier(best, until), resolver.next_timeout())
        return best

    def on_timeout(self, now: float) -> None:
        """SERVFAIL for every query whose time is over."""
        if self._retired:
            self._serve_retired(now)
        due = []
        for token, pending in self._pending.items():
            if pending.deadline > now:
                break
            due.append(token)
        if self._mixed:
            due = [token for token, pending in self._pending.items() if pending.deadline <= now]
            self._mixed = len(due) < len(self._pending)
        for token in due:
            self._cancel(token)
            self.on_failure(token, "timeout", now)

    def _serve_retired(self, now: float) -> None:
        retired, self._retired = self._retired, []
        for until, resolver in retired:
            resolver.on_timeout(now)
            if until > now:
                self._retired.append((until, resolver))
            else:
                resolver.close()

    def _cancel(self, token: int) -> None:
        self._resolver.cancel(token)
        for _, resolver in self._retired:
            resolver.cancel(token)

    def reconfigure(self, config: DnsConfig, limits: LimitsConfig) -> None:
        """New settings for the queries to come."""
        self._mixed = self._mixed or config.timeout < self._config.timeout
        self._config = config
        self._limits = limits

    def use_resolver(self, resolver: Resolver, now: float) -> None:
        """Ask `resolver` from now on. What has been asked is answered by the one of before, which is closed when the
        last of these queries is over; what that one held without asking is handed over."""
        before = self._resolver
        self._retired.append((now + self._config.timeout, before))
        self._ask_of(resolver)
        hand_over = getattr(before, "hand_over", None)
        if hand_over is not None:
            hand_over(resolver, now)

    def put_in_front(self, resolver: Resolver) -> None:
        """Ask `resolver`, which passes on to the one of before."""
        self._ask_of(resolver)

    def _ask_of(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._query_of = getattr(resolver, "query_of", None)
        resolver.start(self)

    def refuse_pending(self, now: float) -> None:
        """REFUSED for everything that has been asked: a blocking state begins."""
        for token in list(self._pending):
            self._cancel(token)
            pending = self._take(token)
            if pending is not None:
                self._answered(pending.query, pending.flow, Rcode.REFUSED, (), now - pending.asked_at, now)
                pending.reply(refused(pending.query), now)

    def network_changed(self, now: float) -> None:
        """A resolver of before asks again what is pending there; the present one is told by its owner.

        Deadlines stay: an app's patience does not know of the change.
        """
        for _, resolver in self._retired:
            resolver.network_changed(now)

    def close(self) -> None:
        """Close the resolvers of before."""
        for _, resolver in self._retired:
            resolver.close()
        self._retired.clear()


__all__ = ["DnsBridge", "Reply"]
