"""The cache: what is kept, for how long, and what is served when the upstream fails."""

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from netstack.config import CacheConfig
from netstack.dns.cache import CacheStage
from netstack.testing.world import ScriptedResolver

SOA = ("test.", "SOA", "ns.test. admin.test. 1 2 3 4 {}")


class Desk:
    """A cache, what it asks and what it tells."""

    def __init__(self, scope=None, **settings) -> None:  # type: ignore[no-untyped-def]
        self.resolver = ScriptedResolver()
        self.cache = CacheStage(self.resolver, CacheConfig(**settings), scope=scope)
        self.cache.start(self)
        self.told: dict[int, bytes | str] = {}
        self.token = 0

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        assert token not in self.told
        self.told[token] = message

    def on_failure(self, token: int, why: str, now: float) -> None:
        assert token not in self.told
        self.told[token] = why

    def ask(self, message: dns.message.Message, now: float, **how) -> dns.message.Message | str | None:  # type: ignore[no-untyped-def]
        """The answer that comes at once, or None."""
        self.token += 1
        self.cache.query(self.token, message.to_wire(), now, **how)
        return self.answer_to(self.token)

    def answer_to(self, token: int) -> dns.message.Message | str | None:
        told = self.told.get(token)
        return dns.message.from_wire(told) if isinstance(told, bytes) else told

    def upstream(self, now: float, *records: tuple[str, int, str, str], rcode: int = 0, tc: bool = False,
                 soa: tuple[int, int] | None = None, last: bool = True) -> None:  # fmt: skip
        """Answer the one query that is pending. `soa`: its TTL and minimum."""
        [(token, wire)] = self.resolver.queries.items()
        response = dns.message.make_response(dns.message.from_wire(wire), recursion_available=True)
        response.set_rcode(dns.rcode.Rcode(rcode))
        response.flags |= dns.flags.AA | (dns.flags.TC if tc else 0)
        for name, ttl, kind, data in records:
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, data))
        if soa is not None:
            response.authority.append(dns.rrset.from_text(SOA[0], soa[0], "IN", SOA[1], SOA[2].format(soa[1])))
        self.resolver.answer(token, response.to_wire(), now)

    def learn(self, message: dns.message.Message, now: float, *records, **how) -> None:  # type: ignore[no-untyped-def]
        assert self.ask(message, now) is None
        self.upstream(now, *records, **how)


def query(name: str = "a.test", kind: str = "A", ident: int = 7, **how) -> dns.message.Message:  # type: ignore[no-untyped-def]
    return dns.message.make_query(name, kind, id=ident, **how)


ADDRESS = ("a.test.", 100, "A", "192.0.2.1")


def test_an_answer_is_kept_for_its_ttl_and_counts_down() -> None:
    desk = Desk(stale=0, prefetch_hits=0)
    desk.learn(query(), 0.0, ADDRESS, ("a.test.", 200, "A", "192.0.2.2"))
    for at, left in ((0.5, 100), (40.2, 60), (99.5, 1)):
        for ident in (9, 10):
            told = desk.ask(query("A.teST", ident=ident), at)
            assert isinstance(told, dns.message.Message)
            assert told.id == ident and str(told.question[0].name) == "A.teST."
            assert told.answer[0].ttl == left and not told.flags & dns.flags.AA
    assert not desk.resolver.queries and desk.cache.hits == 6
    assert desk.ask(query(), 100.0) is None and desk.resolver.queries


def test_each_record_has_its_own_ttl() -> None:
    desk = Desk()
    desk.learn(query(), 0.0, ("a.test.", 300, "CNAME", "b.test."), ("b.test.", 60, "A", "192.0.2.1"))
    told = desk.ask(query(), 10.0)
    assert [record.ttl for record in told.answer] == [290, 50]


