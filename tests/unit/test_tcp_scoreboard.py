from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstack.tcp.scoreboard import Scoreboard


def board(*blocks: tuple[int, int], una: int = 0, nxt: int = 1000) -> Scoreboard:
    made = Scoreboard()
    made.add(blocks, una, nxt)
    return made


def test_blocks_are_sorted_and_merged() -> None:
    made = board((300, 400), (100, 200), (150, 320), (600, 700))
    assert made.ranges == [(100, 400), (600, 700)]
    assert made.octets == 400


def test_only_news_count() -> None:
    made = board((100, 200))
    assert made.add([(100, 200)], 0, 1000) == 0
    assert made.add([(150, 260)], 0, 1000) == 60


def test_impossible_blocks_are_passed_over() -> None:
    assert board((200, 100), (0, 50), (900, 1001), (-50, -10)).ranges == []


def test_what_lies_under_three_ranges_is_lost() -> None:
    made = board((100, 110), (200, 210), (300, 310))
    assert made.lost_below(100) == 100
    assert board((100, 110), (200, 210)).lost_below(100) == 0


def test_what_lies_under_more_than_two_segments_is_lost() -> None:
    assert board((500, 701)).lost_below(100) == 500
    assert board((500, 700)).lost_below(100) == 0


def test_the_cumulative_ack_removes_and_finds_reneging() -> None:
    made = board((100, 200), (300, 400))
    made.advance(200)
    assert made.ranges == [(300, 400)]
    made.advance(300)
    assert made.ranges == []
    assert made.octets == 0


def test_holes_in_order() -> None:
    made = board((100, 200), (300, 400))
    assert made.hole(0, 1000) == (0, 100)
    assert made.hole(100, 1000) == (200, 300)
    assert made.hole(200, 250) == (200, 250)
    assert made.hole(350, 1000) == (400, 1000)
    assert made.hole(100, 200) is None
    assert made.hole(5, 5) is None


def test_clear_forgets() -> None:
    made = board((100, 200))
    made.clear()
    assert made.ranges == []
    assert made.missing(0, 1000) == 1000


@given(
    blocks=st.lists(st.tuples(st.integers(1, 199), st.integers(1, 200)), max_size=20),
    start=st.integers(0, 200),
    stop=st.integers(0, 200),
    una=st.integers(0, 200),
)
def test_it_agrees_with_a_set_of_octets(blocks: list[tuple[int, int]], start: int, stop: int, una: int) -> None:
    made, truth = Scoreboard(), set()
    for left, right in blocks:
        news = made.add([(left, right)], 0, 200)
        fresh = set(range(left, right)) - truth
        assert news == len(fresh)
        truth |= fresh
    assert made.octets == len(truth)
    assert made.missing(start, stop) == len(set(range(start, stop)) - truth)
    hole = made.hole(start, stop)
    missing = sorted(set(range(start, stop)) - truth)
    assert (hole[0] if hole else None) == (missing[0] if missing else None)
    assert all(left < right for left, right in made.ranges)
    assert all(a[1] < b[0] for a, b in zip(made.ranges, made.ranges[1:], strict=False))
