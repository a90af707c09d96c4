"""Rules: what they match, in which order, and how they are read."""

import pytest

from netstack.core.errors import ConfigError
from netstack.dns.ruleset import Action, Asked, Rule, RuleSet, Step, parse_span, parse_type


def judge(asked: Asked, *rules: Rule) -> str | None:
    """The label of the rule that decides, which must be the same with and without a trace."""
    made = RuleSet(rules)
    judgement = made.judge(asked)
    steps: list[Step] = []
    assert made.trace(asked, steps) == judgement
    assert [step.matched for step in steps] == [False] * (len(steps) - 1) + [judgement is not None]
    return None if judgement is None else judgement.rule


def rule(**how) -> Rule:  # type: ignore[no-untyped-def]
    return Rule(action="nxdomain", **how)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("example.com", ["example.com", "www.example.com", "a.b.example.com"], ["badexample.com", "com"]),
        (".Example.com.", ["example.com", "www.example.com"], ["com"]),
        ("=example.com", ["example.com"], ["www.example.com"]),
        ("*.example.com", ["www.example.com", "a.b.example.com"], ["example.com", "xexample.com"]),
        ("ads*.example.com", ["ads.example.com", "ads-1.example.com"], ["x.ads.example.com", "ads.example.com.test"]),
        ("*track*", ["track.test", "a.tracker.test"], ["trac.test"]),
        ("a?.test", ["ab.test", "a1.test"], ["a.test", "abc.test"]),
        (r"/^ad[0-9]+\./", ["ad1.test", "ad22.example.com"], ["ad.test", "x.ad1.test"]),
        ("/TRACK/", ["track.test"], ["trac.test"]),
        ("bücher.example", ["xn--bcher-kva.example"], ["bucher.example"]),
    ],
)
def test_names(pattern: str, matching: list[str], others: list[str]) -> None:
    for name in matching:
        assert judge(Asked(name, 1), rule(names=(pattern,))) == "rule 1", name
    for name in others:
        assert judge(Asked(name, 1), rule(names=(pattern,))) is None, name


def test_the_first_that_matches_decides_however_it_is_found() -> None:
    exact, suffix = rule(names=("=a.x.test",), label="exact"), rule(names=("x.test",), label="suffix")
    wildcard, every = rule(names=("*.x.*",), label="wildcard"), rule(label="every")
    asked = Asked("a.x.test", 1)
    orders = [(exact, suffix, wildcard, every), (suffix, wildcard, exact), (wildcard, every, suffix), (every, exact)]
    for order in orders:
        assert judge(asked, *order) == order[0].label
    assert judge(asked, rule(types=("MX",)), rule(names=("other.test",)), suffix) == "suffix"


def test_conditions_must_all_hold() -> None:
    made = rule(names=("x.test",), types=("A", "type65"), apps=("app",), networks=("home",), servers=("192.0.2.1",))
    good = {"app": "app", "network": "home", "server": bytes([192, 0, 2, 1])}
    assert judge(Asked("x.test", 65, **good), made)
    assert not judge(Asked("x.test", 28, **good), made)
    for key, value in (("app", "other"), ("app", None), ("network", ""), ("server", b"")):
        assert not judge(Asked("x.test", 1, **{**good, key: value}), made)  # type: ignore[arg-type]


def test_domain_or_app() -> None:
    made = rule(names=("x.test",), apps=("app",), match="any", types=("A",))
    assert judge(Asked("x.test", 1), made) and judge(Asked("y.test", 1, app="app"), made)
    assert not judge(Asked("y.test", 1, app="other"), made) and not judge(Asked("x.test", 28, app="app"), made)
    assert judge(Asked("x.test", 1), rule(names=("x.test",), match="any"))
    assert not judge(Asked("y.test", 1), rule(names=("x.test",), match="any")), "any of one"


def test_an_unknown_app_is_a_question_mark() -> None:
    assert judge(Asked("x.test", 1), rule(apps=("?",)))
    assert not judge(Asked("x.test", 1, app="a"), rule(apps=("?",)))


