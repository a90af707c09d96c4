"""One upstream over one channel: time limits, other addresses, new networks."""

import errno

import dns.message
import pytest

from netstack.core.errors import DialError, ProtectError
from netstack.core.flow import Endpoint
from netstack.testing.world import ScriptedDialer, SeededEntropy
from netstack.upstream.bootstrap import Location
from netstack.upstream.connected import ASIDES_MOST, ConnectedResolver
from netstack.upstream.url import UpstreamUrl

QUERY = dns.message.make_query("a.test", "A", id=7).to_wire()


class ScriptedChannel:
    def __init__(self, endpoint: Endpoint, owner: ConnectedResolver) -> None:
        self.endpoint, self.owner = endpoint, owner
        self.asked: list = []
        self.problem: Exception | None = None
        self.silent = self.closed = self.retired = False

    def ask(self, lookup, now) -> None:
        if self.problem is not None:
            raise self.problem
        self.asked.append(lookup)

    def is_silent(self, now) -> bool:
        return self.silent

    def reset(self) -> None:
        self.closed = True

    def next_timeout(self) -> None:
        return None

    def on_timeout(self, now) -> None:
        pass


class Desk:
    def __init__(self, *addresses: str, **options: object) -> None:
        url = UpstreamUrl("tls", "dns.test", 853, addresses=addresses or ("192.0.2.1",))
        self.channels: list[ScriptedChannel] = []
        self.problems: list[Exception | None] = []
        self.resolver = ConnectedResolver(Location(url), self.make, **options)
        self.resolver.start(self)
        self.told: list[tuple[int, object]] = []

    def make(self, endpoint: Endpoint, owner: ConnectedResolver) -> ScriptedChannel:
        self.channels.append(ScriptedChannel(endpoint, owner))
        self.channels[-1].problem = self.problems.pop(0) if self.problems else None
        return self.channels[-1]

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.told.append((token, message))

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.told.append((token, why))

    def run(self, until: float) -> None:
        for _ in range(100):
            at = self.resolver.next_timeout()
            if at is None or at > until:
                return
            self.resolver.on_timeout(at)
        raise AssertionError("does not come to rest")


def test_an_answer_gets_its_id_back() -> None:
    desk = Desk()
    desk.resolver.query(1, QUERY, 0.0)
    [channel] = desk.channels
    [lookup] = channel.asked
    desk.resolver.on_message(lookup, b"\0\0rest", True, 0.1)
    desk.resolver.on_message(lookup, b"\0\0again", True, 0.1)
    assert desk.told == [(1, QUERY[:2] + b"rest")] and len(desk.resolver) == 0


def test_silence_ends_after_the_limit() -> None:
    desk = Desk(timeout=3.0)
    desk.resolver.query(1, QUERY, 0.0)
    desk.run(2.9)
    assert not desk.told
    desk.run(3.0)
    assert desk.told == [(1, "timeout")] and desk.resolver.next_timeout() is None


def test_a_silent_connection_is_replaced() -> None:
    desk = Desk("192.0.2.1", "192.0.2.2")
    desk.resolver.query(1, QUERY, 0.0)
    desk.channels[0].silent = True
    desk.run(2.5)
    assert [channel.endpoint.host for channel in desk.channels] == ["192.0.2.1", "192.0.2.2"]
    assert len(desk.channels[1].asked) == 1 and not desk.told


@pytest.mark.parametrize("late", [0, 1])
def test_the_answer_of_a_silent_connection_is_still_welcome(late: int) -> None:
    desk = Desk(timeout=5.0)
    desk.resolver.query(1, QUERY, 0.0)
    desk.channels[0].silent = True
    desk.run(1.0)
    old, new = desk.channels
    assert old.retired and not old.closed and old.asked == new.asked
    old.owner.on_refused(old.asked[0], "refused", 1.5)
    assert not desk.told and not new.closed, "it is waited for on the other one"
    desk.channels[late].owner.on_message(new.asked[0], b"\0\0rest", True, 2.0)
    assert desk.told == [(1, QUERY[:2] + b"rest")]
    desk.run(6.0)
    assert old.closed and not new.closed and desk.resolver.next_timeout() is None


def test_a_slow_server_is_asked_at_most_twice() -> None:
    desk = Desk(timeout=5.0)
    for token in range(100):
        desk.resolver.query(token, QUERY, 0.0)
    while (at := desk.resolver.next_timeout()) is not None:
        for channel in desk.channels:
            channel.silent = True
        desk.resolver.on_timeout(at)
    assert [len(channel.asked) for channel in desk.channels] == [100, 100]
    assert desk.told == [(token, "timeout") for token in range(100)] and all(each.closed for each in desk.channels)


