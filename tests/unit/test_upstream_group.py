"""Several upstreams as one: strategies, health, second tries."""

import dns.message
import dns.rcode
import pytest

from netstack.core.errors import ConfigError
from netstack.testing.world import ScriptedResolver
from netstack.upstream.group import ATTEMPT_EVERY, DOWN_AFTER, MEASURE_EVERY, RESTART, TIMEOUT, TRY, UpstreamGroup

QUERY = dns.message.make_query("a.test", "A", id=7).to_wire()
ANSWER = dns.message.make_response(dns.message.from_wire(QUERY)).to_wire()


def with_rcode(rcode: int) -> bytes:
    made = dns.message.make_response(dns.message.from_wire(QUERY))
    made.set_rcode(rcode)
    return made.to_wire()


class Upstream(ScriptedResolver):
    """`refuses`: every query fails before `query` returns."""

    refuses = ""

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        super().query(token, message, now, over_tcp)
        if self.refuses:
            self.fail(token, self.refuses, now)

    def answer_all(self, now: float, message: bytes = ANSWER) -> None:
        for token in list(self.queries):
            self.answer(token, message, now)

    def fail_all(self, now: float, why: str = "refused") -> None:
        for token in list(self.queries):
            self.fail(token, why, now)


class Desk:
    def __init__(self, count: int = 2, strategy: str = "failover") -> None:
        self.upstreams = [Upstream() for _ in range(count)]
        self.events: list = []
        self.group = UpstreamGroup(
            [(f"u{number}", each) for number, each in enumerate(self.upstreams)], strategy=strategy,
            emit=self.events.append,
        )  # fmt: skip
        self.group.start(self)
        self.told: list[tuple[int, object]] = []
        self.token = 0

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.told.append((token, message))

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.told.append((token, why))

    def ask(self, now: float = 0.0) -> int:
        self.token += 1
        self.group.query(self.token, QUERY, now)
        return self.token

    def run(self, until: float) -> None:
        for _ in range(1000):
            at = self.group.next_timeout()
            if at is None or at > until:
                return
            self.group.on_timeout(at)
        raise AssertionError("does not come to rest")

    @property
    def asked(self) -> list[int]:
        return [len(each.queries) for each in self.upstreams]


def test_the_first_one_is_asked_and_answers() -> None:
    desk = Desk()
    desk.ask()
    assert desk.asked == [1, 0]
    desk.upstreams[0].answer_all(0.05)
    assert desk.told == [(1, ANSWER)] and len(desk.group) == 0 and desk.group.next_timeout() is None
    assert desk.group.members[0].srtt == pytest.approx(0.05)


def test_a_failure_moves_on_at_once_and_silence_soon() -> None:
    desk = Desk(3)
    desk.ask()
    desk.upstreams[0].fail_all(0.01)
    assert desk.asked == [0, 1, 0]
    desk.run(0.01 + TRY)
    assert desk.asked == [0, 1, 1]
    desk.upstreams[1].answer_all(1.5)
    assert desk.told == [(1, ANSWER)], "the silent one's answer is still welcome"


def test_failures_on_the_spot_ask_each_once() -> None:
    desk = Desk(4)
    for each in desk.upstreams[:3]:
        each.refuses = "refused"
    desk.ask()
    assert desk.asked == [0, 0, 0, 1]
    assert [member.asked for member in desk.group.members] == [1, 1, 1, 1]


def answered_before(desk: Desk, now: float = 0.0) -> None:
    desk.ask(now)
    desk.upstreams[0].answer_all(now)
    desk.told.clear()


def test_everybody_refused_after_an_answer_is_tried_again_and_ends() -> None:
    desk = Desk(2)
    answered_before(desk)
    for each in desk.upstreams:
        each.refuses = "refused"
    desk.ask(0.1)
    assert not desk.told
    desk.run(RESTART)
    assert desk.told == [(2, "refused")]
    assert [member.asked for member in desk.group.members] == [6, 5]
    assert [event.message for event in desk.events] == ["u0 does not answer", "u1 does not answer"]
    desk.ask(RESTART + 0.1)
    assert desk.told == [(2, "refused"), (3, "refused")], "the moment is over: told at once"


