"""Rules about queries: what they look at, in which order, and which of them decides.

Responsible for: rules as plain settings, reading their patterns and schedules, the first rule that matches, and the
trace of how it was found.
Refuses to know: lists (`lists`), what happens with a query then (`rules`), the clock and the apps.
RFCs: 4343 (case), 3597 (type numbers).

Rules are asked in their order and the first that matches decides. With thousands of them a query still looks only at
those whose names can match: exact names and suffixes are found in dictionaries, the others one by one.
"""

from __future__ import annotations

import re
from enum import Enum

from netstack.config import RuleConfig
from netstack.core.errors import ConfigError
from netstack.core.flow import Endpoint
from netstack.core.record import field, recordclass
from netstack.dns.message import TYPE_NAMES

_REFUSING = ("nxdomain", "refused", "nodata", "sinkhole", "drop")
WEEK = 7 * 24 * 60  # minutes
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Rule = RuleConfig
"""One rule, in the form of a configuration file."""
UNKNOWN_APP = "?"
"""What stands in `Rule.apps` for a query whose app nobody knows."""

_TYPES = {name: number for number, name in TYPE_NAMES.items()}
_SPAN = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))? +)?(\d\d?):(\d\d)-(\d\d?):(\d\d)")


class Action(Enum):
    """What is done with a query."""

    ALLOW = "allow"  # asked upstream, whatever lists say
    NXDOMAIN = "nxdomain"  # answered: no such name
    REFUSED = "refused"  # answered: REFUSED
    NODATA = "nodata"  # answered: the name has nothing of this type
    SINKHOLE = "sinkhole"  # answered with the sinkhole's addresses
    DROP = "drop"  # not answered at all
    POSTPONE = "postpone"  # held for a while, then asked unchanged
    REWRITE = "rewrite"  # answered with addresses, or with what another name has


class Asked:
    """A query as rules see it."""

    def __init__(self, name: str, type: int, *, app: str | None = None, network: str = "", server: bytes = b"",
                 minute: float | None = None) -> None:  # fmt: skip
        self.name = name
        self.type = type
        self.network = network
        self.server = server
        self._app = app
        self._minute = minute

    @property
    def app(self) -> str | None:
        """The app that asks; None when unknown."""
        return self._app

    @property
    def minute(self) -> float | None:
        """Minutes since Monday 00:00 local time; None when nobody knows the time."""
        return self._minute


@recordclass(frozen=True)
class Judgement:
    """What decided. `rule` says it in words."""

    action: Action
    rule: str
    to: tuple[bytes, ...] = ()  # packed addresses
    alias: str = ""  # the name to answer for
    storm: Action | None = None  # instead of `action` in a storm; None for the same as ever


@recordclass(frozen=True)
class Step:
    """One line of a trace: what was looked at, whether it matched, and why not."""

    what: str
    matched: bool
    why: str = ""

    def __str__(self) -> str:
        return f"{'+' if self.matched else '-'} {self.what}{': ' + self.why if self.why else ''}"


@recordclass(eq=False)
class _Compiled:
    """A rule, ready for use."""

    rule: Rule
    judgement: Judgement
    exact: frozenset[str]
    suffixes: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    types: frozenset[int]
    servers: frozenset[bytes]
    spans: tuple[tuple[int, int], ...]

    def has_name(self, name: str) -> bool:
        if name in self.exact:
            return True
        if self.suffixes:
            rest = name
            while rest:
                if rest in self.suffixes:
                    return True
                rest = rest.partition(".")[2]
        return any(pattern.search(name) for pattern in self.patterns)

    def miss(self, asked: Asked) -> str:
        """Why the rule does not match; empty when it does."""
        rule = self.rule
        if self.types and asked.type not in self.types:
            return "other type"
        if self.servers and asked.server not in self.servers:
            return "other server"
        if rule.networks and asked.network not in rule.networks:
            return "other network"
        if self.spans:
            minute = asked.minute
            if minute is None or not any(self._is_within(minute, *span) for span in self.spans):
                return "other time"
        by_name = not rule.names or self.has_name(asked.name)
        if rule.match == "any" and rule.names and rule.apps:
            return "" if by_name or self._has_app(asked) else "other name and other app"
        if not by_name:
            return "other name"
        return "" if not rule.apps or self._has_app(asked) else "other app"

    @staticmethod
    def _is_within(minute: float, start: int, end: int) -> bool:
        return start <= minute < end or start <= minute + WEEK < end  # the week's last night ends in the next

    def _has_app(self, asked: Asked) -> bool:
        app = asked.app
        return (UNKNOWN_APP if app is None else app) in self.rule.apps