def test_connections_that_only_owe_answers_are_bounded() -> None:
    desk = Desk()
    for token in range(10):
        desk.resolver.query(token, QUERY, 0.0)
        channel = desk.channels[-1]
        channel.owner.on_leaving([], 0.0)
        assert channel.retired
    assert sum(not channel.closed for channel in desk.channels) == ASIDES_MOST
    assert [why for _, why in desk.told] == ["timeout"] * 6


def test_what_a_leaving_connection_did_not_take_is_asked_on_a_new_one() -> None:
    desk = Desk()
    for token in (1, 2):
        desk.resolver.query(token, QUERY, 0.0)
    old = desk.channels[0]
    old.owner.on_leaving(old.asked[1:], 0.1)
    assert desk.channels[1].asked == old.asked[1:] and not old.closed
    old.owner.on_message(old.asked[0], b"\0\0rest", True, 0.2)
    old.owner.on_refused(old.asked[1], "refused", 0.3)
    assert desk.told == [(1, QUERY[:2] + b"rest")] and len(desk.channels[1].asked) == 1
    desk.resolver.network_changed(0.4)
    assert old.closed and desk.channels[1].closed and len(desk.channels[2].asked) == 1


def test_every_address_is_tried_once_and_then_it_fails() -> None:
    desk = Desk("192.0.2.1", "192.0.2.2")
    desk.problems = [DialError("no", errno.ENETUNREACH), DialError("no", errno.ENETUNREACH)]
    desk.resolver.query(1, QUERY, 0.0)
    assert desk.told == [(1, "unreachable")] and len(desk.channels) == 2


@pytest.mark.parametrize(
    ("problem", "why"), [(ProtectError("no"), "protect"), (OSError(errno.EBUSY, "busy"), "busy")]
)
def test_problems_that_no_other_address_cures(problem: Exception, why: str) -> None:
    desk = Desk("192.0.2.1", "192.0.2.2")
    desk.problems = [problem]
    desk.resolver.query(1, QUERY, 0.0)
    assert desk.told == [(1, why)] and len(desk.channels) == 1


def test_a_broken_connection_moves_everybody_on() -> None:
    desk = Desk("192.0.2.1", "192.0.2.2")
    for token in (1, 2, 3):
        desk.resolver.query(token, QUERY, 0.0)
    first = desk.channels[0]
    for lookup in list(first.asked):
        first.owner.on_refused(lookup, "refused", 0.1)
    assert first.closed and len(desk.channels) == 2, "one step, whoever tells of it"
    assert len(desk.channels[1].asked) == 3
    desk.resolver.on_failed(desk.channels[1].asked[0], "http-500", 0.2)
    assert desk.told == [(1, "http-500")]


def test_what_a_leaving_connection_took_and_lost_is_asked_once_more() -> None:
    desk = Desk()
    desk.resolver.query(1, QUERY, 0.0)
    old = desk.channels[0]
    old.owner.on_leaving([], 0.1)
    old.owner.on_refused(old.asked[0], "closed", 0.2)
    new = desk.channels[1]
    assert new.asked == old.asked
    new.owner.on_refused(new.asked[0], "closed", 0.3)
    assert desk.told == [(1, "closed")]


@pytest.mark.parametrize(("why", "channels"), [("closed", 2), ("refused", 1), ("tls", 1)])
def test_a_connection_that_ends_is_made_again_once_and_one_that_is_refused_is_not(why: str, channels: int) -> None:
    desk = Desk()
    desk.resolver.query(1, QUERY, 0.0)
    while not desk.told:
        desk.channels[-1].owner.on_refused(desk.channels[-1].asked[0], why, 0.1)
    assert desk.told == [(1, why)] and len(desk.channels) == channels


def test_a_new_network_asks_again_at_once() -> None:
    desk = Desk()
    for token in (1, 2):
        desk.resolver.query(token, QUERY, 0.0)
    desk.resolver.network_changed(1.0)
    assert desk.channels[0].closed and len(desk.channels[1].asked) == 2
    desk.resolver.cancel(1)
    desk.resolver.close()
    assert not desk.told and len(desk.resolver) == 0 and desk.channels[1].closed


def test_padding_is_put_on_and_bad_messages_fail_at_once() -> None:
    desk = Desk(padding=True)
    desk.resolver.query(1, dns.message.make_query("a.test", "A", use_edns=0).to_wire(), 0.0)
    assert len(desk.channels[0].asked[0].message) == 128
    desk.resolver.query(2, b"junk", 0.0)
    assert desk.told == [(2, "unreachable")]


def test_no_address_to_be_had() -> None:
    from netstack.upstream.bootstrap import Bootstrap

    bootstrap = Bootstrap(ScriptedDialer(), [], SeededEntropy())
    resolver = ConnectedResolver(
        Location(UpstreamUrl("tls", "dns.test", 853), bootstrap), lambda endpoint, owner: None, timeout=1.0
    )
    desk = Desk()
    resolver.start(desk)
    resolver.query(1, QUERY, 0.0)
    assert desk.told == [(1, "bootstrap")]
