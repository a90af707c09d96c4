"""Answers as policy wants them, and untouched where it wants nothing."""

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import pytest

from netstack.config import AnswersConfig
from netstack.core.flow import Endpoint
from netstack.dns.answers import AnswerStage
from netstack.dns.dns64 import parse_prefix
from netstack.policy.lan import classify
from netstack.testing.world import ScriptedResolver


class Desk:
    """An answer stage, what it asks and what it tells."""

    def __init__(self, *, own_discovery: bool = False, **settings) -> None:  # type: ignore[no-untyped-def]
        self.resolver = ScriptedResolver()
        self.network = ScriptedResolver() if own_discovery else self.resolver
        self.stage = AnswerStage(
            self.resolver,
            AnswersConfig(**settings),
            scope_of=classify,
            discovery=self.network if own_discovery else None,
        )
        self.stage.start(self)
        self.told: list = []

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        self.told.append(message)

    def on_failure(self, token: int, why: str, now: float) -> None:
        self.told.append(why)

    def ask(self, name: str = "a.test", kind: str = "A", token: int = 1, **how) -> None:  # type: ignore[no-untyped-def]
        self.stage.query(token, dns.message.make_query(name, kind, id=7, **how).to_wire(), 0.0)

    def reply(self, *records: str, rcode: int = 0, now: float = 0.0, resolver=None, authority: tuple[str, ...] = (),
              flags: int = 0) -> bytes:  # fmt: skip
        """Answer the first pending query with records as "name ttl type data"; the octets that were given."""
        resolver = resolver or self.resolver
        token, wire = next(iter(resolver.queries.items()))
        response = dns.message.make_response(dns.message.from_wire(wire), recursion_available=True)
        response.set_rcode(rcode)
        response.flags |= flags
        for section, lines in ((response.answer, records), (response.authority, authority)):
            for line in lines:
                name, ttl, kind, data = line.split(" ", 3)
                section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
        given = response.to_wire()
        resolver.answer(token, given, now)
        return given

    def seen(self) -> dns.message.Message:
        [told] = self.told
        assert isinstance(told, bytes)
        return dns.message.from_wire(told)


def shown(message: dns.message.Message) -> list[str]:
    return [text for rrset in message.answer for text in rrset.to_text().split("\n")]


EVERYTHING = {
    "ttl_min": 10, "ttl_max": 1000, "hints": "strip", "strip_ech": True, "strip_h3": "on", "aaaa": "auto",
    "rebind": "remove", "dns64": "64:ff9b::/96", "client_subnet": "remove",
}  # fmt: skip


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["nothing", "everything"])
def test_an_ordinary_answer_passes_octet_for_octet(settings: dict) -> None:  # type: ignore[type-arg]
    desk = Desk(**settings)
    desk.ask(want_dnssec=True)
    given = desk.reply(
        "a.test. 300 CNAME b.test.", "b.test. 300 A 192.0.2.1", "b.test. 300 A 203.0.113.9",
        "b.test. 300 RRSIG A 8 2 300 20300101000000 20200101000000 1 test. AAAA", flags=dns.flags.AD,
    )  # fmt: skip
    assert desk.told == [given] and desk.stage.edited == 0


def test_ttls_are_clamped_but_0_stays() -> None:
    desk = Desk(ttl_min=60, ttl_max=600)
    desk.ask()
    desk.reply("a.test. 5 A 192.0.2.1", "b.test. 0 A 192.0.2.2", "c.test. 9000 A 192.0.2.3", "d.test. 99 A 192.0.2.4")
    assert [rrset.ttl for rrset in desk.seen().answer] == [60, 0, 600, 99]


# --- rebinding ---


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "127.0.0.1", "0.0.0.0", "169.254.1.1", "100.64.0.1"])
@pytest.mark.parametrize("name", ["a.test", "a.example", "a.example.com"])
def test_private_addresses_of_public_names_are_removed(address: str, name: str) -> None:
    desk = Desk(rebind="remove")
    desk.ask(name)
    desk.reply(f"{name}. 60 A {address}", f"{name}. 60 A 192.0.2.1", flags=dns.flags.AD)
    assert shown(desk.seen()) == [f"{name}. 60 IN A 192.0.2.1"]
    assert not desk.seen().flags & dns.flags.AD and desk.stage.rebinds == 1


