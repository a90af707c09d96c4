"""Split DNS: names of a company or a home go to their own resolvers, all others to the default one.

Responsible for: the longest suffix that fits; search domains for single-label names; never showing an internal name
to the default resolver unless that is allowed.
Refuses to know: how a group of upstreams is asked, which network has which groups.
RFCs: 6762 and 8375 (names that are local), 2308, 9499 (terms).

An answer of an internal resolver is the answer, NXDOMAIN and SERVFAIL too. A group that may leak is the exception:
when it fails, refuses or does not know the name, the default resolver is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from netstack.core.errors import ConfigError
from netstack.core.ports import Resolver
from netstack.core.record import recordclass
from netstack.dns.message import (
    AAAA,
    HEADER_SIZE,
    HTTPS,
    A,
    Query,
    Question,
    Rcode,
    nxdomain,
    parse_query,
    parse_question,
    servfail,
)
from netstack.dns.ruleset import parse_name
from netstack.dns.stage import Stage
from netstack.dns.synthetic import question_for, under_alias, wire_name

_ALIAS_TTL = 30
_NOT_SEARCHED = {b"\x09localhost\0"}


@recordclass(frozen=True, kw_only=True)
class SplitGroup:
    """Names and the resolver that knows them."""

    resolver: Resolver
    """Asked for these names."""
    suffixes: tuple[str, ...] = ()
    """`corp.example`: the name and all below it. `.` is every name."""
    search: tuple[str, ...] = ()
    """Suffixes too; a name of one label (`wiki`) is looked for below each, in order, and nowhere else."""
    leak: bool = False
    """Ask the default resolver too when this one fails, refuses or says NXDOMAIN."""


@recordclass(eq=False)
class _Search:
    """A name of one label, and the domains that are still to be tried."""

    token: int
    query: Query
    domains: list[bytes]
    target: bytes
    over_tcp: bool
    leak: bool


class SplitStage(Stage):
    """A resolver above the default one and one for each group. Raises ConfigError for what is not a suffix."""

    __slots__ = ("_groups", "_labels", "_leaky", "_own_of", "_search", "_searches")

    def __init__(self, default: Resolver, groups: Sequence[SplitGroup]) -> None:
        """Of a suffix that two groups have, the first group counts."""
        super().__init__(default, *(group.resolver for group in groups))
        self._groups: dict[bytes, SplitGroup] = {}  # by suffix as octets of a lower-case name
        self._labels: dict[int, bytes] = {id(group): b"%d" % number for number, group in enumerate(groups, 1)}
        self._search: list[bytes] = []
        for group in groups:
            for text in (*group.suffixes, *group.search):
                try:
                    suffix = b"\0" if text == "." else wire_name(parse_name(text))
                except ValueError as problem:
                    raise ConfigError(f"split: {problem}") from None
                self._groups.setdefault(suffix, group)
                if text in group.search and suffix not in self._search:
                    self._search.append(suffix)
        self._leaky: dict[int, tuple[bytes, bool]] = {}  # queries that the default resolver may be asked too
        self._searches: dict[int, _Search] = {}  # by own token
        self._own_of: dict[int, int] = {}  # client's token -> own token

    def group_of(self, question: Question) -> SplitGroup | None:
        """The group with the longest suffix that fits; None for the default resolver."""
        return self._group_of(question.folded[:-4])

    def label_of(self, name: bytes) -> bytes:
        """Which set of upstreams answers a name (folded wire form): the scope of what a cache keeps of it."""
        if self._search and self._is_single(name):
            return b"search"
        group = self._group_of(name)
        return b"" if group is None else self._labels[id(group)]

    def _group_of(self, name: bytes) -> SplitGroup | None:
        groups = self._groups
        at = 0
        while True:
            group = groups.get(name[at:])
            if group is not None or not name[at]:
                return group
            at += 1 + name[at]

    # --- Resolver ---

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`."""
        question = parse_question(message)
        if question is None:
            self.inner.query(token, message, now, over_tcp)
            return
        if self._search and self._is_searched(question):
            query = parse_query(message)
            if isinstance(query, Query):
                leak = all(self._groups[domain].leak for domain in self._search)
                self._try_next(_Search(token, query, list(self._search), b"", over_tcp, leak), now)
                return
        group = self.group_of(question)
        if group is None:
            self.inner.query(token, message, now, over_tcp)
            return
        if group.leak:
            self._leaky[token] = (message, over_tcp)
        group.resolver.query(token, message, now, over_tcp)

    def _is_searched(self, question: Question) -> bool:
        """One label, and an address wanted."""
        return question.type in (A, AAAA, HTTPS) and self._is_single(question.folded[:-4])

    def _is_single(self, name: bytes) -> bool:
        """One label that has no group of its own."""
        return bool(name[0]) and not name[1 + name[0]] and name not in _NOT_SEARCHED and name not in self._groups

    def _try_next(self, search: _Search, now: float) -> None:
        domain = search.domains.pop(0)
        name = search.query.question.folded[:-5]
        search.target = name + domain
        own = self.own_token()
        self._searches[own] = search
        self._own_of[search.token] = own
        self._groups[domain].resolver.query(own, question_for(search.query, search.target), now, search.over_tcp)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        self._leaky.pop(token, None)
        own = self._own_of.pop(token, None)
        if own is not None:
            del self._searches[own]
            super().cancel(own)
        super().cancel(token)

    # --- ResolverOwner ---

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`."""
        search = self._searches.pop(token, None)
        if search is not None:
            self._found(search, message, now)
            return
        leaky = self._leaky.pop(token, None) if self._leaky else None
        if leaky is not None and _is_no_help(message):
            self.inner.query(token, leaky[0], now, leaky[1])
            return
        self.owner.on_answer(token, message, now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        search = self._searches.pop(token, None)
        if search is not None:
            del self._own_of[search.token]
            if search.leak:
                self.inner.query(search.token, search.query.message, now, search.over_tcp)
            else:
                self.owner.on_failure(search.token, why, now)
            return
        leaky = self._leaky.pop(token, None) if self._leaky else None
        if leaky is not None:
            self.inner.query(token, leaky[0], now, leaky[1])
            return
        self.owner.on_failure(token, why, now)

    def _found(self, search: _Search, message: bytes, now: float) -> None:
        del self._own_of[search.token]
        nowhere = len(message) >= HEADER_SIZE and message[3] & 0xF == Rcode.NXDOMAIN
        if nowhere and search.domains:
            self._try_next(search, now)
        elif search.leak and _is_no_help(message):
            self.inner.query(search.token, search.query.message, now, search.over_tcp)
        elif nowhere:
            self.owner.on_answer(search.token, nxdomain(search.query), now)
        else:
            answer = under_alias(search.query, search.target, message, _ALIAS_TTL)
            self.owner.on_answer(search.token, answer or servfail(search.query), now)


def _is_no_help(message: bytes) -> bool:
    """Whether another resolver might know more."""
    return len(message) < HEADER_SIZE or message[3] & 0xF in (Rcode.SERVFAIL, Rcode.NXDOMAIN, Rcode.REFUSED)


__all__ = ["SplitGroup", "SplitStage"]
