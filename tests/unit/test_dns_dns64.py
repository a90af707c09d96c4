"""IPv4 addresses in IPv6 prefixes."""

import pytest

from netstack.core.address import format_address
from netstack.core.flow import Endpoint
from netstack.dns.dns64 import ARPA, LENGTHS, discovered, embed, extract, negative_ttl, parse_prefix, synthesize
from netstack.dns.message import AAAA, CNAME, A
from netstack.dns.records import Message, Record, synthetic_soa

# RFC 6052 2.4: the table of examples for 192.0.2.33
EXAMPLES = [
    ("2001:db8::/32", "2001:db8:c000:221::"), ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"), ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"), ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
    ("64:ff9b::/96", "64:ff9b::c000:221"),
]  # fmt: skip


def packed(text: str) -> bytes:
    return Endpoint.of(text, 0).address


@pytest.mark.parametrize(("prefix", "address"), EXAMPLES)
def test_the_examples_of_rfc_6052(prefix: str, address: str) -> None:
    made = embed(parse_prefix(prefix), packed("192.0.2.33"))
    assert made == packed(address), format_address(made)
    assert extract(parse_prefix(prefix), made) == packed("192.0.2.33")


@pytest.mark.parametrize("text", ["10.0.0.0/96", "2001:db8::/95", "2001:db8::1/96", "2001:db8::x/96", "2001:db8::/a",
                                  "2001:db8:0:0:ff00::/96"])  # fmt: skip
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError):
        parse_prefix(text)


@pytest.mark.parametrize("bits", LENGTHS)
def test_discovery_finds_each_length(bits: int) -> None:
    prefix = packed("2001:db8:1234:5678:0:9abc::")[: bits // 8]
    both = [embed(prefix, packed("192.0.0.170")), embed(prefix, packed("192.0.0.171"))]
    assert discovered(both) == [prefix]


def test_discovery_finds_nothing_in_other_addresses() -> None:
    assert discovered([packed("2001:db8::1"), packed("::"), packed("64:ff9b::c000:221")]) == []


def answer(*records: Record) -> Message:
    made = Message(1, 0x8180, b"\x01a\0\0\1\0\1")
    made.sections[0].extend(records)
    return made


def test_synthesis_keeps_the_chain_and_caps_the_ttl() -> None:
    given = answer(
        Record(b"\x01a\0", CNAME, 900, b"\x01b\0"), Record(b"\x01b\0", A, 900, b"\xc0\0\2\x21"),
        Record(b"\x01b\0", A, 20, b"\x0a\0\0\1"), Record(b"\x01a\0", 46, 900, bytes(20)),
    )  # fmt: skip
    prefix = parse_prefix("2001:db8::/96")
    made = synthesize(given, b"\x01a\0\0\x1c\0\1", prefix, 60, lambda address: address[0] != 10)
    assert made is not None
    assert [(record.kind, record.ttl) for record in made.sections[0]] == [(CNAME, 900), (AAAA, 60)]
    assert synthesize(answer(), b"", prefix, None, lambda address: True) is None
    without_soa = synthesize(given, b"", prefix, None, lambda address: True)
    assert without_soa is not None and [record.ttl for record in without_soa.sections[0]] == [900, 600, 20]


def test_the_ttl_of_a_negative_answer() -> None:
    negative = answer()
    assert negative_ttl(negative) is None
    negative.sections[1].append(synthetic_soa(ARPA, 7))
    assert negative_ttl(negative) == 7
