"""The Internet checksum against the loop of RFC 1071, and the two kinds of zero."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.wire.checksum import (
    checksum,
    is_transport_valid,
    is_valid,
    partial_sum,
    pseudo_sum,
    residue,
    transport_checksum,
)


def by_loop(octets: bytes) -> int:
    """RFC 1071 section 4.1, word by word with end-around carry."""
    total = 0
    for at in range(0, len(octets), 2):
        total += octets[at] << 8 | (octets[at + 1] if at + 1 < len(octets) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=200))
def test_a_checksum_is_that_of_the_loop(octets: bytes) -> None:
    assert checksum(octets) == 0xFFFF - by_loop(octets)
    assert partial_sum(octets) == by_loop(octets) % 65535


@pytest.mark.parametrize("size", [512, 513, 600, 1480, 1481, 1535, 1536, 1537, 9000, 65_535])
def test_long_numbers_are_folded_to_the_same(size: int) -> None:
    for fill in (random.Random(size).randbytes(size), b"\xff" * size, bytes(size - 1) + b"\1"):
        assert checksum(fill) == 0xFFFF - by_loop(fill)


def test_the_example_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_zero_has_two_forms() -> None:
    assert checksum(bytes(20)) == 0xFFFF
    assert checksum(b"\xff\xff") == 0
    assert not is_valid(bytes(20))  # a header of nothing but zeros holds the wrong form
    assert is_valid(b"\xff\xff")
    assert residue(0) == residue(65535) == 0


@given(st.binary(min_size=2, max_size=99))
def test_octets_with_their_checksum_are_valid(octets: bytes) -> None:
    whole = bytearray(octets)
    whole[0:2] = b"\0\0"
    whole[0:2] = checksum(whole).to_bytes(2, "big")
    assert is_valid(whole)
    whole[0] ^= 0x40
    assert not is_valid(whole)


@given(st.binary(min_size=2, max_size=99), st.sampled_from((4, 16)))
def test_the_pseudo_header_counts(octets: bytes, size: int) -> None:
    source, destination = bytes(range(size)), bytes(range(size, 2 * size))
    whole = b"\0\0" + octets[2:]
    total = transport_checksum(source, destination, 17, whole)
    sent = total.to_bytes(2, "big") + whole[2:]
    assert is_transport_valid(source, destination, 17, sent)
    assert not is_transport_valid(source, destination, 6, sent)
    assert not is_transport_valid(source, destination[:-1] + b"\xfe", 17, sent)
    assert pseudo_sum(source, destination, 17, 3) == pseudo_sum(destination, source, 17, 3)
