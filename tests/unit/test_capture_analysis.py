"""What is unusual about a segment."""

from netstack.capture.analysis import SegmentAnalysis
from netstack.core.packet import ACK, FIN, RST, SYN

MS = 1_000_000


def connection():
    analysis = SegmentAnalysis()
    analysis.add(0, 100, 0, SYN, 1000, 0, 0)
    analysis.add(1, 500, 101, SYN | ACK, 1000, 0, 10 * MS)
    analysis.add(0, 101, 501, ACK, 1000, 0, 20 * MS)
    return analysis


def test_an_undisturbed_connection_has_nothing():
    analysis = connection()
    analysis.add(0, 101, 501, ACK, 1000, 50, 30 * MS)
    analysis.add(1, 501, 151, ACK, 1000, 0, 40 * MS)
    analysis.add(0, 151, 501, ACK | FIN, 1000, 0, 50 * MS)
    tally = analysis.tally
    assert not any((tally.retransmissions, tally.out_of_order, tally.lost_segments, tally.dup_acks, tally.zero_window))


def test_late_repetition_is_a_retransmission_and_a_quick_one_is_disorder():
    analysis = connection()
    analysis.add(0, 101, 501, ACK, 1000, 50, 30 * MS)
    analysis.add(0, 151, 501, ACK, 1000, 50, 30 * MS)
    analysis.add(0, 101, 501, ACK, 1000, 50, 31 * MS)
    assert (analysis.tally.out_of_order, analysis.tally.retransmissions) == (1, 0)
    analysis.add(0, 101, 501, ACK, 1000, 50, 300 * MS)
    assert (analysis.tally.out_of_order, analysis.tally.retransmissions) == (1, 1)


def test_what_was_acknowledged_is_spurious_and_counts_as_retransmission():
    analysis = connection()
    analysis.add(0, 101, 501, ACK, 1000, 50, 30 * MS)
    analysis.add(1, 501, 151, ACK, 1000, 0, 31 * MS)
    analysis.add(0, 101, 501, ACK, 1000, 50, 32 * MS)
    assert analysis.tally.retransmissions == 1


def test_syn_repeated_at_once_is_a_retransmission():
    analysis = SegmentAnalysis()
    analysis.add(0, 100, 0, SYN, 1000, 0, 0)
    analysis.add(0, 100, 0, SYN, 1000, 0, MS)
    assert analysis.tally.retransmissions == 1


def test_a_jump_tells_of_a_loss_but_not_of_a_reset():
    analysis = connection()
    analysis.add(0, 301, 501, ACK, 1000, 50, 30 * MS)
    analysis.add(0, 900, 501, RST, 0, 0, 40 * MS)
    assert analysis.tally.lost_segments == 1


def test_duplicate_acks_and_fast_retransmission():
    analysis = connection()
    analysis.add(0, 101, 501, ACK, 1000, 50, 30 * MS)
    analysis.add(0, 151, 501, ACK, 1000, 50, 30 * MS)
    for at in (31, 32, 33):
        analysis.add(1, 501, 101, ACK, 1000, 0, at * MS)
    analysis.add(0, 101, 501, ACK, 1000, 50, 34 * MS)
    assert (analysis.tally.dup_acks, analysis.tally.retransmissions, analysis.tally.out_of_order) == (3, 1, 0)


def test_a_shut_window_and_its_probe():
    analysis = connection()
    analysis.add(1, 501, 101, ACK, 0, 0, 30 * MS)
    analysis.add(0, 101, 501, ACK, 1000, 1, 40 * MS)
    analysis.add(1, 501, 101, ACK, 0, 0, 41 * MS)
    assert analysis.tally.zero_window == 2
    assert analysis.tally.retransmissions == 0


def test_keep_alive_is_no_retransmission():
    analysis = connection()
    analysis.add(0, 100, 501, ACK, 1000, 0, 9000 * MS)
    analysis.add(1, 501, 101, ACK, 1000, 0, 9001 * MS)
    assert (analysis.tally.retransmissions, analysis.tally.dup_acks) == (0, 0)
