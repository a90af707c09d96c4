"""Answers that rules make up, read by another implementation."""

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest

from netstack.dns.message import Query, Rcode, is_answer_to, parse_query
from netstack.dns.synthetic import addresses, negative, question_for, refusal, under_alias, wire_name


def query(name: str = "Ads.Example.test", kind: str = "A", **how) -> Query:  # type: ignore[no-untyped-def]
    read = parse_query(dns.message.make_query(name, kind, id=7, **how).to_wire())
    assert isinstance(read, Query)
    return read


def read(message: bytes, asked: Query) -> dns.message.Message:
    assert is_answer_to(message, asked.id, asked.question)
    made = dns.message.from_wire(message)
    assert made.flags & dns.flags.QR and made.flags & dns.flags.RA and made.flags & dns.flags.RD
    assert made.question[0].name.to_text() == dns.message.from_wire(asked.message).question[0].name.to_text()
    return made


@pytest.mark.parametrize(("name", "zone"), [("Ads.Example.test", "Example.test."), ("test", "."), (".", ".")])
def test_a_negative_answer_may_be_cached_for_its_ttl(name: str, zone: str) -> None:
    for rcode in (Rcode.NXDOMAIN, Rcode.NOERROR):
        asked = query(name)
        made = read(negative(asked, rcode, 10), asked)
        [soa] = made.authority
        assert made.rcode() == rcode and not made.answer and made.edns == -1
        assert (soa.name.to_text(), soa.ttl, soa[0].minimum) == (zone, 10, 10)
        assert soa[0].mname.to_text() == "blocked.invalid."


def test_edns_says_that_the_answer_is_made_up() -> None:
    asked = query(use_edns=0, want_dnssec=True)
    for message in (negative(asked, Rcode.NXDOMAIN, 10), refusal(asked), addresses(asked, [bytes(4)], 10, error=15)):
        made = read(message, asked)
        assert made.edns == 0 and [option.code for option in made.options] == [15]
    assert not read(addresses(asked, [bytes(4)], 10), asked).options


def test_refusal() -> None:
    made = read(refusal(query()), query())
    assert made.rcode() == dns.rcode.REFUSED and not made.answer and not made.authority


def test_addresses_of_the_type_that_was_asked() -> None:
    packed = [bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]), bytes(15) + b"\1"]
    asked = query()
    [rrset] = read(addresses(asked, packed, 10), asked).answer
    assert rrset.to_text() == "Ads.Example.test. 10 IN A 192.0.2.1\nAds.Example.test. 10 IN A 192.0.2.2"
    asked = query(kind="AAAA")
    assert read(addresses(asked, packed, 10), asked).answer[0][0].address == "::1"
    asked = query(kind="HTTPS")
    made = read(addresses(asked, packed, 10), asked)
    assert made.rcode() == 0 and not made.answer and made.authority


def test_another_name_is_asked_with_everything_else_the_same() -> None:
    asked = query("short.test", "AAAA", use_edns=0, payload=1400)
    other = dns.message.from_wire(question_for(asked, wire_name("a.much.longer.name.test")))
    assert other.question[0].to_text() == "a.much.longer.name.test. IN AAAA"
    assert other.id == 7 and other.payload == 1400


def test_an_answer_under_an_alias_holds_every_record_of_the_other() -> None:
    target = wire_name("real.example.test")
    asked = query("alias.test", "ANY")
    inner = dns.message.make_response(dns.message.from_wire(question_for(asked, target)))
    records = [
        ("real.example.test.", "A", "192.0.2.1"), ("real.example.test.", "MX", "10 mail.example.test."),
        ("real.example.test.", "SRV", "1 2 3 srv.example.test."), ("real.example.test.", "TXT", '"text"'),
        ("real.example.test.", "CNAME", "next.example.test."), ("next.example.test.", "AAAA", "2001:db8::1"),
        ("real.example.test.", "HTTPS", "1 . alpn=h2"),
    ]  # fmt: skip
    for owner, kind, text in records:
        inner.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, text))
    soa = "ns.example.test. m.example.test. 1 2 3 4 5"
    inner.authority.append(dns.rrset.from_text("example.test.", 60, "IN", "SOA", soa))
    made = under_alias(asked, target, inner.to_wire(), 30)
    assert made is not None
    message = read(made, asked)
    shown = [rrset.to_text() for rrset in message.answer]
    assert shown[0] == "alias.test. 30 IN CNAME real.example.test."
    assert shown[1:] == [rrset.to_text() for rrset in inner.answer]
    assert [rrset.to_text() for rrset in message.authority] == [rrset.to_text() for rrset in inner.authority]


def test_the_response_code_passes_and_malformed_answers_do_not() -> None:
    target, asked = wire_name("no.test"), query("alias.test")
    inner = dns.message.make_response(dns.message.from_wire(question_for(asked, target)))
    inner.set_rcode(dns.rcode.NXDOMAIN)
    made = under_alias(asked, target, inner.to_wire(), 30)
    assert made is not None and read(made, asked).rcode() == dns.rcode.NXDOMAIN
    inner.answer.append(dns.rrset.from_text("no.test.", 60, "IN", "A", "192.0.2.1"))
    whole = inner.to_wire()
    for size in [*range(12), *range(len(whole) - 16, len(whole))]:
        assert under_alias(asked, target, whole[:size], 30) is None


def test_names_as_octets() -> None:
    assert wire_name("a.bc") == b"\1a\2bc\0" and wire_name(".") == b"\0"
