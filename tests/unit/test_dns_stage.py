"""A stage that changes nothing changes nothing."""

from netstack.dns.stage import Stage, earlier
from netstack.testing.world import ScriptedResolver


class Owner:
    def __init__(self) -> None:
        self.told: list[tuple] = []

    def on_answer(self, token, message, now):  # type: ignore[no-untyped-def]
        self.told.append((token, message, now))

    def on_failure(self, token, why, now):  # type: ignore[no-untyped-def]
        self.told.append((token, why, now))


def test_queries_go_down_and_answers_come_up() -> None:
    resolver, owner = ScriptedResolver(), Owner()
    stage = Stage(Stage(resolver))
    stage.start(owner)
    stage.query(1, b"one", 0.0)
    stage.query(2, b"two", 0.0, True)
    stage.query(3, b"three", 0.0)
    stage.cancel(3)
    assert resolver.queries == {1: b"one", 2: b"two"}
    resolver.answer(1, b"answer", 1.0)
    resolver.fail(2, "refused", 2.0)
    assert owner.told == [(1, b"answer", 1.0), (2, "refused", 2.0)]


def test_every_resolver_below_is_told() -> None:
    one, two = ScriptedResolver(), ScriptedResolver()
    stage = Stage(one, two)
    stage.start(Owner())
    stage.network_changed(1.0)
    stage.on_timeout(2.0)
    stage.close()
    assert one.closed and two.closed and one.resets == two.resets == 1


def test_own_tokens_of_a_chain_are_distinct_and_negative() -> None:
    inner = Stage(ScriptedResolver())
    outer = Stage(inner)
    tokens = [stage.own_token() for _ in range(100) for stage in (inner, outer)]
    assert len(set(tokens)) == 200 and max(tokens) < 0


def test_the_earlier_deadline() -> None:
    assert earlier(None, None) is None
    assert earlier(1.0, None) == 1.0 == earlier(None, 1.0)
    assert earlier(1.0, 2.0) == 1.0 == earlier(2.0, 1.0)


def test_the_flush_of_a_chain_without_a_cache_forgets_nothing() -> None:
    assert Stage(Stage(ScriptedResolver())).flush("a.test", subtree=True) == 0
