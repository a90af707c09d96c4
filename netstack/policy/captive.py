"""Captive portals: noticing one, letting its names through for a while, and forgetting it afterwards.

Responsible for: what the host learnt (RFC 8910 location, RFC 8908 answer, a probe), a time-boxed allowance for probe
and portal names, its end, the event; the resolver stage that asks the network's own resolver meanwhile.
Refuses to know: HTTP and DHCP (the host speaks them), flows (the portal's addresses are leased like any others).
RFCs: 8908, 8910, 8952.

Behind a portal encrypted upstreams are unreachable, and the portal's names exist only for the network's own resolver.
So these names, and no others, are asked there, never cached, until one of: the host says that the portal let us
through, an upstream answers, the time is over. There is one allowance for each time that a portal closes: another
needs another network, or the host's word that the portal was open meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from netstack.config import CaptiveConfig
from netstack.core.events import CaptivePortalChanged, EventSink
from netstack.core.ports import Resolver
from netstack.dns.message import parse_question
from netstack.dns.records import wire_name
from netstack.dns.stage import Stage, earlier

UNRESTRICTED = "urn:ietf:params:capport:unrestricted"  # RFC 8910 2: there is no portal here
LARGEST_DOCUMENT = 65_536


class CaptivePortal:
    """`allowing` is true while an allowance runs; `location` is the API's URL when the network gave one."""

    __slots__ = (
        "_changed", "_emit", "_probes", "_settings", "_until", "_urls", "allowing", "captive", "location", "url",
    )  # fmt: skip

    def __init__(self, settings: CaptiveConfig, emit: EventSink) -> None:
        self._settings = settings
        self._emit = emit
        self._probes = _wire_names(settings)
        self._urls: frozenset[bytes] = frozenset()  # hosts of the API and of the portal's pages
        self._changed: list[Callable[[float], None]] = []
        self._until = 0.0
        self.allowing = False
        self.captive = False
        """True from detection until the host says that the portal let us through, allowance or not."""
        self.location = ""
        self.url = ""
        """The page to show to the user, when the network told."""

    def watch(self, changed: Callable[[float], None]) -> None:
        """`changed(now)` is called when an allowance has begun or ended."""
        self._changed.append(changed)

    def unwatch(self, changed: Callable[[float], None]) -> None:
        """No longer call `changed`."""
        if changed in self._changed:
            self._changed.remove(changed)

    def reconfigure(self, settings: CaptiveConfig, now: float) -> None:
        """New settings. An allowance that runs keeps its end, unless there is to be none."""
        self._settings = settings
        self._probes = _wire_names(settings)
        if self.allowing and not settings.limit:
            self._end("ended", "settings", now)

    def allows(self, name: bytes) -> bool:
        """True when the network's own resolver is to be asked for a name (folded wire form)."""
        return self.allowing and (name in self._probes or name in self._urls)

    # --- what the host learnt ---

    def api_location(self, url: str, now: float) -> None:
        """The captive portal API's URL from DHCP or a router advertisement (RFC 8910).

        The host fetches it, over HTTPS as RFC 8908 4.1 demands, and passes the answer to `api_answer`.
        """
        if url == UNRESTRICTED:
            self.clear("the network says that it has no portal", now)
            return
        if url[:8].lower() == "https://" and _host(url) is not None:
            self.location = url

    def api_answer(self, document: bytes | str | dict[str, Any], now: float) -> bool:
        """The API's answer (RFC 8908 5). False when it is none: nothing changes then."""
        if not isinstance(document, dict):
            if len(document) > LARGEST_DOCUMENT:
                return False
            try:
                document = json.loads(document)
            except (ValueError, RecursionError):
                return False
        if not isinstance(document, dict) or not isinstance(document.get("captive"), bool):
            return False
        if not document["captive"]:
            self.clear("the portal's API", now)
            return True
        url = document.get("user-portal-url")
        self.detected("the portal's API", now, url=url if isinstance(url, str) else "")
        return True

    def probe_result(self, captive: bool, now: float, *, url: str = "") -> None:
        """What a probe (an HTTP request to one of the names) found; `url` is where it was sent to instead."""
        if captive:
            self.detected("a probe", now, url=url)
        else:
            self.clear("a probe", now)

    def detected(self, why: str, now: float, *, url: str = "") -> None:
        """There is a portal. Begins the allowance, unless this portal has had one."""
        hosts = (_host(each) for each in (self.location, url))
        self._urls |= frozenset(host for host in hosts if host is not None)
        if _host(url) is not None:
            self.url = url
        if self.captive:
            return
        self.captive = True
        self.allowing = self._settings.limit > 0
        self._until = now + self._settings.limit
        self._tell("captive", why, now)

    # --- the end ---

    def clear(self, why: str, now: float) -> None:
        """There is no portal, or it let us through."""
        if self.captive:
            self.captive = False
            self._end("clear", why, now)

    def upstream_healthy(self, now: float) -> None:
        """An upstream answered: nobody needs the network's own resolver any more."""
        if self.allowing:
            self._end("ended", "an upstream answers", now)

    def network_changed(self, now: float) -> None:
        """Another network: what was known is void, and a new allowance may be had."""
        if self.allowing:
            self._end("ended", "network changed", now)
        self.captive = False
        self._urls = frozenset()
        self.location = self.url = ""

    def next_timeout(self) -> float | None:
        """The end of the allowance."""
        return self._until if self.allowing else None

    def on_timeout(self, now: float) -> None:
        """End the allowance when its time is over."""
        if self.allowing and now >= self._until:
            self._end("ended", "time is over", now)

    def _end(self, state: str, why: str, now: float) -> None:
        self.allowing = False
        self._tell(state, why, now)

    def _tell(self, state: str, why: str, now: float) -> None:
        self._emit(CaptivePortalChanged(now, state, self.url, why))
        for changed in self._changed:
            changed(now)