def test_when_nothing_is_left_the_answer_is_empty_for_a_short_time() -> None:
    desk = Desk(rebind="remove", synthetic_ttl=5)
    desk.ask(kind="AAAA")
    desk.reply("a.test. 60 AAAA fd00::1", "a.test. 60 AAAA ::ffff:10.0.0.1", "a.test. 60 AAAA 64:ff9b::10.0.0.1")
    seen = desk.seen()
    assert seen.answer == [] and seen.rcode() == 0 and seen.authority[0].ttl == 5


def test_rebinding_can_refuse() -> None:
    desk = Desk(rebind="refuse")
    desk.ask(use_edns=0)
    desk.reply("a.test. 60 A 192.0.2.1", "a.test. 60 A 10.0.0.1")
    assert desk.seen().rcode() == 5 and not desk.seen().answer and desk.seen().edns == 0


@pytest.mark.parametrize(
    "name", ["nas.lan", "x.home.arpa", "printer.local", "a.corp.example", "corp.example", "localhost"]
)
def test_local_and_allowed_names_may_have_private_addresses(name: str) -> None:
    desk = Desk(rebind="remove", rebind_allow=("Corp.Example.",))
    desk.ask(name.upper())
    given = desk.reply(f"{name}. 60 A 10.0.0.1")
    assert desk.told == [given]


def test_an_allowed_suffix_ends_at_a_label() -> None:
    desk = Desk(rebind="remove", rebind_allow=("corp.example",))
    desk.ask("notcorp.example")
    desk.reply("notcorp.example. 60 A 10.0.0.1")
    assert shown(desk.seen()) == []


# --- HTTPS ---

SERVICE = 'a.test. 60 HTTPS 1 . alpn="h3,h2" ipv4hint=192.0.2.1,10.0.0.1 ech=AAT+DQAA ipv6hint=2001:db8::1'


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"hints": "strip"}, 'alpn="h3,h2" ech="AAT+DQAA"'),
        ({"strip_ech": True}, 'alpn="h3,h2" ipv4hint="192.0.2.1,10.0.0.1" ipv6hint="2001:db8::1"'),
        ({"strip_h3": "on"}, 'alpn="h2" ipv4hint="192.0.2.1,10.0.0.1" ech="AAT+DQAA" ipv6hint="2001:db8::1"'),
        ({"rebind": "remove"}, 'alpn="h3,h2" ipv4hint="192.0.2.1" ech="AAT+DQAA" ipv6hint="2001:db8::1"'),
        ({"aaaa": "filter"}, 'alpn="h3,h2" ipv4hint="192.0.2.1,10.0.0.1" ech="AAT+DQAA"'),
        ({"hints": "strip", "strip_ech": True, "strip_h3": "on"}, 'alpn="h2"'),
    ],
)
def test_service_parameters(settings: dict, left: str) -> None:  # type: ignore[type-arg]
    desk = Desk(**settings)
    desk.ask(kind="HTTPS", want_dnssec=True)
    desk.reply(SERVICE, "a.test. 60 RRSIG HTTPS 8 2 60 20300101000000 20200101000000 1 test. AAAA", flags=dns.flags.AD)
    assert shown(desk.seen()) == [f"a.test. 60 IN HTTPS 1 . {left}"], "the signature went with what it signed"
    assert not desk.seen().flags & dns.flags.AD


def test_who_validates_by_itself_keeps_http_3_but_not_what_policy_takes() -> None:
    for settings, kept in [({"strip_h3": "on"}, True), ({"strip_h3": "on", "strip_ech": True}, False)]:
        desk = Desk(**settings)
        desk.ask(kind="HTTPS", want_dnssec=True)
        [token] = desk.resolver.queries
        query = dns.message.from_wire(desk.resolver.queries[token])
        query.flags |= dns.flags.CD
        response = dns.message.make_response(query)
        response.flags |= dns.flags.CD
        response.want_dnssec()
        response.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "HTTPS", '1 . alpn="h3,h2" ech=AAT+DQAA'))
        wire = response.to_wire()
        desk.resolver.answer(token, wire, 0.0)
        assert (desk.told == [wire]) is kept
        assert b"\x02h3" in desk.told[0]


# --- AAAA ---


def test_aaaa_is_answered_empty_without_asking() -> None:
    desk = Desk(aaaa="filter", synthetic_ttl=7)
    desk.ask(kind="AAAA", use_edns=0)
    assert not desk.resolver.queries
    assert desk.seen().rcode() == 0 and desk.seen().answer == [] and desk.seen().authority[0].ttl == 7


def test_auto_filters_only_while_there_is_no_ipv6() -> None:
    desk = Desk(aaaa="auto")
    desk.ask(kind="AAAA")
    assert desk.resolver.queries
    given = desk.reply("a.test. 60 AAAA 2001:db8::1")
    desk.stage.has_ipv6 = False
    desk.ask(kind="AAAA")
    assert desk.told[0] == given and dns.message.from_wire(desk.told[1]).answer == []


