"""Whatever happens in whatever order, every query has exactly one fate."""

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st

from netstack.core.stats import Stats
from netstack.dns.rules import DROPPED, Rule, RuleSettings, RuleStage
from netstack.dns.ruleset import Action
from netstack.testing.world import ScriptedResolver

NAMES = ("a.test", "b.test", "x.a.test", "c.example")
HOLD = 2.0


class Ledger:
    """The owner: what came of each token, which must come once and only for a query that is open."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.why: dict[int, str] = {}

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.open.remove(token)
        self.why[token] = "answer"

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.open.remove(token)
        self.why[token] = why


actions = st.sampled_from([action.value for action in Action if action is not Action.REWRITE])
plain = st.builds(Rule, action=actions, names=st.sampled_from(NAMES).map(lambda name: (name,)))
elsewhere = st.sampled_from([("b.test",), ("::1",)])
rewrite = st.builds(Rule, action=st.just("rewrite"), names=st.just(("a.test",)), to=elsewhere)
rules = st.lists(plain | rewrite, max_size=3).map(tuple)
steps = st.lists(
    st.tuples(st.just("ask"), st.sampled_from(NAMES))
    | st.tuples(st.just("change"), rules)
    | st.tuples(st.sampled_from(["cancel", "answer", "fail", "wait", "network"]), st.integers(0, 30)),
    max_size=40,
)


@given(rules, steps)
@settings(max_examples=200, deadline=None)
def test_every_query_has_one_fate(first: tuple[Rule, ...], script: list) -> None:  # type: ignore[type-arg]
    resolver, ledger, now = ScriptedResolver(), Ledger(), 0.0
    stage = RuleStage(resolver, RuleSettings(rules=first, postpone=HOLD), stats=Stats(), emit=lambda event: None)
    stage.start(ledger)
    asked = 0
    for what, value in script:
        pending = list(resolver.queries)
        if what == "ask":
            asked += 1
            ledger.open.add(asked)
            stage.query(asked, dns.message.make_query(value, "A", id=asked).to_wire(), now)
        elif what == "change":
            stage.reconfigure(RuleSettings(rules=value, postpone=HOLD), now)
        elif what == "cancel" and ledger.open:
            token = sorted(ledger.open)[value % len(ledger.open)]
            ledger.open.remove(token)
            stage.cancel(token)
        elif what == "answer" and pending:
            token = pending[value % len(pending)]
            query = dns.message.from_wire(resolver.queries[token])
            resolver.answer(token, dns.message.make_response(query).to_wire(), now)
        elif what == "fail" and pending:
            resolver.fail(pending[value % len(pending)], "timeout", now)
        elif what == "network":
            stage.set_network(str(value % 2), now)
        elif what == "wait":
            now += value / 10
            stage.on_timeout(now)
        deadline = stage.next_timeout()
        assert deadline is None or now - HOLD < deadline <= now + HOLD
        assert len(ledger.open) == len(resolver.queries) + stage.held
    stage.on_timeout(now + HOLD)
    assert stage.held == 0
    for token in list(resolver.queries):
        resolver.fail(token, "timeout", now)
    assert not ledger.open and not stage._aliases and not stage._alias_of
    assert set(ledger.why.values()) <= {"answer", "timeout", DROPPED}
