from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.core.seq import MASK
from netstack.tcp.receiver import MAX_RANGES, Receiver


def receiver(limit: int = 1000, irs: int = 0xFFFFFFF0, mss: int = 100) -> Receiver:
    made = Receiver(limit, mss)
    made.begin(irs)
    return made


def test_positions_go_on_beyond_the_wrap() -> None:
    made = receiver()
    assert made.position((made.nxt + 50) & MASK) == made.nxt + 50
    assert made.position((made.nxt - 50) & MASK) == made.nxt - 50


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, True),
        (1000, 0, True),
        (1001, 0, False),
        (-1, 0, False),
        (999, 1, True),
        (1000, 1, False),
        (-5, 5, False),
        (-5, 6, True),
    ],
)
def test_acceptable(offset: int, length: int, expected: bool) -> None:
    made = receiver()
    assert made.is_acceptable(made.nxt + offset, length) is expected


def test_order_is_restored() -> None:
    made = receiver()
    base = made.nxt
    assert made.take(base + 3, b"def") == ([], True)
    assert made.reassembly_octets == 3
    ready, kept = made.take(base, b"abc")
    assert b"".join(ready) == b"abcdef"
    assert kept
    assert made.nxt == base + 6
    assert made.held == 6
    assert made.ranges is None


def test_ranges_have_a_cap_and_contiguous_octets_share_one() -> None:
    made = receiver(limit=100_000)
    base = made.nxt
    for at in range(MAX_RANGES):
        assert made.take(base + 10 + 2 * at, b"x")[1]
    assert made.take(base + 5, b"x") == ([], False)
    assert made.take(base + 11, b"y") == ([], True)
    assert made.ranges is not None
    assert len(made.ranges) == MAX_RANGES - 1


def test_window_is_what_is_left_of_the_limit() -> None:
    made = receiver()
    assert made.window_field() == 1000
    made.take(made.nxt, bytes(400))
    assert made.window_field() == 600
    assert not made.consumed(50)
    assert made.window_field() == 600
    made.consumed(350)
    assert made.window_field() == 1000


def test_a_shut_window_asks_for_an_update() -> None:
    made = receiver()
    made.take(made.nxt, bytes(1000))
    assert made.window_field() == 0
    assert not made.consumed(99)
    assert made.consumed(1)


def test_consuming_more_than_was_delivered_is_an_error() -> None:
    with pytest.raises(ValueError, match="consumed"):
        receiver().consumed(1)


def test_sack_blocks_are_at_most_as_many_as_fit() -> None:
    made = receiver()
    for at in (10, 20, 30, 40, 50):
        made.take(made.nxt + at, b"x")
    base = made.nxt
    assert made.sack_blocks(3) == tuple(((base + at) & MASK, (base + at + 1) & MASK) for at in (50, 40, 30))


def test_release_holds_nothing() -> None:
    made = receiver()
    made.take(made.nxt + 5, b"x")
    made.release()
    assert made.reassembly_octets == 0


@given(seed=st.integers(0, 2**32), size=st.integers(1, 600), scale=st.integers(0, 5))
def test_any_order_and_overlap_gives_the_text(seed: int, size: int, scale: int) -> None:
    source = random.Random(seed)
    text = source.randbytes(size)
    made = receiver(limit=700)
    made.scale = scale
    base, got = made.nxt, bytearray()
    pieces = [(at, min(size, at + source.randint(1, 60))) for at in range(0, size, 20)]
    pieces += [(at, min(size, at + 20)) for at in range(0, size, 20)]
    source.shuffle(pieces)
    edge = base
    for start, stop in pieces:
        ready, kept = made.take(base + start, text[start:stop])
        assert kept
        for octets in ready:
            got += octets
            if source.random() < 0.5:
                made.consumed(len(octets))
        told = made.nxt + (made.window_field() << scale)
        assert told >= edge
        edge = told
        assert made.edge <= base + size + 700 + 4096
    assert bytes(got) == text
    assert made.ranges is None
