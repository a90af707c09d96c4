"""Rules in the chain of resolvers: every query is judged before anything else is asked.

Responsible for: the order of rules, lists and special names; carrying out what was decided; holding postponed
queries; judging again what is held when policy changes; telling what was decided and why.
Refuses to know: how rules and lists match (`ruleset`, `lists`), what the answers look like (`synthetic`), upstreams.
RFCs: 2308 (negative answers), 9462.

The order: rules, first match decides; allow lists; names that would lead around the resolver; block lists (an
exception in any of them allows); known DoH hosts; all else is asked.

A query comes by `query_of`, with the flow it belongs to, from the bridge. By `query`, from another stage, it has no
flow: its app is unknown. A dropped query is reported to the owner as a failure whose reason is `DROPPED`; nothing is
sent to the app for it, and no state stays, so the next query of the same socket is judged afresh.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from netstack.core.drops import DropReason
from netstack.core.errors import ConfigError
from netstack.core.events import EngineError, EventSink, QueryJudged, StormNoticed
from netstack.core.flow import FiveTuple
from netstack.core.ports import FlowLookup, FlowOwner, Resolver
from netstack.core.record import recordclass
from netstack.core.stats import Stats
from netstack.core.storms import WINDOW, StormGauge
from netstack.dns.blocklist import labels_of
from netstack.dns.bypass import doh_hosts_path, signal
from netstack.dns.lists import Lists
from netstack.dns.message import Query, Question, Rcode, error_without_question, parse_query, servfail, type_name
from netstack.dns.ruleset import Action, Asked, Judgement, Rule, RuleSet, Step, parse_addresses
from netstack.dns.stage import DROPPED, DROPPED_LATE, Stage, earlier, find_stage
from netstack.dns.synthetic import BLOCKED, FILTERED, addresses, negative, question_for, refusal, under_alias, wire_name

_UNDECIDED = Judgement(Action.POSTPONE, "the app is being looked up")
_PASSING = frozenset((Action.ALLOW, Action.POSTPONE, Action.REWRITE))
BLOCK_ACTIONS = ("nxdomain", "refused", "nodata", "sinkhole", "drop")
_KNOWN_MOST = 1024  # names whose verdict by lists is remembered
_APPS_MOST = 1024  # flows whose app is remembered
_HELD_MOST = 1024

MinuteOfWeek = Callable[[float], float]
"""From the engine's clock to minutes since Monday 00:00 local time."""


@recordclass(frozen=True, kw_only=True)
class RuleSettings:
    """What `RuleStage` is to do."""

    rules: tuple[Rule, ...] = ()
    """In their order; the first that matches decides."""
    block_action: str = "nxdomain"
    """What block lists do: nxdomain, refused, nodata, sinkhole or drop."""
    block_ttl: int = 10
    """Seconds that made-up answers may be cached: as long as unblocking may take."""
    sinkhole: tuple[str, ...] = ("0.0.0.0", "::")
    """Addresses that `sinkhole` answers."""
    postpone: float = 2.0
    """Seconds that `postpone` holds a query; below what stub resolvers wait (5 s)."""
    bypass: bool = True
    """Answer the names that would lead around the resolver as their makers ask: resolver.arpa, canary, relays."""
    doh_hosts: str = ""
    """A list of DoH hosts to block as block lists do: a file, `built-in`, or empty for none."""
    app_wait: float = 1.0
    """Seconds that a query waits for its app to be known, when a rule wants it and the look-up takes time."""
    app_late: str = "unknown"
    """What it gets then: unknown (the rules decide as for an unknown app), or allow, nxdomain, refused, nodata..."""
    storm: int = 30
    """Refusals of one name within 10 s that make a storm; 0 for never."""
    storm_ttl: int = 60
    """In a storm `block_ttl` doubles every 10 s up to this."""
    storm_action: str = ""
    """What a listed name gets in a storm instead of `block_action`; empty for the same as ever."""


@recordclass(eq=False)
class _Held:
    """A postponed query."""

    query: Query
    flow: FiveTuple | None
    over_tcp: bool
    since: float
    until: float


@recordclass(eq=False)
class _Alias:
    """A query that is asked under another name."""

    token: int
    query: Query
    target: bytes


