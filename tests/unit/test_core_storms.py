"""Storms of refusals are noticed, and their end too."""

from netstack.core.storms import LEVEL_MOST, MOST, WINDOW, StormGauge


def hits(gauge: StormGauge, count: int, start: float, key: bytes = b"a") -> list[tuple[int, bool]]:
    return [gauge.hit(key, start + number * 0.01) for number in range(count)]


def test_it_rises_once_for_each_window_and_ends_with_a_calm_one() -> None:
    gauge = StormGauge(5)
    assert hits(gauge, 4, 0.0) == [(0, False)] * 4
    assert gauge.hit(b"a", 1.0) == (1, True)
    assert hits(gauge, 50, 2.0) == [(1, False)] * 50
    assert gauge.hit(b"a", WINDOW) == (1, False), "nobody knows yet whether it goes on"
    assert hits(gauge, 4, WINDOW)[-1] == (2, True)
    hits(gauge, 2, 2 * WINDOW)
    assert gauge.hit(b"a", 3 * WINDOW) == (0, False)


def test_a_pause_ends_it() -> None:
    gauge = StormGauge(5)
    assert hits(gauge, 9, 0.0)[-1] == (1, False)
    assert gauge.hit(b"a", 2 * WINDOW) == (0, False)


def test_others_are_not_concerned_and_the_table_is_bounded() -> None:
    gauge = StormGauge(2)
    hits(gauge, 3, 0.0)
    assert gauge.hit(b"b", 0.0) == (0, False)
    for number in range(3 * MOST):
        gauge.hit(number.to_bytes(4, "big"), 1.0)
    assert len(gauge) == MOST


def test_it_rises_no_further_than_its_most() -> None:
    gauge = StormGauge(1)
    assert [gauge.hit(b"a", number * WINDOW)[0] for number in range(9)][-1] == LEVEL_MOST


def test_it_can_be_off_and_forgets_when_told() -> None:
    gauge = StormGauge(0)
    assert hits(gauge, 9, 0.0) == [(0, False)] * 9 and not len(gauge)
    gauge.reconfigure(1)
    assert gauge.hit(b"a", 0.0) == (1, True)
    gauge.clear()
    assert not len(gauge)
