"""Loss and order: RFC 9293 section 3.8.1, RFC 6298, 5681, 6582, 6675, 3042, 2018, 2883."""

from __future__ import annotations

import random

import pytest

from netstack.config import TcpConfig
from netstack.core.drops import DropReason
from netstack.core.packet import FIN
from netstack.tcp import Closed, State, TimedOut
from netstack.testing.builders import Arriving, ack, after, close, data, fin, write
from netstack.testing.checkers import acks, anything, becomes, drop, hears, nothing, resets, sends, sends_fin, tells
from netstack.testing.playbook import Playbook, established

MSS = 1000


def flight(segments: int = 10, *, sack: bool = False, cwnd: int = 10) -> Playbook:
    """Established, with so many segments of 1,000 octets in flight."""
    play = established(TcpConfig(initial_cwnd=cwnd), mss=MSS, sack=sack)
    play(write(bytes(MSS * segments)) >> sends(MSS * segments, seq=1))
    return play


# --- towards the app: retransmission ---


def test_established_unacked_data_is_sent_again_with_back_off() -> None:
    established()(
        write(b"ping") >> sends(4, seq=1),
        after(0.19) >> nothing,
        after(0.02) >> sends(4, seq=1, payload=b"ping"),
        after(0.38) >> nothing,
        after(0.04) >> sends(4, seq=1),
        after(0.8) >> sends(4, seq=1),
        ack(5) >> nothing,
        after(30.0) >> nothing,
    )


def test_established_app_that_is_gone_is_given_up() -> None:
    established(TcpConfig(retries=3))(
        write(b"ping") >> sends(4),
        after(60.0) >> sends(4) >> sends(4) >> sends(4) >> resets(seq=5) >> tells(TimedOut, Closed),
    )


def test_established_time_out_sends_one_segment_then_slow_starts() -> None:
    flight()(
        after(0.25) >> sends(MSS, seq=1),
        ack(1 + MSS) >> sends(2 * MSS, seq=1 + MSS),
        ack(1 + 3 * MSS) >> sends(3 * MSS, seq=1 + 3 * MSS),
        ack(1 + 10 * MSS) >> nothing,
        after(10.0) >> nothing,
    )


def test_established_time_out_forgets_nothing_that_was_sacked() -> None:
    flight(5, sack=True)(
        ack(1, sack=((1 + MSS, 1 + 2 * MSS),)) >> nothing,
        after(0.25) >> sends(MSS, seq=1),
        ack(1 + 2 * MSS) >> sends(2 * MSS, seq=1 + 2 * MSS),
    )


def test_established_three_duplicate_acks_retransmit_before_the_time_out() -> None:
    flight()(
        ack(1) >> nothing,
        ack(1) >> nothing,
        ack(1) >> sends(MSS, seq=1),
        ack(1) >> nothing,
        ack(1 + 10 * MSS) >> nothing,
        after(5.0) >> nothing,
    )


def test_established_duplicate_acks_with_another_window_do_not_count() -> None:
    play = flight()
    for win in (65_000, 64_000, 63_000, 62_000):
        play(ack(1, win=win) >> nothing)


def test_established_acks_with_data_are_not_duplicates() -> None:
    play = flight()
    for at in range(4):
        play(data(b"a", ack=1) >> acks(2 + at))


def test_established_partial_ack_without_sack_retransmits_the_next_hole() -> None:
    flight()(
        ack(1),
        ack(1),
        ack(1) >> sends(MSS, seq=1),
        ack(1 + 4 * MSS) >> sends(MSS, seq=1 + 4 * MSS),
        ack(1 + 10 * MSS) >> nothing,
    )


def test_established_limited_transmit_sends_new_data_on_the_first_duplicates() -> None:
    established(TcpConfig(initial_cwnd=4), mss=MSS)(
        write(bytes(20 * MSS)) >> sends(4 * MSS, seq=1),
        ack(1) >> sends(MSS, seq=1 + 4 * MSS),
        ack(1) >> sends(MSS, seq=1 + 5 * MSS),
        ack(1) >> sends(MSS, seq=1),
    )


def test_established_sack_shows_two_holes_and_both_are_filled() -> None:
    first, second = (1 + MSS, 1 + 4 * MSS), (1 + 5 * MSS, 1 + 10 * MSS)
    flight(sack=True)(
        ack(1, sack=(first,)) >> sends(MSS, seq=1),
        ack(1, sack=(second, first)) >> sends(MSS, seq=1 + 4 * MSS),
        ack(1 + 4 * MSS, sack=(second,)) >> nothing,
        ack(1 + 10 * MSS) >> nothing,
        after(5.0) >> nothing,
    )


def test_established_sack_that_says_little_does_not_retransmit() -> None:
    flight(sack=True)(
        ack(1, sack=((1 + MSS, 1 + 2 * MSS),)) >> nothing,
        ack(1, sack=((1 + MSS, 1 + 3 * MSS),)) >> nothing,
        ack(1, sack=((1 + MSS, 1 + 4 * MSS),)) >> sends(MSS, seq=1),
    )