@recordclass(eq=False)
class RuleSet:
    """Rules in order. Raises ConfigError naming the rule and the value when one cannot be read."""

    rules: tuple[Rule, ...] = ()
    wants_time: bool = False
    _compiled: list[_Compiled] = field(default_factory=list)
    _exact: dict[str, list[int]] = field(default_factory=dict)
    _suffixes: dict[str, list[int]] = field(default_factory=dict)
    _others: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, rule in enumerate(self.rules):
            label = rule.label or f"rule {number + 1}"
            try:
                compiled = _compile(rule, label)
            except ValueError as problem:
                raise ConfigError(f"{label}: {problem}") from None
            self._compiled.append(compiled)
            self.wants_time |= bool(compiled.spans)
            if compiled.patterns or not rule.names or (rule.match == "any" and rule.apps):
                self._others.append(number)
                continue
            for name in compiled.exact:
                self._exact.setdefault(name, []).append(number)
            for name in compiled.suffixes:
                self._suffixes.setdefault(name, []).append(number)

    def candidates(self, name: str) -> list[int]:
        """The rules that can match a name, in order; nothing else has been looked at."""
        numbers = self._others
        if self._exact or self._suffixes:
            more = list(self._exact.get(name, ()))
            suffixes = self._suffixes
            rest = name
            while rest:
                if rest in suffixes:
                    more += suffixes[rest]
                rest = rest.partition(".")[2]
            if more:
                numbers = sorted(numbers + more)
        return numbers

    def judge(self, asked: Asked, candidates: list[int] | None = None) -> Judgement | None:
        """The first rule that matches."""
        for number in self.candidates(asked.name) if candidates is None else candidates:
            compiled = self._compiled[number]
            if not compiled.miss(asked):
                return compiled.judgement
        return None

    def trace(self, asked: Asked, steps: list[Step]) -> Judgement | None:
        """As `judge`, looking at every rule in order and adding a step for each up to the one that decides."""
        for compiled in self._compiled:
            why = compiled.miss(asked)
            shown = compiled.judgement.rule
            steps.append(Step(f"{shown} ({compiled.rule.action})", not why, why))
            if not why:
                return compiled.judgement
        return None


def parse_type(text: str) -> int:
    """``AAAA`` or ``TYPE65`` as a number; ValueError."""
    number = _TYPES.get(text.upper())
    if number is not None:
        return number
    if text.upper().startswith("TYPE") and text[4:].isdigit() and int(text[4:]) < 65_536:
        return int(text[4:])
    raise ValueError(f"{text!r} is not a type of records")


def parse_span(text: str) -> list[tuple[int, int]]:
    """``mon-fri 22:00-06:00`` as minutes of the week, one span for each day; ends may be in the next week."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not a time: write it as 'mon-fri 08:00-16:30' or '22:00-06:00'")
    first, last, *clock = found.groups()
    hours = [int(part) for part in clock]
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if hours[1] > 59 or hours[3] > 59 or start >= 1440 or end > 1440:
        raise ValueError(f"{text!r}: there is no such time of day")
    days = list(range(7))
    if first is not None:
        for day in (first, last or first):
            if day not in DAYS:
                raise ValueError(f"{text!r}: {day!r} is not one of {', '.join(DAYS)}")
        begin, count = DAYS.index(first), (DAYS.index(last or first) - DAYS.index(first)) % 7 + 1
        days = [(begin + number) % 7 for number in range(count)]
    if end <= start:
        end += 1440
    return [(day * 1440 + start, day * 1440 + end) for day in days]


def parse_name(text: str) -> str:
    """A name in lower-case presentation form without dots at its ends; ValueError."""
    name = text.strip().strip(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{text!r} is not a name") from None
    labels = name.split(".")
    if len(name) > 253 or not all(0 < len(label) < 64 and not re.search(r"[\s/]", label) for label in labels):
        raise ValueError(f"{text!r} is not a name")
    return name


def parse_addresses(texts: tuple[str, ...]) -> tuple[bytes, ...]:
    """Packed addresses; ValueError."""
    return tuple(Endpoint.of(text, 0).address for text in texts)


def _compile(rule: Rule, label: str) -> _Compiled:
    try:
        action = Action(rule.action)
    except ValueError:
        raise ValueError(f"{rule.action!r} is not one of {', '.join(each.value for each in Action)}") from None
    storm = None
    if rule.storm:
        if rule.storm not in _REFUSING or rule.action not in _REFUSING:
            raise ValueError(f"storm: {rule.storm!r} or the rule's action is not one of {', '.join(_REFUSING)}")
        storm = Action(rule.storm)
    if rule.match not in ("all", "any"):
        raise ValueError(f"match: {rule.match!r} is not one of all, any")
    if bool(rule.to) != (action is Action.REWRITE):
        raise ValueError("`to` is wanted for rewrite, and for no other action")
    exact, suffixes, patterns = set(), set(), []
    for text in rule.names:
        if len(text) > 1 and text[0] == text[-1] == "/":
            try:
                patterns.append(re.compile(text[1:-1], re.I))
            except re.error as problem:
                raise ValueError(f"{text!r} is not a regular expression: {problem}") from None
        elif text.startswith("="):
            exact.add(parse_name(text[1:]))
        elif "*" in text or "?" in text:
            whole = re.escape(parse_name(text)).replace(r"\*", ".*").replace(r"\?", ".")
            patterns.append(re.compile(rf"\A{whole}\Z", re.S))
        else:
            suffixes.add(parse_name(text))
    to: tuple[bytes, ...] = ()
    alias = ""
    if rule.to:
        try:
            to = parse_addresses(rule.to)
        except ValueError:
            if len(rule.to) > 1:
                raise ValueError("`to` is either addresses or one name") from None
            alias = parse_name(rule.to[0])
    spans = tuple(span for text in rule.schedule for span in parse_span(text))
    return _Compiled(
        rule, Judgement(action, label, to, alias, storm), frozenset(exact), frozenset(suffixes), tuple(patterns),
        frozenset(map(parse_type, rule.types)), frozenset(parse_addresses(rule.servers)), spans,
    )  # fmt: skip
