from __future__ import annotations

import pytest

from netstack.core.drops import DropReason
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, SegmentRun
from netstack.tcp import Closed, Data, Established, State
from netstack.testing import checkers
from netstack.wire.tcp import emit_options

KEY = bytes(38)


def outcome(*runs: SegmentRun, octets: bytes = b"", drops: tuple[DropReason, ...] = ()) -> checkers.Outcome:
    events = [Established(), Data(octets)] if octets else [Established()]
    return checkers.Outcome(list(runs), list(events), list(drops), State.ESTABLISHED, 1000, 2000, octets)


def check(expectation: checkers.Expectation, given: checkers.Outcome) -> list[SegmentRun]:
    left = list(given.runs)
    expectation.check(given, left, list(given.drops))
    return left


def test_letters_as_tcpdump_writes_them() -> None:
    assert checkers.flag_letters(SYN | ACK) == "S."
    assert checkers.flag_letters(FIN | PSH | RST) == "FRP"


def test_a_run_is_matched_by_relative_numbers_and_taken() -> None:
    run = SegmentRun(KEY, 1001, 2005, ACK | PSH, 77, 536, b"", b"abc")
    assert check(checkers.sends(3, seq=1, ack=5, win=77, payload=b"abc"), outcome(run)) == []


@pytest.mark.parametrize(
    "expectation",
    [
        checkers.sends(4),
        checkers.sends(3, seq=2),
        checkers.sends(3, ack=6),
        checkers.sends(3, payload=b"abd"),
        checkers.sends_fin(3),
        checkers.acks(5),
        checkers.resets(),
        checkers.nothing,
        checkers.hears(b"abc"),
        checkers.tells(Closed),
        checkers.becomes(State.CLOSED),
        checkers.drop(DropReason.TCP_PAWS),
    ],
)
def test_what_does_not_match_is_said(expectation: checkers.Expectation) -> None:
    run = SegmentRun(KEY, 1001, 2005, ACK | PSH, 77, 536, b"", b"abc")
    with pytest.raises(AssertionError, match=r"expected|got"):
        check(expectation, outcome(run, octets=b"else"))


def test_a_missing_run_is_said() -> None:
    with pytest.raises(AssertionError, match="no run left"):
        check(checkers.acks(), outcome())


def test_options_are_relative_too() -> None:
    run = SegmentRun(KEY, 1001, 2001, ACK, 1, 536, emit_options(timestamps=(1, 2), sack=((2005, 2009),)))
    check(checkers.acks(1, options={"sack": ((5, 9),), "timestamps": (1, 2)}), outcome(run))
    with pytest.raises(AssertionError, match="option sack"):
        check(checkers.acks(1, options={"sack": ()}), outcome(run))


def test_anything_takes_all_runs() -> None:
    run = SegmentRun(KEY, 1001, 2001, ACK, 1)
    assert check(checkers.anything, outcome(run, run)) == []


def test_a_drop_is_taken_once() -> None:
    given = outcome(drops=(DropReason.TCP_PAWS,))
    drops = list(given.drops)
    checkers.drop(DropReason.TCP_PAWS).check(given, [], drops)
    assert drops == []


def test_an_expectation_without_a_check_is_no_expectation() -> None:
    with pytest.raises(NotImplementedError):
        check(checkers.Expectation(), outcome())
