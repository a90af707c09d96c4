"""Two upstreams over connections that fail in any order: every query has one outcome, in time, and nothing is left."""

from __future__ import annotations

import errno

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st

from netstack.core.errors import DialError
from netstack.core.flow import Endpoint
from netstack.upstream.bootstrap import Location
from netstack.upstream.connected import ASIDES_MOST, ConnectedResolver
from netstack.upstream.dns_channels import ChannelOwner, ask_again_or_refuse
from netstack.upstream.group import STRATEGIES, TIMEOUT, UpstreamGroup
from netstack.upstream.proxy import Lookup
from netstack.upstream.url import UpstreamUrl

QUERY = dns.message.make_query("a.test", "A", id=7).to_wire()
ANSWER = dns.message.make_response(dns.message.from_wire(QUERY)).to_wire()


class Channel:
    """As the real ones behave towards their owner; what happens to it comes from outside."""

    def __init__(self, place: Place, owner: ChannelOwner) -> None:
        self.place, self.owner = place, owner
        self.lookups: list[Lookup] = []
        self.is_open = self.retired = self.answered = False
        self.heard = 0.0

    # connected.Channel

    def ask(self, lookup: Lookup, now: float) -> None:
        if not self.is_open:
            if self.place.refuses:
                raise DialError("no", errno.ENETUNREACH)
            self.is_open, self.heard = True, now
        self.lookups.append(lookup)

    def is_silent(self, now: float) -> bool:
        return self.is_open and now - self.heard >= 0.8

    def reset(self) -> None:
        self.is_open = self.answered = False
        self.lookups.clear()

    def next_timeout(self) -> None:
        return None

    def on_timeout(self, now: float) -> None:
        pass

    # what happens

    @property
    def waiting(self) -> list[Lookup]:
        return [lookup for lookup in self.lookups if not lookup.done]

    def answer(self, which: int, now: float) -> None:
        waiting = self.waiting
        if waiting:
            lookup = waiting[which % len(waiting)]
            self.lookups.remove(lookup)
            self.heard, self.answered = now, True
            self.owner.on_message(lookup, b"\0\0" + ANSWER[2:], True, now)

    def fail_one(self, which: int, now: float) -> None:
        waiting = self.waiting
        if waiting:
            lookup = waiting[which % len(waiting)]
            self.lookups.remove(lookup)
            self.owner.on_failed(lookup, "http-503", now)

    def end(self, why: str, now: float) -> None:
        again, lookups = self.answered and not self.retired, self.waiting
        self.reset()
        ask_again_or_refuse(lookups, self.ask, self.owner, why, now, again=again)

    def leave(self, taken: int, now: float) -> None:
        waiting = self.waiting
        taken = min(1 + taken % 5, len(waiting))
        if taken:
            self.lookups = waiting[:taken]
            self.owner.on_leaving(waiting[taken:], now)


class Place:
    """One upstream."""

    def __init__(self, addresses: int) -> None:
        self.refuses = False
        self.channels: list[Channel] = []
        hosts = tuple(f"192.0.2.{number}" for number in range(1, addresses + 1))
        self.resolver = ConnectedResolver(Location(UpstreamUrl("tls", "dns.test", 853, addresses=hosts)), self.make)

    def make(self, endpoint: Endpoint, owner: ChannelOwner) -> Channel:
        self.channels.append(Channel(self, owner))
        return self.channels[-1]

    @property
    def open(self) -> list[Channel]:
        return [channel for channel in self.channels if channel.is_open]


class Owner:
    def __init__(self) -> None:
        self.outcomes: dict[int, float] = {}

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        assert token not in self.outcomes
        assert message == ANSWER
        self.outcomes[token] = now

    def on_failure(self, token: int, why: str, now: float) -> None:
        assert token not in self.outcomes
        self.outcomes[token] = now


STEP = st.tuples(
    st.sampled_from(
        ["query", "query", "query", "answer", "answer", "wait", "wait", "fail", "closed", "refused", "leave", "leave",
         "leave", "shut", "open", "cancel", "network"]
    ),
    st.integers(0, 7),
    st.integers(0, 7),
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(STEP, min_size=20, max_size=100), strategy=st.sampled_from(STRATEGIES),
    addresses=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)  # fmt: skip
def test_one_outcome_each_in_time(
    steps: list[tuple[str, int, int]], strategy: str, addresses: tuple[int, int]
) -> None:
    places = [Place(count) for count in addresses]
    group = UpstreamGroup(
        [(f"u{number}", place.resolver) for number, place in enumerate(places)], strategy=strategy
    )
    owner = Owner()
    group.start(owner)
    now = 0.0
    asked: dict[int, float] = {}
    cancelled: set[int] = set()

    def pass_time(seconds: float) -> None:
        nonlocal now
        end = now + seconds
        for _ in range(10_000):
            at = group.next_timeout()
            if at is None or at > end:
                now = end
                return
            now = max(now, at)
            group.on_timeout(now)
        raise AssertionError("does not come to rest")

    for what, first, second in steps:
        place = places[first % 2]
        channels = place.open
        channel = channels[second % len(channels)] if channels else None
        if what == "query":
            for _ in range(1 + second):
                token = len(asked)
                asked[token] = now
                group.query(token, QUERY, now)
        elif what == "wait":
            pass_time((0.01, 0.1, 0.3, 0.5, 0.8, 1.0, 2.0, 5.0)[second])
        elif what == "cancel" and asked:
            token = (first * 8 + second) % len(asked)
            if token not in owner.outcomes:
                cancelled.add(token)
                group.cancel(token)
        elif what == "network":
            group.network_changed(now)
        elif what in ("shut", "open"):
            place.refuses = what == "shut"
        elif channel is not None:
            if what == "answer":
                channel.answer(first, now)
            elif what == "fail":
                channel.fail_one(first, now)
            elif what == "leave":
                channels[-1].leave(second, now)
            elif what in ("closed", "refused"):
                channel.end(what, now)
        for each in places:
            assert len(each.open) <= 1 + ASIDES_MOST
    pass_time(6.0)
    assert set(owner.outcomes) == set(asked) - cancelled
    assert all(at - asked[token] <= TIMEOUT + 0.001 for token, at in owner.outcomes.items())
    assert len(group) == 0 and all(len(place.resolver) == 0 for place in places)
    group.close()
    assert not any(place.open for place in places)
