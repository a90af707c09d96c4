"""OPT records of queries."""

import dns.edns
import dns.flags
import dns.message

from netstack.dns.edns import CLIENT_SUBNET, COOKIE, DO, STALE_ANSWER, emit_opt, read_edns, without_option
from netstack.dns.message import HEADER_SIZE, parse_question

SUBNET = dns.edns.ECSOption("192.0.2.0", 24)
COOKIES = dns.edns.GenericOption(COOKIE, b"12345678")


def query(*options, **how) -> bytes:  # type: ignore[no-untyped-def]
    return dns.message.make_query("a.test", "A", options=list(options) or None, **how).to_wire()


def end_of_question(message: bytes) -> int:
    question = parse_question(message)
    assert question is not None
    return HEADER_SIZE + len(question.wire)


def test_reads_do_and_options() -> None:
    message = query(COOKIES, SUBNET, want_dnssec=True)
    edns = read_edns(message, end_of_question(message))
    assert edns is not None and edns.dnssec_ok and edns.flags & DO
    assert edns.option(COOKIE) == b"12345678"
    assert edns.option(CLIENT_SUBNET) == SUBNET.to_wire()
    assert edns.option(99) is None


def test_none_without_opt_and_when_it_cannot_be_reached() -> None:
    message = query()
    assert read_edns(message, end_of_question(message)) is None
    whole = query(use_edns=0)
    for cut in range(end_of_question(whole), len(whole)):
        assert read_edns(whole[:cut], end_of_question(whole)) is None


def test_takes_an_option_out() -> None:
    message = query(COOKIES, SUBNET, want_dnssec=True)
    edns = read_edns(message, end_of_question(message))
    assert edns is not None
    left = dns.message.from_wire(without_option(message, edns, CLIENT_SUBNET))
    assert [int(option.otype) for option in left.options] == [COOKIE]
    assert left.ednsflags & DO


def test_a_damaged_option_list_has_no_options_behind_the_damage() -> None:
    message = query(COOKIES)
    damaged = message[:-9] + b"\xff" + message[-8:]  # the option's length
    edns = read_edns(damaged, end_of_question(damaged))
    assert edns is not None and edns.option(COOKIE) is None


def test_emits_what_others_read() -> None:
    message = bytearray(query())
    message[11] = 1
    read = dns.message.from_wire(bytes(message) + emit_opt(True, STALE_ANSWER))
    assert read.ednsflags & DO
    [option] = read.options
    assert isinstance(option, dns.edns.EDEOption) and option.code == 3