def test_aaaa_among_other_answers_goes_too() -> None:
    desk = Desk(aaaa="filter")
    desk.ask(kind="ANY")
    desk.reply("a.test. 60 AAAA 2001:db8::1", "a.test. 60 A 192.0.2.1")
    assert shown(desk.seen()) == ["a.test. 60 IN A 192.0.2.1"]


# --- DNS64 ---

NEGATIVE = ("test. 50 SOA ns.test. admin.test. 1 2 3 4 500",)


def test_aaaa_is_made_of_a() -> None:
    desk = Desk(dns64="2001:db8:64::/96", rebind="remove")
    desk.ask("A.teST", "AAAA", use_edns=0)
    desk.reply(authority=NEGATIVE)
    [(token, asked)] = desk.resolver.queries.items()
    assert token < 0 and dns.message.from_wire(asked).question[0].rdtype.name == "A"
    desk.reply("a.test. 300 CNAME b.test.", "b.test. 300 A 192.0.2.33", "b.test. 300 A 10.0.0.1")
    seen = desk.seen()
    assert seen.id == 7 and str(seen.question[0].name) == "A.teST." and seen.edns == 0
    assert shown(seen) == ["A.teST. 300 IN CNAME b.teST.", "b.teST. 50 IN AAAA 2001:db8:64::c000:221"]
    assert not desk.resolver.queries


REVERSE = "1.2.2.0.0.0.0.c.0.0.0.0.0.0.0.0.0.0.0.0.4.6.0.0.8.b.d.0.1.0.0.2.ip6.ARPA"


def test_the_reverse_of_a_synthetic_address_leads_to_the_ipv4_one() -> None:
    desk = Desk(dns64="2001:db8:64::/96")
    desk.ask(REVERSE, "PTR", use_edns=0)
    [asked] = desk.resolver.queries.values()
    assert str(dns.message.from_wire(asked).question[0].name) == "33.2.0.192.in-addr.arpa."
    desk.reply("33.2.0.192.in-addr.arpa. 300 PTR a.test.")
    seen = desk.seen()
    assert seen.edns == 0 and seen.id == 7 and str(seen.question[0].name) == f"{REVERSE}."
    assert [rrset.rdtype.name for rrset in seen.answer] == ["CNAME", "PTR"]
    assert str(seen.answer[0][0].target).lower() == str(seen.answer[1].name) == "33.2.0.192.in-addr.arpa."


def test_reverse_names_that_fail_are_denied_cancelled_or_elsewhere() -> None:
    desk = Desk(dns64="2001:db8:64::/96")
    desk.ask(REVERSE, "PTR")
    desk.reply(rcode=3, authority=NEGATIVE)
    assert desk.seen().rcode() == 3 and desk.seen().authority
    desk.told.clear()
    desk.ask(REVERSE, "PTR")
    desk.resolver.fail(next(iter(desk.resolver.queries)), "timeout", 5.0)
    assert desk.told == ["timeout"]
    desk.ask(REVERSE, "PTR")
    desk.stage.cancel(1)
    assert not desk.resolver.queries
    for other in ("1." + REVERSE, REVERSE[2:], "x" + REVERSE[1:], REVERSE.replace("8.b.d", "9.b.d")):
        desk.ask(other, "PTR")
        assert list(desk.resolver.queries) == [1]
        desk.stage.cancel(1)


def test_a_name_with_aaaa_or_without_existence_is_left_alone() -> None:
    for records, rcode in ((("a.test. 60 AAAA 2001:db8::1",), 0), ((), 3)):
        desk = Desk(dns64="64:ff9b::/96")
        desk.ask(kind="AAAA")
        given = desk.reply(*records, rcode=rcode)
        assert desk.told == [given] and not desk.resolver.queries


def test_mapped_addresses_count_as_none() -> None:
    desk = Desk(dns64="64:ff9b::/96")
    desk.ask(kind="AAAA")
    desk.reply("a.test. 60 AAAA ::ffff:192.0.2.1")
    desk.reply("a.test. 60 A 192.0.2.1")
    assert shown(desk.seen()) == ["a.test. 60 IN AAAA 64:ff9b::c000:201"]


