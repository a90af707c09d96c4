"""Addresses in text and octets; `ipaddress` is the other voice."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netstack.core.address import format_address, parse_address

GROUP = st.one_of(st.just("0"), st.integers(0, 0xFFFF).map(lambda number: f"{number:x}"), st.just("00aF"))
SHAPED = st.lists(st.one_of(GROUP, st.just(""), st.just("1.2.3.4"), st.just("12345")), max_size=10).map(":".join)
DOTTED = st.lists(st.one_of(st.integers(0, 300).map(str), st.sampled_from(["", "00", "01", "-1", "1a"])), max_size=5)
ANY = st.one_of(st.text(alphabet="0123456789abcdefF:.%gx ²٣", max_size=24), SHAPED, DOTTED.map(".".join))


@given(ANY)
@example("::")
@example("1::")
@example("::1")
@example("1:2:3:4:5:6:7::")
@example("1:2:3:4:5:6:7:8::")
@example("::1:2:3:4:5:6:7:8")
@example("1::2::3")
@example(":::")
@example(":1")
@example("1:")
@example("::1.2.3.4")
@example("1.2.3.4::")
@example("1:2:3:4:5:6:1.2.3.4")
@example("1:2:3:4:5:6:7:1.2.3.4")
@example("fe80::1%eth0")
@example("fe80::1%")
@example("fe80::1%a%b")
@example("1.2.3.4%eth0")
def test_reads_what_ipaddress_reads_and_nothing_else(text):
    try:
        wanted = ipaddress.ip_address(text).packed
    except ValueError:
        with pytest.raises(ValueError, match="is not an IP address"):
            parse_address(text)
    else:
        assert parse_address(text) == wanted


@given(
    st.one_of(
        st.binary(min_size=4, max_size=4),
        st.lists(st.sampled_from([b"\0\0", b"\0\1", b"\x20\1"]), min_size=8, max_size=8).map(b"".join),
    )
)
def test_writes_what_ipaddress_writes(octets):
    assert format_address(octets) == str(ipaddress.ip_address(octets))


@given(st.binary(min_size=16, max_size=16))
def test_what_is_written_can_be_read(octets):
    assert parse_address(format_address(octets)) == octets


@pytest.mark.parametrize("octets", [b"", b"abc", bytes(15), bytes(17)])
def test_other_lengths_are_no_addresses(octets):
    with pytest.raises(ValueError, match="packed"):
        format_address(octets)


def test_mapped_addresses_look_the_same_in_every_version_of_python():
    assert format_address(bytes(10) + b"\xff\xff\1\2\3\4") == "::ffff:102:304"
