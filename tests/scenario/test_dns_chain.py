"""Bridge and all stages together, at random: each query gets one answer in time, and nothing is left over."""

import random

import dns.message
import dns.rrset
import pytest

from netstack.config import (
    AnswersConfig,
    CacheConfig,
    CaptiveConfig,
    DnsConfig,
    LimitsConfig,
    LockdownConfig,
    TrackerConfig,
)
from netstack.core.flow import UDP, Endpoint, FiveTuple
from netstack.core.stats import Stats
from netstack.dns.answers import AnswerStage
from netstack.dns.bridge import DnsBridge
from netstack.dns.cache import CacheStage
from netstack.policy.captive import CaptivePortal, CaptiveStage
from netstack.policy.lan import classify
from netstack.policy.lockdown import Lockdown, LockdownStage
from netstack.policy.tracker import IpTracker
from netstack.testing.world import ScriptedResolver, SeededEntropy

DATA = {
    "A": ["192.0.2.1", "10.0.0.1"], "AAAA": ["2001:db8::1", "2001:db8:64::c000:aa"], "HTTPS": ['1 . alpn="h3"'],
}  # fmt: skip
NAMES = ["a.test", "b.test", "c.test", "captive.apple.com"]


class Storm:
    """All of it, with upstreams that do anything."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.replies: dict[int, int] = {}
        self.resolvers = [ScriptedResolver() for _ in range(3)]
        upstream, network, discovery = self.resolvers
        self.lockdown = Lockdown(LockdownConfig(network_check=True, leak_free=seed % 3 == 0), lambda event: None)
        self.lockdown.tracker = tracker = IpTracker(TrackerConfig())
        self.portal = CaptivePortal(CaptiveConfig(limit=20.0), lambda event: None)
        self.cache = CacheStage(upstream, CacheConfig(octets=30_000, prefetch_hits=1))
        settings = AnswersConfig(dns64="discover", rebind="remove", strip_h3="on", aaaa="auto")
        self.answers = AnswerStage(self.cache, settings, scope_of=classify, discovery=discovery)
        self.chain = LockdownStage(CaptiveStage(self.answers, network, self.portal), self.lockdown)
        self.bridge = DnsBridge(
            self.chain, tracker, DnsConfig(), LimitsConfig(), Stats(), lambda event: None, SeededEntropy()
        )
        self.chain.start(self.bridge)

    def ask(self) -> None:
        number = len(self.replies)
        name, kind = self.random.choice(NAMES), self.random.choice(list(DATA))
        message = dns.message.make_query(name, kind, id=number, use_edns=self.random.choice([0, False])).to_wire()
        self.replies[number] = 0

        def reply(answer: bytes, at: float) -> None:
            dns.message.from_wire(answer)
            self.replies[number] += 1

        flow = FiveTuple(UDP, Endpoint.of("10.0.0.2", 1024 + number), Endpoint.of("10.0.0.1", 53))
        assert self.bridge.ask(flow, message, self.now, reply)

    def answer(self, resolver: ScriptedResolver) -> None:
        for token, wire in list(resolver.queries.items()):
            fate = self.random.random()
            if fate < 0.5 or token not in resolver.queries:
                continue
            if fate < 0.6:
                resolver.fail(token, "unreachable", self.now)
                continue
            response = dns.message.make_response(dns.message.from_wire(wire))
            question = response.question[0]
            if fate < 0.65:
                response.set_rcode(2)
            elif fate < 0.9:
                kind = question.rdtype.name
                data, ttl = self.random.choice(DATA[kind]), self.random.choice([0, 1, 5, 60])
                response.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, data))
            resolver.answer(token, response.to_wire(), self.now)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(10_000):
            due = [at for at in (self.bridge.next_timeout(), self.chain.next_timeout()) if at is not None and at <= end]
            if not due:
                break
            self.now = max(self.now, min(due))
            self.bridge.on_timeout(self.now)
            self.chain.on_timeout(self.now)
        else:
            raise AssertionError("timers do not come to rest")
        self.now = end

    def step(self) -> None:
        self.pass_time(self.random.choice([0.0, 0.0, 0.01, 0.3, 2.0]))
        what = self.random.random()
        if what < 0.6:
            self.ask()
        elif what < 0.62:
            self.lockdown.enter(self.now)
        elif what < 0.66:
            self.lockdown.leave(self.now)
        elif what < 0.68:
            self.portal.detected("a probe", self.now)
        elif what < 0.69:
            self.portal.clear("a probe", self.now)
        elif what < 0.70:
            self.chain.network_changed(self.now)
        elif what < 0.71:
            self.chain.flush("test", subtree=True)
        else:
            for resolver in self.resolvers:
                self.answer(resolver)


@pytest.mark.parametrize("seed", range(20))
def test_each_query_has_one_answer_and_nothing_is_left(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(300):
        storm.step()
    storm.pass_time(5.0)
    assert set(storm.replies.values()) == {1}
    for _ in range(3):  # what was asked in the background ends as the resolvers' own limits end it
        for resolver in storm.resolvers:
            for token in list(resolver.queries):
                resolver.fail(token, "timeout", storm.now)
    cache, answers = storm.cache, storm.answers
    assert not (cache._asked or cache._waiting or cache._by_raw)
    assert not (answers._wanted or answers._by_own or answers._held)
    assert not storm.chain._asked
    storm.chain.flush()
    assert cache.octets == 0 == len(cache) and not cache._views
