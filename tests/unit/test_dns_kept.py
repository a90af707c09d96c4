"""What may be kept of an answer, and what is made of it."""

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import pytest

from netstack.dns.kept import Entry, around, examine, is_of, patch, plain_query, read_query

DAY, HOUR = 86_400, 3_600


def query(name: str = "a.test", kind: str = "A", **how) -> dns.message.Message:  # type: ignore[no-untyped-def]
    return dns.message.make_query(name, kind, id=7, **how)


def answer(to: dns.message.Message, *records: tuple[str, int, str, str], rcode: int = 0) -> bytes:
    response = dns.message.make_response(to, recursion_available=True)
    response.set_rcode(rcode)  # type: ignore[arg-type]
    for name, ttl, kind, data in records:
        response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, data))
    return response.to_wire()


def entry_of(to: dns.message.Message, octets: bytes) -> Entry | None:
    question, edns = read_query(to.to_wire())  # type: ignore[misc]
    found = examine(octets, question, to.to_wire(), DAY, HOUR)
    if found is None:
        return None
    flags, counts, body, ttls, lifetime, _ = found
    return Entry(b"key", flags, counts, body, ttls, 0.0, lifetime, lifetime, plain_query(to.to_wire(), edns), b"", 1)


@pytest.mark.parametrize("how", [{}, {"use_edns": 0}, {"use_edns": 0, "want_dnssec": True}])
def test_a_plain_query_may_be_kept(how) -> None:  # type: ignore[no-untyped-def]
    question, edns = read_query(query("A.Test", **how).to_wire())  # type: ignore[misc]
    assert question.name == "a.test" and (edns is not None) is bool(how)


@pytest.mark.parametrize("kind", ["A", "ANY", "AXFR", "TYPE250", "TYPE4660"])
def test_meta_types_are_never_kept(kind: str) -> None:
    assert (read_query(query(kind=kind).to_wire()) is not None) is (kind in ("A", "TYPE4660"))


@pytest.mark.parametrize("at, octet", [(2, 0x81), (2, 0x03), (2, 0x11), (2, 0x00), (5, 2), (7, 1), (9, 1), (-1, 3)])
def test_other_queries_are_not_kept(at: int, octet: int) -> None:
    octets = bytearray(query().to_wire())
    octets[at] = octet  # an answer, truncated, another opcode, no recursion, two questions, records, another class
    assert read_query(bytes(octets)) is None


def test_a_query_with_octets_behind_it_is_not_kept() -> None:
    assert read_query(query().to_wire() + b"\0") is None and read_query(query().to_wire()[:-1]) is None


def test_an_answer_is_made_again_with_the_time_that_is_left() -> None:
    asked = query()
    entry = entry_of(asked, answer(asked, ("a.test.", 100, "A", "192.0.2.1"), ("a.test.", 300, "A", "192.0.2.2")))
    assert entry is not None and entry.expires == 100
    patch(entry, 40)
    other = query("A.TEST", use_edns=0)
    question, edns = read_query(other.to_wire())  # type: ignore[misc]
    head, tail = around(other.to_wire(), question, edns, entry)
    told = dns.message.from_wire(b"\0\1" + head + entry.patched + tail)
    assert str(told.question[0].name) == "A.TEST." and told.edns == 0 and told.flags & dns.flags.RA
    assert told.answer[0].ttl == 60 and len(told.answer[0]) == 2


def test_what_lives_too_long_lives_as_long_as_may_be() -> None:
    asked = query()
    entry = entry_of(asked, answer(asked, ("a.test.", 10 * DAY, "A", "192.0.2.1")))
    assert entry is not None and entry.expires == DAY


@pytest.mark.parametrize("case", ["ttl-0", "servfail", "no-soa", "another-id", "another-name", "cut"])
def test_what_must_not_be_kept(case: str) -> None:
    asked = query()
    ttl = 0 if case == "ttl-0" else 60
    records = [] if case in ("servfail", "no-soa") else [("a.test.", ttl, "A", "192.0.2.1")]
    octets = answer(asked, *records, rcode=2 if case == "servfail" else 0)
    if case == "another-id":
        octets = b"\0\1" + octets[2:]
    elif case == "another-name":
        octets = octets[:13] + b"b" + octets[14:]
    elif case == "cut":
        octets = octets[:-1]
    assert entry_of(asked, octets) is None


def test_the_query_that_refreshes_has_nothing_of_one_client() -> None:
    cookie = dns.edns.GenericOption(10, b"12345678")
    subnet = dns.edns.ECSOption("192.0.2.0", 24)
    octets = query(options=[cookie, subnet]).to_wire()
    plain = dns.message.from_wire(plain_query(octets, read_query(octets)[1]))  # type: ignore[index]
    assert [option.otype for option in plain.options] == [dns.edns.ECS]


@pytest.mark.parametrize(
    "wire, subtree, belongs",
    [
        (b"\1a\4test\0", False, True), (b"\4test\0", False, False), (b"\4test\0", True, True),
        (b"\1b\4test\0", True, False),
    ],
)  # fmt: skip
def test_whose_name_it_is(wire: bytes, subtree: bool, belongs: bool) -> None:
    assert is_of(b"\1a\4test\0\0\1\0\1\0", wire, subtree) is belongs
