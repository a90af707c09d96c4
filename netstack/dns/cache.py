"""The cache: answers kept for their TTL, negative ones too, stale ones when the upstream is silent.

Responsible for: what may be kept and for how long, TTLs that count down, coalescing equal questions, serving stale
before the client asks again, refreshing popular entries early, the size cap, flushing.
Refuses to know: upstreams, policy; answers are kept as upstream gave them, so `answers` works on hits as well.
RFCs: 1035 3.2.1, 2181 8, 2308 (negative), 8767 (stale), 8914 (the error code of a stale answer), 4035 (DO, CD),
6840 5.7 (AD), 7871 (client subnet), 7873 (cookies), 5452 (one upstream query for many equal ones).

An entry belongs to folded name, type, class, the DO, CD and AD bits, the client subnet when one is sent, and the
label of the upstream set that answers the name. A network change empties the cache: another network, another truth.

A hit must cost next to nothing, so the whole query but its id is the key of a `_View`: the octets around the records
for exactly this client's spelling and EDNS. The records are patched once a second at offsets known beforehand.

A miss must cost little more: most names are asked for once. An answer is put away as it came and read when somebody
asks for it again; only then does it turn out whether it may be used.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from netstack.config import CacheConfig
from netstack.core.ports import Resolver
from netstack.dns.edns import CLIENT_SUBNET, STALE_ANSWER, Edns
from netstack.dns.kept import NOERROR, NXDOMAIN, TTL, Entry, around, examine, is_of, patch, plain_query, read_query
from netstack.dns.message import CD, HEADER_SIZE, TC, Question
from netstack.dns.records import wire_name
from netstack.dns.stage import Stage, earlier

_AD = 0x0020
_TC_OCTET = TC >> 8
_MOST_VIEWS = 4  # spellings of one question
_JOIN = 0.5  # seconds: who asks later than this after another gets tries of its own, not the rest of a back-off
_MOST_ASKED = 8192  # upstream queries of this stage's own
_OVERHEAD = 900  # octets that an entry costs beside its octets (measured, CPython 3.11)
_UNREAD_OVERHEAD = 450  # and an answer that was not read yet
_VIEW_OVERHEAD = 350
_OCTET = tuple(bytes((number,)) for number in range(256))


_Unread = tuple[bytes, bytes, float, int]  # query, answer, when it came, octets; the collector ignores such a tuple
_View = tuple[Entry, bytes, bytes]  # what comes before and behind the records


class _Asked:
    """An upstream query of this stage. `waiting` holds the callers' tokens with the ids that they used."""

    __slots__ = ("at", "edns", "key", "message", "question", "raw", "stale", "token", "waiting")

    def __init__(
        self,
        token: int,
        at: float,
        message: bytes,
        question: Question,
        edns: Edns | None,
        key: bytes,
        raw: bytes,
        waiting: dict[int, bytes],
        stale: Entry | None,
    ) -> None:
        self.token = token
        self.at = at
        self.message = message
        self.question = question
        self.edns = edns
        self.key = key
        self.raw = raw
        self.waiting = waiting
        self.stale = stale


