"""Reading queries and making the engine's own answers, checked against dnspython."""

import os
import random

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest

from netstack.dns import message as m
from netstack.dns.message import Query, Rcode, is_answer_to, is_dns, is_plain_opt, parse_query


def query_of(octets: bytes) -> Query:
    query = parse_query(octets)
    assert isinstance(query, Query)
    return query


def test_query_fields_are_those_that_dnspython_wrote() -> None:
    made = dns.message.make_query("WWW.Example.com", "AAAA", use_edns=0, payload=4096, id=0x1234)
    query = query_of(made.to_wire())
    assert (query.id, query.question.name, query.question.type, query.question.cls) == (
        0x1234, "www.example.com", m.AAAA, 1,
    )  # fmt: skip
    assert (query.edns, query.udp_size) == (True, 4096)
    assert query.question.wire == b"\3WWW\7Example\3com\0\0\x1c\0\1"
    assert query.question.folded == b"\3www\7example\3com\0\0\x1c\0\1"


def test_without_edns_512_octets_and_small_edns_sizes_count_as_512() -> None:
    assert query_of(dns.message.make_query("a.test", "A").to_wire()).udp_size == 512
    small = dns.message.make_query("a.test", "A", use_edns=0, payload=100)
    assert query_of(small.to_wire()).udp_size == 512


def test_the_type_is_not_folded_with_the_name() -> None:
    # type 65 (HTTPS) is the octet "A": lower case would turn it into type 97
    question = query_of(dns.message.make_query("A.TEST", "HTTPS").to_wire()).question
    assert question.type == 65 and question.folded.endswith(b"\0\x41\0\1")


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([], "."),
        ([b"example", b"com"], "example.com"),
        ([b"EX_a-1", b"com"], "ex_a-1.com"),
        ([b"a.b", b"com"], "a\\.b.com"),
        ([b"a b", b"\xff"], "a\\032b.\\255"),
        ([b"a\\b"], "a\\\\b"),
    ],
)
def test_names_as_text(labels: list[bytes], text: str) -> None:
    assert m.labels_text(labels) == text
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    assert m.name_text(wire) == text