@pytest.mark.parametrize("case", ["ttl-0", "ttl-high-bit", "truncated", "servfail", "no-soa", "soa-0"])
def test_what_is_not_kept(case: str) -> None:
    desk = Desk()
    assert desk.ask(query(), 0.0) is None
    if case == "ttl-0":
        desk.upstream(0.0, ("a.test.", 0, "A", "192.0.2.1"))
    elif case == "ttl-high-bit":
        [(token, wire)] = desk.resolver.queries.items()
        response = dns.message.make_response(dns.message.from_wire(wire))
        response.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "A", "192.0.2.1"))
        desk.resolver.answer(token, response.to_wire().replace(b"\0\0\0\x3c", b"\x80\0\0\x3c"), 0.0)
    elif case == "truncated":
        desk.upstream(0.0, ADDRESS, tc=True)
    elif case == "servfail":
        desk.upstream(0.0, rcode=2)
    elif case == "no-soa":
        desk.upstream(0.0, rcode=3)
    else:
        desk.upstream(0.0, rcode=3, soa=(60, 0))
    assert isinstance(desk.answer_to(1), dns.message.Message)
    assert desk.ask(query(), 0.0) is None and len(desk.resolver.queries) == 1
    assert len(desk.cache) == 0 == desk.cache.octets


@pytest.mark.parametrize("rcode", [0, 3])
@pytest.mark.parametrize(("soa", "lifetime"), [((900, 60), 60), ((30, 900), 30), ((90_000, 90_000), 3600)])
def test_negative_answers_live_as_the_soa_says(rcode: int, soa: tuple[int, int], lifetime: int) -> None:
    desk = Desk(stale=0, prefetch_hits=0)
    desk.learn(query(), 0.0, rcode=rcode, soa=soa)
    told = desk.ask(query(), 1.0)
    assert told.rcode() == rcode and told.authority[0].ttl == min(*soa, 86_400) - 1
    assert desk.ask(query(), lifetime - 0.5) is not None
    assert desk.ask(query(), lifetime + 0.5) is None


def test_an_alias_without_its_target_is_negative() -> None:
    desk = Desk()
    desk.learn(query(), 0.0, ("a.test.", 300, "CNAME", "b.test."))
    desk.learn(query(), 0.0, ("a.test.", 300, "CNAME", "b.test."), soa=(60, 60))
    assert desk.ask(query(), 30.0) is not None


def test_do_cd_ad_type_and_subnet_are_other_entries() -> None:
    desk = Desk()
    variants = [
        query(), query(use_edns=0, want_dnssec=True), query(flags=dns.flags.RD | dns.flags.CD),
        query(flags=dns.flags.RD | dns.flags.AD), query(kind="AAAA"),
        query(options=[dns.edns.ECSOption("192.0.2.0", 24)]), query(options=[dns.edns.ECSOption("198.51.100.0", 24)]),
    ]  # fmt: skip
    for variant in variants:
        kind = str(variant.question[0].rdtype.name)
        desk.learn(variant, 0.0, ("a.test.", 100, kind, "192.0.2.1" if kind == "A" else "2001:db8::1"))
    assert len(desk.cache) == len(variants)
    for variant in variants:
        told = desk.ask(variant, 1.0)
        assert told is not None and bool(told.ednsflags & dns.flags.DO) == bool(variant.ednsflags & dns.flags.DO)
        assert told.flags & dns.flags.CD == variant.flags & dns.flags.CD
        assert told.edns == variant.edns, "EDNS only to whom speaks it"


def test_a_cookie_is_neither_kept_nor_part_of_the_key() -> None:
    desk = Desk()
    first = query(options=[dns.edns.GenericOption(10, b"client-A" + b"serverA!")])
    desk.ask(first, 0.0)
    [(token, wire)] = desk.resolver.queries.items()
    assert b"client-A" in wire, "cookies pass"
    response = dns.message.make_response(first)
    response.answer.append(dns.rrset.from_text("a.test.", 100, "IN", "A", "192.0.2.1"))
    response.use_edns(0, options=[dns.edns.GenericOption(10, b"client-A" + b"serverB!")])
    desk.resolver.answer(token, response.to_wire(), 0.0)
    told = desk.ask(query(use_edns=0), 1.0)
    assert told.options == ()
    told = desk.ask(query(options=[dns.edns.GenericOption(10, b"client-C" + b"serverC!")]), 1.0)
    assert [option.to_wire() for option in told.options] == [b"client-C" + b"serverC!"]
    assert desk.ask(query(options=[dns.edns.GenericOption(10, b"client-D")]), 1.0).options == ()


@pytest.mark.parametrize(
    "strange",
    [query(flags=0), query(kind="ANY"), query(kind="AXFR"), query(use_edns=1)],
    ids=["rd", "any", "axfr", "v1"],
)
def test_other_queries_pass_by_the_cache(strange: dns.message.Message) -> None:
    desk = Desk()
    for _ in range(2):
        assert desk.ask(strange, 0.0) is None
        assert list(desk.resolver.queries) == [desk.token], "with the caller's token"
        desk.upstream(0.0)
        assert desk.answer_to(desk.token) is not None
    assert len(desk.cache) == 0