def test_established_impossible_sack_blocks_are_passed_over() -> None:
    flight(sack=True)(
        ack(1, sack=((-5000, -1000), (1 + 20 * MSS, 1 + 30 * MSS), (5000, 4000))) >> nothing,
        after(0.25) >> sends(MSS, seq=1),
        ack(1 + 10 * MSS) >> nothing,
    )


def test_established_duplicate_acks_of_an_app_with_sack_but_no_blocks_count() -> None:
    flight(sack=True)(ack(1), ack(1), ack(1) >> sends(MSS, seq=1))


def test_established_loss_halves_the_window() -> None:
    play = flight(sack=True)
    play(ack(1, sack=((1 + MSS, 1 + 10 * MSS),)) >> sends(MSS, seq=1))
    assert play.connection.ssthresh == 5 * MSS
    play(ack(1 + 10 * MSS) >> nothing)
    assert play.connection.cwnd == 5 * MSS


def test_established_lost_retransmission_is_repaired_by_the_timer() -> None:
    flight(sack=True)(
        ack(1, sack=((1 + MSS, 1 + 10 * MSS),)) >> sends(MSS, seq=1),
        after(0.3) >> sends(MSS, seq=1),
        ack(1 + 10 * MSS) >> nothing,
    )


def test_established_repeated_time_out_forgets_what_was_sacked() -> None:
    flight(3, sack=True)(
        ack(1, sack=((1 + MSS, 1 + 3 * MSS),)) >> anything,
        after(1.0) >> anything,
        ack(1 + MSS) >> sends(2 * MSS, seq=1 + MSS),  # the app had reneged
    )


def test_established_retransmission_is_never_measured() -> None:
    play = established()
    play(write(b"x") >> sends(1))
    before = play.connection.srtt
    play(after(0.25) >> sends(1), ack(2, after=0.1) >> nothing)
    assert play.connection.srtt == before


def test_established_round_trip_is_measured() -> None:
    play = established()
    for at in range(40):
        play(write(b"x") >> sends(1), ack(2 + at, after=0.1) >> nothing)
    assert 0.09 < play.connection.srtt < 0.11
    assert 0.2 <= play.connection.rto < 0.3


def test_established_time_out_never_falls_below_the_minimum() -> None:
    play = established(TcpConfig(rto_min=0.5))
    for at in range(10):
        play(write(b"x") >> sends(1), ack(2 + at) >> nothing)
    assert play.connection.rto == 0.5


def test_established_super_segment_ack_opens_the_window_by_octets() -> None:
    play = flight()
    play(ack(1 + 10 * MSS, nsegs=5) >> nothing)
    assert play.connection.cwnd == 20 * MSS


# --- from the app: order ---


def test_established_data_beyond_a_gap_is_acked_at_once_with_sack() -> None:
    established(sack=True)(
        data(b"world", seq=6, push=False) >> hears(b"") >> acks(1, options={"sack": ((6, 11),)}),
        data(b"hello", seq=1, push=False) >> hears(b"helloworld") >> acks(11, options={"sack": ()}),
    )


def test_established_data_beyond_a_gap_without_sack_is_acked_once_for_each_segment() -> None:
    established()(
        data(b"b", seq=2) >> acks(1),
        data(b"cde", seq=3, nsegs=3) >> acks(1) >> acks(1) >> acks(1),
        data(b"a", seq=1) >> hears(b"abcde") >> acks(6),
    )


def test_established_sack_names_the_most_recent_block_first() -> None:
    established(sack=True)(
        data(b"c", seq=3) >> acks(1, options={"sack": ((3, 4),)}),
        data(b"g", seq=7) >> acks(1, options={"sack": ((7, 8), (3, 4))}),
        data(b"e", seq=5) >> acks(1, options={"sack": ((5, 6), (7, 8), (3, 4))}),
        data(b"d", seq=4) >> acks(1, options={"sack": ((3, 6), (7, 8))}),
        data(b"ab", seq=1) >> hears(b"abcde") >> acks(6, options={"sack": ((7, 8),)}),
        data(b"f", seq=6) >> hears(b"fg") >> acks(8, options={"sack": ()}),
    )


def test_established_sack_holds_three_blocks_beside_timestamps() -> None:
    established(sack=True, ts=1000)(
        *(data(b"x", seq=seq) >> anything for seq in (3, 5, 7)),
        data(b"x", seq=9) >> acks(1, options={"sack": ((9, 10), (7, 8), (5, 6))}),
    )


def test_established_duplicate_is_reported_with_dsack() -> None:
    established(sack=True)(
        data(b"hello") >> acks(6, options={"sack": ()}),
        data(b"hello", seq=1) >> acks(6, options={"sack": ((1, 6),)}),
        data(b"!") >> acks(7, options={"sack": ()}),
    )


