"""The end of a connection: RFC 9293 sections 3.6, 3.10.4, 3.10.7.4; RFC 1122 section 4.2.2.13; RFC 6191."""

from __future__ import annotations

import pytest

from netstack.config import TcpConfig
from netstack.core.drops import DropReason
from netstack.core.packet import ACK, SYN
from netstack.tcp import Closed, EndOfStream, Reset, State, TimedOut
from netstack.testing.builders import abort, ack, after, close, data, fin, make_segment, rst, syn, write
from netstack.testing.checkers import acks, anything, becomes, drop, hears, nothing, resets, sends, sends_fin, tells
from netstack.testing.playbook import Playbook, established


def test_established_app_ends_first() -> None:
    established()(
        fin() >> acks(2, seq=1) >> tells(EndOfStream) >> becomes(State.CLOSE_WAIT),
        close() >> sends_fin(seq=1, ack=2) >> becomes(State.LAST_ACK),
        ack(2) >> nothing >> tells(Closed) >> becomes(State.CLOSED),
        after(1000.0) >> nothing,
    )


def test_established_server_ends_first() -> None:
    established()(
        close() >> sends_fin(seq=1, ack=1) >> becomes(State.FIN_WAIT_1),
        ack(2) >> nothing >> becomes(State.FIN_WAIT_2),
        fin() >> acks(2, seq=2) >> tells(EndOfStream) >> becomes(State.TIME_WAIT),
        after(9.9) >> nothing >> tells(),
        after(0.2) >> nothing >> tells(Closed) >> becomes(State.CLOSED),
    )


def test_fin_wait_1_fin_with_ack_goes_to_time_wait() -> None:
    established()(
        close() >> sends_fin(),
        fin(ack=2) >> acks(2) >> tells(EndOfStream) >> becomes(State.TIME_WAIT),
    )


def test_fin_wait_1_fin_without_ack_of_ours_is_a_simultaneous_close() -> None:
    established()(
        close() >> sends_fin(seq=1),
        fin(ack=1) >> acks(2, seq=2) >> tells(EndOfStream) >> becomes(State.CLOSING),
        ack(2, seq=2) >> nothing >> becomes(State.TIME_WAIT),
        after(11.0) >> tells(Closed),
    )


def test_close_wait_data_still_flows_to_the_app() -> None:
    established()(
        fin(b"request") >> hears(b"request") >> tells(EndOfStream) >> acks(9),
        write(b"x" * 5000) >> sends(5000, seq=1, ack=9),
        ack(5001) >> nothing,
        write(b"y") >> sends(1, seq=5001),
        close() >> sends_fin(seq=5002),
        ack(5003) >> tells(Closed),
    )


def test_fin_wait_2_data_from_the_app_is_still_delivered() -> None:
    established()(
        close() >> sends_fin(seq=1),
        ack(2) >> nothing >> becomes(State.FIN_WAIT_2),
        data(b"goes on") >> hears(b"goes on") >> acks(8, seq=2),
        fin(b"!") >> hears(b"!") >> tells(EndOfStream) >> acks(10) >> becomes(State.TIME_WAIT),
    )


def test_fin_wait_1_data_from_the_app_is_still_delivered() -> None:
    established()(
        close() >> sends_fin(seq=1),
        data(b"goes on", ack=1) >> hears(b"goes on") >> acks(8) >> becomes(State.FIN_WAIT_1),
    )


def test_established_close_sends_what_was_written_first() -> None:
    established()(
        write(b"x" * 20_000) >> sends(14_600),
        close() >> nothing >> becomes(State.FIN_WAIT_1),
        ack(14_601) >> sends_fin(5_400, seq=14_601),
        ack(20_002) >> nothing >> becomes(State.FIN_WAIT_2),
    )


def test_fin_wait_1_write_takes_nothing() -> None:
    play = established()
    play(close() >> sends_fin())
    assert play.connection.write(b"late") == 0
    assert play.connection.send_space == 0


def test_fin_wait_1_lost_fin_is_sent_again() -> None:
    established()(
        close() >> sends_fin(seq=1),
        after(0.25) >> sends_fin(seq=1),
        after(0.45) >> sends_fin(seq=1),
        ack(2) >> nothing >> becomes(State.FIN_WAIT_2),
        after(5.0) >> nothing,
    )


def test_last_ack_lost_fin_is_sent_again() -> None:
    established()(
        fin() >> acks(2),
        close() >> sends_fin(seq=1),
        after(0.25) >> sends_fin(seq=1),
        ack(2) >> tells(Closed),
    )


def test_fin_wait_1_fin_never_answered_gives_up() -> None:
    established(TcpConfig(retries=3))(
        close() >> sends_fin(),
        after(10.0) >> sends_fin() >> sends_fin() >> sends_fin() >> resets() >> tells(TimedOut, Closed),
    )


def test_fin_wait_1_lost_data_and_fin_are_sent_again_together() -> None:
    established()(
        write(b"tail") >> sends(4),
        close() >> sends_fin(seq=5),
        after(0.25) >> sends_fin(4, seq=1, payload=b"tail"),
        ack(6) >> becomes(State.FIN_WAIT_2),
    )