def minute(day: int, clock: str) -> float:
    hours, minutes = clock.split(":")
    return day * 1440 + int(hours) * 60 + int(minutes)


@pytest.mark.parametrize(
    ("span", "inside", "outside"),
    [
        ("08:00-16:30", [(0, "08:00"), (6, "16:29")], [(0, "16:30"), (3, "07:59")]),
        ("mon-fri 08:00-16:00", [(0, "08:00"), (4, "12:00")], [(5, "12:00"), (6, "12:00")]),
        ("sat 10:00-11:00", [(5, "10:30")], [(6, "10:30")]),
        ("sat-mon 10:00-11:00", [(5, "10:30"), (6, "10:30"), (0, "10:30")], [(1, "10:30"), (4, "10:30")]),
        ("22:00-06:00", [(0, "23:00"), (0, "05:59"), (6, "22:00")], [(0, "06:00"), (2, "12:00")]),
        ("sun 22:00-06:00", [(6, "22:00"), (0, "05:00")], [(6, "05:00"), (0, "22:00"), (1, "05:00")]),
        ("00:00-24:00", [(3, "00:00"), (3, "23:59")], []),
    ],
)  # fmt: skip
def test_schedules(span: str, inside: list[tuple[int, str]], outside: list[tuple[int, str]]) -> None:
    made = rule(schedule=(span,))
    for at in inside:
        assert judge(Asked("x.test", 1, minute=minute(*at)), made), at
    for at in outside:
        assert not judge(Asked("x.test", 1, minute=minute(*at)), made), at
    assert not judge(Asked("x.test", 1, minute=None), made), "nobody knows the time"
    assert RuleSet((made,)).wants_time and not RuleSet((rule(),)).wants_time


def test_rewrites_carry_addresses_or_one_name() -> None:
    made = RuleSet((Rule(action="rewrite", to=("192.0.2.1", "2001:db8::1")),)).judge(Asked("x.test", 1))
    assert made is not None and made.action is Action.REWRITE and [len(each) for each in made.to] == [4, 16]
    made = RuleSet((Rule(action="rewrite", to=("Safe.Search.test.",)),)).judge(Asked("x.test", 1))
    assert made is not None and made.alias == "safe.search.test" and not made.to


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Rule(action="block"), "'block' is not one of allow"),
        (rule(names=("/(/",)), "'/\\(/' is not a regular expression"),
        (rule(names=("a..b",)), "'a..b' is not a name"),
        (rule(names=("a b",)), "'a b' is not a name"),
        (rule(names=("x" * 64,)), "is not a name"),
        (rule(types=("AAAAA",)), "'AAAAA' is not a type"),
        (rule(types=("TYPE65536",)), "is not a type"),
        (rule(servers=("dns.test",)), "is not an IP address"),
        (rule(schedule=("8-16",)), "'8-16' is not a time"),
        (rule(schedule=("yyy 08:00-16:00",)), "'yyy' is not one of mon"),
        (rule(schedule=("08:00-25:00",)), "no such time of day"),
        (rule(match="some"), "'some' is not one of all, any"),
        (rule(to=("192.0.2.1",)), "`to` is wanted for rewrite"),
        (Rule(action="rewrite"), "`to` is wanted for rewrite"),
        (Rule(action="rewrite", to=("a.test", "192.0.2.1")), "either addresses or one name"),
    ],
)
def test_a_rule_that_cannot_be_read_is_named(wrong: Rule, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^rule 2: .*{message}"):
        RuleSet((rule(), wrong))


def test_types_and_spans() -> None:
    assert parse_type("aaaa") == 28 and parse_type("TYPE65280") == 65280
    assert parse_span("tue 01:00-02:00") == [(1500, 1560)]


def test_a_step_shows_as_a_line() -> None:
    assert str(Step("rule 1 (drop)", False, "other name")) == "- rule 1 (drop): other name"
    assert str(Step("rule 2 (drop)", True)) == "+ rule 2 (drop)"
