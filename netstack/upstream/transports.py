"""From upstream URLs to resolvers.

Responsible for: choosing the transport of each URL, what upstreams share (trust anchors, bootstrap), saying which
extra is missing.
Refuses to know: rules, caches and everything else in front of the upstreams.
"""

from __future__ import annotations

from collections.abc import Sequence

from netstack.core.errors import ConfigError
from netstack.core.events import EventSink
from netstack.core.ports import Dialer, Entropy, Resolver
from netstack.core.record import recordclass
from netstack.core.stats import Stats
from netstack.upstream.bootstrap import Bootstrap, Location
from netstack.upstream.connected import IDLE, TIMEOUT
from netstack.upstream.dot import dot_resolver, tcp_resolver
from netstack.upstream.group import UpstreamGroup
from netstack.upstream.proxy import ProxyResolver
from netstack.upstream.tls import Trust
from netstack.upstream.url import UpstreamUrl, parse_upstream


@recordclass(frozen=True, kw_only=True)
class UpstreamSettings:
    """What all upstreams of one configuration have in common."""

    strategy: str = "failover"
    """failover, parallel or fastest."""
    bootstrap: tuple[str, ...] = ()
    """ADDR, ADDR:PORT or [ADDR6]:PORT of plain DNS servers that resolve the names of upstreams."""
    ca_file: str = ""
    """PEM file of trust anchors that replaces the system's; empty for the system's."""
    timeout: float = TIMEOUT
    """Seconds for a query in all."""
    idle: float = IDLE
    """Seconds until an unused connection is closed."""
    padding: bool = False
    """Fill encrypted queries up to multiples of 128 octets (RFC 8467)."""


class Transports:
    """Makes resolvers that share trust anchors and bootstrap."""

    def __init__(
        self,
        dialer: Dialer,
        entropy: Entropy,
        settings: UpstreamSettings | None = None,
        *,
        stats: Stats | None = None,
        emit: EventSink | None = None,
    ) -> None:
        """`emit` gets an EngineError (`where="resolver"`) for refused certificates and upstreams that are down.

        Raises ConfigError for a `ca_file` or `bootstrap` that will not do. Opens no socket.
        """
        self._dialer = dialer
        self._entropy = entropy
        self._settings = settings if settings is not None else UpstreamSettings()
        self._stats = stats
        self._emit = emit
        self._trust = Trust(self._settings.ca_file)
        self._bootstraps: dict[tuple[str, ...], Bootstrap] = {}
        if self._settings.bootstrap:
            self._bootstrap(self._settings.bootstrap)

    def group(self, upstreams: Sequence[str | UpstreamUrl]) -> UpstreamGroup:
        """One Resolver over all of `upstreams`, by the settings' strategy. Raises ConfigError."""
        urls = [each if isinstance(each, UpstreamUrl) else parse_upstream(each) for each in upstreams]
        return UpstreamGroup(
            [(url.label, self.resolver(url)) for url in urls],
            strategy=self._settings.strategy,
            timeout=min(self._settings.timeout, max(0.2, self._settings.timeout - 0.2)),
            emit=self._emit,
        )

    def resolver(self, upstream: str | UpstreamUrl) -> Resolver:
        """A Resolver for one upstream, without health or second tries. Raises ConfigError."""
        url = upstream if isinstance(upstream, UpstreamUrl) else parse_upstream(upstream)
        settings = self._settings
        timeout, idle = settings.timeout, settings.idle
        if url.scheme == "udp":
            return ProxyResolver(self._dialer, [url.endpoint], self._entropy, timeout=timeout, stats=self._stats)
        location = self._location(url)
        if url.scheme == "tcp":
            return tcp_resolver(
                url, location, self._dialer, self._entropy, timeout=timeout, idle=idle, stats=self._stats
            )
        common = {
            "timeout": timeout, "idle": idle, "padding": settings.padding, "stats": self._stats, "emit": self._emit,
        }  # fmt: skip
        if url.scheme == "tls":
            return dot_resolver(url, location, self._dialer, self._entropy, self._trust, **common)  # type: ignore[arg-type]
        if url.scheme == "https":
            _need("hpack", "doh", url)
            from netstack.upstream.doh import doh_resolver

            return doh_resolver(url, location, self._dialer, self._trust, **common)  # type: ignore[arg-type]
        _need("aioquic", "doq", url)
        from netstack.upstream.doq import doq_resolver

        return doq_resolver(url, location, self._dialer, self._trust, **common)  # type: ignore[arg-type]

    def _location(self, url: UpstreamUrl) -> Location:
        if url.is_address:
            return Location(url)
        servers = self._settings.bootstrap or url.bootstrap
        if not servers and not url.addresses:
            raise ConfigError(
                f"upstream {url.label}: the name {url.host} must be resolved by somebody; give a bootstrap server "
                f"(--bootstrap ADDR[:PORT]), or dial an address and verify the name: {url.scheme}://ADDR#{url.host}"
            )
        return Location(url, self._bootstrap(servers) if servers else None)

    def _bootstrap(self, servers: tuple[str, ...]) -> Bootstrap:
        found = self._bootstraps.get(servers)
        if found is None:
            found = self._bootstraps[servers] = Bootstrap(self._dialer, servers, self._entropy, stats=self._stats)
        return found


def _need(package: str, extra: str, url: UpstreamUrl) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ConfigError(
            f"upstream {url.label}: {url.scheme}:// needs the Python package {package!r}; "
            f"install netstack-vpn[{extra}]"
        )
