"""Padding of queries."""

import dns.edns
import dns.message

from netstack.dns.message import parse_question
from netstack.upstream.padding import padded


def pad(message: bytes) -> bytes:
    question = parse_question(message)
    assert question is not None
    return padded(message, question)


def test_queries_with_edns_become_multiples_of_128() -> None:
    for length in range(1, 60):
        asked = dns.message.make_query("a" * length + ".example", "A", use_edns=0, want_dnssec=True, payload=1400)
        octets = pad(asked.to_wire())
        assert len(octets) % 128 == 0
        made = dns.message.from_wire(octets)
        assert made.question == asked.question and made.id == asked.id and made.payload == 1400
        assert [option.otype for option in made.options] == [dns.edns.OptionType.PADDING]
        assert made.ednsflags == asked.ednsflags


def test_other_options_stay() -> None:
    cookie = dns.edns.GenericOption(10, b"12345678")
    asked = dns.message.make_query("a.example", "A", use_edns=0, options=[cookie])
    made = dns.message.from_wire(pad(asked.to_wire()))
    assert [int(option.otype) for option in made.options] == [10, 12]


def test_what_cannot_be_padded_stays_as_it_is() -> None:
    plain = dns.message.make_query("a.example", "A").to_wire()
    assert pad(plain) == plain
    option = dns.edns.GenericOption(12, bytes(3))
    has = dns.message.make_query("a.example", "A", use_edns=0, options=[option]).to_wire()
    assert pad(has) == has
    edns = dns.message.make_query("a.example", "A", use_edns=0).to_wire()
    for broken in (edns[:-1], edns + b"\0", edns[:-1] + b"\5", edns[:-11]):
        assert pad(broken) == broken
