"""The stage that judges: its order, what it does, and what changes while it runs."""

from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

from netstack.core.drops import DropReason
from netstack.core.errors import ConfigError
from netstack.core.events import EngineError, QueryJudged, StormNoticed
from netstack.core.flow import UDP, Endpoint, FiveTuple
from netstack.core.stats import Stats
from netstack.dns.lists import Lists
from netstack.dns.message import Query, Question, parse_query, parse_question
from netstack.dns.rules import DROPPED, Rule, RuleSettings, RuleStage
from netstack.dns.ruleset import Action
from netstack.testing.world import ScriptedResolver

SERVER = Endpoint.of("192.0.2.53", 53)


class Desk:
    """A stage, the resolver below it and the owner above it."""

    def __init__(self, *rules: Rule, lists: Lists | None = None, **how) -> None:  # type: ignore[no-untyped-def]
        self.resolver = ScriptedResolver()
        self.stats = Stats()
        self.events: list = []
        self.answers: dict[int, dns.message.Message] = {}
        self.failures: dict[int, str] = {}
        self.clock = how.pop("minute_of_week", None)
        self.apps = how.pop("apps", None)
        self.stage = RuleStage(
            self.resolver, RuleSettings(rules=rules, **how), lists, stats=self.stats, emit=self.events.append,
            apps=self.apps, minute_of_week=self.clock,
        )  # fmt: skip
        self.stage.start(self)
        self.token = 0

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        assert token not in self.answers
        self.answers[token] = dns.message.from_wire(message)

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.failures[token] = why

    def ask(self, name: str, kind: str = "A", now: float = 0.0) -> int:
        self.token += 1
        query = parse_query(dns.message.make_query(name, kind, id=self.token).to_wire())
        assert isinstance(query, Query)
        self.stage.query_of(self.token, query, FiveTuple(UDP, Endpoint.of("10.0.0.2", 4000), SERVER), now)
        return self.token

    def fate(self, name: str, kind: str = "A", now: float = 0.0) -> str:
        """What becomes of a query: an rcode, an address, upstream, held or dropped."""
        return self.fate_of(self.ask(name, kind, now))

    def fate_of(self, token: int) -> str:
        if token in self.resolver.queries:
            return "upstream"
        if token in self.failures:
            return self.failures[token]
        if token not in self.answers:
            return "held"
        answer = self.answers[token]
        return answer.answer[0][0].to_text() if answer.answer else dns.rcode.to_text(answer.rcode())


def lists(tmp_path: Path, block: str = "", allow: str = "") -> Lists:
    (tmp_path / "block").write_text(block)
    (tmp_path / "allow").write_text(allow)
    return Lists([str(tmp_path / "block")], [str(tmp_path / "allow")])


def question(name: str, kind: str = "A") -> Question:
    made = parse_question(dns.message.make_query(name, kind).to_wire())
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("action", "fates"),
    [
        ("allow", ["upstream"] * 2), ("nxdomain", ["NXDOMAIN"] * 2), ("refused", ["REFUSED"] * 2),
        ("nodata", ["NOERROR", "NOERROR"]), ("sinkhole", ["0.0.0.0", "::"]), ("drop", [DROPPED, DROPPED]),
        ("postpone", ["held", "held"]),
    ],
)  # fmt: skip
def test_every_action(action: str, fates: list[str]) -> None:
    desk = Desk(Rule(action=action, names=("x.test",)))
    assert [desk.fate("x.test", kind) for kind in ("A", "AAAA")] == fates
    assert desk.fate("other.test") == "upstream"
    assert desk.stats.drops[DropReason.POLICY_RULE] == (2 if action == "drop" else 0)
    told = [event.action for event in desk.events if isinstance(event, QueryJudged)]
    assert told == ([] if action == "allow" else [action] * 2)


