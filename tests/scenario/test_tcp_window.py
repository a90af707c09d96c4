"""Flow control: RFC 9293 section 3.8.6; RFC 7323 section 2; RFC 1122 section 4.2.3.6 (keep-alive)."""

from __future__ import annotations

import pytest

from netstack.config import TcpConfig
from netstack.core.drops import DropReason
from netstack.tcp import Closed, SendSpace, State, TimedOut
from netstack.testing.builders import ack, after, close, consume, data, limit, write
from netstack.testing.checkers import acks, anything, becomes, drop, hears, nothing, resets, sends, sends_fin, tells
from netstack.testing.playbook import established

# --- the app's window ---


def test_established_window_of_the_app_is_obeyed() -> None:
    established(win=3000)(
        write(bytes(10_000)) >> sends(2920, seq=1),
        ack(2921) >> sends(2920, seq=2921),
    )


def test_established_window_smaller_than_a_segment_is_used() -> None:
    established(win=1000)(write(bytes(3000)) >> sends(1000), ack(1001) >> sends(1000), ack(2001) >> sends(1000))


def test_established_scaled_window_is_used() -> None:
    established(TcpConfig(initial_cwnd=40), wscale=7, win=256)(
        write(bytes(100_000)) >> sends(32_120, seq=1),  # 256 << 7 = 32,768 holds 22 whole segments
    )


@pytest.mark.parametrize(("wscale", "shift"), [(0, 0), (14, 14), (15, 14), (255, 14)])
def test_listen_window_scale_is_at_most_14(wscale: int, shift: int) -> None:
    assert established(wscale=wscale, win=100).connection.snd_wnd == 100 << shift


def test_established_window_is_not_scaled_when_the_app_did_not_offer() -> None:
    play = established(win=256)
    assert play.connection.snd_wnd == 256
    play(data(b"x") >> acks(2, win=65_534))


def test_established_zero_window_is_probed_and_opens() -> None:
    established()(
        ack(1, win=0) >> nothing,
        write(b"hello") >> nothing,
        after(0.3) >> acks(1, seq=0),
        ack(1, win=0) >> nothing,
        after(0.5) >> acks(1, seq=0),
        ack(1, win=1000) >> sends(5, seq=1),
        ack(6) >> nothing,
        after(10.0) >> nothing,
    )


def test_established_zero_window_is_probed_for_ever_while_the_app_answers() -> None:
    play = established(TcpConfig(retries=5, rto_max=5.0))
    play(ack(1, win=0), write(b"hello"))
    for _ in range(20):
        play(after(5.0) >> anything, ack(1, win=0) >> nothing)
    play(ack(1, win=100) >> sends(5))


def test_established_zero_window_probes_never_answered_give_up() -> None:
    established(TcpConfig(retries=3))(
        ack(1, win=0),
        write(b"hello") >> nothing,
        after(60.0) >> acks(seq=0) >> acks(seq=0) >> acks(seq=0) >> resets() >> tells(TimedOut, Closed),
    )


def test_established_window_shut_with_data_in_flight_keeps_the_timer() -> None:
    established(TcpConfig(retries=3, rto_max=1.0))(
        write(b"a" * 100) >> sends(100),
        ack(51, win=0) >> nothing,
        after(0.3) >> sends(50, seq=51),
        ack(51, win=0) >> nothing,
        after(1.0) >> anything,
        ack(51, win=0) >> nothing,  # alive: the count of retransmissions begins again
        after(2.0) >> anything,
        ack(101, win=1000) >> nothing >> becomes(State.ESTABLISHED),
    )


def test_established_window_taken_back_is_respected() -> None:
    established(win=20_000)(
        write(bytes(20_000)) >> sends(14_600, seq=1),
        ack(1461, win=2000) >> nothing,
        ack(14_601, win=2000) >> sends(1460, seq=14_601),
    )


def test_established_little_window_is_used_after_a_while() -> None:
    established()(
        ack(1, win=500) >> nothing,
        write(bytes(5000)) >> nothing,
        after(0.15) >> nothing,
        after(0.1) >> sends(500, seq=1),
    )


