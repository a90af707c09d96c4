from __future__ import annotations

import pytest

from netstack.tcp.timers import NEVER, RetransmissionTimer


def timer() -> RetransmissionTimer:
    return RetransmissionTimer(1.0, 0.2, 60.0)


def test_the_first_measurement_sets_both() -> None:
    clock = timer()
    clock.measured(0.4)
    assert clock.srtt == 0.4
    assert clock.rttvar == 0.2
    assert clock.rto == pytest.approx(1.2)


def test_later_measurements_are_smoothed() -> None:
    clock = timer()
    clock.measured(0.4)
    clock.measured(0.8)
    assert clock.srtt == pytest.approx(0.45)
    assert clock.rttvar == pytest.approx(0.25)


def test_the_minimum_and_the_maximum_hold() -> None:
    clock = timer()
    for _ in range(50):
        clock.measured(0.001)
    assert clock.rto == 0.2
    clock.measured(1000.0)
    assert clock.rto == 60.0


def test_back_off_doubles_up_to_the_maximum() -> None:
    clock = timer()
    seen = []
    for _ in range(9):
        seen.append(clock.timeout)
        clock.back_off()
    assert seen == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_measurement_ends_the_back_off() -> None:
    clock = timer()
    clock.back_off()
    clock.measured(0.1)
    assert clock.timeout == clock.rto == pytest.approx(0.3)


def test_a_measurement_of_nothing_counts_as_one() -> None:
    clock = timer()
    clock.measured(0.0)
    assert clock.srtt > 0
    assert clock.rto == 0.2


def test_never_is_later_than_any_deadline() -> None:
    assert min(NEVER, 1e300) == 1e300