def test_rules_then_allow_lists_then_special_names_then_block_lists(tmp_path: Path) -> None:
    both = lists(tmp_path, "ads.test\nrule.test\nmask.icloud.com\n", "good.ads.test\nuse-application-dns.net\n")
    rules = Rule(action="allow", names=("rule.test",)), Rule(action="refused", names=("good.ads.test",), types=("MX",))
    desk = Desk(*rules, lists=both, doh_hosts="built-in")
    assert desk.fate("ads.test") == desk.fate("x.ads.test") == "NXDOMAIN"
    assert desk.fate("rule.test") == "upstream"
    assert desk.fate("good.ads.test") == "upstream" and desk.fate("good.ads.test", "MX") == "REFUSED"
    assert desk.fate("use-application-dns.net") == "upstream", "the allow list says so"
    assert desk.fate("mask.icloud.com") == "NXDOMAIN" and desk.fate("_dns.resolver.arpa", "SVCB") == "NOERROR"
    assert desk.fate("dns.google") == "NXDOMAIN" and desk.fate("www.google.com") == "upstream"
    assert Desk(bypass=False).fate("mask.icloud.com") == "upstream"


@pytest.mark.parametrize(
    ("action", "fate"),
    [
        ("nxdomain", "NXDOMAIN"), ("refused", "REFUSED"), ("nodata", "NOERROR"), ("sinkhole", "0.0.0.0"),
        ("drop", DROPPED),
    ],
)  # fmt: skip
def test_lists_do_what_they_are_told(tmp_path: Path, action: str, fate: str) -> None:
    desk = Desk(lists=lists(tmp_path, "ads.test\n"), block_action=action)
    assert desk.fate("Ads.TEST") == fate and desk.fate("ads.test") == fate, "remembered or not"


def test_a_listed_name_is_answered_with_a_soa_that_ends_soon(tmp_path: Path) -> None:
    desk = Desk(lists=lists(tmp_path, "ads.test\n"), block_ttl=7)
    answer = desk.answers[desk.ask("www.ads.test")]
    assert answer.rcode() == dns.rcode.NXDOMAIN and answer.authority[0].ttl == answer.authority[0][0].minimum == 7


def test_a_rewrite_to_addresses() -> None:
    desk = Desk(Rule(action="rewrite", names=("nas.test",), to=("192.168.1.5",)))
    assert desk.fate("nas.test") == "192.168.1.5" and desk.fate("nas.test", "AAAA") == "NOERROR"


def test_a_rewrite_to_a_name_asks_for_that_name() -> None:
    desk = Desk(Rule(action="rewrite", names=("search.test",), to=("safe.search.test",)))
    token = desk.ask("search.test")
    [(own, message)] = desk.resolver.queries.items()
    assert own < 0
    asked = dns.message.from_wire(message)
    assert asked.question[0].to_text() == "safe.search.test. IN A"
    inner = dns.message.make_response(asked)
    inner.answer.append(dns.rrset.from_text("safe.search.test.", 60, "IN", "A", "203.0.113.9"))
    desk.resolver.answer(own, inner.to_wire(), 1.0)
    assert [rrset.to_text() for rrset in desk.answers[token].answer] == [
        "search.test. 10 IN CNAME safe.search.test.", "safe.search.test. 60 IN A 203.0.113.9",
    ]  # fmt: skip
    failing = desk.ask("search.test")
    desk.resolver.fail(next(iter(desk.resolver.queries)), "timeout", 1.0)
    assert desk.failures == {failing: "timeout"}
    cancelled = desk.ask("search.test")
    desk.stage.cancel(cancelled)
    assert not desk.resolver.queries and not desk.stage._aliases and not desk.stage._alias_of
    garbage = desk.ask("search.test")
    own = next(iter(desk.resolver.queries))
    desk.resolver.answer(own, inner.to_wire()[:-1], 1.0)
    assert desk.answers[garbage].rcode() == dns.rcode.SERVFAIL


def test_networks() -> None:
    desk = Desk(Rule(action="nxdomain", names=("x.test",), networks=("cafe",)))
    assert desk.fate("x.test") == "upstream"
    version = desk.stage.version
    desk.stage.set_network("cafe", 1.0)
    assert desk.fate("x.test") == "NXDOMAIN" and desk.stage.version > version
    desk.stage.set_network("home", 2.0)
    assert desk.fate("x.test") == "upstream"