class CacheStage(Stage):
    """`hits`, `misses`, `stale_answers`, `prefetches` and `evictions` count; `octets` is what is held."""

    __slots__ = (
        "_asked", "_by_raw", "_entries", "_scope", "_settings", "_stale_at", "_views", "_waiting", "epoch",
        "evictions", "hits", "misses", "octets", "prefetches", "stale_answers",
    )  # fmt: skip

    def __init__(
        self, inner: Resolver, settings: CacheConfig | None = None, *, scope: Callable[[bytes], bytes] | None = None
    ) -> None:
        """`scope` gives a short label of the upstream set that answers a name (folded wire form); None for one set.

        When the labels of names change, call `flush()`.
        """
        super().__init__(inner)
        self._settings = settings or CacheConfig()
        self._scope = scope
        self._entries: OrderedDict[bytes, Entry | _Unread] = OrderedDict()  # least recently used first
        self._views: dict[bytes, _View] = {}
        self._asked: dict[int, _Asked] = {}
        self._by_raw: dict[bytes, _Asked] = {}
        self._waiting: dict[int, int] = {}  # caller's token -> own token
        self._stale_at: deque[tuple[float, int]] = deque()
        self.octets = self.hits = self.misses = self.stale_answers = self.prefetches = self.evictions = 0
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._entries)

    # --- queries ---

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`; a hit is answered before this returns."""
        raw = message[2:]
        view = self._views.get(raw)
        if view is not None:
            hit, head, tail = view
            if now < hit.fresh_until:
                age = int(now - hit.stored)
                if age != hit.age:
                    patch(hit, age)
                hit.hits += 1
                self.hits += 1
                self._entries.move_to_end(hit.key)
                self.owner.on_answer(token, message[:2] + head + hit.patched + tail, now)
                return
        read = read_query(message)
        if read is None or len(self._asked) >= _MOST_ASKED:
            self.inner.query(token, message, now, over_tcp)
            return
        question, edns = read
        if self._scope is None and (edns is None or not edns.options):
            variant = message[3] & (CD | _AD)
            key = question.folded + _OCTET[variant if edns is None else variant | edns.flags >> 15]
        else:
            key = self._key(message, question, edns)
        found = self._entries.get(key)
        entry: Entry | None = None
        if found is not None:
            entry = found if isinstance(found, Entry) else self._open(key, found)
        if entry is not None:
            if now < entry.expires:
                self._hit(token, message, question, edns, entry, now)
                return
            if now >= entry.expires + self._settings.stale:
                self._remove(key, entry)
                entry = None
        self.misses += 1
        if entry is not None and entry.failing:
            self._tell_stale(token, message, question, edns, entry, now)
            if now >= entry.recheck_at:
                entry.recheck_at = now + self._settings.stale_recheck
                self._refresh(entry, now)
            return
        self._ask(token, message, raw, question, edns, key, entry, now, over_tcp)

    def _key(self, message: bytes, question: Question, edns: Edns | None) -> bytes:
        variant = message[3] & (CD | _AD)
        subnet = None
        if edns is not None:
            variant |= edns.dnssec_ok
            if edns.options:
                subnet = edns.option(CLIENT_SUBNET)
        key = question.folded + bytes((variant,))
        if self._scope is not None:
            key += self._scope(question.folded[:-4]) + b"\0"
        return key if subnet is None else key + subnet

    def _hit(
        self, token: int, message: bytes, question: Question, edns: Edns | None, entry: Entry, now: float
    ) -> None:
        """A hit by its key: a first spelling, options, or the last tenth of its time."""
        self.hits += 1
        entry.hits += 1
        self._entries.move_to_end(entry.key)
        age = int(now - entry.stored)
        if age != entry.age:
            patch(entry, age)
        head, tail = around(message, question, edns, entry)
        if now >= entry.fresh_until:
            entry.fresh_until = entry.expires
            popular = self._settings.prefetch_hits
            if popular and entry.hits >= popular:
                self.prefetches += 1
                self._refresh(entry, now)
        if (edns is None or not edns.options) and message[2:] not in self._views:
            self._keep_view(message[2:], entry, head, tail)
        self.owner.on_answer(token, message[:2] + head + entry.patched + tail, now)

    def _keep_view(self, raw: bytes, entry: Entry, head: bytes, tail: bytes) -> None:
        if self._entries.get(entry.key) is not entry:  # flushed by the refresh that this hit caused
            return
        if len(entry.views) >= _MOST_VIEWS:
            self._drop_view(entry, entry.views[0])
        self._views[raw] = (entry, head, tail)
        entry.views.append(raw)
        self._grow(entry, _view_octets(raw))

    def _drop_view(self, entry: Entry, raw: bytes) -> None:
        entry.views.remove(raw)
        self._views.pop(raw, None)
        self._grow(entry, -_view_octets(raw))

    def _grow(self, entry: Entry, octets: int) -> None:
        entry.octets += octets
        self.octets += octets
        if octets > 0:
            self._make_room()

    def _tell_stale(
        self, token: int, message: bytes, question: Question, edns: Edns | None, entry: Entry, now: float
    ) -> None:
        self.stale_answers += 1
        head, tail = around(message, question, edns, entry, STALE_ANSWER)
        body = bytearray(entry.body)
        for offset, _ in entry.ttls:
            TTL.pack_into(body, offset, self._settings.stale_ttl)
        self.owner.on_answer(token, message[:2] + head + bytes(body) + tail, now)

    # --- asking upstream ---

    def _ask(
        self,
        token: int,
        message: bytes,
        raw: bytes,
        question: Question,
        edns: Edns | None,
        key: bytes,
        stale: Entry | None,
        now: float,
        over_tcp: bool,
    ) -> None:
        if over_tcp:
            raw += b"\1"
        asked = self._by_raw.get(raw)
        if asked is not None and now - asked.at < _JOIN:  # the same question is on its way already
            asked.waiting[token] = message[:2]
            self._waiting[token] = asked.token
            if asked.stale is not None:
                self._stale_at.append((now + self._settings.stale_after, asked.token))
            return
        own = self.own_token()
        asked = _Asked(own, now, message, question, edns, key, raw, {token: message[:2]}, stale)
        self._asked[own] = self._by_raw[raw] = asked
        self._waiting[token] = own
        if stale is not None:
            self._stale_at.append((now + self._settings.stale_after, own))
        self.inner.query(own, message, now, over_tcp)

    def _refresh(self, entry: Entry, now: float) -> None:
        """Ask again what gave `entry`, with nobody waiting."""
        message = entry.ask
        raw = message[2:]
        if raw in self._by_raw or len(self._asked) >= _MOST_ASKED:
            return
        read = read_query(message)
        if read is not None:
            own = self.own_token()
            stale = entry if self._settings.stale else None
            self._asked[own] = self._by_raw[raw] = _Asked(own, now, message, *read, entry.key, raw, {}, stale)
            self.inner.query(own, message, now, False)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`; the upstream query ends with the last one who waits for it."""
        own = self._waiting.pop(token, None)
        if own is None:
            self.inner.cancel(token)
            return
        asked = self._asked.get(own)
        if asked is not None:
            asked.waiting.pop(token, None)
            if not asked.waiting:
                self._take(own)
                self.inner.cancel(own)

    def _take(self, own: int) -> _Asked | None:
        asked = self._asked.pop(own, None)
        if asked is not None:
            if self._by_raw.get(asked.raw) is asked:
                del self._by_raw[asked.raw]
            for token in asked.waiting:
                self._waiting.pop(token, None)
        return asked

    # --- from upstream ---

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`: kept if it may be, and given to all who wait for it."""
        asked = self._take(token)
        if asked is None:
            self.owner.on_answer(token, message, now)
            return
        stale = asked.stale
        if len(message) >= HEADER_SIZE and message[3] & 0xF not in (NOERROR, NXDOMAIN) and stale is not None:
            self._fall_back(asked, stale, now)  # RFC 8767 4: other codes do not replace what was known
            return
        self._keep(asked, message, now)
        waiting = asked.waiting
        if len(waiting) == 1:
            for one in waiting:
                self.owner.on_answer(one, message, now)
            return
        rest = message[2:]
        for each, ident in waiting.items():
            self.owner.on_answer(each, ident + rest, now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`; a stale answer is better than none."""
        asked = self._take(token)
        if asked is None:
            self.owner.on_failure(token, why, now)
        elif asked.stale is not None:
            self._fall_back(asked, asked.stale, now)
        else:
            for waiting in asked.waiting:
                self.owner.on_failure(waiting, why, now)

    def _fall_back(self, asked: _Asked, stale: Entry, now: float) -> None:
        stale.failing = True
        stale.recheck_at = now + self._settings.stale_recheck
        self._tell_all_stale(asked, stale, now)

    def _tell_all_stale(self, asked: _Asked, stale: Entry, now: float) -> None:
        waiting, asked.waiting = asked.waiting, {}
        rest = asked.message[2:]
        for token, ident in waiting.items():
            self._waiting.pop(token, None)
            self._tell_stale(token, ident + rest, asked.question, asked.edns, stale, now)

    def _keep(self, asked: _Asked, message: bytes, now: float) -> None:
        """Put an answer away; what is there already is replaced by a good one only."""
        key = asked.key
        old = self._entries.get(key)
        if old is not None:
            entry = self._entry(key, asked.message, asked.question, asked.edns, message, now)
            if entry is not None:
                self._remove(key, old)
                self._entries[key] = entry
                self.octets += entry.octets
        elif len(message) >= HEADER_SIZE and not message[2] & _TC_OCTET and message[3] & 0xF in (NOERROR, NXDOMAIN):
            octets = _UNREAD_OVERHEAD + len(message) + len(key) + len(asked.message)
            if octets > self._settings.octets >> 3:
                return
            self._entries[key] = (asked.message, message, now, octets)
            self.octets += octets
        if self.octets > self._settings.octets:
            self._make_room()

    def _open(self, key: bytes, unread: _Unread) -> Entry | None:
        """Read an answer that was put away; None, and it is forgotten, when it must not be used."""
        message, answer, stored, _ = unread
        read = read_query(message)
        entry = None if read is None else self._entry(key, message, *read, answer, stored)
        if entry is None:
            self._remove(key, unread)
            return None
        self._entries[key] = entry
        self.octets += entry.octets - unread[3]
        if self.octets > self._settings.octets:
            self._make_room()
        return entry

    def _entry(
        self, key: bytes, message: bytes, question: Question, edns: Edns | None, answer: bytes, stored: float
    ) -> Entry | None:
        """What `answer` to the query `message` says; None when it must not be kept."""
        settings = self._settings
        found = examine(answer, question, message, settings.ttl_max, settings.negative_max)
        if found is None:
            return None
        flags, counts, body, ttls, lifetime, opt = found
        subnet = b""
        if edns is not None and edns.options and opt:
            option = Edns(0, 0, 0, opt[11:]).option(CLIENT_SUBNET)
            if option is not None:
                subnet = CLIENT_SUBNET.to_bytes(2, "big") + len(option).to_bytes(2, "big") + option
        octets = _OVERHEAD + 2 * len(body) + len(key) + len(message) + 120 * len(ttls)
        if octets > self._settings.octets >> 3:
            return None
        expires = stored + lifetime
        fresh_until = expires - lifetime / 10 if lifetime >= 10 and self._settings.prefetch_hits else expires
        return Entry(
            key, flags, counts, body, ttls, stored, expires, fresh_until, plain_query(message, edns), subnet, octets
        )

    # --- size, time, change ---

    def _make_room(self) -> None:
        while self.octets > self._settings.octets and self._entries:
            self._remove(*next(iter(self._entries.items())))
            self.evictions += 1

    def _remove(self, key: bytes, entry: Entry | _Unread) -> None:
        del self._entries[key]
        if not isinstance(entry, Entry):
            self.octets -= entry[3]
            return
        for raw in entry.views:
            self._views.pop(raw, None)
        self.octets -= entry.octets

    def flush(self, name: str = "", *, subtree: bool = False) -> int:
        """Forget the answers for `name` (with `subtree`, also for every name under it), or all when it is empty.

        What is being asked at the moment will not fall back to a stale answer. Returns how many went.
        """
        below = super().flush(name, subtree=subtree)
        wire = wire_name(name) if name else b"\0"
        if wire is None:
            return below
        everything = not name
        gone = [each for each in self._entries.items() if everything or is_of(each[0], wire, subtree)]
        for key, entry in gone:
            self._remove(key, entry)
        for asked in self._asked.values():
            if asked.stale is not None and self._entries.get(asked.stale.key) is not asked.stale:
                asked.stale = None
        return below + len(gone)

    def network_changed(self, now: float) -> None:
        """As `Resolver.network_changed`: a new epoch, nothing known yet."""
        self.epoch += 1
        self.flush()
        super().network_changed(now)

    def close(self) -> None:
        """As `Resolver.close`; queries that are pending are forgotten."""
        self._asked.clear()
        self._by_raw.clear()
        self._waiting.clear()
        self._stale_at.clear()
        super().close()

    def next_timeout(self) -> float | None:
        """The earliest moment at which a stale answer is due, or the inner resolver's."""
        due = self._stale_at
        while due and ((asked := self._asked.get(due[0][1])) is None or asked.stale is None or not asked.waiting):
            due.popleft()
        return earlier(due[0][0] if due else None, self.inner.next_timeout())

    def on_timeout(self, now: float) -> None:
        """Serve stale what upstream did not answer in time; its answer is still welcome for the next one."""
        due = self._stale_at
        while due and due[0][0] <= now:
            asked = self._asked.get(due.popleft()[1])
            if asked is not None and asked.stale is not None and asked.waiting:
                self._fall_back(asked, asked.stale, now)
        self.inner.on_timeout(now)


def _view_octets(raw: bytes) -> int:
    return _VIEW_OVERHEAD + 2 * len(raw)