@pytest.mark.parametrize(
    ("octets", "rcode"),
    [
        (b"\x12\x34\1\0" + bytes(8), Rcode.FORMERR),  # no question
        (b"\x12\x34\1\0\0\2" + bytes(6) + b"\0\0\1\0\1" * 2, Rcode.FORMERR),  # RFC 9619
        (b"\x12\x34\1\0\0\1" + bytes(6) + b"\3ab", Rcode.FORMERR),  # name cut short
        (b"\x12\x34\1\0\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1", Rcode.FORMERR),  # a question cannot point anywhere
        (b"\x12\x34\1\0\0\1" + bytes(6) + b"\x40a\0\0\1\0\1", Rcode.FORMERR),  # reserved label type
        (b"\x12\x34\1\0\0\1" + bytes(6) + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", Rcode.FORMERR),  # over 255
        (b"\x12\x34\1\0\0\1\0\0\0\0\0\1" + b"\1a\0\0\1\0\1", Rcode.FORMERR),  # counts more than there is
        (b"\x12\x34\x28\0\0\1" + bytes(6) + b"\1a\0\0\1\0\1", Rcode.NOTIMP),  # UPDATE
        (b"\x12\x34", Rcode.FORMERR),
    ],
)
def test_bad_queries_get_their_response_code(octets: bytes, rcode: Rcode) -> None:
    assert parse_query(octets) is rcode


def test_longest_legal_name_is_taken() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(name) == 255
    assert isinstance(parse_query(b"\x12\x34\1\0\0\1" + bytes(6) + name + b"\0\1\0\1"), Query)


def test_a_query_cut_anywhere_never_raises() -> None:
    whole = dns.message.make_query("www.example.com", "A", use_edns=0).to_wire()
    for size in range(len(whole)):
        assert isinstance(parse_query(whole[:size]), Rcode)


def test_random_octets_never_raise_and_are_not_taken_for_dns() -> None:
    source = random.Random(1)
    taken = 0
    for _ in range(2000):
        octets = source.randbytes(source.randrange(200))
        parse_query(octets)
        taken += is_dns(octets)
    assert taken < 5


def test_what_else_comes_to_port_53_is_not_dns() -> None:
    stun = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(range(12))
    wireguard = b"\1\0\0\0" + os.urandom(4).replace(b"\0", b"\1") + os.urandom(140)
    dtls = b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x40" + b"\1" * 64
    for octets in (b"", b"x", b"hello world, this is not DNS", stun, dtls, wireguard, b"GET / HTTP/1.1\r\n\r\n"):
        assert not is_dns(octets), octets
    assert is_dns(dns.message.make_query("a.test", "A").to_wire())
    assert is_dns(bytes(12)), "a bare header is a query that deserves FORMERR"


def test_own_answers_are_read_by_dnspython() -> None:
    made = dns.message.make_query("Www.Example.com", "A", use_edns=0, want_dnssec=True, id=77)
    query = query_of(made.to_wire())
    for make, rcode in (
        (m.servfail, dns.rcode.SERVFAIL), (m.refused, dns.rcode.REFUSED),
        (m.nxdomain, dns.rcode.NXDOMAIN), (m.nodata, dns.rcode.NOERROR),
    ):  # fmt: skip
        answer = dns.message.from_wire(make(query))
        assert made.is_response(answer)
        assert answer.rcode() == rcode and answer.edns == 0 and not answer.answer
        assert answer.flags & dns.flags.RD and answer.flags & dns.flags.RA
    plain = dns.message.make_query("a.test", "A")
    assert dns.message.from_wire(m.servfail(query_of(plain.to_wire()))).edns == -1


def test_error_without_question_keeps_id_and_opcode() -> None:
    answer = m.error_without_question(b"\xab\xcd\x29\0", Rcode.NOTIMP)
    assert answer == b"\xab\xcd\xa9\x84" + bytes(8)


def test_truncated_keeps_question_and_opt_only() -> None:
    made = dns.message.make_query("big.test", "TXT", use_edns=0)
    response = dns.message.make_response(made, our_payload=1232)
    texts = [f'"{each}{"x" * 200}"' for each in range(5)]
    response.answer.append(dns.rrset.from_text(dns.name.from_text("big.test"), 5, "IN", "TXT", *texts))
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
    cut = dns.message.from_wire(m.truncated(query_of(made.to_wire()), response.to_wire(), opt))
    assert cut.flags & dns.flags.TC and made.is_response(cut) and not cut.answer
    assert cut.edns == 0 and cut.payload == 1232


def test_with_identity_restores_the_clients_own_id_and_case() -> None:
    asked = dns.message.make_query("wWw.eXample.com", "A", id=1)
    upstream = dns.message.make_response(dns.message.make_query("www.example.com", "A", id=9))
    upstream.answer.append(dns.rrset.from_text(dns.name.from_text("www.example.com"), 60, "IN", "A", "192.0.2.1"))
    octets = m.with_identity(query_of(asked.to_wire()), upstream.to_wire())
    assert octets[:2] == b"\0\1" and b"\3wWw\7eXample\3com" in octets
    assert dns.message.from_wire(octets).answer[0][0].address == "192.0.2.1"


def test_which_answers_belong_to_a_query() -> None:
    made = dns.message.make_query("www.example.com", "A", id=5)
    question = query_of(made.to_wire()).question
    good = dns.message.make_response(made).to_wire()
    assert is_answer_to(good, 5, question)
    assert is_answer_to(good.replace(b"www", b"WwW"), 5, question)
    assert not is_answer_to(good, 6, question), "another id"
    assert not is_answer_to(made.to_wire(), 5, question), "no QR"
    assert not is_answer_to(good.replace(b"www", b"wwx"), 5, question), "another name"
    assert not is_answer_to(good[:-3] + b"\x1c\0\1", 5, question), "another type"
    assert not is_answer_to(good[:2] + b"\xa8" + good[3:], 5, question), "another opcode"
    assert not is_answer_to(good[:11], 5, question)
    bare = b"\0\5\x80\1" + bytes(8)
    assert is_answer_to(bare, 5, question), "FORMERR of a server that could not read the question"
    assert not is_answer_to(b"\0\5\x80\0" + bytes(8), 5, question), "success must say of what"
    assert not is_answer_to(b"\0\5\x80\1\0\0\0\1" + bytes(4), 5, question), "no records without a question"


def test_names_of_types_and_codes() -> None:
    assert [m.type_name(number) for number in (1, 65, 65280)] == ["A", "HTTPS", "TYPE65280"]
    assert [m.rcode_name(number) for number in (3, 12)] == ["NXDOMAIN", "RCODE12"]


def test_skip_name_bounds() -> None:
    assert m.skip_name(b"\1a\0rest", 0) == 3
    assert m.skip_name(b"\xc0\x0crest", 0) == 2
    assert m.skip_name(b"\1a\xc0", 0) == -1
    assert m.skip_name(b"\x80", 0) == -1
    assert m.skip_name(b"\1a", 0) == -1


@pytest.mark.parametrize("payload, taken", [(0, 512), (511, 512), (1232, 1232), (65_535, 65_535)])
@pytest.mark.parametrize("options", [[], [dns.edns.GenericOption(10, b"12345678")]])
def test_edns_is_read_with_and_without_options(payload: int, taken: int, options: list) -> None:  # type: ignore[type-arg]
    asked = dns.message.make_query("a.test", "A", use_edns=0, payload=payload, options=options, want_dnssec=True)
    query = parse_query(asked.to_wire())
    assert isinstance(query, Query)
    assert (query.udp_size, query.edns, query.id, query.question.name) == (taken, True, asked.id, "a.test")


@pytest.mark.parametrize(
    "tail, plain",
    [
        (b"\0\0\x29\x04\xd0\0\0\x80\0\0\0", True),
        (b"\0\0\x29\x04\xd0\0\1\0\0\0\0", False),  # another version
        (b"\0\0\x29\x04\xd0\0\0\0\0\0\1", False),  # cut
        (b"\0\0\x29\x04\xd0\0\0\0\0\0\4\0\x0a\0\0", False),  # options
        (b"\0\0\x2a\x04\xd0\0\0\0\0\0\0", False),  # another type
        (b"\0\0\x29\x04\xd0\0\0\0\0\0\0\0", False),  # more behind it
    ],
)
def test_a_plain_opt_record_is_recognized(tail: bytes, plain: bool) -> None:
    message = bytes(12) + b"\1a\0\0\1\0\1"
    assert is_plain_opt(message + tail, len(message)) is plain
