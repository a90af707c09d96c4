"""Where an upstream is: its name, resolved through bootstrap addresses and through nothing else.

Responsible for: asking the bootstrap servers by plain DNS, keeping what they said, turning to the next address of an
upstream when one fails.
Refuses to know: the operating system's resolver (which may be this very engine), what is asked of the upstream.
RFCs: 1035; 8310 section 7.1 (a strict profile needs the address from somewhere else).

A loop is impossible: a bootstrap server is an address, never a name, and is asked through protected sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netstack.core.flow import Endpoint
from netstack.core.ports import Dialer, Entropy
from netstack.core.record import field, recordclass
from netstack.core.stats import Stats
from netstack.dns.filter import read_answer
from netstack.dns.message import AAAA, HEADER, RD, A, parse_question
from netstack.upstream.proxy import ProxyResolver
from netstack.upstream.url import UpstreamUrl

TTL_LEAST, TTL_MOST = 60.0, 86_400.0  # seconds that an upstream's addresses are believed
TIMEOUT = 4.0  # seconds for one name
AGAIN = 5.0  # seconds before all addresses of a name having failed makes it asked anew

Ready = Callable[[Sequence[bytes], float], None]
Located = Callable[[Endpoint | None, float], None]


@recordclass(eq=False)
class _Name:
    """What is known about one name, and who waits for it."""

    addresses: dict[int, tuple[bytes, ...]] = field(default_factory=dict)  # by query type
    asked: int = 0  # queries without an outcome
    asked_at: float = float("-inf")
    expires: float = float("-inf")
    waiting: list[Ready] = field(default_factory=list)

    def all(self) -> tuple[bytes, ...]:
        """IPv4 first: where IPv6 is broken it is so without telling, where it is absent a dial fails at once."""
        return self.addresses.get(A, ()) + self.addresses.get(AAAA, ())


class Bootstrap:
    """Resolves the names of upstreams. A ResolverOwner; its timers are driven by whoever uses it."""

    def __init__(
        self,
        dialer: Dialer,
        servers: Sequence[str | Endpoint],
        entropy: Entropy,
        *,
        timeout: float = TIMEOUT,
        stats: Stats | None = None,
    ) -> None:
        """`servers`: ADDR, ADDR:PORT or [ADDR6]:PORT in order of preference (ConfigError for anything else)."""
        self._resolver = ProxyResolver(dialer, servers, entropy, timeout=timeout, stats=stats)
        self._resolver.start(self)
        self._entropy = entropy
        self._names: dict[str, _Name] = {}
        self._queries: dict[int, tuple[str, int]] = {}  # token -> name and type
        self._token = 0

    def resolve(self, name: str, now: float, ready: Ready) -> None:
        """Call `ready(packed addresses, now)`, maybe before this returns; with none when the name cannot be had.

        Addresses whose time is over serve while nothing better can be had.
        """
        known = self._names.setdefault(name, _Name())
        if known.expires > now:
            ready(known.all(), now)
            return
        known.waiting.append(ready)
        if known.asked:
            return
        known.asked = 2
        known.asked_at = now
        for kind in (A, AAAA):
            self._token += 1
            self._queries[self._token] = (name, kind)
            self._resolver.query(self._token, make_query(name, kind, self._entropy.below(65_536)), now)

    def doubt(self, name: str, now: float) -> None:
        """None of the addresses of `name` answers: ask for them anew, though not all the time."""
        known = self._names.get(name)
        if known is not None and now - known.asked_at >= AGAIN:
            known.expires = now

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`."""
        asked = self._queries.pop(token, None)
        if asked is None:
            return
        name, kind = asked
        known = self._names[name]
        question = parse_question(message)
        answer = read_answer(message, question) if question is not None else None
        size = 4 if kind == A else 16
        found = [each for each in answer.addresses if len(each[0]) == size] if answer is not None else []
        if found:
            known.addresses[kind] = tuple(address for address, _ in found)
            ttl = float(min(ttl for _, ttl in found))
            known.expires = now + min(max(ttl, TTL_LEAST), TTL_MOST)
        elif answer is not None and answer.rcode == 0:
            known.addresses.pop(kind, None)
        self._outcome(known, now, bool(found) and kind == A)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        asked = self._queries.pop(token, None)
        if asked is not None:
            self._outcome(self._names[asked[0]], now, False)

    def _outcome(self, known: _Name, now: float, enough: bool) -> None:
        known.asked -= 1
        if known.asked and not enough:
            return
        waiting, known.waiting = known.waiting, []
        for ready in waiting:
            ready(known.all(), now)

    def network_changed(self, now: float) -> None:
        """What is being asked is asked again; what is known stays (an upstream's addresses are public ones)."""
        self._resolver.network_changed(now)

    def close(self) -> None:
        """Idempotent; who waits is not told. What is known stays, and asking again works: upstreams share this."""
        self._resolver.close()
        self._queries.clear()
        for known in self._names.values():
            known.asked = 0
            known.waiting.clear()

    def next_timeout(self) -> float | None:
        """As `Resolver.next_timeout`."""
        return self._resolver.next_timeout()

    def on_timeout(self, now: float) -> None:
        """As `Resolver.on_timeout`."""
        self._resolver.on_timeout(now)


class Location:
    """The addresses of one upstream, one of which is in use."""

    def __init__(self, url: UpstreamUrl, bootstrap: Bootstrap | None = None) -> None:
        """`bootstrap` is needed when `url` names a host and brings no addresses."""
        self._name = "" if url.is_address else url.host
        self._port = url.port
        literals = (url.host,) if url.is_address else url.addresses
        self._fixed = tuple(Endpoint.of(each, url.port) for each in literals)
        self._found: tuple[Endpoint, ...] = self._fixed
        self._bootstrap = bootstrap if self._name else None
        self._at = 0

    @property
    def count(self) -> int:
        """How many addresses are known."""
        return len(self._found)

    def locate(self, now: float, located: Located) -> None:
        """Call `located(endpoint, now)`, maybe before this returns; None when there is no address."""
        if self._bootstrap is None or self._at < len(self._fixed):
            located(self._found[self._at % len(self._found)] if self._found else None, now)
            return

        def ready(addresses: Sequence[bytes], at: float) -> None:
            found = self._fixed + tuple(Endpoint(address, self._port) for address in addresses)
            if found != self._found:
                self._found = found
                self._at = len(self._fixed) if len(found) > len(self._fixed) else 0
            located(found[self._at % len(found)] if found else None, at)

        self._bootstrap.resolve(self._name, now, ready)

    def failed(self, now: float) -> None:
        """The address in use does not work: the next one's turn."""
        self._at += 1
        if self._at >= max(len(self._found), len(self._fixed) + 1):
            self._at = 0
            if self._bootstrap is not None:
                self._bootstrap.doubt(self._name, now)

    def network_changed(self, now: float) -> None:
        """Every address may work again."""
        self._at = 0
        if self._bootstrap is not None:
            self._bootstrap.network_changed(now)

    def close(self) -> None:
        """Idempotent."""
        if self._bootstrap is not None:
            self._bootstrap.close()

    def next_timeout(self) -> float | None:
        """As `Resolver.next_timeout`."""
        return None if self._bootstrap is None else self._bootstrap.next_timeout()

    def on_timeout(self, now: float) -> None:
        """As `Resolver.on_timeout`."""
        if self._bootstrap is not None:
            self._bootstrap.on_timeout(now)


def make_query(name: str, kind: int, ident: int) -> bytes:
    """A query for a host name (RFC 1035 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return HEADER.pack(ident, RD, 1, 0, 0, 0) + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1"
