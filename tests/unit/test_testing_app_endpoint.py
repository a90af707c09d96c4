from __future__ import annotations

import pytest

from netstack.core.flow import reverse_key
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, SegmentRun
from netstack.testing.app_endpoint import AppEndpoint, cut
from netstack.testing.builders import flow_key
from netstack.wire.tcp import emit_options

BACK = reverse_key(flow_key())


def opened(**settings: object) -> AppEndpoint:
    app = AppEndpoint(flow_key(), iss=1000, timestamps=False, **settings)  # type: ignore[arg-type]
    app.start(0.0)
    app.outbox.clear()
    app.receive(SegmentRun(BACK, 500, 1001, SYN | ACK, 9000, 1460, emit_options(mss=1460)), 0.1)
    app.outbox.clear()
    return app


def run(seq: int, payload: bytes = b"", flags: int = ACK, ack: int = 1001, window: int = 9000) -> SegmentRun:
    return SegmentRun(BACK, seq, ack, flags, window, 1460, b"", payload)


def test_a_run_is_cut_with_fin_on_the_last_piece() -> None:
    pieces = cut(SegmentRun(BACK, 0xFFFFFFFF, 1, ACK | PSH | FIN, 5, 4, b"", b"0123456789"))
    assert [(piece.seq, piece.flags, piece.payload) for piece in pieces] == [
        (0xFFFFFFFF, ACK, b"0123"),
        (3, ACK, b"4567"),
        (7, ACK | PSH | FIN, b"89"),
    ]


def test_a_syn_is_sent_and_sent_again() -> None:
    app = AppEndpoint(flow_key(), iss=1000)
    app.start(0.0)
    due = app.next_timeout()
    assert due is not None
    app.on_timeout(due)
    assert [(segment.flags, segment.seq) for segment in app.outbox] == [(SYN, 1000)] * 2


def test_octets_are_put_in_order_and_acknowledged() -> None:
    app = opened()
    app.receive(run(504, b"def"), 0.2)
    app.receive(run(501, b"abc"), 0.2)
    app.receive(run(507, b"", FIN | ACK), 0.2)
    assert app.received == b"abcdef"
    assert app.has_ended
    assert [segment.ack for segment in app.outbox] == [501, 507, 508]


def test_what_is_written_leaves_within_the_window() -> None:
    app = opened(mss=100)
    app.receive(run(501, window=250), 0.2)
    app.write(bytes(1000), 0.2)
    assert sum(len(segment.payload) for segment in app.outbox) == 250


def test_three_duplicates_bring_the_first_segment_back() -> None:
    app = opened(mss=100)
    app.write(bytes(300), 0.2)
    app.outbox.clear()
    for _ in range(3):
        app.receive(run(501), 0.3)
    assert [(segment.seq, len(segment.payload)) for segment in app.outbox] == [(1001, 100)]


def test_a_reset_ends_it() -> None:
    app = opened()
    app.receive(run(501, flags=RST), 0.2)
    assert app.is_reset
    assert app.next_timeout() is None


def test_an_engine_that_ignores_the_window_is_caught() -> None:
    app = opened(window=1000)
    with pytest.raises(AssertionError, match="window"):
        app.receive(run(501, bytes(1200)), 0.2)


def test_both_ends_make_it_finished() -> None:
    app = opened()
    app.close(0.2)
    app.receive(run(501, b"", FIN | ACK, ack=1002), 0.3)
    assert app.is_finished
