"""Whole messages: read and emitted again they say the same."""

import dns.message
import dns.name
import dns.rrset
import pytest

from netstack.dns.message import TC
from netstack.dns.records import emit_message, read_message, read_name, suffixes, synthetic_soa, wire_name

RECORDS = [
    ("a.example.com.", "CNAME", "b.example.com."),
    ("b.example.com.", "A", "192.0.2.1"),
    ("b.example.com.", "AAAA", "2001:db8::1"),
    ("example.com.", "MX", "10 mail.example.com."),
    ("example.com.", "SOA", "ns.example.com. admin.example.com. 1 2 3 4 5"),
    ("example.com.", "SRV", "1 2 443 srv.example.com."),
    ("example.com.", "RP", "who.example.com. what.example.com."),
    ("example.com.", "TXT", '"text" "more"'),
    ("example.com.", "HTTPS", '1 . alpn="h2,h3" ipv4hint=192.0.2.9'),
    ("example.com.", "TYPE65280", "\\# 3 c00c01"),
]


def message() -> dns.message.Message:
    response = dns.message.make_response(dns.message.make_query("A.example.COM", "A", use_edns=0))
    for place, record in enumerate(RECORDS):
        section = (response.answer, response.authority, response.additional)[place % 3]
        section.append(dns.rrset.from_text(record[0], 60, "IN", *record[1:]))
    return response


def test_a_message_survives_reading_and_emitting() -> None:
    wire = message().to_wire()
    read = read_message(wire)
    assert read is not None
    again = emit_message(read)
    assert dns.message.from_wire(again) == dns.message.from_wire(wire)
    assert len(again) <= len(wire) + 12, "names are compressed"


def test_whatever_is_cut_off_is_noticed() -> None:
    wire = message().to_wire()
    for cut in range(len(wire)):
        assert read_message(wire[:cut]) is None


@pytest.mark.parametrize(
    "name", [b"\xc0\x0c", b"\xc0\x0e", b"\x01a\xc0\x0c", b"\x40a\0", b"\x3f" + b"a" * 60, b"\xc0", b""]
)
def test_a_bad_name_is_none(name: bytes) -> None:
    assert read_name(bytes(12) + name, 12) == (None, -1)


def test_a_name_longer_than_255_octets_is_none() -> None:
    assert read_name((b"\x3f" + b"a" * 63) * 4 + b"\0", 0)[0] is None


def test_too_large_becomes_the_question_with_tc() -> None:
    read = read_message(message().to_wire())
    assert read is not None
    cut = dns.message.from_wire(emit_message(read, 60))
    assert cut.flags & TC and not cut.answer and cut.question[0].name == dns.name.from_text("a.example.com")


def test_names_from_text() -> None:
    assert wire_name("Example.COM.") == b"\x07example\x03com\0" == wire_name("example.com")
    assert wire_name(".") == b"\0"
    assert wire_name("a..b") is None and wire_name("a" * 64) is None and wire_name("\xe4.test") is None
    assert wire_name(".".join(["a" * 60] * 5)) is None


def test_suffixes_end_with_the_root() -> None:
    assert suffixes(b"\x01a\x01b\0") == [b"\x01a\x01b\0", b"\x01b\0", b"\0"]


def test_a_synthetic_soa_is_one() -> None:
    response = read_message(dns.message.make_response(dns.message.make_query("a.test", "A")).to_wire())
    assert response is not None
    response.sections[1].append(synthetic_soa(b"\x04test\0", 7))
    soa = dns.message.from_wire(emit_message(response)).authority[0]
    assert soa.ttl == 7 == soa[0].minimum
