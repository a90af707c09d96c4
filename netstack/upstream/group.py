"""Several upstreams as one resolver.

Responsible for: whom to ask first, second, or at the same time; who is healthy; trying again while it makes sense;
one answer or failure for each query.
Refuses to know: how an upstream is asked, what answers say beyond SERVFAIL.
RFCs: 1123 6.1.3.3 (retries), 6298 2.3 (smoothing), 9520 (failures: bounded retries, back-off).

Strategies. `failover`: in the order given, those that are down last. `fastest`: in the order of smoothed round-trip
times, which a duplicate of one query in 64 keeps fresh. `parallel`: all at once, the first answer counts.

Whatever the strategy: a failure moves on to the next upstream at once, silence after `TRY` seconds (the answer of the
silent one is still welcome), SERVFAIL too, unless nobody knows better. REFUSED and NXDOMAIN are answers: a filtering
upstream blocks with them, and going round its block is not what anyone asked for. An upstream that failed three
times in a row is down: asked last, and after a back-off given the duplicate of a live query, whose own answer does not
wait for it. When everybody refused, and somebody answered a moment ago, that may be a restart: they are asked again
with pauses for as long as the moment lasts. Every other failure of all is told at once: who asked learns it in time to
do something else. Whoever is down because no connection can be had is asked for a new one a few times a second at the
most, whatever is asked for here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from netstack.core.errors import ConfigError
from netstack.core.events import EngineError, EventSink
from netstack.core.ports import Resolver, ResolverOwner
from netstack.dns.stage import earlier

STRATEGIES = ("failover", "parallel", "fastest")
TRY = 0.8  # seconds of silence after which the next upstream is asked as well
TIMEOUT = 4.8  # seconds for a query in all, below the bridge's 5
RESTART = 1.5  # seconds since the last answer during which a refusal by everybody may be a restart
RESTARTING = ("closed", "refused", "unreachable")  # failures that a restart explains
NO_CONNECTION = ("bootstrap", "closed", "refused", "tls", "unreachable")  # failures that are not one query's
ATTEMPT_EVERY = 0.2  # seconds between tries of an upstream that is down for one of these reasons
PAUSE_FIRST, PAUSE_MOST = 0.1, 0.4  # seconds before everybody is asked again
DOWN_AFTER = 3  # failures in a row
BACK_OFF_FIRST, BACK_OFF_MOST = 1.0, 30.0  # seconds that an upstream is down
MEASURE_EVERY = 64  # queries, of which one is duplicated to measure

_SERVFAIL = 2


class _Lookup:
    """A query and where it was sent."""

    __slots__ = (
        "asking", "at", "done", "message", "order", "over_tcp", "pause", "resting", "servfail", "token", "tries", "why",
    )  # fmt: skip

    def __init__(self, token: int, message: bytes, over_tcp: bool, order: list[Member]) -> None:
        self.token = token
        self.message = message
        self.over_tcp = over_tcp
        self.order = order
        self.at = 0  # of `order`: whose turn is next
        self.tries: list[tuple[Member, int]] = []  # under way
        self.pause = PAUSE_FIRST
        self.servfail = b""
        self.why = "timeout"
        self.done = False
        self.resting = False  # everybody failed; a later try is planned
        self.asking = False  # an upstream is being asked: a failure on the spot is seen by whoever asks


class Member:
    """One upstream of a group, and what is known about it. The ResolverOwner of its resolver."""

    __slots__ = ("_group", "asked", "attempt_at", "back_off", "down_until", "failures", "label", "resolver", "sent",
                 "srtt", "why")  # fmt: skip

    def __init__(self, group: UpstreamGroup, resolver: Resolver, label: str) -> None:
        self._group = group
        self.resolver = resolver
        self.label = label
        self.srtt = 0.0  # seconds; 0 until measured
        self.failures = 0  # in a row
        self.down_until = 0.0
        self.back_off = BACK_OFF_FIRST
        self.sent: dict[int, tuple[_Lookup, float]] = {}  # by inner token
        self.asked = 0  # queries in all
        self.why = ""  # of the last failure
        self.attempt_at = 0.0  # while it is down and no connection can be had: when it may be tried again

    @property
    def is_up(self) -> bool:
        """False from the third failure in a row to the next answer."""
        return self.failures < DOWN_AFTER

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`."""
        found = self.sent.pop(token, None)
        if found is None:
            return
        lookup, sent_at = found
        taken = now - sent_at
        self.srtt = taken if self.srtt == 0.0 else self.srtt + (taken - self.srtt) / 8
        self.failures = 0
        self._group.answered(self, lookup, token, message, now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        found = self.sent.pop(token, None)
        if found is not None:
            self.why = why
            self._group.failed(self, found[0], token, why, now)

    def is_worth_asking(self, now: float) -> bool:
        """False for a while after each try of one that is down because no connection can be had."""
        if self.failures < DOWN_AFTER or self.why not in NO_CONNECTION:
            return True
        if now < self.attempt_at:
            return False
        self.attempt_at = now + ATTEMPT_EVERY
        return True


class UpstreamGroup:
    """Implements `core.ports.Resolver` over upstreams that do."""

    __slots__ = ("_answered_at", "_count", "_emit", "_lookups", "_owner", "_pauses", "_serial", "_strategy", "_timeout",
                 "_timers", "_tries", "members")  # fmt: skip

    def __init__(
        self,
        resolvers: Sequence[tuple[str, Resolver]],
        *,
        strategy: str = "failover",
        timeout: float = TIMEOUT,
        emit: EventSink | None = None,
    ) -> None:
        """`resolvers`: label (for events and counters) and Resolver, in order of preference; this group starts them.

        `strategy`: failover, parallel or fastest. `timeout`: seconds for a query in all. Raises ConfigError.
        """
        if strategy not in STRATEGIES:
            raise ConfigError(f"strategy {strategy!r}: must be one of {', '.join(STRATEGIES)}")
        if not resolvers:
            raise ConfigError("upstreams: at least one is needed")
        self._strategy = strategy
        self._timeout = timeout
        self._emit = emit
        self._owner: ResolverOwner | None = None
        self._lookups: dict[int, _Lookup] = {}
        self._timers: deque[tuple[float, _Lookup]] = deque()  # ends
        self._tries: deque[tuple[float, _Lookup, int]] = deque()  # with the place in `order` that the try had
        self._pauses: list[tuple[float, int, _Lookup]] = []
        self._serial = 0  # inner tokens
        self._count = 0
        self._answered_at = float("-inf")
        self.members = [Member(self, resolver, label) for label, resolver in resolvers]

    def __len__(self) -> int:
        return len(self._lookups)

    # --- Resolver ---

    def start(self, owner: ResolverOwner) -> None:
        """As `Resolver.start`."""
        self._owner = owner
        for member in self.members:
            member.resolver.start(member)

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`."""
        order, extra = self._order(now)
        deadline = now + self._timeout
        lookup = _Lookup(token, message, over_tcp, order)
        self._lookups[token] = lookup
        self._timers.append((deadline, lookup))
        if self._strategy == "parallel":
            self._ask_all(lookup, now)
        else:
            self._ask_next(lookup, now)
        for member in extra:
            if lookup.done:
                return
            if member not in (each for each, _ in lookup.tries):
                self._ask(lookup, member, now)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        lookup = self._lookups.get(token)
        if lookup is not None:
            self._retire(lookup, keep=False)

    def network_changed(self, now: float) -> None:
        """As `Resolver.network_changed`: nobody is down any more, and who waits for a pause does not."""
        for member in self.members:
            member.failures, member.down_until, member.back_off, member.srtt = 0, 0.0, BACK_OFF_FIRST, 0.0
            member.attempt_at = 0.0
        for member in self.members:
            member.resolver.network_changed(now)
        resting = [lookup for _, _, lookup in self._pauses if lookup.resting and not lookup.done]
        self._pauses.clear()
        for lookup in resting:
            self._again(lookup, now)

    def close(self) -> None:
        """As `Resolver.close`."""
        for member in self.members:
            member.resolver.close()
            member.sent.clear()
        for lookup in self._lookups.values():
            lookup.done = True
        self._lookups.clear()

    def next_timeout(self) -> float | None:
        """The earliest of everything that is planned, here and below."""
        best: float | None = None
        for member in self.members:
            best = earlier(best, member.resolver.next_timeout())
        timers, tries, pauses = self._timers, self._tries, self._pauses
        while timers and timers[0][1].done:
            timers.popleft()
        while tries and (tries[0][1].done or tries[0][1].at != tries[0][2]):
            tries.popleft()
        while pauses and pauses[0][2].done:
            heapq.heappop(pauses)
        if timers:
            best = earlier(best, timers[0][0])
        if tries:
            best = earlier(best, tries[0][0])
        return earlier(best, pauses[0][0]) if pauses else best

    def on_timeout(self, now: float) -> None:
        """End what is over; ask the next one where nobody answered."""
        for member in self.members:
            member.resolver.on_timeout(now)
        timers, tries, pauses = self._timers, self._tries, self._pauses
        while timers and timers[0][0] <= now:
            lookup = timers.popleft()[1]
            if not lookup.done:
                for member, _ in lookup.tries:
                    self._blame(member, now)
                self._give_up(lookup, now)
        while tries and tries[0][0] <= now:
            _, lookup, at = tries.popleft()
            if not lookup.done and lookup.at == at:
                self._silent(lookup, now)
        while pauses and pauses[0][0] <= now:
            lookup = heapq.heappop(pauses)[2]
            if not lookup.done and lookup.resting:
                self._again(lookup, now)

    # --- whom to ask ---

    def _order(self, now: float) -> tuple[list[Member], list[Member]]:
        """In the order of turns, and who gets a duplicate: to see whether it is back, or how fast it is."""
        members = self.members
        if len(members) == 1:
            return members, []
        extra = []
        for member in members:
            if not member.is_up and member.down_until <= now:
                member.back_off = min(2 * member.back_off, BACK_OFF_MOST)
                member.down_until = now + member.back_off
                extra.append(member)
        order = members
        if self._strategy == "fastest":
            order = sorted(members, key=_speed)  # not measured yet: first
            self._count += 1
            if self._count % MEASURE_EVERY == 0:
                extra.append(members[self._count // MEASURE_EVERY % len(members)])
        if not all(member.is_up for member in members):
            order = sorted(order, key=_is_down)
        return order, extra

    def _ask_next(self, lookup: _Lookup, now: float) -> None:
        """The next one's turn; when there is none, wait for those that were asked."""
        order = lookup.order
        while not lookup.done and lookup.at < len(order):
            member = order[lookup.at]
            lookup.at += 1
            if lookup.at < len(order):
                self._tries.append((now + TRY, lookup, lookup.at))
            if self._ask(lookup, member, now):
                return
        if not lookup.done and not lookup.tries:
            self._rest(lookup, now)

    def _ask_all(self, lookup: _Lookup, now: float) -> None:
        order = lookup.order
        lookup.at = len(order)
        up = [member for member in order if member.is_up] or order
        for member in up:
            if lookup.done:
                return
            self._ask(lookup, member, now)
        if not lookup.done and not lookup.tries:
            self._rest(lookup, now)

    def _ask(self, lookup: _Lookup, member: Member, now: float) -> bool:
        """False when it failed on the spot."""
        if not member.is_worth_asking(now):
            lookup.why = member.why
            return False
        self._serial += 1
        token = self._serial
        attempt = (member, token)
        lookup.tries.append(attempt)
        member.sent[token] = (lookup, now)
        member.asked += 1
        lookup.asking = True
        member.resolver.query(token, lookup.message, now, lookup.over_tcp)
        lookup.asking = False
        return attempt in lookup.tries or lookup.done

    def _silent(self, lookup: _Lookup, now: float) -> None:
        if lookup.tries:
            member = lookup.tries[-1][0]
            member.srtt = max(member.srtt, TRY)
            self._blame(member, now)
        self._ask_next(lookup, now)

    def _rest(self, lookup: _Lookup, now: float) -> None:
        """Everybody failed: again after a pause where that may be of use."""
        if lookup.resting:
            return
        again = now + lookup.pause
        if lookup.servfail or lookup.why not in RESTARTING or again >= self._answered_at + RESTART:
            self._give_up(lookup, now)
            return
        lookup.pause = min(2 * lookup.pause, PAUSE_MOST)
        lookup.resting = True
        self._serial += 1
        heapq.heappush(self._pauses, (again, self._serial, lookup))

    def _again(self, lookup: _Lookup, now: float) -> None:
        lookup.resting = False
        lookup.at = 0
        lookup.order = self._order(now)[0]
        if self._strategy == "parallel":
            self._ask_all(lookup, now)
        else:
            self._ask_next(lookup, now)

    # --- outcomes ---

    def answered(self, member: Member, lookup: _Lookup, token: int, message: bytes, now: float) -> None:
        """From a member."""
        self._answered_at = now
        if member.down_until:
            member.down_until, member.back_off = 0.0, BACK_OFF_FIRST
        if lookup.done:
            return
        lookup.tries.remove((member, token))
        if message[3] & 0xF == _SERVFAIL and len(lookup.order) > 1:
            lookup.servfail = message
            if lookup.asking:
                return
            if lookup.at < len(lookup.order):
                self._ask_next(lookup, now)
                return
            if lookup.tries:
                return
        self._retire(lookup, keep=True)
        if self._owner is not None:
            self._owner.on_answer(lookup.token, message, now)

    def failed(self, member: Member, lookup: _Lookup, token: int, why: str, now: float) -> None:
        """From a member."""
        self._blame(member, now)
        if lookup.done:
            return
        lookup.tries.remove((member, token))
        lookup.why = why
        if lookup.asking:
            return
        if lookup.at < len(lookup.order):
            self._ask_next(lookup, now)
        elif not lookup.tries:
            self._rest(lookup, now)

    def _blame(self, member: Member, now: float) -> None:
        member.failures += 1
        if member.failures == DOWN_AFTER:
            member.down_until = now + member.back_off
            if self._emit is not None:
                self._emit(EngineError(now, "resolver", f"{member.label} does not answer"))

    def _give_up(self, lookup: _Lookup, now: float) -> None:
        self._retire(lookup, keep=False)
        if self._owner is None:
            return
        if lookup.servfail:
            self._owner.on_answer(lookup.token, lookup.servfail, now)
        else:
            self._owner.on_failure(lookup.token, lookup.why, now)

    def _retire(self, lookup: _Lookup, *, keep: bool) -> None:
        """`keep` leaves the other tries alone: their answers say that an upstream is well, and how fast."""
        lookup.done = True
        self._lookups.pop(lookup.token, None)
        if not keep:
            for member, token in lookup.tries:
                member.sent.pop(token, None)
                member.resolver.cancel(token)
            lookup.tries.clear()


def _speed(member: Member) -> float:
    return member.srtt


def _is_down(member: Member) -> bool:
    return not member.is_up
