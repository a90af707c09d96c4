"""A resolver that wraps a resolver: what every stage between the bridge and the upstream has in common.

Responsible for: forwarding each verb of the `Resolver` port down and each callback up, tokens for a stage's own
queries, and combining deadlines.
Refuses to know: messages; what any stage does.

A stage overrides what it wants to change. Tokens are the caller's and pass through untouched; a query that a
stage asks for itself gets a token from `own_token`, which no caller and no other stage of the chain can have.
"""

from __future__ import annotations

from typing import TypeVar

from netstack.core.ports import Resolver, ResolverOwner

DROPPED = "dropped"
"""Why a query fails whose asker must not be answered."""
DROPPED_LATE = "dropped late"
"""As `DROPPED`, for a query over TCP whose asker was told that an answer would come: it must know that none does."""

_MOST_STAGES = 32  # of one chain: own tokens are negative and count in steps of this


def earlier(one: float | None, other: float | None) -> float | None:
    """The earlier of two deadlines, of which None is never."""
    if one is None:
        return other
    return one if other is None or one < other else other


Found = TypeVar("Found")


def find_stage(resolver: object, kind: type[Found]) -> Found | None:
    """The stage of this class in the chain that begins with `resolver`."""
    while not isinstance(resolver, kind):
        if not isinstance(resolver, Stage):
            return None
        resolver = resolver.inner
    return resolver


class Stage:
    """Implements `core.ports.Resolver` and `ResolverOwner` by passing everything on.

    `inner` is the resolver below. A stage with several (split DNS) gives the rest as `others`: they are started,
    told of changes and timed alike; `query` goes to `inner` unless overridden.
    """

    __slots__ = ("_below", "_depth", "_own", "inner", "owner")

    def __init__(self, inner: Resolver, *others: Resolver) -> None:
        self.inner = inner
        self.owner: ResolverOwner
        self._below: tuple[Resolver, ...] = (inner, *others)
        self._depth: int = 1 + max(getattr(each, "_depth", 0) for each in self._below)
        self._own = 0

    def own_token(self) -> int:
        """A token for a query of this stage's own; negative."""
        self._own += 1
        return -(self._own * _MOST_STAGES + self._depth)

    # --- Resolver, downwards ---

    def start(self, owner: ResolverOwner) -> None:
        """As `Resolver.start`: every resolver below gets this stage as its owner."""
        self.owner = owner
        for each in self._below:
            each.start(self)

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`. The answer may come before this returns."""
        self.inner.query(token, message, now, over_tcp)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`; a token that is not known below does no harm."""
        for each in self._below:
            each.cancel(token)

    def network_changed(self, now: float) -> None:
        """As `Resolver.network_changed`."""
        for each in self._below:
            each.network_changed(now)

    def close(self) -> None:
        """As `Resolver.close`."""
        for each in self._below:
            each.close()

    def flush(self, name: str = "", *, subtree: bool = False) -> int:
        """Forget cached answers for `name` (and everything under it with `subtree`); for all names when empty.

        Goes down to every stage that caches; how many entries went.
        """
        return sum(each.flush(name, subtree=subtree) for each in self._below if isinstance(each, Stage))

    def next_timeout(self) -> float | None:
        """As `Resolver.next_timeout`; a stage with timers takes the `earlier` of this and its own."""
        best = self.inner.next_timeout()
        for each in self._below[1:]:
            best = earlier(best, each.next_timeout())
        return best

    def on_timeout(self, now: float) -> None:
        """As `Resolver.on_timeout`; a stage with timers does its own as well."""
        for each in self._below:
            each.on_timeout(now)

    def hand_over(self, successor: Resolver, now: float) -> None:
        """`successor` takes this chain's place: it gets what was held here and has not been asked yet."""
        for each in self._below:
            if isinstance(each, Stage):
                each.hand_over(successor, now)

    def set_network(self, name: str, now: float) -> None:
        """The device is on the network that the host calls `name`; for the stages that want to know."""
        for each in self._below:
            if isinstance(each, Stage):
                each.set_network(name, now)

    # --- ResolverOwner, upwards ---

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`."""
        self.owner.on_answer(token, message, now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        self.owner.on_failure(token, why, now)