def test_established_no_sack_blocks_without_permission() -> None:
    established()(data(b"world", seq=6) >> acks(1, options={"sack": ()}))


def test_established_segments_in_reverse_order_are_put_in_order() -> None:
    text = bytes(range(200))
    play = established(sack=True)
    for at in range(190, 0, -10):
        play(data(text[at : at + 10], seq=1 + at) >> hears(b"") >> acks(1))
    play(data(text[:10], seq=1) >> hears(text) >> acks(201))


def test_established_overlaps_beyond_a_gap_keep_each_octet_once() -> None:
    established(sack=True)(
        data(b"CDE", seq=3) >> anything,
        data(b"EFGH", seq=5) >> anything,
        data(b"KL", seq=11) >> anything,
        data(b"DEFGHIJK", seq=4) >> anything,
        data(b"AB", seq=1) >> hears(b"ABCDEFGHIJKL") >> acks(13),
    )


def test_established_too_many_gaps_are_refused() -> None:
    play = established(sack=True)
    for at in range(256):
        play(data(b"x", seq=3 + 2 * at) >> anything)
    play(
        data(b"x", seq=3 + 2 * 256) >> drop(DropReason.TCP_REASSEMBLY_FULL) >> acks(1),
        data(b"x", seq=4) >> acks(1),  # closes a gap: room for it
        data(b"ab", seq=1) >> hears(b"abxxx") >> anything,
    )


def test_established_contiguous_segments_beyond_a_gap_are_all_kept() -> None:
    play = established(sack=True)
    for at in range(600):
        play(data(b"xyz", seq=2 + 3 * at) >> acks(1))
    play(data(b"-", seq=1) >> hears(b"-" + b"xyz" * 600) >> acks(1802) >> becomes(State.ESTABLISHED))


def test_established_single_unpushed_segment_is_acked_a_little_later() -> None:
    established()(
        data(b"x", push=False) >> hears(b"x") >> nothing,
        after(0.05) >> acks(2),
        data(b"y", push=False) >> nothing,
        data(b"z", push=False) >> acks(4),
        data(b"abc", push=False, nsegs=3) >> acks(7),
    )


def test_established_delayed_ack_rides_on_data() -> None:
    established()(
        data(b"x", push=False) >> nothing,
        write(b"answer") >> sends(6, ack=2),
        ack(7) >> nothing,
        after(1.0) >> nothing,
    )


def test_established_ping_pong_lets_the_ack_ride_on_the_answer() -> None:
    play = established()
    for at in range(3):  # the first questions are acknowledged at once: the far end may be slow
        play(data(b"?") >> acks(2 + at), write(b"!") >> sends(1, ack=2 + at), ack(2 + at) >> nothing)
    play(
        data(b"?") >> nothing,
        write(b"!") >> sends(1, ack=5),
        ack(5) >> nothing,
        data(b"?") >> nothing,
        after(0.05) >> acks(6),  # the answer is late: back to acknowledging at once
        data(b"?") >> acks(7),
    )


def test_established_two_questions_without_an_answer_end_the_ping_pong() -> None:
    play = established()
    for at in range(3):
        play(data(b"?") >> anything, write(b"!") >> anything, ack(2 + at) >> anything)
    play(data(b"?") >> nothing, data(b"?") >> acks(6))


def test_established_no_delay_when_configured_so() -> None:
    established(TcpConfig(delayed_ack=0.0))(data(b"x", push=False) >> acks(2))


def test_established_many_segments_in_one_batch_are_acked_once() -> None:
    play = established()
    for number in range(10):
        segment = play._segment(Arriving(payload=bytes(100), seq=1 + 100 * number))
        play.connection.receive(segment, play.now)
    play(after(0.0) >> acks(1001))


# --- a lot, both ways ---


@pytest.mark.parametrize("version", [4, 6])
def test_established_a_mebibyte_down_then_fin(version: int) -> None:
    text = random.Random(1).randbytes(1 << 20)
    play = established(version=version, wscale=7, sack=True, ts=1, win=2000)
    connection, got, left = play.connection, bytearray(), text
    for _ in range(1000):
        left = left[connection.write(left) :]
        if not left:
            connection.close(play.now)
        runs = connection.runs_to_send(play.now)
        for run in runs:
            got += run.payload
            play._hear(run)
        if got == text and runs[-1].flags & FIN:
            break
        play.connection.receive(play._segment(ack(after=0.001)), play.now)
    assert got == text
    play(ack() >> becomes(State.FIN_WAIT_2), after(5.0) >> nothing)


def test_established_a_quarter_mebibyte_up_then_fin() -> None:
    text = random.Random(2).randbytes(1 << 18)
    play = established(wscale=7)
    for at in range(0, len(text), 32_768):
        part = text[at : at + 32_768]
        play(data(part, nsegs=23) >> hears(part) >> acks(1 + at + 32_768, win=4096))
    play(fin() >> acks(2 + len(text)), write(b"digest") >> sends(6, ack=2 + len(text)), close() >> sends_fin(seq=7))
