"""The blocking state and the one thing that may pass it: the operating system's network check.

Responsible for: the state machine open / blocking, which names resolve and which addresses pass while blocking, on
which ports and for how long, reporting what failed; the resolver stage that goes with it.
Refuses to know: why the host blocks, how sockets are bound or installed (the host reports failures), upstreams.
RFCs: 1035, 2308, 5737 (the address of the leak-free mode).

Systems publish no default route, or wait for long, until their check had an answer. So while everything else is
refused, the check's names resolve and their addresses pass on the check's ports: from before the answer leaves until
the blocking ends. The leak-free mode lets nothing out: it answers with a documentation address, which is refused fast.

A step that failed (a port in use, rules that did not install) is reported once; the check then stays shut, and is not
tried again until the host switches it on anew.
"""

from __future__ import annotations

from collections.abc import Callable

from netstack.config import LockdownConfig
from netstack.core.events import EventSink, LockdownChanged
from netstack.core.flow import TCP, FiveTuple
from netstack.core.ports import Resolver
from netstack.core.verdict import Action, Reason, Refusal, Verdict
from netstack.dns.filter import read_answer
from netstack.dns.message import AAAA, HEADER_SIZE, A, Query, Rcode, nodata, parse_query, refused
from netstack.dns.records import IN, Record, emit_message, read_message, synthetic_soa, wire_name
from netstack.dns.stage import Stage
from netstack.policy.lan import is_leasable
from netstack.policy.tracker import IpTracker

QueryOf = Callable[[int, Query, "FiveTuple | None", float, bool], None]
MOST_ADDRESSES = 256
LEAK_FREE_ADDRESS = b"\xc6\x33\x64\x01"  # 198.51.100.1
LEAK_FREE_TTL = 3


class Lockdown:
    """`blocking` is what everyone looks at. `broken` says why the network check stays shut; empty when it works."""

    __slots__ = (
        "_borrowed", "_changed", "_emit", "_names", "_passing", "_ports", "_settings", "blocking", "broken", "tracker",
    )  # fmt: skip

    def __init__(self, settings: LockdownConfig, emit: EventSink) -> None:
        self._emit = emit
        self.blocking = False
        self.broken = ""
        self.tracker: IpTracker | None = None
        self._passing: dict[bytes, str] = {}  # address -> name
        self._borrowed: set[bytes] = set()  # leased by the check's answers only
        self._changed: list[Callable[[float], None]] = []
        self._take_over(settings)

    def _take_over(self, settings: LockdownConfig) -> None:
        self._settings = settings
        self._names = frozenset(wire for name in settings.names if (wire := wire_name(name)) is not None)
        self._ports = frozenset(settings.ports)

    def watch(self, changed: Callable[[float], None]) -> None:
        """`changed(now)` is called after verdicts may have changed: flows are to be judged again."""
        self._changed.append(changed)

    @property
    def active(self) -> bool:
        """True while the network check may pass."""
        return self.blocking and self._settings.network_check and not self.broken

    @property
    def leak_free(self) -> bool:
        """True when the check is answered here."""
        return self._settings.leak_free

    # --- the state machine ---

    def enter(self, now: float, why: str = "") -> None:
        """Block. Idempotent."""
        if not self.blocking:
            self.blocking = True
            self._tell(now, why)

    def leave(self, now: float, why: str = "") -> None:
        """End the blocking; addresses that passed for the check do so no longer. Idempotent."""
        if self.blocking:
            self._forget(now)
            self.blocking = False
            self._tell(now, why)

    def reconfigure(self, settings: LockdownConfig, now: float) -> None:
        """New settings. Switching the check on anew is the host's word that what was broken is mended.

        The state itself is `enter` and `leave`; `settings.blocking` is for whoever calls them.
        """
        before = self._settings
        if (settings.network_check, settings.names, settings.ports, settings.leak_free) == (
            before.network_check, before.names, before.ports, before.leak_free,
        ):  # fmt: skip
            return
        if settings.network_check and not before.network_check:
            self.broken = ""
        self._forget(now)
        self._take_over(settings)
        self._tell(now, "settings")

    def fail(self, step: str, why: str, now: float) -> None:
        """The host could not do a step of the check (bind, install, configure): shut it and say so, once."""
        if not self.broken:
            self.broken = f"{step}: {why}"
            self._forget(now)
            self._tell(now, self.broken)

    def _tell(self, now: float, why: str) -> None:
        if self.broken and (why == self.broken or (self.blocking and self._settings.network_check)):
            state = "failed"
        else:
            state = "blocking" if self.blocking else "open"
        self._emit(LockdownChanged(now, state, self.active, why))
        for changed in self._changed:
            changed(now)

    def _forget(self, now: float) -> None:
        if self.tracker is not None:
            for address in self._borrowed:
                self.tracker.end(address, now)
        self._borrowed.clear()
        self._passing.clear()

    # --- names and addresses ---

    def allows(self, name: bytes) -> bool:
        """True when a name (folded wire form) may resolve now."""
        return self.active and name in self._names

    def learn(self, name: str, address: bytes, now: float) -> None:
        """An answer to the check named `address`: it passes until the blocking ends."""
        if not self.active or not is_leasable(address):
            return
        if self.tracker is not None and self.tracker.lookup(address, now) is None:
            self._borrowed.add(address)  # the tracker will lease it with the answer, and is told when that ends
        if self._settings.leak_free:
            return
        if len(self._passing) >= MOST_ADDRESSES:
            del self._passing[next(iter(self._passing))]
        self._passing[address] = name

    def judge(self, flow: FiveTuple, refusal: Refusal) -> Verdict:
        """The verdict on `flow` while blocking."""
        if flow.protocol == TCP and flow.destination.port in self._ports and self.active:
            name = self._passing.get(flow.destination.address)
            if name is not None:
                return Verdict(Action.ALLOW, Reason.LOCKDOWN, f"network check of {name}")
        return Verdict(Action.BLOCK, Reason.LOCKDOWN, "everything is blocked", None, refusal)


