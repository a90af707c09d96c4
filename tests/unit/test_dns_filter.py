"""Addresses that an answer gives away, and answers that are none."""

import random
import struct
from ipaddress import ip_address

import dns.message
import dns.name
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.dns.filter import Answer, admit, read_answer
from netstack.dns.message import Query, Question, parse_query

HEAD = b"\0\1\x81\x80"


def packed(*texts: str) -> set[bytes]:
    return {ip_address(text).packed for text in texts}


def question_of(name: str, kind: str = "A"):  # type: ignore[no-untyped-def]
    query = parse_query(dns.message.make_query(name, kind).to_wire())
    assert isinstance(query, Query)
    return query.question


def answer_of(name: str, kind: str, *sets: tuple[str, str, str], ttl: int = 60) -> tuple[bytes, Answer | None]:
    response = dns.message.make_response(dns.message.make_query(name, kind))
    for owner, record, text in sets:
        response.answer.append(dns.rrset.from_text(dns.name.from_text(owner), ttl, "IN", record, text))
    wire = response.to_wire()
    return wire, read_answer(wire, question_of(name, kind))


def found(answer: Answer | None) -> set[bytes]:
    assert answer is not None
    return {address for address, _ in answer.addresses}


def test_a_and_aaaa() -> None:
    _, answer = answer_of("a.test", "A", ("a.test", "A", "192.0.2.1"), ("a.test", "A", "192.0.2.2"))
    assert found(answer) == packed("192.0.2.1", "192.0.2.2")
    _, answer = answer_of("a.test", "AAAA", ("a.test", "AAAA", "2001:db8::1"))
    assert found(answer) == packed("2001:db8::1")
    assert answer is not None and answer.addresses[0][1] == 60


def test_25_addresses() -> None:
    _, answer = answer_of("a.test", "A", *[("a.test", "A", f"198.51.100.{last}") for last in range(25)])
    assert len(found(answer)) == 25


def test_cname_chain_in_any_order_and_any_case() -> None:
    sets = [
        ("www.a.test", "CNAME", "x.CDN.test."),
        ("x.cdn.test", "CNAME", "y.cdn.test."),
        ("Y.cdn.test", "A", "192.0.2.7"),
    ]
    for order in (sets, sets[::-1]):
        _, answer = answer_of("www.a.test", "A", *order)
        assert found(answer) == packed("192.0.2.7")


def test_records_beside_the_chain_are_not_counted() -> None:
    _, answer = answer_of("a.test", "A", ("a.test", "A", "192.0.2.1"), ("evil.test", "A", "192.0.2.66"))
    assert found(answer) == packed("192.0.2.1")
    _, answer = answer_of("a.test", "A", ("b.test", "CNAME", "c.test."), ("c.test", "A", "192.0.2.66"))
    assert found(answer) == set()


def test_authority_and_additional_sections_are_not_counted() -> None:
    response = dns.message.make_response(dns.message.make_query("a.test", "A"))
    response.additional.append(dns.rrset.from_text(dns.name.from_text("a.test"), 5, "IN", "A", "192.0.2.66"))
    response.authority.append(dns.rrset.from_text(dns.name.from_text("a.test"), 5, "IN", "A", "192.0.2.67"))
    assert found(read_answer(response.to_wire(), question_of("a.test"))) == set()


def test_dname_without_its_cname() -> None:
    _, answer = answer_of("www.old.test", "A", ("old.test", "DNAME", "new.test."), ("www.new.test", "A", "192.0.2.9"))
    assert found(answer) == packed("192.0.2.9")
    _, answer = answer_of("wwwold.test", "A", ("old.test", "DNAME", "new.test."), ("wwwnew.test", "A", "192.0.2.9"))
    assert found(answer) == set(), "a label boundary is wanted"


def test_dnames_that_feed_one_another_end() -> None:
    sets = [("a.test", "DNAME", f"{each}.a.test.") for each in "bcdefgh"]
    _, answer = answer_of("x.a.test", "A", *sets, ("x.b.a.test", "A", "192.0.2.9"))
    assert found(answer) == packed("192.0.2.9")


def test_cname_loop_ends() -> None:
    _, answer = answer_of("a.test", "A", ("a.test", "CNAME", "b.test."), ("b.test", "CNAME", "a.test."))
    assert found(answer) == set()


