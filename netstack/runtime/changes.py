"""What a host may change while a run is on, for a run behind a tunnel and for the resolver alone.

Responsible for: taking over settings, lists and networks; the blocking state and its network check; captive portals.
Refuses to know: who asks and on which thread (`runtime/live.py`, `runtime/dns_server.py`), what a chain consists of.
RFCs: 8908, 8910 (captive portals).

Everything here but `prepare` is for the engine's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from netstack.config import Config
from netstack.core.errors import ConfigError
from netstack.core.events import EngineError, EventSink
from netstack.core.network import Network
from netstack.core.ports import Resolver
from netstack.core.record import replace
from netstack.dns.stage import Stage
from netstack.policy.lockdown import Lockdown
from netstack.upstream.source import Prepared, ResolverSource

if TYPE_CHECKING:
    from netstack.policy.captive import CaptivePortal


class Carrier(Protocol):
    """What is changed: an `Engine`, or the stand-alone resolver."""

    resolver: Resolver

    def reconfigure(self, config: Config, now: float) -> None:
        """Take over what is not the resolver's."""

    def use_resolver(self, resolver: Resolver, now: float) -> None:
        """Ask another resolver from now on."""

    def use_lockdown(self, lockdown: Lockdown, stage: Resolver | None = None) -> None:
        """Obey a blocking state."""

    def resolver_has_work(self) -> None:
        """The resolver's deadlines have changed without a query."""

    def network_changed(self, now: float, name: str | None = None) -> None:
        """Another network."""


class Changes:
    """Of one run. `config` is what is in force."""

    def __init__(self, carrier: Carrier, source: ResolverSource, config: Config, emit: EventSink, now: float) -> None:
        """`source` has made the carrier's resolver of `config`."""
        self._carrier = carrier
        self._source = source
        self._emit = emit
        self.config = config
        if config.lockdown.blocking:
            self.block_network("configured", now)

    # --- settings ---

    def prepare(self, config: Config | None = None) -> Prepared:
        """A change to `config`, or to what the files of the present one hold now. On any thread; it may read for long.

        Raises ConfigError naming what cannot be used; nothing has changed then.
        """
        return self._source.prepare(self.config if config is None else config)

    def reconfigure(self, prepared: Prepared, now: float) -> None:
        """Put a change in force. Queries on their way are answered and live flows that may go on do."""
        try:
            resolver = self._source.follow(prepared, now)
        except ConfigError as problem:  # another change came between, and this one no longer fits
            self._emit(EngineError(now, "config", f"{problem} (the settings of before stay in force)"))
            return
        before, self.config = self.config, prepared.config
        if resolver is not None:
            self._carrier.use_resolver(resolver, now)
        self._carrier.reconfigure(prepared.config, now)
        if self._source.portal is not None:
            self._source.portal.reconfigure(prepared.config.captive, now)
        self._lockdown_settings(before, now)
        self._carrier.resolver_has_work()

    def _lockdown_settings(self, before: Config, now: float) -> None:
        settings = self.config.lockdown
        if self._source.lockdown is not None:
            self._source.lockdown.reconfigure(settings, now)
        if settings.blocking and not before.lockdown.blocking:
            self.block_network("configured", now)
        elif before.lockdown.blocking and not settings.blocking:
            self.allow_network("configured", now)

    def flush_cache(self, name: str = "", *, subtree: bool = True) -> int:
        """Forget what the cache has for a name and all below it, or everything; how many answers went."""
        self._carrier.resolver_has_work()
        resolver = self._carrier.resolver
        return resolver.flush(name, subtree=subtree) if isinstance(resolver, Stage) else 0

    # --- the blocking state ---

    @property
    def lockdown(self) -> Lockdown:
        """The blocking state; it costs nothing until it is first wanted."""
        lockdown = self._source.lockdown
        if lockdown is None:
            lockdown = self._source.lockdown = Lockdown(self.config.lockdown, self._emit)
            self._carrier.use_lockdown(lockdown, self._source.guarded(self._carrier.resolver))
        return lockdown

    @property
    def is_blocking(self) -> bool:
        """Whether the blocking state is on."""
        lockdown = self._source.lockdown
        return lockdown is not None and lockdown.blocking

    def block_network(self, why: str, now: float) -> None:
        """Enter the blocking state: only the network check passes, if it may."""
        self.lockdown.enter(now, why)

    def allow_network(self, why: str, now: float) -> None:
        """Leave the blocking state; what passed for the check passes no longer."""
        if self._source.lockdown is not None:
            self._source.lockdown.leave(now, why)

    def allow_network_check(self, enabled: bool, now: float) -> None:
        """Switch the network check; on anew it is also tried anew after a failure."""
        settings = replace(self.config.lockdown, network_check=enabled)
        self.config = replace(self.config, lockdown=settings)
        self.lockdown.reconfigure(settings, now)

    def network_check_failed(self, step: str, why: str, now: float) -> None:
        """The host could not do a step of the check: it stays shut until it is switched on anew."""
        self.lockdown.fail(step, why, now)

    # --- the network ---

    def network_changed(self, network: Network, now: float) -> None:
        """The device is on another network, of which the host says `network`."""
        self._source.network = network
        if self._source.portal is not None:
            self._source.portal.network_changed(now)
        self._renew(now)
        self._carrier.network_changed(now, network.name)

    def network_told(self, network: Network, now: float) -> None:
        """The host learnt more of the network that the device has been on all the time."""
        self._source.network = network
        self._renew(now)

    @property
    def network(self) -> Network:
        """What the host said last."""
        return self._source.network

    def _renew(self, now: float) -> None:
        resolver = self._source.renewed()
        if resolver is not None:
            self._carrier.use_resolver(resolver, now)

    @property
    def known_portal(self) -> CaptivePortal | None:
        """What is known of a captive portal, if there has been anything to know."""
        return self._source.portal

    @property
    def portal(self) -> CaptivePortal:
        """What is known of a captive portal; it costs nothing until it is first wanted."""
        portal = self._source.portal
        if portal is None:
            from netstack.policy.captive import CaptivePortal  # most hosts never meet one

            portal = self._source.portal = CaptivePortal(self.config.captive, self._emit)
        return portal

    def captive_portal(
        self, now: float, *, api_url: str = "", answer: bytes | str | dict[str, Any] | None = None,
        captive: bool | None = None, url: str = "",
    ) -> None:  # fmt: skip
        """What the host learnt of a portal: the API's URL, the API's answer, or what a probe found."""
        if captive is False and not api_url and answer is None and self._source.portal is None:
            return  # no portal, as everybody thought
        portal = self.portal
        self._renew(now)
        if api_url:
            portal.api_location(api_url, now)
        if answer is not None:
            portal.api_answer(answer, now)
        if captive is not None:
            portal.probe_result(captive, now, url=url)
        self._carrier.resolver_has_work()


__all__ = ["Carrier", "Changes"]