class RuleStage(Stage):
    """A resolver that judges first. Raises ConfigError or ListError naming what cannot be used."""

    __slots__ = (
        "_alias_of", "_aliases", "_apps", "_asked_apps", "_awaiting", "_doh", "_emit", "_held", "_known", "_lists",
        "_look_up", "_minute", "_network", "_owner_of", "_rules", "_settings", "_sinkhole", "_stats", "_storms",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        inner: Resolver,
        settings: RuleSettings,
        lists: Lists | None = None,
        *,
        stats: Stats,
        emit: EventSink,
        apps: FlowOwner | FlowLookup | None = None,
        minute_of_week: MinuteOfWeek | None = None,
    ) -> None:
        """`apps` says whose a flow is, at once or later (asked once for each flow, only when a rule wants it); rules
        with a schedule need `minute_of_week`."""
        super().__init__(inner)
        self._stats = stats
        self._emit = emit
        self._owner_of = apps.owner_of if isinstance(apps, FlowOwner) else None
        self._look_up = apps.ask_owner_of if isinstance(apps, FlowLookup) else None
        self._minute = minute_of_week
        self._network = ""
        self._apps: dict[FiveTuple, str | None] = {}
        self._known: dict[bytes, Judgement | None] = {}
        self._held: dict[int, _Held] = {}  # by token, oldest first
        self._awaiting: dict[int, _Held] = {}  # until the app is known, oldest first
        self._asked_apps: set[FiveTuple] = set()  # look-ups under way
        self._storms = StormGauge(settings.storm)
        self._aliases: dict[int, _Alias] = {}  # by own token
        self._alias_of: dict[int, int] = {}  # client's token -> own token
        self._lists = lists or Lists()
        self.version = 0
        self._configure(settings)

    def _configure(self, settings: RuleSettings) -> None:
        if settings.block_action not in BLOCK_ACTIONS:
            raise ConfigError(f"block_action: {settings.block_action!r} is not one of {', '.join(BLOCK_ACTIONS)}")
        rules = RuleSet(settings.rules)
        if rules.wants_time and self._minute is None:
            raise ConfigError("a rule has a schedule, but nothing here knows the local time")
        try:
            sinkhole = parse_addresses(settings.sinkhole)
        except ValueError as problem:
            raise ConfigError(f"sinkhole: {problem}") from None
        self._doh = Lists([doh_hosts_path(settings.doh_hosts)]) if settings.doh_hosts else Lists()
        self._sinkhole = sinkhole
        self._settings = settings
        self._rules = rules
        self._known.clear()
        self._storms.reconfigure(settings.storm)
        self.version += 1

    # --- policy changes ---

    def reconfigure(self, settings: RuleSettings, now: float, lists: Lists | None = None) -> None:
        """New rules, and new lists when given. What cannot be used raises and leaves everything as it was."""
        self._configure(settings)
        if lists is not None:
            self._lists = lists
        self._judge_again(now)

    def take_over(self, other: RuleStage, now: float) -> None:
        """The rules and lists of `other`, which was made for this and is never asked."""
        self._doh, self._sinkhole, self._lists = other._doh, other._sinkhole, other._lists
        self._settings, self._rules = other._settings, other._rules
        self._known.clear()
        self._storms.reconfigure(self._settings.storm)
        self.version += 1
        self._judge_again(now)

    def hand_over(self, successor: Resolver, now: float) -> None:
        """As `Stage.hand_over`: what is postponed is judged by the successor's rules, and keeps its time."""
        held, self._held = self._held, {}
        awaiting, self._awaiting = self._awaiting, {}
        rules = find_stage(successor, RuleStage)
        if rules is not None:
            rules._held.update(held)
            rules._judge_again(now)
            for token, each in awaiting.items():
                rules.query_of(token, each.query, each.flow, now, each.over_tcp)
            return
        for token, each in {**held, **awaiting}.items():
            successor.query(token, each.query.message, now, each.over_tcp)

    def use_lists(self, lists: Lists, now: float) -> None:
        """Put other lists in force; made beforehand, on any thread."""
        self._lists = lists
        self._known.clear()
        self._storms.clear()
        self.version += 1
        self._judge_again(now)

    def reload(self, now: float) -> list[str]:
        """Read the lists' files again where they changed; what is wrong with files whose old content stays in force.

        A text is compiled before this returns; large ones are better reloaded on a thread (`Lists.reloaded`).
        """
        lists, problems = self._lists.reloaded()
        for problem in problems:
            self._emit(EngineError(now, "list", problem))
        self.use_lists(lists, now)
        return problems

    @property
    def lists(self) -> Lists:
        """The lists in force."""
        return self._lists

    def set_network(self, name: str, now: float) -> None:
        """The device is on the network that the host calls `name`."""
        if name != self._network:
            self._network = name
            self.version += 1
            self._judge_again(now)

    def _judge_again(self, now: float) -> None:
        """What is held goes on at once, in order, under the policy of now; what it still postpones stays."""
        for token, held in list(self._held.items()):
            judgement = self._judge(held.query.question, held.flow, now)
            if judgement is not None and (judgement.action is Action.POSTPONE or judgement is _UNDECIDED):
                continue
            if self._held.pop(token, None) is not None:
                self._act_late(token, held, judgement, now)
        for token, held in list(self._awaiting.items()):
            self._decide_awaiting(token, held, now)

    def _decide_awaiting(self, token: int, held: _Held, now: float) -> None:
        """A query that waits for its app: on with it, unless only the app can decide."""
        judgement = self._judge(held.query.question, held.flow, now)
        if judgement is not _UNDECIDED and self._awaiting.pop(token, None) is not None:
            self._act_late(token, held, judgement, now)

    def _act_late(self, token: int, held: _Held, judgement: Judgement | None, now: float) -> None:
        """Carry out what came to be decided after the asker was told that it will be answered."""
        late = DROPPED_LATE if held.over_tcp else DROPPED  # a connection counts what it waits for
        self._act(token, held.query, held.flow, held.over_tcp, judgement, now, late)

    # --- Resolver ---

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`, for a query whose flow is not known."""
        query = parse_query(message)
        if isinstance(query, Rcode):
            self.owner.on_answer(token, error_without_question(message, query), now)
        else:
            self.query_of(token, query, None, now, over_tcp)

    def query_of(self, token: int, query: Query, flow: FiveTuple | None, now: float, over_tcp: bool = False) -> None:
        """As `query`, for a query of `flow`."""
        judgement = self._judge(query.question, flow, now)
        if judgement is None or judgement.action is Action.ALLOW:
            self.inner.query(token, query.message, now, over_tcp)
        elif judgement is _UNDECIDED:
            self._awaiting[token] = _Held(query, flow, over_tcp, now, now + self._settings.app_wait)
        else:
            self._act(token, query, flow, over_tcp, judgement, now)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`; a held query is forgotten."""
        if self._held.pop(token, None) is not None or self._awaiting.pop(token, None) is not None:
            return
        own = self._alias_of.pop(token, None)
        if own is not None:
            del self._aliases[own]
            token = own
        super().cancel(token)

    def close(self) -> None:
        """As `Resolver.close`."""
        self._held.clear()
        self._awaiting.clear()
        super().close()

    def next_timeout(self) -> float | None:
        """As `Resolver.next_timeout`."""
        best = super().next_timeout()
        for held in self._held.values():
            best = earlier(held.until, best)
            break
        for held in self._awaiting.values():
            return earlier(held.until, best)
        return best

    def on_timeout(self, now: float) -> None:
        """Release what was held long enough, in order."""
        while self._held:
            token = next(iter(self._held))
            if self._held[token].until > now:
                break
            self._release(token, now)
        while self._awaiting:
            token, held = next(iter(self._awaiting.items()))
            if held.until > now:
                break
            self._app_is_late(token, held, now)
        super().on_timeout(now)

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`; an answer for an alias is put under the name that was asked."""
        alias = self._aliases.pop(token, None)
        if alias is None:
            self.owner.on_answer(token, message, now)
            return
        del self._alias_of[alias.token]
        answer = under_alias(alias.query, alias.target, message, self._settings.block_ttl)
        self.owner.on_answer(alias.token, servfail(alias.query) if answer is None else answer, now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        alias = self._aliases.pop(token, None)
        if alias is not None:
            token = alias.token
            del self._alias_of[token]
        self.owner.on_failure(token, why, now)

    # --- judging ---

    def _judge(self, question: Question, flow: FiveTuple | None, now: float) -> Judgement | None:
        if self._settings.rules:
            candidates = self._rules.candidates(question.name)
            if candidates:
                asked = _Query(self, question, flow, now)
                judgement = self._rules.judge(asked, candidates)
                if asked.wants_app and flow is not None and self._ask_app(flow):
                    return _UNDECIDED
                if asked.wants_app:  # it was told at once, or is not waited for
                    judgement = self._rules.judge(_Query(self, question, flow, now), candidates)
                if judgement is not None:
                    return judgement
        folded = question.folded[:-4]
        known = self._known
        if folded in known:
            return known[folded]
        judgement = self._judge_name(question)
        if len(known) >= _KNOWN_MOST:
            known.clear()
        known[folded] = judgement
        return judgement

    def _judge_name(self, question: Question, steps: list[Step] | None = None) -> Judgement | None:
        """What lists and special names say."""
        labels = labels_of(question.folded)
        found = None
        if self._lists:
            found = self._lists.judge(labels) if steps is None else self._lists.trace(labels, steps)
            if found is not None and found.allowed:
                return Judgement(Action.ALLOW, f"allowed by {found.path}")
        if self._settings.bypass:
            special = signal(question.name)
            if steps is not None:
                steps.append(Step("names that lead around the resolver", special is not None))
            if special is not None:
                return special
        if found is None and self._doh:
            found = self._doh.judge(labels) if steps is None else self._doh.trace(labels, steps)
        if found is None or found.allowed:
            return None
        settings = self._settings
        storm = Action(settings.storm_action) if settings.storm_action else None
        return Judgement(Action(settings.block_action), f"blocked by {found.path}", storm=storm)

    def app_of(self, flow: FiveTuple | None) -> str | None:
        """Whose a flow is; the host is asked once for each flow. None also for one that it has not told yet."""
        if flow is None or (self._owner_of is None and self._look_up is None):
            return None
        apps = self._apps
        if flow not in apps and self._owner_of is not None:
            self._learn_app(flow, self._owner_of(flow))
        return apps.get(flow)

    def knows_app_of(self, flow: FiveTuple | None) -> bool:
        """False when a look-up has to come first."""
        return self._look_up is None or flow is None or flow in self._apps

    def _learn_app(self, flow: FiveTuple, app: str | None) -> None:
        apps = self._apps
        if flow not in apps and len(apps) >= _APPS_MOST:
            del apps[next(iter(apps))]
        apps[flow] = app

    def _ask_app(self, flow: FiveTuple) -> bool:
        """Have the host find out whose `flow` is; True when that is to be waited for."""
        if flow not in self._asked_apps and self._look_up is not None and len(self._asked_apps) < _APPS_MOST:
            self._asked_apps.add(flow)
            self._look_up(flow, partial(self._app_told, flow))
        if flow in self._apps:
            return False
        return self._settings.app_wait > 0 and flow in self._asked_apps and len(self._awaiting) < _HELD_MOST

    def _app_told(self, flow: FiveTuple, app: str | None, now: float) -> None:
        """The host found out, in time or not."""
        self._asked_apps.discard(flow)
        self._learn_app(flow, app)
        for token, held in list(self._awaiting.items()):
            if held.flow == flow:
                self._decide_awaiting(token, held, now)

    def _app_is_late(self, token: int, held: _Held, now: float) -> None:
        del self._awaiting[token]
        late = self._settings.app_late
        if late != "unknown":
            self._act_late(token, held, Judgement(Action(late), "the app was not known in time"), now)
            return
        assert held.flow is not None  # only a flow has an app
        self._learn_app(held.flow, None)  # until the host tells
        self._act_late(token, held, self._judge(held.query.question, held.flow, now), now)

    def minute_of_week(self, now: float) -> float | None:
        """Local time, if anybody knows it."""
        return None if self._minute is None else self._minute(now)

    @property
    def network(self) -> str:
        """The network that the host named last."""
        return self._network

    def explain(
        self, question: Question, *, app: str | None = None, network: str | None = None, server: bytes = b"",
        minute: float | None = None,
    ) -> tuple[Judgement, list[Step]]:  # fmt: skip
        """What would be done with a question, and everything that was looked at, in order."""
        steps: list[Step] = []
        here = self._network if network is None else network
        asked = Asked(question.name, question.type, app=app, network=here, server=server, minute=minute)
        judgement = self._rules.trace(asked, steps) or self._judge_name(question, steps)
        return judgement or Judgement(Action.ALLOW, "nothing speaks against it"), steps

    # --- acting ---

    def _act(
        self,
        token: int,
        query: Query,
        flow: FiveTuple | None,
        over_tcp: bool,
        judgement: Judgement | None,
        now: float,
        dropped: str = DROPPED,
    ) -> None:
        if judgement is None or judgement.action is Action.ALLOW:
            self.inner.query(token, query.message, now, over_tcp)
            return
        action: Action = judgement.action
        settings = self._settings
        question = query.question
        ttl = settings.block_ttl
        if action not in _PASSING:
            self._stats.dns_blocked += 1
            level = self._storm(question, now)
            if level:
                ttl = max(ttl, min(ttl << level, settings.storm_ttl))
                action = judgement.storm or action
        self._emit(QueryJudged(now, flow, question.name, type_name(question.type), action.value, judgement.rule))
        if action is Action.POSTPONE:
            if len(self._held) >= _HELD_MOST:
                self._release(next(iter(self._held)), now)
            self._held[token] = _Held(query, flow, over_tcp, now, now + settings.postpone)
        elif action is Action.DROP:
            self._stats.drops[DropReason.POLICY_RULE] += 1
            self.owner.on_failure(token, dropped, now)
        elif judgement.alias:
            self._ask_alias(token, query, judgement.alias, now, over_tcp)
        else:
            self.owner.on_answer(token, self._answer(query, judgement, action, ttl), now)

    def _storm(self, question: Question, now: float) -> int:
        """How long a name has been asked for over and over; 0 when it has not."""
        level, rose = self._storms.hit(question.folded[:-4], now)
        if rose:
            if level == 1:
                self._stats.storms += 1
            self._emit(StormNoticed(now, "query", question.name, self._settings.storm, WINDOW))
        return level

    def _answer(self, query: Query, judgement: Judgement, action: Action, ttl: int) -> bytes:
        error = FILTERED if judgement.rule.startswith("blocked by") else BLOCKED
        match action:
            case Action.NXDOMAIN:
                return negative(query, Rcode.NXDOMAIN, ttl, error=error)
            case Action.NODATA:
                return negative(query, Rcode.NOERROR, ttl, error=error)
            case Action.SINKHOLE:
                return addresses(query, self._sinkhole, ttl, error=error)
            case Action.REWRITE:
                return addresses(query, judgement.to, ttl)
            case _:
                return refusal(query, error=error)

    def _ask_alias(self, token: int, query: Query, alias: str, now: float, over_tcp: bool) -> None:
        own = self.own_token()
        target = wire_name(alias)
        self._aliases[own] = _Alias(token, query, target)
        self._alias_of[token] = own
        self.inner.query(own, question_for(query, target), now, over_tcp)

    def _release(self, token: int, now: float) -> None:
        held = self._held.pop(token)
        self.inner.query(token, held.query.message, now, held.over_tcp)

    @property
    def held(self) -> int:
        """Queries that are postponed now."""
        return len(self._held)


class _Query(Asked):
    """A real query: its app and the time are looked up when a rule wants them."""

    wants_app = False  # a rule looked at the app before it was known

    def __init__(self, stage: RuleStage, question: Question, flow: FiveTuple | None, now: float) -> None:
        server = b"" if flow is None else flow.destination.address
        super().__init__(question.name, question.type, network=stage.network, server=server)
        self._stage = stage
        self._flow = flow
        self._now = now

    @property
    def app(self) -> str | None:
        """Whose query it is."""
        if not self._stage.knows_app_of(self._flow):
            self.wants_app = True
            return None
        return self._stage.app_of(self._flow)

    @property
    def minute(self) -> float | None:
        """When it is."""
        return self._stage.minute_of_week(self._now)


__all__ = ["BLOCK_ACTIONS", "DROPPED", "Rule", "RuleSettings", "RuleStage"]
