"""Captive portals: noticed, allowed for a while, forgotten."""

import json

import dns.message
import dns.rrset
import pytest

from netstack.config import CaptiveConfig
from netstack.core.events import CaptivePortalChanged
from netstack.dns.cache import CacheStage
from netstack.policy.captive import UNRESTRICTED, CaptivePortal, CaptiveStage
from netstack.testing.world import ScriptedResolver

PROBE = "connectivitycheck.gstatic.com"


class World:
    """A captive stage above a cache; its two resolvers."""

    def __init__(self, **settings) -> None:  # type: ignore[no-untyped-def]
        self.events: list[CaptivePortalChanged] = []
        self.portal = CaptivePortal(CaptiveConfig(**settings), self.events.append)  # type: ignore[arg-type]
        self.upstream, self.network = ScriptedResolver(), ScriptedResolver()
        self.cache = CacheStage(self.upstream)
        self.stage = CaptiveStage(self.cache, self.network, self.portal)
        self.stage.start(self)
        self.told: dict[int, object] = {}
        self.token = 0

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.told[token] = message

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.told[token] = why

    def ask(self, name: str, now: float) -> str:
        """Where the query went: upstream, network or nowhere (answered at once)."""
        self.token += 1
        before = len(self.upstream.queries), len(self.network.queries)
        self.stage.query(self.token, dns.message.make_query(name, "A").to_wire(), now)
        after = len(self.upstream.queries), len(self.network.queries)
        return {(1, 0): "upstream", (0, 1): "network", (0, 0): "nowhere"}[after[0] - before[0], after[1] - before[1]]

    def answer(self, resolver: ScriptedResolver, now: float, address: str = "192.0.2.1") -> None:
        token, wire = next(iter(resolver.queries.items()))
        response = dns.message.make_response(dns.message.from_wire(wire))
        response.answer.append(dns.rrset.from_text(response.question[0].name, 600, "IN", "A", address))
        resolver.answer(token, response.to_wire(), now)

    def states(self) -> list[tuple[str, str]]:
        return [(event.state, event.why) for event in self.events]


def test_without_a_portal_everything_goes_upstream() -> None:
    world = World()
    assert world.ask(PROBE, 0.0) == "upstream" and world.stage.next_timeout() is None


def test_only_probe_and_portal_names_go_to_the_network_and_only_for_a_while() -> None:
    world = World(limit=300.0)
    world.portal.api_location("https://api.hotel.example/capport", 0.0)
    assert world.portal.location
    answer = {"captive": True, "user-portal-url": "https://login.hotel.example/start"}
    assert world.portal.api_answer(json.dumps(answer), 1.0)
    assert world.states() == [("captive", "the portal's API")]
    assert world.events[0].url == "https://login.hotel.example/start" and world.events[0].line()
    for name in (PROBE.upper(), "login.hotel.example", "api.hotel.example"):
        assert world.ask(name, 2.0) == "network"
    for name in ("www.test", "x.login.hotel.example", "hotel.example"):
        assert world.ask(name, 2.0) == "upstream"
    world.answer(world.network, 3.0, "10.0.0.1")
    assert world.ask(PROBE, 4.0) == "network", "not cached"
    assert world.stage.next_timeout() == 301.0
    world.stage.on_timeout(301.0)
    assert world.states()[-1] == ("ended", "time is over") and world.ask(PROBE, 302.0) == "upstream"


def test_the_time_ends_without_a_timer_too() -> None:
    world = World(limit=10.0)
    world.portal.detected("a probe", 0.0)
    assert world.ask(PROBE, 10.0) == "upstream"


def test_the_first_upstream_that_answers_ends_it_but_not_the_cache() -> None:
    world = World()
    world.portal.detected("a probe", 0.0)
    world.ask("www.test", 1.0)
    world.upstream.fail(next(iter(world.upstream.queries)), "unreachable", 1.0)
    assert world.portal.allowing
    world.ask("www.test", 2.0)
    world.answer(world.upstream, 2.5)
    assert world.states()[-1] == ("ended", "an upstream answers") and not world.portal.allowing