def test_equal_questions_are_asked_once() -> None:
    desk = Desk()
    for ident in (1, 2, 3):
        assert desk.ask(query(ident=ident), 0.0) is None
    assert len(desk.resolver.queries) == 1
    desk.cache.cancel(2)
    desk.upstream(0.5, ADDRESS)
    assert [desk.answer_to(token) and desk.answer_to(token).id for token in (1, 2, 3)] == [1, None, 3]  # type: ignore[union-attr]


def test_who_asks_much_later_gets_tries_of_its_own() -> None:
    desk = Desk()
    desk.ask(query(ident=1), 0.0)
    desk.ask(query(ident=2), 0.4)
    desk.ask(query(ident=3), 4.0)
    assert len(desk.resolver.queries) == 2
    old, new = desk.resolver.queries
    desk.resolver.fail(old, "timeout", 4.5)
    assert desk.told == {1: "timeout", 2: "timeout"}
    desk.ask(query(ident=4), 4.4)
    assert list(desk.resolver.queries) == [new], "joins the newer one"
    desk.upstream(4.6, ADDRESS)
    assert [desk.answer_to(token).id for token in (3, 4)] == [3, 4]  # type: ignore[union-attr]


def test_the_last_who_cancels_ends_the_upstream_query() -> None:
    desk = Desk()
    desk.ask(query(ident=1), 0.0)
    desk.ask(query(ident=2), 0.0)
    desk.cache.cancel(1)
    assert desk.resolver.queries
    desk.cache.cancel(2)
    assert not desk.resolver.queries
    assert desk.ask(query(), 1.0) is None and desk.resolver.queries


def test_a_failure_reaches_all_who_wait() -> None:
    desk = Desk()
    desk.ask(query(ident=1), 0.0)
    desk.ask(query(ident=2), 0.0)
    [token] = desk.resolver.queries
    desk.resolver.fail(token, "unreachable", 1.0)
    assert desk.told == {1: "unreachable", 2: "unreachable"}


# --- stale ---


def stale_desk(**settings) -> Desk:  # type: ignore[no-untyped-def]
    desk = Desk(**settings)
    desk.learn(query(use_edns=0), 0.0, ADDRESS)
    return desk


def test_a_silent_upstream_is_replaced_by_the_stale_answer_before_the_retry() -> None:
    desk = stale_desk()
    assert desk.ask(query(use_edns=0), 200.0) is None
    assert desk.cache.next_timeout() == pytest.approx(201.8)
    desk.cache.on_timeout(201.8)
    told = desk.answer_to(desk.token)
    assert told.answer[0].ttl == 30 and told.answer[0][0].address == "192.0.2.1"
    assert [int(option.code) for option in told.options] == [3], "stale answer (RFC 8914)"
    assert desk.cache.next_timeout() is None
    # the upstream is failing: from now on the stale answer leaves at once, and its late answer is used
    assert desk.ask(query(use_edns=0), 202.0).answer[0].ttl == 30
    desk.upstream(204.0, ("a.test.", 100, "A", "192.0.2.9"))
    assert desk.ask(query(use_edns=0), 205.0).answer[0][0].address == "192.0.2.9"
    assert desk.cache.stale_answers == 2


@pytest.mark.parametrize("how", ["failure", "servfail", "refused"])
def test_a_failing_upstream_is_replaced_at_once(how: str) -> None:
    desk = stale_desk()
    assert desk.ask(query(use_edns=0), 200.0) is None
    if how == "failure":
        [token] = desk.resolver.queries
        desk.resolver.fail(token, "unreachable", 200.1)
    else:
        desk.upstream(200.1, rcode=2 if how == "servfail" else 5)
    assert desk.answer_to(desk.token).answer[0].ttl == 30
    assert desk.ask(query(use_edns=0), 201.0) is not None and not desk.resolver.queries, "not asked again so soon"
    assert desk.ask(query(use_edns=0), 206.0) is not None and desk.resolver.queries, "asked again behind the answer"