def test_established_old_segment_does_not_set_the_window() -> None:
    play = established()
    play(data(b"abc") >> anything, data(b"def") >> anything, ack(1, seq=4, win=7) >> acks(7))
    assert play.connection.snd_wnd == 65_535


def test_fin_wait_1_fin_leaves_although_the_window_is_shut() -> None:
    established()(ack(1, win=0), close() >> sends_fin(seq=1) >> becomes(State.FIN_WAIT_1))


def test_established_write_is_bounded_and_space_is_announced() -> None:
    play = established(TcpConfig(send_buffer=10_000), win=4000)
    assert play.connection.write(bytes(15_000)) == 10_000
    assert play.connection.write(b"x") == 0
    play(after(0) >> sends(2920))
    assert play.connection.send_space == 0
    play(
        ack(1461) >> anything >> tells(),
        ack(2921) >> anything >> tells(SendSpace),
        ack(2921 + 1460) >> anything >> tells(),
    )
    assert play.connection.send_space == 4380


# --- our window ---


def test_established_unread_data_closes_the_window() -> None:
    established(TcpConfig(window=10_000), stalled=True)(
        data(bytes(6000)) >> acks(6001, win=4000),
        data(bytes(4000)) >> acks(10_001, win=0),
        data(b"x") >> hears(b"") >> drop(DropReason.TCP_OUT_OF_WINDOW) >> acks(10_001, win=0),
    )


def test_established_window_opens_again_by_more_than_a_bit() -> None:
    established(TcpConfig(window=10_000), stalled=True)(
        data(bytes(10_000)) >> acks(10_001, win=0),
        consume(1000) >> nothing,
        consume(459) >> nothing,
        consume(1) >> acks(10_001, win=1460),
        consume(1000) >> nothing,
        consume(7540) >> acks(10_001, win=10_000),
    )


def test_established_ack_arriving_at_a_shut_window_counts() -> None:
    established(TcpConfig(window=10_000), stalled=True)(
        write(b"answer") >> sends(6),
        data(bytes(10_000), ack=1) >> acks(10_001, win=0),
        data(b"x", ack=7) >> hears(b"") >> drop(DropReason.TCP_OUT_OF_WINDOW) >> acks(10_001, seq=7),
        after(5.0) >> nothing,
    )


def test_established_window_right_edge_never_moves_left_when_the_limit_falls() -> None:
    established(TcpConfig(window=40_000), stalled=True)(
        limit(5_000) >> nothing,
        data(bytes(10_000)) >> hears(bytes(10_000)) >> acks(10_001, win=30_000),
        data(bytes(30_000)) >> hears(bytes(30_000)) >> acks(40_001, win=0),
        consume(35_000) >> nothing,
        consume(5_000) >> acks(40_001, win=5_000),
    )


def test_established_window_grows_with_the_limit() -> None:
    established(TcpConfig(window=20_000), wscale=7)(
        limit(400_000) >> acks(1, win=25_000),
        data(bytes(60_000)) >> acks(60_001, win=25_000),
    )


def test_established_limit_beyond_the_scale_is_cut() -> None:
    play = established()
    play(limit(1_000_000) >> anything)
    assert play.connection.rcv_wnd == 65_535


def test_established_consuming_too_much_is_refused() -> None:
    play = established(stalled=True)
    play(data(b"abc") >> anything)
    with pytest.raises(ValueError, match="consumed"):
        play.connection.consumed(4, play.now)


# --- silence ---


def test_established_silent_app_is_probed_and_stays() -> None:
    play = established(TcpConfig(keepalive=100.0))
    play(
        data(b"x", after=50.0) >> acks(2),
        after(99.0) >> nothing,
        after(2.0) >> acks(2, seq=0),
        ack(seq=2) >> nothing,
        after(90.0) >> nothing,
        after(20.0) >> acks(2, seq=0),
    )


def test_established_app_that_is_gone_ends_after_nine_probes() -> None:
    play = established(TcpConfig(keepalive=100.0))
    outcome = play.perform(after(100.0 + 9 * 75.0 + 1.0))
    assert len(outcome.runs) == 10
    assert [type(event) for event in outcome.events] == [TimedOut, Closed]


def test_established_no_keepalive_when_configured_so() -> None:
    established(TcpConfig(keepalive=0.0))(after(100_000.0) >> nothing)