@pytest.mark.parametrize("strategy", ["failover", "parallel", "fastest"])
def test_everybody_refuses_from_the_start_is_told_at_once(strategy: str) -> None:
    desk = Desk(2, strategy)
    for each in desk.upstreams:
        each.refuses = "refused"
    desk.ask()
    assert desk.told == [(1, "refused")]


def test_a_restarted_upstream_serves_what_is_pending() -> None:
    desk = Desk(1)
    answered_before(desk)
    desk.upstreams[0].refuses = "refused"
    desk.ask(0.1)
    desk.run(0.5)
    desk.upstreams[0].refuses = ""
    desk.run(1.0)
    desk.upstreams[0].answer_all(1.0)
    assert desk.told == [(2, ANSWER)]


@pytest.mark.parametrize("why", ["tls", "protect", "http-503", "garbage", "reset", "bootstrap", "timeout"])
def test_what_no_restart_explains_is_told_at_once(why: str) -> None:
    desk = Desk(2)
    answered_before(desk)
    for each in desk.upstreams:
        each.refuses = why
    desk.ask(0.1)
    assert desk.told == [(2, why)]


def test_silence_everywhere_ends_in_time() -> None:
    for strategy in ("failover", "parallel", "fastest"):
        desk = Desk(2, strategy)
        desk.ask()
        desk.run(TIMEOUT - 0.01)
        assert not desk.told
        desk.run(TIMEOUT)
        assert desk.told == [(1, "timeout")] and desk.asked == [0, 0]


def test_servfail_moves_on_but_is_better_than_nothing() -> None:
    desk = Desk(2)
    failed = with_rcode(dns.rcode.SERVFAIL)
    desk.ask()
    desk.upstreams[0].answer_all(0.1, failed)
    assert not desk.told
    desk.upstreams[1].fail_all(0.2)
    assert desk.told == [(1, failed)]
    alone = Desk(1)
    alone.ask()
    alone.upstreams[0].answer_all(0.1, failed)
    assert alone.told == [(1, failed)]


@pytest.mark.parametrize("strategy", ["failover", "parallel", "fastest"])
@pytest.mark.parametrize("why", ["tls", "refused", "closed", "unreachable", "bootstrap"])
def test_one_without_a_connection_is_not_hammered_and_not_missed_when_it_is_back(why: str, strategy: str) -> None:
    desk = Desk(1, strategy)
    desk.upstreams[0].refuses = why
    for number in range(1000):
        desk.ask(number / 1000)
    assert [told for _, told in desk.told] == [why] * 1000, "all are told at once"
    assert desk.group.members[0].asked <= DOWN_AFTER + 1 / ATTEMPT_EVERY
    desk.upstreams[0].refuses = ""
    desk.told.clear()
    desk.ask(1.0 + ATTEMPT_EVERY)
    desk.upstreams[0].answer_all(1.21)
    desk.ask(1.22)
    desk.ask(1.22)
    assert desk.asked == [2]
    desk.upstreams[0].answer_all(1.23)
    assert [told for _, told in desk.told] == [ANSWER] * 3


@pytest.mark.parametrize("why", ["http-500", "garbage", "reset", "timeout", "busy"])
def test_failures_of_single_queries_keep_nobody_from_asking(why: str) -> None:
    desk = Desk(1)
    desk.upstreams[0].refuses = why
    for _ in range(100):
        desk.ask()
    assert desk.group.members[0].asked == 100


def test_a_new_network_is_tried_at_once() -> None:
    desk = Desk(1)
    desk.upstreams[0].refuses = "unreachable"
    for _ in range(10):
        desk.ask()
    desk.upstreams[0].refuses = ""
    desk.group.network_changed(0.01)
    desk.ask(0.02)
    assert desk.asked == [1]