def test_https_and_svcb_hints() -> None:
    text = '1 . alpn="h2,h3" ipv4hint="192.0.2.1,192.0.2.2" ipv6hint="2001:db8::1"'
    _, answer = answer_of("a.test", "HTTPS", ("a.test", "HTTPS", text))
    assert found(answer) == packed("192.0.2.1", "192.0.2.2", "2001:db8::1")
    _, answer = answer_of("_dns.a.test", "SVCB", ("_dns.a.test", "SVCB", '1 dot.a.test. ipv4hint="192.0.2.5"'))
    assert found(answer) == packed("192.0.2.5")
    _, answer = answer_of("a.test", "HTTPS", ("a.test", "HTTPS", "0 b.test."))
    assert found(answer) == set(), "alias form has no hints"


def test_ttl_with_the_top_bit_counts_as_zero() -> None:
    wire = HEAD + b"\0\1\0\1\0\0\0\0" + b"\1a\0\0\1\0\1" + b"\xc0\x0c\0\1\0\1\xff\xff\xff\xff\0\4\xc0\0\2\1"
    answer = read_answer(wire, question_of("a"))
    assert answer is not None and answer.addresses == [(b"\xc0\0\2\1", 0)]


def test_other_classes_are_passed_over() -> None:
    wire = HEAD + b"\0\1\0\1\0\0\0\0" + b"\1a\0\0\1\0\3" + b"\xc0\x0c\0\1\0\3\0\0\0\1\0\4\xc0\0\2\1"
    assert found(read_answer(wire, question_of("a"))) == set()


def test_opt_is_kept_as_it_is() -> None:
    made = dns.message.make_query("a.test", "A", use_edns=0)
    response = dns.message.make_response(made, our_payload=1400)
    answer = read_answer(response.to_wire(), question_of("a.test"))
    assert answer is not None and answer.opt[:5] == b"\0\0\x29\x05\x78"


QUESTION = b"\1a\0\0\1\0\1"


@pytest.mark.parametrize(
    "rest",
    [
        b"\xc0\x13\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1",  # points to itself
        b"\xc0\x15\xc0\x13\0\1\0\1\0\0\0\1\0\4",  # points forwards
        b"\1b\xc0\x13\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1",  # back to the start of the same name
        b"\xc0\x05\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1",  # into the header
        b"\x80a\0\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1",  # reserved label type
        b"\xc0\x0c\0\1\0\1\0\0\0\1\0\5\xc0\0\2\1\0",  # an A record of five octets
        b"\xc0\x0c\0\x1c\0\1\0\0\0\1\0\4\xc0\0\2\1",  # an AAAA record of four
        b"\xc0\x0c\0\1\0\1\0\0\0\1\xff\xff\xc0\0\2\1",  # data length beyond the message
        b"\xc0\x0c\0\5\0\1\0\0\0\1\0\5\1b\0\0\0",  # CNAME with something behind it
        b"\xc0\x0c\0\5\0\1\0\0\0\1\0\2\xc0\x1f",  # CNAME that points to itself
        b"\xc0\x0c\0\x41\0\1\0\0\0\1\0\x0a\0\1\0\0\4\0\3\1\2\3",  # hint of three octets
        b"\xc0\x0c\0\x41\0\1\0\0\0\1\0\x07\0\1\0\0\4\0\4",  # parameter longer than the data
        b"\xc0\x0c\0\x41\0\1\0\0\0\1\0\x02\0\1",  # no target name
        b"\xc0\x0c\0\1\0\1",  # cut in the fixed part
        b"",
    ],
)
def test_malformed_answers_are_none(rest: bytes) -> None:
    question = question_of("a")
    assert read_answer(HEAD + b"\0\1\0\1\0\0\0\0" + QUESTION + rest, question) is None


@pytest.mark.parametrize("counts", [b"\xff\xff\0\0\0\0", b"\0\0\xff\xff\0\0", b"\0\0\0\0\xff\xff", b"\0\2\0\0\0\0"])
def test_counts_larger_than_the_data(counts: bytes) -> None:
    record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1"
    assert read_answer(HEAD + b"\0\1" + counts + QUESTION + record, question_of("a")) is None


@pytest.mark.parametrize(("jumps", "is_taken"), [(10, True), (200, False)])
def test_long_pointer_chains_are_refused(jumps: int, is_taken: bool) -> None:
    start = 12 + len(QUESTION) + 11  # where the TXT record's data begins: pointers, each to the one before
    chain = b"\xc0\x0c" + b"".join(struct.pack("!H", 0xC000 | start + 2 * at) for at in range(jumps))
    text = b"\0" + struct.pack("!HHIH", 16, 1, 1, len(chain)) + chain
    record = struct.pack("!H", 0xC000 | start + len(chain) - 2) + b"\0\1\0\1\0\0\0\1\0\4\xc0\0\2\1"
    answer = read_answer(HEAD + b"\0\1\0\2\0\0\0\0" + QUESTION + text + record, question_of("a"))
    assert found(answer) == packed("192.0.2.1") if is_taken else answer is None