def test_nxdomain_replaces_what_was_known() -> None:
    desk = stale_desk()
    desk.ask(query(use_edns=0), 200.0)
    desk.upstream(200.1, rcode=3, soa=(60, 60))
    assert desk.answer_to(desk.token).rcode() == 3
    assert desk.ask(query(use_edns=0), 201.0).rcode() == 3


def test_stale_has_an_end_and_can_be_off() -> None:
    for desk, at in ((stale_desk(stale=1000), 1200.0), (stale_desk(stale=0), 101.0)):
        assert desk.ask(query(use_edns=0), at) is None
        assert desk.cache.next_timeout() is None
        [token] = desk.resolver.queries
        desk.resolver.fail(token, "timeout", at + 5)
        assert desk.answer_to(desk.token) == "timeout"


def test_an_upstream_in_time_makes_no_stale_answer() -> None:
    desk = stale_desk()
    desk.ask(query(use_edns=0), 200.0)
    desk.upstream(201.0, ("a.test.", 100, "A", "192.0.2.9"))
    assert desk.answer_to(desk.token).answer[0].ttl == 100 and desk.cache.next_timeout() is None
    desk.cache.on_timeout(202.0)
    assert desk.cache.stale_answers == 0


# --- prefetch, scope, size, flush ---


def test_a_popular_entry_is_refreshed_in_its_last_tenth() -> None:
    desk = Desk(prefetch_hits=3)
    desk.learn(query(), 0.0, ADDRESS)
    for at in (1.0, 2.0):
        desk.ask(query(), at)
    assert desk.ask(query(), 95.0).answer[0].ttl == 5
    assert len(desk.resolver.queries) == 1 and desk.cache.prefetches == 1
    assert desk.ask(query(), 96.0).answer[0].ttl == 4, "not twice"
    desk.upstream(97.0, ADDRESS)
    assert desk.ask(query(), 150.0).answer[0].ttl == 47


def test_an_unpopular_entry_is_not() -> None:
    desk = Desk(prefetch_hits=3)
    desk.learn(query(), 0.0, ADDRESS)
    assert desk.ask(query(), 95.0) is not None and not desk.resolver.queries


def test_a_client_that_asks_during_a_failed_prefetch_is_answered() -> None:
    desk = Desk(prefetch_hits=1)
    desk.learn(query(), 0.0, ADDRESS)
    desk.ask(query(), 99.8)
    assert desk.ask(query(), 100.1) is None, "expired: joins the refresh"
    assert desk.cache.next_timeout() == pytest.approx(101.9)
    [token] = desk.resolver.queries
    desk.resolver.fail(token, "timeout", 101.5)
    assert desk.answer_to(desk.token).answer[0].ttl == 30


def test_upstream_labels_part_the_entries() -> None:
    labels = {b"\x01a\x04test\0": b"one"}
    desk = Desk(scope=lambda name: labels.get(name, b"other"))
    desk.learn(query(), 0.0, ADDRESS)
    labels[b"\x01a\x04test\0"] = b"two"
    assert desk.ask(query("A.test"), 1.0) is None, "another upstream set answers the name now"


def test_a_network_change_forgets_everything_even_for_stale() -> None:
    desk = stale_desk()
    desk.ask(query(use_edns=0), 200.0)
    desk.cache.network_changed(200.5)
    assert len(desk.cache) == 0 == desk.cache.octets and desk.cache.epoch == 1 and desk.resolver.resets == 1
    [token] = desk.resolver.queries
    desk.resolver.fail(token, "timeout", 205.0)
    assert desk.answer_to(desk.token) == "timeout"


def test_the_cap_sheds_what_was_not_used_for_longest() -> None:
    desk = Desk(octets=10_000)
    for number in range(40):
        desk.learn(query(f"n{number}.test"), 0.0, (f"n{number}.test.", 100, "A", "192.0.2.1"))
        assert desk.ask(query("n0.test"), 0.0) is not None, "in use"
        assert desk.cache.octets <= 10_000
    assert desk.cache.evictions > 20 and desk.ask(query("n1.test"), 0.0) is None
    desk.cache.flush()
    assert desk.cache.octets == 0