def test_schedules_follow_the_time_that_is_given() -> None:
    desk = Desk(Rule(action="nxdomain", schedule=("mon 08:00-09:00",)), minute_of_week=lambda now: now / 60)
    assert [desk.fate("x.test", now=hours * 3600.0) for hours in (7.99, 8, 8.99, 9)] == [
        "upstream", "NXDOMAIN", "NXDOMAIN", "upstream",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="nothing here knows the local time"):
        Desk(Rule(action="drop", schedule=("08:00-09:00",)))


def test_a_query_without_a_flow_has_an_unknown_app_and_no_server() -> None:
    desk = Desk(Rule(action="nxdomain", apps=("?",), names=("x.test",)), Rule(action="drop", servers=(SERVER.host,)))
    desk.stage.query(1, dns.message.make_query("x.test", "A").to_wire(), 0.0)
    assert desk.answers[1].rcode() == dns.rcode.NXDOMAIN
    desk.stage.query(2, dns.message.make_query("y.test", "A").to_wire(), 0.0)
    assert 2 in desk.resolver.queries
    desk.stage.query(3, b"\0\1" + bytes(10), 0.0)
    assert desk.answers[3].rcode() == dns.rcode.FORMERR


def test_held_queries_are_bounded_and_the_oldest_goes_on_early() -> None:
    desk = Desk(Rule(action="postpone"))
    for _ in range(1025):
        desk.ask("x.test")
    assert desk.stage.held == 1024 and list(desk.resolver.queries) == [1]
    assert desk.stage.next_timeout() == 2.0
    desk.stage.cancel(2)
    desk.stage.on_timeout(2.0)
    assert list(desk.resolver.queries) == [1, *range(3, 1026)] and desk.stage.next_timeout() is None
    desk.ask("x.test")
    desk.stage.close()
    assert desk.stage.held == 0 and desk.resolver.closed


def test_a_reload_judges_again_and_says_what_is_damaged(tmp_path: Path) -> None:
    desk = Desk(lists=lists(tmp_path, "one.test\n"))
    assert (desk.fate("one.test"), desk.fate("two.test")) == ("NXDOMAIN", "upstream")
    (tmp_path / "block").write_text("two.test and more\n" * 10)
    assert len(desk.stage.reload(1.0)) == 1
    [event] = [event for event in desk.events if isinstance(event, EngineError)]
    assert event.where == "list" and str(tmp_path / "block") in event.message and not event.fatal
    assert desk.fate("one.test") == "NXDOMAIN"
    (tmp_path / "block").write_text("two.test\n")
    assert desk.stage.reload(2.0) == []
    assert (desk.fate("one.test"), desk.fate("two.test")) == ("upstream", "NXDOMAIN")
    assert len(desk.stage.lists) == 1


