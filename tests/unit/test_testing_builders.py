from __future__ import annotations

from netstack.core.flow import unpack_key
from netstack.core.packet import ACK, FIN, PSH, RST, SYN
from netstack.testing import builders
from netstack.testing.checkers import nothing
from netstack.wire.tcp import parse_options


def test_numbers_wrap_in_a_segment() -> None:
    segment = builders.make_segment(builders.flow_key(), 2**32 + 5, 2**32 + 6, ts=(7, 8))
    assert (segment.seq, segment.ack, segment.has_ts, segment.ts_val, segment.ts_ecr) == (5, 6, True, 7, 8)


def test_flow_keys_of_both_families() -> None:
    assert [unpack_key(builders.flow_key(version)).version for version in (4, 6)] == [4, 6]


def test_syn_offers_what_is_asked_for() -> None:
    options = parse_options(builders.syn(mss=1200, wscale=5, sack=True, ts=9).options)
    assert options is not None
    assert (options.mss, options.window_scale, options.sack_permitted, options.timestamps) == (1200, 5, True, (9, 0))


def test_flags_of_the_segments() -> None:
    made = [
        builders.syn(),
        builders.ack(),
        builders.data(b"x"),
        builders.data(b"x", push=False),
        builders.fin(),
        builders.rst(),
    ]
    assert [item.flags for item in made] == [SYN, ACK, ACK | PSH, ACK, FIN | ACK, RST]


def test_a_step_collects_expectations() -> None:
    step = builders.close(after=1.0) >> nothing >> nothing
    assert step.expectations == [nothing, nothing]
    assert step.stimulus.after == 1.0
    assert "close" in str(step.stimulus)