def test_mutated_answers_never_raise() -> None:
    wire, _ = answer_of(
        "www.a.test", "HTTPS", ("www.a.test", "CNAME", "b.test."), ("b.test", "A", "192.0.2.1"),
        ("b.test", "HTTPS", '1 . alpn="h3" ipv4hint="192.0.2.1" ipv6hint="2001:db8::1"'),
        ("c.test", "DNAME", "d.test."),
    )  # fmt: skip
    question = question_of("www.a.test", "HTTPS")
    for size in range(len(wire)):
        assert read_answer(wire[:size], question) is None
    source = random.Random(7)
    for _ in range(5000):
        mutated = bytearray(wire)
        for _ in range(source.randrange(1, 6)):
            octet = source.choice((0, 1, 0x0C, 0x3F, 0xC0, 0xFF, source.randrange(256)))
            mutated[source.randrange(4, len(mutated))] = octet
        read_answer(bytes(mutated), question)


class Book:
    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, int | None]] = []

    def learn(self, name: str, address: bytes, ttl: int | None, now: float, app: str | None = None) -> bool:
        self.seen.append((name, address, ttl))
        return address[0] != 127


def test_admit_leases_to_the_name_that_was_asked_and_names_the_leased() -> None:
    _, answer = answer_of(
        "www.a.test", "A", ("www.a.test", "CNAME", "cdn.test."), ("cdn.test", "A", "192.0.2.1"),
        ("cdn.test", "A", "127.0.0.1"), ("cdn.test", "AAAA", "2001:db8::1"),
    )  # fmt: skip
    book = Book()
    assert answer is not None
    assert admit(answer, "www.a.test", book, 5.0) == ("192.0.2.1", "2001:db8::1")
    assert {(name, ttl) for name, _, ttl in book.seen} == {("www.a.test", 60)} and len(book.seen) == 3


ASKED = Question(b"\x01a\x04test\0\0\1\0\1")
POINTER = b"\xc0\x0c\0\1\0\1"
PLAIN_OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.binary(min_size=4, max_size=4)), min_size=1, max_size=5),
    st.booleans(),
)  # fmt: skip
def test_what_most_answers_look_like_is_read_as_any_other(records, edns) -> None:  # type: ignore[no-untyped-def]
    body = b"".join(POINTER + ttl.to_bytes(4, "big") + b"\0\4" + address for ttl, address in records)
    tail = PLAIN_OPT if edns else b""
    other = b"\0\0\2\0\1\0\0\0\1\0\1\0"  # an authority record, which makes it go the long way

    def message(authorities: int) -> bytes:
        return (
            HEAD + struct.pack("!HHHH", 1, len(records), authorities, int(edns)) + ASKED.wire
            + body + authorities * other + tail
        )  # fmt: skip

    short, long = read_answer(message(0), ASKED), read_answer(message(1), ASKED)
    assert short is not None and long is not None
    assert (short.addresses, short.opt, short.flags) == (long.addresses, long.opt, long.flags)
    assert [address for address, _ in short.addresses] == [address for _, address in records]
    assert short.opt == tail


@pytest.mark.parametrize("at", range(len(POINTER)))
def test_a_record_of_another_name_or_kind_gives_no_address(at: int) -> None:
    record = bytearray(POINTER)
    record[at] ^= 2  # another name, type or class; or a name that cannot be
    good = POINTER + b"\0\0\0\x3c\0\4\xc0\0\2\1"
    message = HEAD + struct.pack("!HHHH", 1, 2, 0, 0) + ASKED.wire + good + bytes(record) + good[6:]
    answer = read_answer(message, ASKED)
    assert answer is None or [address for address, _ in answer.addresses] == [b"\xc0\0\2\1"]


@pytest.mark.parametrize("size", [3, 5])
def test_an_address_of_another_size_is_malformed_also_in_the_plainest_answer(size: int) -> None:
    record = POINTER + b"\0\0\0\x3c\0" + bytes([size]) + bytes(size)
    assert read_answer(HEAD + struct.pack("!HHHH", 1, 1, 0, 0) + ASKED.wire + record, ASKED) is None
    assert read_answer(HEAD + struct.pack("!HHHH", 1, 1, 0, 0) + ASKED.wire + record[:16].ljust(16), ASKED) is None
