"""TTLs of an answer that spent time elsewhere."""

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.dns.aging import aged


def answer() -> dns.message.Message:
    made = dns.message.make_response(dns.message.make_query("a.test", "A", use_edns=0, want_dnssec=True))
    made.answer.append(dns.rrset.from_text("a.test.", 60, "IN", "CNAME", "b.test."))
    made.answer.append(dns.rrset.from_text("b.test.", 20, "IN", "A", "192.0.2.1", "192.0.2.2"))
    made.authority.append(dns.rrset.from_text("test.", 300, "IN", "NS", "ns.test."))
    return made


def test_every_record_but_opt_is_older() -> None:
    made = answer()
    older = dns.message.from_wire(aged(made.to_wire(), 30))
    assert [each.ttl for each in (*older.answer, *older.authority)] == [30, 0, 270]
    assert older.ednsflags == made.ednsflags
    for each, ttl in zip((*older.answer, *older.authority), (60, 20, 300), strict=True):
        each.ttl = ttl
    assert older.answer == made.answer and older.authority == made.authority and older.id == made.id


def test_a_ttl_above_the_limit_is_0() -> None:
    made = answer()
    made.answer[0].ttl = 0x80000000
    assert dns.message.from_wire(aged(made.to_wire(), 1)).answer[0].ttl == 0


@pytest.mark.parametrize("size", [0, 11, 12, 20, 40, 60])
def test_what_is_cut_stays_as_long_as_it_is(size: int) -> None:
    assert len(aged(answer().to_wire()[:size], 5)) == size


@given(st.binary(max_size=80), st.integers(0, 0x7FFFFFFF))
def test_nothing_raises(message: bytes, seconds: int) -> None:
    assert len(aged(message, seconds)) == len(message)
