"""What apps get to see of an upstream's answer: edited where policy demands it, untouched where it does not.

Responsible for: TTL clamps, HTTPS/SVCB parameters (address hints, ECH, HTTP/3), AAAA filtering, DNS64, rebinding
protection, the client subnet of queries.
Refuses to know: names that are blocked or rewritten (`rules`), the cache below, which addresses are private (a
function tells).
RFCs: 1035, 2181, 2308, 4035 3.1.6 (AD), 6147 and 7050 (DNS64), 6891, 7871, 9460; DNS rebinding has none.

One pass over the octets decides whether anything must change at all; nearly always nothing does and the message goes
on as it is. Only a message to be changed is taken apart and written anew. What was changed is no longer what was
signed: its RRSIG, NSEC and NSEC3 records and the AD bit go with it. TTLs may change under a signature (RFC 4034 3.1.4).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from netstack.config import AnswersConfig
from netstack.core.ports import Resolver
from netstack.core.record import recordclass
from netstack.dns import dns64
from netstack.dns.edns import CLIENT_SUBNET, emit_opt, read_edns, without_option
from netstack.dns.message import (
    AAAA,
    CD,
    FIXED,
    HEADER,
    HEADER_SIZE,
    HTTPS,
    OPT,
    RD,
    SOA,
    SVCB,
    A,
    Query,
    Rcode,
    nodata,
    parse_query,
    skip_name,
)
from netstack.dns.records import IN, Message, emit_message, read_message, suffixes, synthetic_soa, wire_name
from netstack.dns.service import ECH, IPV4HINT, IPV6HINT, edit_service
from netstack.dns.stage import Stage

LOCAL_SUFFIXES = ("localhost", "local", "lan", "home", "home.arpa", "internal", "intranet", "private", "corp")
"""Names that may have private addresses anyway (RFC 6761, 6762 and its appendix G, 8375)."""

_AD = 0x0020
_SIGNATURES = frozenset((46, 47, 50))  # RRSIG, NSEC, NSEC3
_TTL = struct.Struct("!I")
_AAAA_IN = b"\0\0\x1c\0\1"  # the end of a name, type AAAA, class IN
_OPT_START = b"\0\0\x29"  # root, type OPT: without options 11 octets, at the end of nearly every query
_PTR_IN = b"\x03ip6\x04arpa\0\0\x0c\0\1"
_DISCOVERY = HEADER.pack(0, RD, 1, 0, 0, 0) + dns64.ARPA + _AAAA_IN[1:]
_RETRY = 60.0  # seconds until a prefix discovery that failed is tried again
_MAX_TTL = 0x7FFFFFFF


@recordclass(eq=False)
class _Synthesis:
    """An AAAA query whose answer may have to be made of an A answer. `empty` is the AAAA answer.

    Or a PTR query for an address under the prefix, which is asked as one for the IPv4 address in it.
    """

    token: int
    query: Query
    over_tcp: bool
    own: int = 0
    empty: bytes = b""
    target: bytes = b""  # of a PTR query: the in-addr.arpa name


class AnswerStage(Stage):
    """`edited` and `rebinds` count answers; `prefixes` are the NAT64 prefixes in force (4 to 12 octets each)."""

    __slots__ = (
        "_aaaa",
        "_allow",
        "_asked_inner",
        "_by_own",
        "_discover_at",
        "_discovering",
        "_discovery",
        "_drop",
        "_drop_subnet",
        "_has_ipv6",
        "_held",
        "_looks",
        "_scope_of",
        "_settings",
        "_signs",
        "_wanted",
        "edited",
        "prefixes",
        "rebinds",
    )  # fmt: skip

    def __init__(
        self,
        inner: Resolver,
        settings: AnswersConfig | None = None,
        *,
        scope_of: Callable[[bytes], int],
        discovery: Resolver | None = None,
    ) -> None:
        """`scope_of(packed address)` is zero for ordinary (public) addresses: `policy.lan.classify`.

        `discovery` is the resolver of the network itself, which knows its NAT64 prefix; the inner one is asked without
        it, and when it knows of none. ValueError for a `dns64` that is no prefix.
        """
        super().__init__(inner, *([discovery] if discovery is not None else []))
        self._scope_of = scope_of
        self._discovery = inner if discovery is None else discovery
        self._has_ipv6 = True
        self.prefixes: list[bytes] = []
        self.edited = self.rebinds = 0
        self._wanted: dict[int, _Synthesis] = {}  # by the caller's token
        self._by_own: dict[int, _Synthesis] = {}
        self._held: list[_Synthesis] = []  # until the prefix is known
        self._discovering = 0
        self._asked_inner = False
        self._discover_at: float | None = None
        self.reconfigure(settings or AnswersConfig())

    def reconfigure(self, settings: AnswersConfig) -> None:
        """New settings for the answers to come. ValueError for a `dns64` that is no prefix.

        `strip_h3` and `rebind` have been decided by whoever knows the rest of the configuration: auto is off here.
        """
        if settings.dns64 not in ("off", "discover"):
            self.prefixes = [dns64.parse_prefix(settings.dns64)]
        elif settings.dns64 == "off" or getattr(self, "_settings", settings).dns64 != "discover":
            self.prefixes = []
        self._settings = settings
        self._discover_at = 0.0 if settings.dns64 == "discover" and not self.prefixes else None
        drop = {IPV4HINT, IPV6HINT} if settings.hints == "strip" else set()
        if settings.strip_ech:
            drop.add(ECH)
        self._drop = frozenset(drop)
        allowed = [wire_name(suffix) for suffix in (*LOCAL_SUFFIXES, *settings.rebind_allow)]
        self._allow = frozenset(suffix for suffix in allowed if suffix is not None)
        self._drop_subnet = settings.client_subnet == "remove"
        self._set_looks()

    def _set_looks(self) -> None:
        """Which kinds of record are worth a look."""
        settings, filtering = self._settings, self._filters_aaaa
        guarded = settings.rebind in ("remove", "refuse")
        looks = set()
        if guarded:
            looks.add(A)
        if guarded or filtering:
            looks.add(AAAA)
        if guarded or filtering or self._drop or settings.strip_h3 == "on":
            looks |= {HTTPS, SVCB}
        self._looks = frozenset(looks)
        # in one search each: most answers have none of these kinds, and are not read
        self._signs = tuple(kind.to_bytes(2, "big") + b"\0\1" for kind in sorted(looks))

    @property
    def has_ipv6(self) -> bool:
        """Whether the network has IPv6: set by the host, looked at when `aaaa` is auto."""
        return self._has_ipv6

    @has_ipv6.setter
    def has_ipv6(self, has: bool) -> None:
        self._has_ipv6 = has
        self._set_looks()

    def set_nat64(self, prefix: str | None) -> None:
        """The network's NAT64 prefix as the host learnt it (RFC 8781, LinkProperties); None to find it out again.

        ValueError when it is none. Without effect while `dns64` is off.
        """
        if self._settings.dns64 == "off":
            return
        self.prefixes = [dns64.parse_prefix(prefix)] if prefix else []
        self._discover_at = None if prefix else 0.0

    # --- queries ---

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`; filtered AAAA queries are answered before this returns."""
        if self._discover_at is not None and now >= self._discover_at and not self._discovering:
            self._discover(now)
        if self._drop_subnet and not (message[-11:-8] == _OPT_START and message[-2:] == b"\0\0"):
            message = self._without_subnet(message)
        if _AAAA_IN in message and self._meets_aaaa(token, message, now, over_tcp):
            return
        if self.prefixes and _PTR_IN in message.lower() and self._meets_ptr(token, message, now, over_tcp):
            return
        self.inner.query(token, message, now, over_tcp)

    def _without_subnet(self, message: bytes) -> bytes:
        query = parse_query(message)
        if isinstance(query, Rcode) or not query.edns:
            return message
        edns = read_edns(message, HEADER_SIZE + len(query.question.wire))
        if edns is None or edns.option(CLIENT_SUBNET) is None:
            return message
        return without_option(message, edns, CLIENT_SUBNET)

    @property
    def _filters_aaaa(self) -> bool:
        return self._settings.aaaa == "filter" or (self._settings.aaaa == "auto" and not self._has_ipv6)

    def _meets_aaaa(self, token: int, message: bytes, now: float, over_tcp: bool) -> bool:
        """True when an AAAA query was answered here."""
        translating = bool(self.prefixes) or bool(self._discovering)
        filtering = self._filters_aaaa
        if not filtering and not translating:
            return False
        query = parse_query(message)
        if isinstance(query, Rcode) or query.question.type != AAAA or query.question.cls != IN:
            return False
        if filtering:
            self.owner.on_answer(token, self._empty(query), now)
            return True
        edns = read_edns(message, HEADER_SIZE + len(query.question.wire)) if query.edns else None
        if query.flags & CD and edns is not None and edns.dnssec_ok:
            return False  # RFC 6147 5.5: the client validates by itself
        self._wanted[token] = _Synthesis(token, query, over_tcp)
        return False

    def _meets_ptr(self, token: int, message: bytes, now: float, over_tcp: bool) -> bool:
        """True when a PTR query is for an address that exists only through DNS64."""
        query = parse_query(message)
        if isinstance(query, Rcode):
            return False
        target = dns64.reverse_name(query.question.folded[:-4], self.prefixes)
        if target is None:
            return False
        waiting = _Synthesis(token, query, over_tcp, own=self.own_token(), target=target)
        self._wanted[token] = self._by_own[waiting.own] = waiting
        wire = query.question.wire
        message = message[:HEADER_SIZE] + target + wire[-4:] + message[HEADER_SIZE + len(wire) :]
        self.inner.query(waiting.own, message, now, over_tcp)
        return True

    def _met_ptr(self, waiting: _Synthesis, message: bytes, now: float) -> None:
        self._wanted.pop(waiting.token, None)
        read = read_message(message)
        if read is None:
            self.owner.on_failure(waiting.token, "malformed", now)
            return
        self._tell_made(waiting, dns64.reverse_answer(read, waiting.query.question.wire, waiting.target), now)

    def _tell_made(self, waiting: _Synthesis, made: Message, now: float) -> None:
        made.id = waiting.query.id
        octets = bytearray(emit_message(made))
        if waiting.query.edns:
            octets[11] += 1
            octets += emit_opt(False)
        self.edited += 1
        self._pass(waiting.token, bytes(octets), now)

    def _empty(self, query: Query) -> bytes:
        """NODATA with an SOA of short life."""
        made = read_message(nodata(query))
        assert made is not None  # our own
        made.sections[1].append(synthetic_soa(query.question.wire[:-4], self._settings.synthetic_ttl))
        return emit_message(made)

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        waiting = self._wanted.pop(token, None)
        if waiting is not None and waiting.own:
            self._by_own.pop(waiting.own, None)
            self.inner.cancel(waiting.own)
        if waiting in self._held:
            self._held.remove(waiting)
        super().cancel(token)

    def network_changed(self, now: float) -> None:
        """As `Resolver.network_changed`; the prefix belonged to the old network."""
        if self._settings.dns64 == "discover":
            self.prefixes = []
            self._discover_at = 0.0
        super().network_changed(now)

    # --- DNS64 ---

    def _discover(self, now: float) -> None:
        self._discover_at = None
        self._discovering = self.own_token()
        self._asked_inner = self._discovery is self.inner
        self._discovery.query(self._discovering, _DISCOVERY, now)

    def _discovered(self, message: bytes, now: float) -> None:
        """The answer for ipv4only.arpa, or nothing: prefixes, and what waited for them."""
        self._discovering = 0
        read = read_message(message) if message else None
        records = [each for each in read.sections[0] if each.kind == AAAA and len(each.data) == 16] if read else []
        if not records and not self._asked_inner and self._settings.dns64 == "discover":
            self._asked_inner = True  # the network knows of none; an upstream of the user's choice may
            self._discovering = self.own_token()
            self.inner.query(self._discovering, _DISCOVERY, now)
            return
        if self._settings.dns64 == "discover":
            self.prefixes = dns64.discovered(record.data for record in records)
            ttl = min((record.ttl for record in records), default=0)
            self._discover_at = now + max(_RETRY, min(ttl, _MAX_TTL))
        held, self._held = self._held, []
        for waiting in held:
            self._translate(waiting, now)

    def _met_aaaa(self, waiting: _Synthesis, message: bytes, now: float) -> None:
        """The AAAA answer of a query that may need a synthetic one."""
        read = read_message(message)
        if read is None or read.flags & 0xF == Rcode.NXDOMAIN or _has_real_aaaa(read):
            del self._wanted[waiting.token]
            self._pass(waiting.token, message, now)
            return
        waiting.empty = message
        if self._discovering and not self.prefixes:
            self._held.append(waiting)
        else:
            self._translate(waiting, now)

    def _translate(self, waiting: _Synthesis, now: float) -> None:
        """Ask for the A records of a name without AAAA."""
        if not self.prefixes:
            del self._wanted[waiting.token]
            self._pass(waiting.token, waiting.empty, now)
            return
        waiting.own = self.own_token()
        self._by_own[waiting.own] = waiting
        message, end = waiting.query.message, HEADER_SIZE + len(waiting.query.question.wire)
        self.inner.query(waiting.own, message[: end - 4] + b"\0\1" + message[end - 2 :], now, waiting.over_tcp)

    def _met_a(self, waiting: _Synthesis, message: bytes, now: float) -> None:
        """The A answer, or nothing: the AAAA answer is made of it, or stays as empty as it was."""
        self._wanted.pop(waiting.token, None)
        read, empty = read_message(message) if message else None, read_message(waiting.empty)
        query = waiting.query
        made = None
        if read is not None and empty is not None and self.prefixes:
            prefix = self.prefixes[0]
            made = dns64.synthesize(
                read, query.question.wire, prefix, dns64.negative_ttl(empty), self._translatable(query, prefix)
            )
        if made is None:
            self._pass(waiting.token, waiting.empty, now)
            return
        self._tell_made(waiting, made, now)

    def _translatable(self, query: Query, prefix: bytes) -> Callable[[bytes], bool]:
        """Which IPv4 addresses may be embedded: under the well-known prefix public ones only (RFC 6052 3.1)."""
        if prefix != dns64.WELL_KNOWN:
            return lambda address: True  # rebinding protection looks into the result
        scope_of = self._scope_of
        return lambda address: not scope_of(address)

    # --- answers ---

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """As `ResolverOwner.on_answer`."""
        if token < 0:
            if token == self._discovering:
                self._discovered(message, now)
                return
            waiting = self._by_own.pop(token, None)
            if waiting is not None:
                (self._met_ptr if waiting.target else self._met_a)(waiting, message, now)
                return
        if self._wanted:
            waiting = self._wanted.get(token)
            if waiting is not None:
                self._met_aaaa(waiting, message, now)
                return
        self._pass(token, message, now)

    def on_failure(self, token: int, why: str, now: float) -> None:
        """As `ResolverOwner.on_failure`."""
        if token < 0:
            if token == self._discovering:
                self._discovered(b"", now)
                return
            waiting = self._by_own.pop(token, None)
            if waiting is not None and waiting.target:
                token = waiting.token
            elif waiting is not None:
                self._met_a(waiting, b"", now)
                return
        self._wanted.pop(token, None)
        self.owner.on_failure(token, why, now)

    def _pass(self, token: int, message: bytes, now: float) -> None:
        """Hand an answer up, edited if it must be."""
        settings = self._settings
        for sign in self._signs:
            if sign in message:
                looks = True
                break
        else:
            looks = False
        if looks or settings.ttl_max or settings.ttl_min:
            suspect, clamped = self._scan(message)
            if clamped:
                patched = bytearray(message)
                for offset, ttl in clamped:
                    _TTL.pack_into(patched, offset, ttl)
                message = bytes(patched)
            if suspect:
                changed = self._edited(message)
                if changed is None:
                    self.owner.on_failure(token, "malformed", now)
                    return
                message = changed
        self.owner.on_answer(token, message, now)

    def _scan(self, message: bytes) -> tuple[bool, list[tuple[int, int]]]:
        """Whether a record needs a closer look, and which TTLs (offset, value) must change.

        A message that ends early is suspect: the closer look will refuse it.
        """
        size = len(message)
        clamped: list[tuple[int, int]] = []
        if size < HEADER_SIZE:
            return True, clamped
        _, _, questions, answers, authorities, additionals = HEADER.unpack_from(message)
        looks, scope_of, prefixes = self._looks, self._scope_of, self.prefixes
        least, most = self._settings.ttl_min, self._settings.ttl_max or _MAX_TTL
        at = HEADER_SIZE
        for _ in range(questions):
            at = skip_name(message, at) + 4
            if at < HEADER_SIZE:
                return True, []
        suspect = False
        for place in range(answers + authorities + additionals):
            name_end = at + 2 if at < size and message[at] >= 0xC0 else skip_name(message, at)
            if name_end < 0 or name_end + 10 > size:
                return True, []
            kind, _, ttl, length = FIXED.unpack_from(message, name_end)
            at = name_end + 10 + length
            if at > size:
                return True, []
            if kind == OPT:
                continue
            if most < ttl <= _MAX_TTL:
                clamped.append((name_end + 4, most))
            elif 0 < ttl < least and place < answers:
                clamped.append((name_end + 4, min(least, most)))
            if kind in looks and not suspect:
                data = message[name_end + 10 : at]
                suspect = (
                    kind not in (A, AAAA)
                    or len(data) not in (4, 16)
                    or scope_of(data) != 0
                    or (kind == AAAA and (bool(prefixes) or data[:12] == dns64.WELL_KNOWN or self._filters_aaaa))
                )
        return suspect, clamped

    def _edited(self, message: bytes) -> bytes | None:
        """`message` as policy wants it: the same octets when nothing had to change; None when malformed."""
        whole = read_message(message)
        if whole is None:
            return None
        guarded = self._settings.rebind in ("remove", "refuse") and not self._may_be_private(whole.question)
        filtering = self._filters_aaaa
        changed = rebound = False
        # who validates by itself would take the edited record for a forged one, and QUIC is refused to it anyway
        no_h3 = self._settings.strip_h3 == "on" and not (whole.flags & CD and _wants_signatures(whole))
        drop = self._drop | {IPV6HINT} if filtering else self._drop

        def is_private(address: bytes) -> bool:
            nonlocal rebound
            if not guarded or not self._is_private(address):
                return False
            rebound = True
            return True

        for section in whole.sections:
            kept = []
            for record in section:
                kind, data = record.kind, record.data
                if kind in (A, AAAA) and record.cls == IN:
                    if (kind == AAAA and filtering) or (len(data) in (4, 16) and is_private(data)):
                        changed = True
                        continue
                elif kind in (HTTPS, SVCB) and record.cls == IN and kind in self._looks:
                    new = edit_service(
                        data, drop, no_h3=no_h3, keep=lambda address: not is_private(address)
                    )
                    if new is not data:
                        changed = True
                        if new is None:
                            continue
                        record.data = new
                kept.append(record)
            section[:] = kept
        if rebound:
            self.rebinds += 1
        if not changed:
            return message
        self.edited += 1
        return self._written(whole, refuse=rebound and self._settings.rebind == "refuse")

    def _written(self, whole: Message, *, refuse: bool) -> bytes:
        """A message that was changed: without what signed it, and with a short life when nothing is left."""
        whole.flags &= ~_AD
        if refuse:
            whole.flags = whole.flags & ~0xF | Rcode.REFUSED
            whole.sections[0].clear()
            whole.sections[1].clear()
            whole.sections[2][:] = [record for record in whole.sections[2] if record.kind == OPT]
            return emit_message(whole)
        for section in whole.sections:
            section[:] = [record for record in section if record.kind not in _SIGNATURES]
        wanted = int.from_bytes(whole.question[-4:-2], "big")
        found = any(record.kind == wanted for record in whole.sections[0])
        if not found and whole.question and not any(record.kind == SOA for record in whole.sections[1]):
            whole.sections[1].append(synthetic_soa(whole.question[:-4], self._settings.synthetic_ttl))
        return emit_message(whole)

    def _may_be_private(self, question: bytes) -> bool:
        """True for local and allowed names; also without a question, when there is no name to protect."""
        if not question:
            return False
        return any(suffix in self._allow for suffix in suffixes(question[:-4].lower()))

    def _is_private(self, address: bytes) -> bool:
        if self._scope_of(address):
            return True
        if len(address) == 16:
            for prefix in (dns64.WELL_KNOWN, *self.prefixes):
                inside = dns64.extract(prefix, address)
                if inside is not None and self._scope_of(inside):
                    return True
        return False


def _wants_signatures(message: Message) -> bool:
    """The DO bit, which an answer has from its query (RFC 3225 3)."""
    return any(record.kind == OPT and record.ttl & 0x8000 for record in message.sections[2])


def _has_real_aaaa(message: Message) -> bool:
    """True when there is an AAAA record that is not an IPv4-mapped address (RFC 6147 5.1.4)."""
    mapped = bytes(10) + b"\xff\xff"
    return any(record.kind == AAAA and record.data[:12] != mapped for record in message.sections[0])
