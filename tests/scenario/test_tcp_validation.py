"""What is not to be believed: RFC 5961; RFC 9293 sections 3.4, 3.10.7.4; RFC 7323 section 5."""

from __future__ import annotations

import pytest

from netstack.core.drops import DropReason
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, URG
from netstack.tcp import Closed, EndOfStream, Reset, State
from netstack.testing.builders import ack, after, data, fin, rst, segment, syn, write
from netstack.testing.checkers import acks, anything, becomes, drop, hears, nothing, sends, tells
from netstack.testing.playbook import established

BAD_ACK, BAD_RST, BAD_FLAGS = DropReason.TCP_BAD_ACK, DropReason.TCP_BAD_RST, DropReason.TCP_BAD_FLAGS
OUTSIDE, PAWS = DropReason.TCP_OUT_OF_WINDOW, DropReason.TCP_PAWS


def test_established_rst_exact_resets() -> None:
    established()(rst(seq=1) >> nothing >> tells(Reset, Closed) >> becomes(State.CLOSED))


def test_established_rst_with_ack_exact_resets() -> None:
    established()(segment(RST | ACK, seq=1) >> nothing >> tells(Reset, Closed))


@pytest.mark.parametrize("seq", [2, 1000, 65535])
def test_established_rst_in_window_is_challenged(seq: int) -> None:
    established()(
        rst(seq=seq) >> drop(BAD_RST) >> acks(1, seq=1) >> tells() >> becomes(State.ESTABLISHED),
        rst(seq=1) >> tells(Reset, Closed),  # what a true app answers to the challenge
    )


@pytest.mark.parametrize("seq", [0, -5, 65537, 200_000, 0x7FFFFFF0])
def test_established_rst_outside_window_is_ignored(seq: int) -> None:
    established()(rst(seq=seq) >> drop(BAD_RST) >> nothing >> becomes(State.ESTABLISHED))


@pytest.mark.parametrize("seq", [0, 1, 5000, 500_000])
def test_established_syn_is_challenged(seq: int) -> None:
    established()(syn(seq=seq) >> drop(BAD_FLAGS) >> acks(1, seq=1) >> becomes(State.ESTABLISHED))


def test_established_syn_ack_is_challenged() -> None:
    established()(segment(SYN | ACK, seq=0, ack=1) >> drop(BAD_FLAGS) >> acks(1, seq=1))


def test_established_challenges_are_limited_and_come_back() -> None:
    play = established()
    for _ in range(10):
        play(rst(seq=9) >> drop(BAD_RST) >> acks(1))
    play(
        rst(seq=9) >> drop(BAD_RST) >> drop(DropReason.TCP_CHALLENGE_LIMITED) >> nothing,
        rst(seq=9, after=1.1) >> drop(BAD_RST) >> acks(1),
    )


def test_established_ack_of_unsent_data_is_answered_and_dropped() -> None:
    established()(
        ack(2) >> drop(BAD_ACK) >> acks(1, seq=1),
        data(b"lie", ack=500) >> drop(BAD_ACK) >> hears(b"") >> acks(1, seq=1),
    )


def test_established_ack_from_before_any_window_is_challenged() -> None:
    established()(ack(-200_000) >> drop(BAD_ACK) >> acks(1), ack(0) >> nothing)


@pytest.mark.parametrize("seq", [65537, 100_000])
def test_established_data_beyond_window_is_acked_and_dropped(seq: int) -> None:
    established()(data(b"far", seq=seq) >> drop(OUTSIDE) >> hears(b"") >> acks(1))


def test_established_data_across_the_right_edge_is_trimmed() -> None:
    play = established(stalled=True)
    play(
        data(bytes(65_000)) >> hears(bytes(65_000)) >> acks(65_001, win=535),
        data(b"y" * 1000) >> hears(b"y" * 535) >> drop(OUTSIDE) >> acks(65_536, win=0),
    )


def test_established_old_data_is_acked_not_delivered() -> None:
    established()(
        data(b"hello") >> hears(b"hello") >> acks(6),
        data(b"hello", seq=1) >> hears(b"") >> acks(6),
    )