@pytest.mark.parametrize("rcode", [dns.rcode.REFUSED, dns.rcode.NXDOMAIN])
def test_a_filter_is_not_gone_round(rcode: int) -> None:
    desk = Desk(2)
    desk.ask()
    desk.upstreams[0].answer_all(0.1, with_rcode(rcode))
    assert desk.told == [(1, with_rcode(rcode))] and desk.asked == [0, 0]


def test_one_that_is_down_is_asked_last_and_looked_at_without_delaying_anybody() -> None:
    desk = Desk(2)
    now = 0.0
    for _ in range(DOWN_AFTER):
        desk.ask(now)
        desk.upstreams[0].fail_all(now)
        desk.upstreams[1].answer_all(now)
    assert not desk.group.members[0].is_up and len(desk.events) == 1
    desk.ask(0.5)
    assert desk.asked == [0, 1], "down: not even tried"
    desk.upstreams[1].answer_all(0.5)
    desk.ask(1.5)
    assert desk.asked == [1, 1], "its back-off is over: a duplicate"
    desk.ask(1.6)
    assert desk.asked == [1, 2], "one is enough"
    desk.upstreams[1].answer_all(1.6)
    assert [token for token, _ in desk.told] == list(range(1, 7))
    desk.upstreams[0].answer_all(1.7)
    assert desk.group.members[0].is_up and len(desk.told) == 6
    desk.ask(2.0)
    assert desk.asked == [1, 0]


def test_parallel_takes_the_first_answer() -> None:
    desk = Desk(3, "parallel")
    desk.ask()
    assert desk.asked == [1, 1, 1]
    desk.upstreams[2].answer_all(0.1)
    desk.upstreams[0].answer_all(0.2)
    desk.upstreams[1].fail_all(0.2)
    assert desk.told == [(1, ANSWER)]
    desk.ask(0.3)
    for each in desk.upstreams:
        each.fail_all(0.5)
    desk.run(0.7)
    assert desk.asked == [1, 1, 1], "everybody refused: everybody again"


def test_fastest_measures_and_prefers() -> None:
    desk = Desk(2, "fastest")
    desk.ask()
    desk.upstreams[0].answer_all(0.2)
    desk.ask(1.0)
    assert desk.asked == [0, 1], "not measured yet"
    desk.upstreams[1].answer_all(1.05)
    for number in range(MEASURE_EVERY * 4):
        desk.ask(2.0 + number)
        assert desk.asked[1] == 1
        desk.upstreams[1].answer_all(2.01 + number)
        desk.upstreams[0].answer_all(2.02 + number)
    assert desk.group.members[0].asked >= 2, "measured again now and then"
    assert desk.group.members[0].srtt < 0.2


def test_a_new_network_forgets_and_wakes() -> None:
    desk = Desk(2)
    answered_before(desk)
    for each in desk.upstreams:
        each.refuses = "unreachable"
    desk.ask(0.1)
    for each in desk.upstreams:
        each.refuses = ""
    desk.group.network_changed(0.11)
    assert [each.resets for each in desk.upstreams] == [1, 1]
    assert desk.asked == [1, 0], "no pause is waited out"
    desk.upstreams[0].answer_all(0.12)
    assert desk.told == [(2, ANSWER)]


def test_cancel_and_close() -> None:
    desk = Desk(2, "parallel")
    desk.ask()
    desk.group.cancel(1)
    assert desk.asked == [0, 0] and len(desk.group) == 0
    desk.ask()
    desk.group.close()
    assert all(each.closed for each in desk.upstreams) and not desk.told


def test_settings_that_will_not_do() -> None:
    with pytest.raises(ConfigError, match="quickest"):
        UpstreamGroup([("u", Upstream())], strategy="quickest")
    with pytest.raises(ConfigError, match="at least one"):
        UpstreamGroup([])