class CaptiveStage(Stage):
    """Asks `network`, the resolver of the network itself, for probe and portal names while an allowance runs.

    Goes above the cache, whose entries go at both ends of an allowance, and above the answer stage, for portals have
    private addresses.
    """

    __slots__ = ("_asking", "_network", "_there", "portal")

    def __init__(self, inner: Resolver, network: Resolver | None, portal: CaptivePortal) -> None:
        """Without a `network` the names are asked of `inner`, and the cache is all that an allowance changes."""
        super().__init__(inner, *([network] if network is not None else []))
        self._network = inner if network is None else network
        self._there: set[int] = set()  # tokens that the network's resolver has
        self._asking = False  # an answer that comes meanwhile was made or kept below: no upstream is behind it
        self.portal = portal
        portal.watch(self._changed)

    def _changed(self, now: float) -> None:
        self.flush()

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`."""
        if self.portal.allowing:
            self.portal.on_timeout(now)
            question = parse_question(message)
            if question is not None and self.portal.allows(question.folded[:-4]):
                self._there.add(token)
                self._network.query(token, message, now, over_tcp)
                return
            self._asking = True
        self.inner.query(token, message, now, over_tcp)
        self._asking = False

    def close(self) -> None:
        """As `Resolver.close`."""
        self.portal.unwatch(self._changed)
        super().close()

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        self._there.discard(token)
        super().cancel(token)

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`. An upstream that answers ends the allowance."""
        if token in self._there:
            self._there.discard(token)
        elif self.portal.allowing and not self._asking and len(message) > 3 and message[3] & 0xF in (0, 3):
            self.portal.upstream_healthy(now)
        self.owner.on_answer(token, message, now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        self._there.discard(token)
        self.owner.on_failure(token, why, now)

    def network_changed(self, now: float) -> None:
        """As `Resolver.network_changed`."""
        self.portal.network_changed(now)
        super().network_changed(now)

    def next_timeout(self) -> float | None:
        """The end of the allowance, or what is due below."""
        return earlier(self.portal.next_timeout(), super().next_timeout())

    def on_timeout(self, now: float) -> None:
        """As `Resolver.on_timeout`."""
        self.portal.on_timeout(now)
        super().on_timeout(now)


def _wire_names(settings: CaptiveConfig) -> frozenset[bytes]:
    return frozenset(wire for name in settings.names if (wire := wire_name(name)) is not None)


def _host(url: str) -> bytes | None:
    """The host name of an HTTP URL in folded wire form; None for anything else, also for an address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or ":" in host or host.replace(".", "").isdigit():
        return None
    return wire_name(host)