def test_established_overlapping_data_is_trimmed_in_front() -> None:
    established()(
        data(b"hello") >> acks(6),
        data(b"lo world", seq=4) >> hears(b" world") >> acks(12),
    )


def test_established_keepalive_is_answered() -> None:
    established()(
        data(b"x") >> acks(2),
        ack(seq=1) >> acks(2, seq=1),
        segment(ACK, seq=1, payload=b"\0") >> hears(b"") >> acks(2, seq=1),
    )


@pytest.mark.parametrize("flags", [0, FIN, PSH, FIN | PSH | URG, URG])
def test_established_segment_without_ack_is_dropped(flags: int) -> None:
    established()(segment(flags, seq=1) >> drop(DropReason.TCP_NO_ACK) >> nothing >> becomes(State.ESTABLISHED))


@pytest.mark.parametrize("flags", [SYN | FIN, SYN | FIN | ACK, SYN | RST, SYN | FIN | RST | ACK, 0xFF])
def test_established_impossible_flags_are_dropped(flags: int) -> None:
    established()(segment(flags, seq=1) >> drop(BAD_FLAGS) >> nothing >> becomes(State.ESTABLISHED))


def test_established_urgent_data_is_delivered_inline() -> None:
    established()(segment(ACK | PSH | URG, payload=b"!") >> hears(b"!") >> acks(2))


def test_established_old_timestamp_is_acked_and_dropped() -> None:
    established(ts=5000)(
        data(b"one") >> hears(b"one") >> acks(4),
        data(b"two", ts=(4000, 0)) >> drop(PAWS) >> hears(b"") >> acks(4),
        data(b"two", seq=4) >> hears(b"two") >> acks(7),
    )


def test_established_old_timestamp_on_rst_still_resets() -> None:
    established(ts=5000)(rst(seq=1, ts=(1, 0)) >> tells(Reset, Closed))


def test_established_timestamp_wraps() -> None:
    established(ts=0xFFFFFFFF - 40)(
        data(b"one") >> acks(4),
        data(b"two", after=0.1) >> hears(b"two") >> acks(7),
    )


def test_established_old_timestamp_after_24_days_is_believed() -> None:
    play = established(ts=5000)
    play.now += 25 * 86_400.0
    play(data(b"late", ts=(4000, 0)) >> hears(b"late") >> anything)


def test_established_timestamp_missing_is_forgiven() -> None:
    established(ts=5000)(data(b"bare", ts=False) >> hears(b"bare") >> acks(5))


def test_established_timestamps_are_echoed() -> None:
    established(ts=5000)(
        data(b"one", ts=(6000, 0)) >> acks(4, options={"timestamps": _Echo(6000)}),
        data(b"three", seq=7, ts=(6001, 0)) >> acks(4, options={"timestamps": _Echo(6000)}),
        data(b"two", seq=4, ts=(6002, 0)) >> acks(12, options={"timestamps": _Echo(6002)}),
    )


class _Echo:
    """Equal to any timestamps with this echo."""

    def __init__(self, echo: int) -> None:
        self.echo = echo

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and other[1] == self.echo

    def __repr__(self) -> str:
        return f"(any, {self.echo})"


def test_close_wait_data_after_fin_is_not_delivered() -> None:
    established()(
        fin(b"last") >> hears(b"last") >> tells(EndOfStream) >> acks(6),
        data(b"more", seq=6) >> hears(b"") >> drop(OUTSIDE) >> acks(6),
        data(b"t", seq=4) >> hears(b"") >> acks(6),
    )


def test_close_wait_second_fin_is_acked_again() -> None:
    established()(
        fin() >> acks(2) >> tells(EndOfStream),
        fin(seq=1) >> acks(2) >> tells() >> becomes(State.CLOSE_WAIT),
    )


def test_established_fin_beyond_window_is_acked_and_dropped() -> None:
    established()(fin(seq=90_000) >> drop(OUTSIDE) >> acks(1) >> becomes(State.ESTABLISHED))


def test_established_probe_answered_while_data_is_in_flight_keeps_the_flight() -> None:
    established()(
        write(b"x" * 100) >> sends(100),
        ack(1, seq=0) >> acks(1, seq=101),
        ack(101) >> nothing,
        after(20.0) >> nothing,
    )