class LockdownStage(Stage):
    """The outermost stage: while blocking, only the check's names get past it."""

    __slots__ = ("_asked", "_inner_query_of", "_network", "lockdown")

    def __init__(self, inner: Resolver, lockdown: Lockdown, network: Resolver | None = None) -> None:
        """`network` is the resolver of the network itself, which the check's names are asked of; without it `inner` is.

        Upstreams that the host chose may be out of reach for as long as it blocks; the network's own is what the
        system would have asked.
        """
        super().__init__(inner, *([network] if network is not None else []))
        self.lockdown = lockdown
        self._network = inner if network is None else network
        self._inner_query_of: QueryOf | None = getattr(inner, "query_of", None)
        self._asked: dict[int, Query] = {}  # of the check, by token

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`; while blocking, REFUSED for all but the check."""
        if not self.lockdown.blocking:
            self.inner.query(token, message, now, over_tcp)
            return
        query = parse_query(message)
        if isinstance(query, Rcode):
            self.owner.on_failure(token, "refused", now)
        else:
            self._judge(token, query, now, over_tcp)

    def query_of(self, token: int, query: Query, flow: FiveTuple | None, now: float, over_tcp: bool = False) -> None:
        """As `query`, for a query of `flow`, which the rules below may want to know."""
        if self.lockdown.blocking:
            self._judge(token, query, now, over_tcp)
        elif self._inner_query_of is not None:
            self._inner_query_of(token, query, flow, now, over_tcp)
        else:
            self.inner.query(token, query.message, now, over_tcp)

    def _judge(self, token: int, query: Query, now: float, over_tcp: bool) -> None:
        lockdown = self.lockdown
        if not lockdown.allows(query.question.folded[:-4]) or query.question.cls != IN:
            self.owner.on_answer(token, refused(query), now)
        elif lockdown.leak_free or query.question.type not in (A, AAAA):
            self.owner.on_answer(token, self._made(query, now), now)
        else:
            self._asked[token] = query
            self._network.query(token, query.message, now, over_tcp)

    def _made(self, query: Query, now: float) -> bytes:
        """The fixed address of the leak-free mode, or NODATA of short life."""
        made = read_message(nodata(query))
        assert made is not None  # our own
        name = query.question.wire[:-4]
        if self.lockdown.leak_free and query.question.type == A:
            self.lockdown.learn(query.question.name, LEAK_FREE_ADDRESS, now)
            made.sections[0].append(Record(name, A, LEAK_FREE_TTL, LEAK_FREE_ADDRESS))
        else:
            made.sections[1].append(synthetic_soa(name, LEAK_FREE_TTL))
        return emit_message(made)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        self._asked.pop(token, None)
        super().cancel(token)

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`: addresses of the check pass before the answer leaves.

        What was asked before the blocking began, and is no part of the check, is refused now.
        """
        query = self._asked.pop(token, None) if self._asked else None
        lockdown = self.lockdown
        if lockdown.blocking:
            if query is None or not lockdown.allows(query.question.folded[:-4]):
                self._refuse(token, message, now)
                return
            answer = read_answer(message, query.question)
            for address, _ in answer.addresses if answer is not None else ():
                lockdown.learn(query.question.name, address, now)
        self.owner.on_answer(token, message, now)

    def _refuse(self, token: int, message: bytes, now: float) -> None:
        if len(message) < HEADER_SIZE:
            self.owner.on_failure(token, "refused", now)
            return
        bare = read_message(message[:4] + message[4:6] + bytes(6) + message[HEADER_SIZE:])
        if bare is None:
            self.owner.on_failure(token, "refused", now)
            return
        bare.flags = bare.flags & ~0xF | Rcode.REFUSED
        self.owner.on_answer(token, emit_message(bare), now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        self._asked.pop(token, None)
        self.owner.on_failure(token, why, now)