@pytest.mark.parametrize("how", ["empty", "failure", "private"])
def test_without_a_records_the_aaaa_answer_stays_empty(how: str) -> None:
    desk = Desk(dns64="64:ff9b::/96")
    desk.ask(kind="AAAA")
    given = desk.reply(authority=NEGATIVE)
    if how == "failure":
        desk.resolver.fail(next(iter(desk.resolver.queries)), "timeout", 1.0)
    else:
        desk.reply(*(["a.test. 60 A 10.0.0.1"] if how == "private" else []))
    assert desk.told == [given]


def test_a_client_that_validates_gets_no_synthesis() -> None:
    desk = Desk(dns64="64:ff9b::/96")
    desk.ask(kind="AAAA", want_dnssec=True, flags=dns.flags.RD | dns.flags.CD)
    given = desk.reply(authority=NEGATIVE)
    assert desk.told == [given] and not desk.resolver.queries


def test_cancel_ends_the_second_query_too() -> None:
    desk = Desk(dns64="64:ff9b::/96")
    desk.ask(kind="AAAA")
    desk.reply(authority=NEGATIVE)
    desk.stage.cancel(1)
    assert not desk.resolver.queries and desk.told == []


def test_the_prefix_is_found_out_from_the_network() -> None:
    desk = Desk(dns64="discover", own_discovery=True)
    desk.ask(kind="AAAA")
    assert len(desk.network.queries) == 1
    desk.reply(authority=NEGATIVE)
    assert desk.told == [], "an empty answer waits for the prefix"
    desk.reply("ipv4only.arpa. 900 AAAA 2001:db8:1::c000:aa", resolver=desk.network)
    assert desk.stage.prefixes == [parse_prefix("2001:db8:1::/96")]
    desk.reply("a.test. 60 A 192.0.2.33")
    assert shown(desk.seen()) == ["a.test. 50 IN AAAA 2001:db8:1::c000:221"]
    desk.stage.network_changed(10.0)
    assert desk.stage.prefixes == []
    desk.ask("b.test")
    assert len(desk.network.queries) == 1, "the new network is asked"


@pytest.mark.parametrize("how", ["none", "failure"])
def test_a_network_without_prefix_delays_nothing_for_long(how: str) -> None:
    desk = Desk(dns64="discover", own_discovery=True)
    desk.ask(kind="AAAA")
    given = desk.reply(authority=NEGATIVE)
    if how == "none":
        desk.reply(resolver=desk.network)
    else:
        desk.network.fail(next(iter(desk.network.queries)), "timeout", 5.0)
    assert desk.told == [], "an upstream may still know one"
    desk.reply()
    assert desk.told == [given]
    desk.ask(kind="AAAA")
    assert not desk.network.queries, "not asked again at once"


def test_an_upstream_may_know_the_prefix_that_the_network_does_not() -> None:
    desk = Desk(dns64="discover", own_discovery=True)
    desk.ask()
    desk.reply("a.test. 60 A 192.0.2.33")
    desk.reply(resolver=desk.network)
    desk.reply("ipv4only.arpa. 900 AAAA 2001:db8:1::c000:aa")
    assert desk.stage.prefixes == [parse_prefix("2001:db8:1::/96")]


def test_the_host_may_know_the_prefix() -> None:
    desk = Desk(dns64="discover")
    desk.stage.set_nat64("2001:db8:2::/96")
    desk.ask(kind="AAAA")
    desk.reply(authority=NEGATIVE)
    desk.reply("a.test. 60 A 192.0.2.33")
    assert shown(desk.seen()) == ["a.test. 50 IN AAAA 2001:db8:2::c000:221"]
    assert Endpoint.of("2001:db8:2::", 0).address[:12] == desk.stage.prefixes[0]


# --- EDNS ---


def test_the_client_subnet_is_removed_and_the_cookie_passes() -> None:
    options = [dns.edns.ECSOption("192.0.2.0", 24), dns.edns.GenericOption(10, b"12345678")]
    for settings, left in (({"client_subnet": "remove"}, [10]), ({}, [8, 10])):
        desk = Desk(**settings)
        desk.ask(options=options, want_dnssec=True)
        [asked] = desk.resolver.queries.values()
        sent = dns.message.from_wire(asked)
        assert [int(option.otype) for option in sent.options] == left and sent.ednsflags & dns.flags.DO


def test_a_malformed_answer_fails_when_it_would_have_to_be_read() -> None:
    desk = Desk(rebind="remove")
    desk.ask()
    token = next(iter(desk.resolver.queries))
    whole = dns.message.make_response(dns.message.from_wire(desk.resolver.queries[token]))
    whole.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "A", "10.0.0.1"))
    desk.resolver.answer(token, whole.to_wire()[:-1], 0.0)
    assert desk.told == ["malformed"]
