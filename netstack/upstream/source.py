"""The resolver of one run, and the one that follows it when settings or the network change.

Responsible for: what has to be made anew for a change and what can stay; lists that are kept open; the network check
and the captive portal, which outlive every chain.
Refuses to know: what any stage does (`assemble`), how queries move from one chain to the next (`dns/bridge.py`).

A change has two halves. `prepare` opens files and reads them, on any thread, and raises for what cannot be used, so
that nothing has changed then. `follow` puts it in force on the engine's thread and takes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from netstack.config import Config
from netstack.core.events import EngineError, EventSink
from netstack.core.network import Network
from netstack.core.ports import Dialer, Entropy, FlowLookup, FlowOwner, Resolver, ResolverOwner
from netstack.core.record import recordclass
from netstack.core.stats import Stats
from netstack.dns.stage import Stage, find_stage
from netstack.upstream import assemble

if TYPE_CHECKING:
    from netstack.dns.lists import Lists
    from netstack.dns.rules import RuleStage
    from netstack.policy.captive import CaptivePortal
    from netstack.policy.lockdown import Lockdown

Make = Callable[[Config, Dialer, Entropy, Stats, EventSink], Resolver]


@recordclass(frozen=True)
class Prepared:
    """A change that is ready to be put in force."""

    config: Config
    base: Config  # what it was prepared against
    rules: RuleStage | None  # when all below the rules stays
    resolver: Resolver | None  # otherwise; None for both: nothing of the resolver changes
    lists: Lists | None = None
    problems: tuple[str, ...] = ()  # with files whose last good content stays in force


class ResolverSource:
    """Made for one run. `network` is what the host said last, `lockdown` and `portal` exist once they were wanted."""

    def __init__(
        self,
        dialer: Dialer,
        entropy: Entropy,
        stats: Stats,
        emit: EventSink,
        *,
        apps: FlowOwner | FlowLookup | None = None,
        network: Network | None = None,
        make: Make | None = None,
    ) -> None:
        """`make` makes the resolver in place of `assemble.make_resolver`; it is never made anew then."""
        self._parts = (dialer, entropy, stats, emit)
        self._emit = emit
        self._apps = apps
        self._make_instead = make
        self._config = Config()
        self._key: tuple[Any, ...] = ()
        self._chain: Resolver = _Nobody()
        self.network = network or Network()
        self.lockdown: Lockdown | None = None
        self.portal: CaptivePortal | None = None

    def first(self, config: Config) -> Resolver:
        """The first chain. Raises ConfigError."""
        make = self._make_instead
        chain = make(config, *self._parts) if make is not None else self._assembled(config, None)
        self._config, self._key, self._chain = config, self._key_of(config), chain
        return self.guarded(chain)

    def guarded(self, chain: Resolver) -> Resolver:
        """`chain` behind the blocking state, if there is one."""
        if self.lockdown is None:
            return chain
        from netstack.policy.lockdown import LockdownStage

        dialer, entropy, stats, _ = self._parts
        own = assemble.network_resolver(self._config, self.network, dialer, entropy, stats)
        return LockdownStage(chain, self.lockdown, own)

    def _assembled(self, config: Config, lists: Lists | None) -> Resolver:
        return assemble.make_resolver(
            config, *self._parts, apps=self._apps, network=self.network, portal=self.portal, lists=lists
        )

    def _key_of(self, config: Config) -> tuple[Any, ...]:
        """What a chain below its rules is made of: while this stays the same, it stays."""
        network = self.network
        answers = assemble.answers_in_force(config, network)
        return (
            config.dns, config.cache, config.split, answers, self.portal, network.servers,
            network.nat64 if answers.dns64 == "discover" else "",
        )  # fmt: skip

    # --- changes ---

    def prepare(self, config: Config) -> Prepared:
        """Everything that `config` wants and the chain in force has not; lists are read again where they changed.

        Raises ConfigError naming what cannot be used; a damaged list that has been in force is no error.
        """
        from netstack.dns.rules import RuleStage

        if not (config.filter.block or config.filter.allow) or self._make_instead is not None:
            return self._prepare(config, None, ())
        from netstack.dns.lists import Lists

        present = find_stage(self._chain, RuleStage)
        known = present.lists if present is not None else Lists()
        lists, problems = known.following(config.filter.block, config.filter.allow)
        return self._prepare(config, lists, tuple(problems))

    def _prepare(self, config: Config, lists: Lists | None, problems: tuple[str, ...]) -> Prepared:
        from netstack.dns.rules import RuleStage

        base = self._config
        if self._make_instead is not None:
            return Prepared(config, base, None, None)
        present = find_stage(self._chain, RuleStage)
        if self._key_of(config) == self._key:
            rules = assemble.with_rules(
                config, _Nobody(), self._parts[2], self._emit, assemble.local_minute, apps=self._apps, lists=lists
            )
            if isinstance(rules, RuleStage) and present is not None:
                return Prepared(config, base, rules, None, lists, problems)
            if not isinstance(rules, RuleStage) and present is None:
                return Prepared(config, base, None, None, lists, problems)
        return Prepared(config, base, None, self._assembled(config, lists), lists, problems)

    def follow(self, prepared: Prepared, now: float) -> Resolver | None:
        """Put `prepared` in force. The chain that queries go to from now on, None when it is the same one.

        May raise as `prepare` does when another change came between.
        """
        from netstack.dns.rules import RuleStage

        if prepared.base is not self._config:
            prepared = self._prepare(prepared.config, prepared.lists, prepared.problems)  # no file is read for that
        for problem in prepared.problems:
            self._emit(EngineError(now, "list", problem))
        self._config = prepared.config
        if prepared.rules is not None:
            present = find_stage(self._chain, RuleStage)
            assert present is not None  # the base is the same
            present.take_over(prepared.rules, now)
        if prepared.resolver is None:
            return None
        self._key, self._chain = self._key_of(prepared.config), prepared.resolver
        return self.guarded(prepared.resolver)

    def renewed(self) -> Resolver | None:
        """The chain for the same settings after `network` or `portal` changed; None when it is the same one."""
        key = self._key_of(self._config)
        if key == self._key or self._make_instead is not None:
            return None
        from netstack.dns.rules import RuleStage

        present = find_stage(self._chain, RuleStage)
        self._chain = self._assembled(self._config, present.lists if present is not None else None)
        self._key = key
        return self.guarded(self._chain)


class _Nobody(Stage):
    """The end of a chain that is never asked."""

    __slots__ = ()

    def __init__(self) -> None:
        self._below = ()
        self._depth = 0
        self._own = 0

    def start(self, owner: ResolverOwner) -> None:
        """Nothing to start."""