def test_an_answer_that_was_put_away_counts_from_when_it_came() -> None:
    desk = Desk(stale=0, prefetch_hits=0)
    for name in ("a", "b", "c"):
        desk.learn(query(f"{name}.test"), 10.0, (f"{name}.test.", 100, "A", "192.0.2.1"))
    assert desk.ask(query("A.test"), 60.0).answer[0].ttl == 50, "another spelling finds it too"
    assert desk.ask(query("b.test"), 110.0) is None, "over, though nobody has looked at it before"
    before = desk.cache.octets
    assert desk.cache.flush("c.test") == 1 and 0 < before - desk.cache.octets < 1000


def test_an_answer_replaces_one_that_was_put_away_only_if_it_is_good() -> None:
    desk = Desk()
    assert desk.ask(query(), 0.0) is None and desk.ask(query("A.test"), 0.0) is None, "asked twice: two spellings"
    (one, wire), (two, other) = desk.resolver.queries.items()
    good = dns.message.make_response(dns.message.from_wire(wire))
    good.answer.append(dns.rrset.from_text("a.test.", 100, "IN", "A", "192.0.2.1"))
    bad = dns.message.make_response(dns.message.from_wire(other))
    desk.resolver.answer(one, good.to_wire(), 0.0)
    desk.resolver.answer(two, bad.to_wire(), 0.0)
    assert desk.ask(query(), 1.0).answer[0].ttl == 99


def test_spellings_are_bounded() -> None:
    desk = Desk()
    desk.learn(query("abcdef.test"), 0.0, ("abcdef.test.", 100, "A", "192.0.2.1"))
    desk.ask(query("abcdef.test"), 0.0)
    before = desk.cache.octets
    for number in range(64):
        name = "".join(c.upper() if number >> i & 1 else c for i, c in enumerate("abcdef"))
        assert str(desk.ask(query(f"{name}.test"), 1.0).question[0].name) == f"{name}.test."
    assert desk.cache.octets < before + 3000
    desk.cache.flush("ABCDEF.test")
    assert desk.cache.octets == 0


def test_flush_by_name_and_subtree() -> None:
    desk = Desk()
    for name in ("a.test", "b.a.test", "ba.test", "c.test"):
        desk.learn(query(name), 0.0, (f"{name}.", 100, "A", "192.0.2.1"))
    assert desk.cache.flush("A.TEST.") == 1
    assert desk.ask(query("b.a.test"), 1.0) is not None
    assert desk.cache.flush("a.test", subtree=True) == 1
    assert desk.ask(query("ba.test"), 1.0) is not None
    assert desk.cache.flush("a..test") == 0
    assert desk.cache.flush() == 2 and len(desk.cache) == 0


def test_an_opt_record_before_others_is_taken_out() -> None:
    desk = Desk()
    desk.ask(query(use_edns=0), 0.0)
    [(token, wire)] = desk.resolver.queries.items()
    response = dns.message.make_response(dns.message.from_wire(wire))
    response.answer.append(dns.rrset.from_text("a.test.", 100, "IN", "A", "192.0.2.1"))
    plain = response.to_wire()
    more = dns.rrset.from_text("x.test.", 50, "IN", "A", "192.0.2.2")
    tail = b"\x01x\x04test\0" + b"\0\1\0\1\0\0\0\x32\0\4\xc0\0\2\2"
    desk.resolver.answer(token, plain[:11] + b"\2" + plain[12:] + tail, 0.0)
    told = desk.ask(query(use_edns=0), 10.0)
    assert told.additional == [more] and told.additional[0].ttl == 40 and told.edns == 0


def test_forged_and_malformed_answers_are_not_kept() -> None:
    for damage in range(12, 60):
        desk = Desk()
        desk.ask(query(ident=damage), 0.0)
        [(token, wire)] = desk.resolver.queries.items()
        response = dns.message.make_response(dns.message.from_wire(wire))
        response.answer.append(dns.rrset.from_text("a.test.", 100, "IN", "A", "192.0.2.1"))
        octets = bytearray(response.to_wire())
        desk.resolver.answer(token, bytes(octets[:damage]) if damage < len(octets) else b"", 0.0)
        if damage < len(octets):
            assert desk.ask(query(ident=1), 0.0) is None and desk.resolver.queries
            assert len(desk.cache) == 0
    desk = Desk()
    desk.ask(query(ident=1), 0.0)
    [(token, wire)] = desk.resolver.queries.items()
    desk.resolver.answer(token, dns.message.make_response(query("b.test", ident=1)).to_wire(), 0.0)
    assert desk.ask(query(ident=1), 0.0) is None and desk.resolver.queries