def test_an_answer_made_below_is_no_sign_of_health() -> None:
    world = World()
    world.portal.detected("a probe", 0.0)

    class Making(ScriptedResolver):
        def query(self, token, message, now, over_tcp=False):  # type: ignore[no-untyped-def]
            world.stage.on_answer(token, dns.message.make_response(dns.message.from_wire(message)).to_wire(), now)

    world.stage.inner = Making()
    world.ask("www.test", 1.0)
    assert world.portal.allowing and world.told


def test_the_cache_is_emptied_at_both_ends() -> None:
    world = World()
    world.ask("one.test", 0.0)
    world.answer(world.upstream, 0.0)
    world.portal.detected("a probe", 1.0)
    assert len(world.cache) == 0
    world.ask("two.test", 2.0)
    world.answer(world.upstream, 2.0)
    assert len(world.cache) == 0 and world.ask("two.test", 2.0) == "upstream", "what ended it may be the portal's own"
    world.answer(world.upstream, 2.0)
    world.portal.clear("a probe", 3.0)
    assert len(world.cache) == 0 and world.states()[-1] == ("clear", "a probe")


def test_a_portal_has_one_allowance_until_it_was_open() -> None:
    world = World(limit=10.0)
    world.portal.probe_result(True, 0.0, url="http://portal.example/")
    world.stage.on_timeout(10.0)
    world.portal.probe_result(True, 11.0)
    assert not world.portal.allowing and world.portal.captive
    world.portal.probe_result(False, 20.0)
    assert not world.portal.captive and world.states()[-1] == ("clear", "a probe")
    world.portal.probe_result(True, 30.0)
    assert world.portal.allowing, "its session ran out"


def test_another_network_starts_anew() -> None:
    world = World(limit=10.0)
    world.portal.detected("a probe", 0.0, url="http://portal.example/")
    world.stage.network_changed(1.0)
    assert world.states()[-1] == ("ended", "network changed") and not world.portal.url
    assert world.upstream.resets == world.network.resets == 1
    world.portal.detected("a probe", 2.0)
    assert world.portal.allowing and world.ask("portal.example", 3.0) == "upstream"


def test_it_can_be_off() -> None:
    world = World(limit=0.0)
    world.portal.detected("a probe", 0.0)
    assert not world.portal.allowing and world.ask(PROBE, 1.0) == "upstream" and world.portal.captive


@pytest.mark.parametrize(
    "document", ["", "{", "[]", "{}", '{"captive": "yes"}', "[" * 100_000, b"\xff", '{"captive": 1}', " " * 70_000]
)
def test_what_is_no_api_answer_changes_nothing(document: str | bytes) -> None:
    world = World()
    assert not world.portal.api_answer(document, 0.0)
    assert world.events == []


def test_the_api_may_say_that_there_is_none() -> None:
    world = World()
    world.portal.detected("a probe", 0.0)
    world.portal.api_location(UNRESTRICTED, 1.0)
    assert world.states()[-1][0] == "clear"
    world.portal.detected("a probe", 2.0)
    assert world.portal.api_answer({"captive": False}, 3.0) and not world.portal.allowing


@pytest.mark.parametrize(
    "url", ["http://x.example/", "https://[", "https:///x", "ftp://x.example/", "https://192.0.2.1/"]
)
def test_an_api_elsewhere_is_not_taken(url: str) -> None:
    world = World()
    world.portal.api_location(url, 0.0)
    assert world.portal.location == ""


def test_failures_and_cancels_pass() -> None:
    world = World()
    world.portal.detected("a probe", 0.0)
    world.ask(PROBE, 1.0)
    world.stage.cancel(world.token)
    assert not world.network.queries
    world.ask(PROBE, 1.0)
    world.network.fail(world.token, "timeout", 2.0)
    assert world.told == {world.token: "timeout"} and world.portal.allowing