def test_wrong_settings_change_nothing(tmp_path: Path) -> None:
    desk = Desk(Rule(action="nxdomain", names=("x.test",)))
    for wrong in (
        RuleSettings(block_action="allow"), RuleSettings(rules=(Rule(action="no"),)), RuleSettings(sinkhole=("x",)),
        RuleSettings(doh_hosts=str(tmp_path / "none")),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            desk.stage.reconfigure(wrong, 0.0)
    assert desk.fate("x.test") == "NXDOMAIN"
    desk.stage.reconfigure(RuleSettings(), 0.0, lists(tmp_path, "y.test\n"))
    assert (desk.fate("x.test"), desk.fate("y.test")) == ("upstream", "NXDOMAIN")


def test_explain_tells_what_was_looked_at_in_order(tmp_path: Path) -> None:
    desk = Desk(
        Rule(action="drop", names=("x.test",), apps=("org.game",)), Rule(action="allow", networks=("home",)),
        lists=lists(tmp_path, "ads.test\n"),
    )  # fmt: skip
    judgement, steps = desk.stage.explain(question("www.ads.test"))
    assert judgement.action is Action.NXDOMAIN and judgement.rule == f"blocked by {tmp_path / 'block'}"
    assert [str(step) for step in steps] == [
        "- rule 1 (drop): other name", "- rule 2 (allow): other network", f"- allow list {tmp_path / 'allow'}",
        f"+ block list {tmp_path / 'block'}", "- names that lead around the resolver",
    ]  # fmt: skip
    judgement, steps = desk.stage.explain(question("x.test"), app="org.game")
    assert (judgement.action, [step.matched for step in steps]) == (Action.DROP, [True])
    judgement, _ = desk.stage.explain(question("ads.test"), network="home")
    assert (judgement.action, judgement.rule) == (Action.ALLOW, "rule 2")
    judgement, _ = desk.stage.explain(question("fine.test"))
    assert judgement.action is Action.ALLOW and judgement.rule == "nothing speaks against it"


def test_remembered_verdicts_and_apps_are_bounded() -> None:
    class Everybody:
        def owner_of(self, flow: FiveTuple) -> str:
            return "app"

    desk = Desk(Rule(action="allow", names=("rule.test",), apps=("app",)), apps=Everybody())
    for number in range(3000):
        query = parse_query(dns.message.make_query(f"n{number}.test", "A").to_wire())
        assert isinstance(query, Query)
        desk.stage.query_of(number, query, None, 0.0)
        flow = FiveTuple(UDP, Endpoint.of("10.0.0.2", 1024 + number), SERVER)
        assert desk.stage.app_of(flow) == "app"
    assert len(desk.stage._known) <= 1024 and len(desk.stage._apps) <= 1024


# --- storms ---


def ttl(desk: Desk, name: str, now: float) -> int:
    answer = desk.answers[desk.ask(name, now=now)]
    return answer.authority[0].ttl


def test_in_a_storm_made_up_answers_are_kept_for_longer_and_it_is_told_once_a_window(tmp_path: Path) -> None:
    desk = Desk(lists=lists(tmp_path, "ads.test\nother.test"), storm=5, storm_ttl=35)
    assert [ttl(desk, "ads.test", 0.1 * number) for number in range(6)] == [10] * 4 + [20] * 2
    assert ttl(desk, "other.test", 1.0) == 10, "others are not concerned"
    assert [ttl(desk, "ads.test", 11.0) for _ in range(5)][-1] == 35, "bounded"
    assert ttl(desk, "ads.test", 40.0) == 10, "it is over"
    storms = [event for event in desk.events if isinstance(event, StormNoticed)]
    assert [(event.about, event.what, event.count) for event in storms] == [("query", "ads.test", 5)] * 2
    assert desk.stats.storms == 1 and desk.stats.dns_blocked == 13


def test_a_rule_and_the_lists_may_refuse_otherwise_in_a_storm(tmp_path: Path) -> None:
    rule = Rule(action="refused", names=("rule.test",), storm="drop")
    desk = Desk(rule, lists=lists(tmp_path, "ads.test"), storm=3, storm_action="nodata")
    assert [desk.fate("rule.test", now=0.1) for _ in range(4)] == ["REFUSED", "REFUSED", "dropped", "dropped"]
    assert [desk.fate("ads.test", now=0.1) for _ in range(4)] == ["NXDOMAIN", "NXDOMAIN", "NOERROR", "NOERROR"]
    assert [event.action for event in desk.events if isinstance(event, QueryJudged)][3] == "drop"
    desk.stage.use_lists(lists(tmp_path, "ads.test"), 0.2)
    assert desk.fate("ads.test", now=0.2) == "NXDOMAIN", "policy has changed: all is calm"


def test_what_is_allowed_or_postponed_is_no_storm() -> None:
    hold, allow = Rule(action="postpone", names=("held.test",)), Rule(action="allow")
    desk = Desk(hold, allow, storm=2)
    for name in ("held.test", "a.test") * 5:
        desk.fate(name)
    assert not desk.stats.storms and not desk.stats.dns_blocked


# --- look-ups of apps that take time ---


class SlowApps:
    """Tells whose flows are when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[FiveTuple, Any]] = []

    def ask_owner_of(self, flow: FiveTuple, told: Any) -> None:
        self.asked.append((flow, told))

    def tell(self, app: str | None, now: float) -> None:
        self.asked.pop(0)[1](app, now)


GAME = Rule(action="refused", names=("x.test",), apps=("game",))


def test_a_query_waits_for_its_app_and_delays_nobody_else() -> None:
    apps = SlowApps()
    desk = Desk(GAME, apps=apps)
    first, second = desk.ask("x.test"), desk.ask("x.test", "AAAA")
    assert desk.fate("y.test") == "upstream" and not desk.answers
    assert len(apps.asked) == 1, "once for each flow"
    assert desk.stage.next_timeout() == 1.0
    apps.tell("game", 0.4)
    assert {token: answer.rcode() for token, answer in desk.answers.items()} == {first: 5, second: 5}
    assert desk.fate("x.test") == "REFUSED" and not apps.asked, "and remembered"


@pytest.mark.parametrize(
    ("late", "fate"),
    [("unknown", "upstream"), ("allow", "upstream"), ("refused", "REFUSED"), ("nxdomain", "NXDOMAIN"),
     ("drop", "dropped")],
)  # fmt: skip
def test_who_is_not_known_in_time_gets_the_verdict_that_was_set(late: str, fate: str) -> None:
    apps = SlowApps()
    desk = Desk(GAME, apps=apps, app_late=late, app_wait=0.5)
    token = desk.ask("x.test", now=1.0)
    desk.stage.on_timeout(1.4)
    assert not desk.answers and not desk.failures and not desk.resolver.queries
    desk.stage.on_timeout(1.5)
    assert desk.fate_of(token) == fate
    apps.tell("game", 3.0)
    assert desk.fate("x.test", now=3.0) == "REFUSED", "the answer counts from now on"


def test_an_unknown_app_has_its_own_verdict_when_the_host_is_late_too() -> None:
    unknown = Rule(action="nxdomain", apps=("?",))
    desk = Desk(GAME, unknown, apps=SlowApps())
    token = desk.ask("x.test")
    desk.stage.on_timeout(1.0)
    assert desk.answers[token].rcode() == dns.rcode.NXDOMAIN


def test_no_waiting_when_told_so_or_told_at_once() -> None:
    desk = Desk(GAME, apps=SlowApps(), app_wait=0.0)
    assert desk.fate("x.test") == "upstream"

    class Quick:
        def ask_owner_of(self, flow: FiveTuple, told: Any) -> None:
            told("game", 0.0)

    assert Desk(GAME, apps=Quick()).fate("x.test") == "REFUSED"


def test_cancel_policy_change_and_close_while_the_app_is_looked_up() -> None:
    apps = SlowApps()
    desk = Desk(GAME, apps=apps)
    gone, waits = desk.ask("x.test"), desk.ask("x.test")
    desk.stage.cancel(gone)
    desk.stage.reconfigure(RuleSettings(rules=(Rule(action="nodata", types=("A",)),)), 0.1)
    assert desk.answers[waits].rcode() == 0 and gone not in desk.answers, "the new rules need no app"
    apps.tell("game", 0.2)
    other = Desk(GAME, apps=SlowApps())
    other.ask("x.test")
    other.stage.close()
    assert other.stage.next_timeout() is None


def test_what_waits_for_its_app_moves_to_the_successor() -> None:
    apps = SlowApps()
    desk, successor = Desk(GAME, apps=apps), Desk(GAME, apps=apps)
    for other in (successor.stage, successor.resolver):
        token = desk.ask("z.x.test")
        desk.stage.hand_over(other, 0.0)
        assert not desk.resolver.queries and not desk.stage._awaiting
        if other is successor.stage:
            assert token in successor.stage._awaiting
        else:
            assert token in successor.resolver.queries


def test_more_than_can_wait_are_judged_as_unknown() -> None:
    desk = Desk(GAME, apps=SlowApps())
    for _ in range(1024):
        desk.ask("x.test")
    assert desk.fate("x.test") == "upstream"