def test_time_wait_fin_again_is_acked_and_restarts_the_wait() -> None:
    established()(
        close() >> sends_fin(),
        fin(ack=2) >> acks(2) >> becomes(State.TIME_WAIT),
        fin(seq=1, ack=2, after=9.0) >> acks(2),
        after(9.0) >> tells() >> becomes(State.TIME_WAIT),
        after(1.5) >> tells(Closed),
    )


def test_time_wait_rst_ends_it() -> None:
    established()(
        close() >> sends_fin(),
        fin(ack=2) >> anything,
        rst(seq=2) >> tells(Reset, Closed),
    )


def test_time_wait_new_syn_may_replace_it() -> None:
    play = established()
    play(close() >> sends_fin(), fin(ack=2) >> anything >> becomes(State.TIME_WAIT))
    key = play.connection.key
    for seq in (play.irs + 1000, play.irs - 1000):
        assert play.connection.can_be_replaced_by(make_segment(key, seq, flags=SYN), play.now)
    assert not play.connection.can_be_replaced_by(make_segment(key, play.irs, flags=SYN), play.now)
    assert not play.connection.can_be_replaced_by(make_segment(key, play.irs + 1000, flags=SYN | ACK), play.now)


def test_established_new_syn_does_not_replace_it() -> None:
    play = established()
    assert not play.connection.can_be_replaced_by(make_segment(play.connection.key, 5, flags=SYN), play.now)


@pytest.mark.parametrize("ending", ["last-ack", "closing"])
def test_closing_states_new_syn_may_replace_them(ending: str) -> None:
    play = established()
    if ending == "last-ack":
        play(fin() >> acks(2), close() >> sends_fin())
    else:
        play(close() >> sends_fin(), fin(ack=1) >> acks(2))
    assert play.connection.can_be_replaced_by(make_segment(play.connection.key, 5, flags=SYN), play.now)


def test_closed_new_syn_may_replace_it() -> None:
    play = established()
    play(rst(seq=1) >> anything)
    assert play.connection.can_be_replaced_by(make_segment(play.connection.key, 5, flags=SYN), play.now)


def test_established_abort_resets_with_the_next_number() -> None:
    established()(
        write(b"x" * 100) >> sends(100),
        data(b"abc") >> acks(4),
        abort() >> resets(seq=101, ack=4) >> tells(Closed) >> becomes(State.CLOSED),
        abort() >> nothing >> tells(),
        close() >> nothing >> tells(),
        data(b"late") >> drop(DropReason.TCP_AFTER_CLOSE) >> nothing,
    )


@pytest.mark.parametrize("state", ["FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT", "LAST_ACK", "CLOSING"])
def test_every_open_state_can_be_reset_by_either_side(state: str) -> None:
    def reach() -> Playbook:
        play = established()
        if state in ("CLOSE_WAIT", "LAST_ACK"):
            play.perform(fin())
        if state != "CLOSE_WAIT":
            play.perform(close())
        if state == "FIN_WAIT_2":
            play.perform(ack(2))
        if state == "CLOSING":
            play.perform(fin(ack=1))
        assert play.connection.state.name == state
        return play

    expected = play_next = reach()
    play_next(abort() >> resets() >> tells(Closed) >> becomes(State.CLOSED))
    other = reach()
    number = 1 if state in ("FIN_WAIT_1", "FIN_WAIT_2") else 2
    other(rst(seq=number) >> nothing >> tells(Reset, Closed))
    assert expected.connection.next_timeout() is other.connection.next_timeout() is None


def test_established_fin_beyond_a_gap_waits_for_the_gap() -> None:
    established(sack=True)(
        fin(b"world", seq=6) >> hears(b"") >> tells() >> acks(1, options={"sack": ((6, 11),)}),
        data(b"hello", seq=1) >> hears(b"helloworld") >> tells(EndOfStream) >> acks(12),
    )


def test_established_bare_fin_beyond_a_gap_waits_for_the_gap() -> None:
    established()(
        fin(seq=6) >> tells() >> acks(1),
        data(b"hello", seq=1) >> hears(b"hello") >> tells(EndOfStream) >> acks(7),
    )


def test_close_wait_new_syn_is_challenged_and_reset_makes_room() -> None:
    established()(
        fin() >> acks(2),
        syn(seq=90_000) >> drop(DropReason.TCP_BAD_FLAGS) >> acks(2),
        rst(seq=2) >> tells(Reset, Closed),
    )


def test_closed_holds_nothing() -> None:
    play = established(sack=True, stalled=True)
    play(write(b"x" * 200_000) >> anything, data(b"abc", seq=10, ack=1) >> acks(1))
    assert play.connection.buffered_octets == 200_003
    play(rst(seq=1) >> tells(Reset, Closed))
    assert play.connection.buffered_octets == 0
    assert play.connection.next_timeout() is None
