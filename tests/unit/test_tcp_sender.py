from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from netstack.tcp.sender import MAX_RUN, Recovery, Sender
from netstack.tcp.timers import NEVER, RetransmissionTimer

ISS = 0xFFFFFF00


def sender(capacity: int = 100_000, mss: int = 1000, window: int = 60_000, segments: int = 10) -> Sender:
    made = Sender(ISS, capacity, RetransmissionTimer(1.0, 0.2, 60.0))
    made.begin(mss, segments)
    made.una = made.nxt = ISS + 1
    made.wnd = made.max_wnd = window
    return made


def spans(made: Sender, now: float = 0.0) -> list[tuple[int, int]]:
    found = []
    while (span := made.next_span(now)) is not None:
        found.append((span[0] - ISS - 1, span[1] - ISS - 1))
    return found


def test_a_run_within_one_chunk_is_a_view_of_it() -> None:
    made = sender()
    chunk = bytes(range(256)) * 100
    made.write(chunk)
    view = made.octets(ISS + 101, ISS + 2001)
    assert isinstance(view, memoryview)
    assert view.obj is chunk
    assert view == chunk[100:2000]


def test_a_whole_chunk_is_handed_on_as_it_is() -> None:
    made = sender()
    chunk = bytes(2000)
    made.write(chunk)
    assert made.octets(ISS + 1, ISS + 2001) is chunk


def test_small_writes_share_a_chunk() -> None:
    made = sender()
    for _ in range(2000):
        made.write(b"x")
    assert len(made.chunks) == 2


def test_a_run_is_a_multiple_of_the_segment_and_fits_a_packet() -> None:
    made = sender(capacity=400_000, mss=1448, window=400_000, segments=300)
    made.write(bytes(200_000))
    found = spans(made)
    assert all((stop - start) % 1448 == 0 for start, stop in found[:-1])
    assert all(stop - start <= MAX_RUN for start, stop in found)
    assert found[-1][1] == 200_000


def test_a_segment_as_large_as_a_packet_still_makes_a_run() -> None:
    made = sender(mss=65_495)
    assert made.max_run == made.mss == 65_435


def test_write_takes_what_there_is_room_for() -> None:
    made = sender(capacity=1000)
    assert made.write(bytes(700)) == 700
    assert made.space == 300
    assert made.write(bytes(700)) == 300
    assert made.write(b"x") == 0
    assert made.starved


def test_everything_acknowledged_frees_every_chunk_and_the_timer() -> None:
    made = sender()
    made.write(bytes(5000))
    spans(made)
    assert made.rto_at == 1.0
    made.acknowledge(ISS + 5001, 0.5, 1)
    assert made.chunks == made.ends == []
    assert made.rto_at == NEVER
    assert made.timer.srtt == 0.5


def test_slow_start_grows_by_what_was_acknowledged() -> None:
    made = sender(segments=4)
    made.write(bytes(50_000))
    spans(made)
    made.acknowledge(ISS + 4001, 0.1, 1)
    assert made.cwnd == 8000


def test_a_window_that_is_not_used_does_not_grow() -> None:
    made = sender(segments=10)
    made.write(bytes(1000))
    spans(made)
    made.acknowledge(ISS + 1001, 0.1, 1)
    assert made.cwnd == 10_000


def test_congestion_avoidance_grows_by_a_segment_for_each_window() -> None:
    made = sender(segments=4)
    made.ssthresh = 4000
    made.write(bytes(50_000))
    spans(made)
    made.acknowledge(ISS + 2001, 0.1, 1)
    assert made.cwnd == 4000
    spans(made)
    made.acknowledge(ISS + 4001, 0.1, 1)
    assert made.cwnd == 5000


def test_pipe_counts_what_is_neither_lost_nor_sacked() -> None:
    made = sender()
    made.sack = True
    made.write(bytes(10_000))
    spans(made)
    made.sacked([((ISS + 1001) & 0xFFFFFFFF, (ISS + 5001) & 0xFFFFFFFF)])
    made.duplicate_ack()
    assert made.recovery is Recovery.FAST
    assert spans(made) == [(0, 1000)]
    assert made.pipe() == 1000 + 5000


def test_fin_is_one_position_after_the_octets() -> None:
    made = sender()
    made.write(b"bye")
    made.fin_wanted = True
    assert spans(made) == [(0, 4)]
    assert not made.space
    made.acknowledge(ISS + 5, 0.1, 1)
    assert made.is_fin_acked


def test_release_holds_nothing() -> None:
    made = sender()
    made.write(bytes(5000))
    spans(made)
    made.release()
    assert made.chunks == []
    assert made.rto_at == made.persist_at == NEVER


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_any_part_of_the_queue_can_be_read(seed: int, sizes: list[int]) -> None:
    source = random.Random(seed)
    made = sender(capacity=10**6, window=10**6, segments=10_000)
    text = bytearray()
    for size in sizes:
        chunk = source.randbytes(size)
        text += chunk
        assert made.write(chunk) == size
    assert spans(made)[-1][1] == len(text)
    una = 0
    for _ in range(10):
        start = source.randint(una, len(text) - 1)
        stop = source.randint(start + 1, len(text))
        assert bytes(made.octets(ISS + 1 + start, ISS + 1 + stop)) == text[start:stop]
        ahead = source.randint(una, len(text) - 1)
        if ahead > una:
            made.acknowledge(ISS + 1 + ahead, 0.1, 1)
            una = ahead
