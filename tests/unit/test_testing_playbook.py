from __future__ import annotations

import pytest

from netstack.core.packet import ACK
from netstack.tcp import Established
from netstack.testing.builders import accept, ack, after, data, rst, syn, write
from netstack.testing.checkers import acks, hears, nothing, sends, syn_ack, tells
from netstack.testing.playbook import Playbook, established


def test_the_play_of_its_own_description() -> None:
    Playbook()(
        syn(mss=1460) >> nothing,
        accept(after=0.02) >> syn_ack(ack=1),
        ack() >> tells(Established),
        data(b"ping") >> hears(b"ping") >> acks(5),
        write(b"pong") >> sends(4, seq=1, payload=b"pong"),
        ack(5) >> nothing,
    )


def test_a_failure_names_the_step() -> None:
    with pytest.raises(AssertionError, match=r"step 2, write.*expected"):
        established()(ack(1), write(b"x") >> acks(1))


def test_a_run_that_was_not_expected_fails() -> None:
    with pytest.raises(AssertionError, match="more than expected"):
        established()(write(b"x"))


def test_a_drop_that_was_not_expected_fails() -> None:
    with pytest.raises(AssertionError, match="a drop"):
        established()(rst(seq=100_000) >> nothing)


def test_time_stops_at_every_deadline() -> None:
    play = established()
    play(write(b"x") >> sends(1), after(0.7) >> sends(1) >> sends(1))
    assert play.now == pytest.approx(100.0 + 0.011 + 0.7)


def test_steps_can_be_at_a_time_of_the_play() -> None:
    play = Playbook()
    play(syn(at=1.5))
    assert play.now == 101.5


def test_the_app_acknowledges_what_it_got_by_default() -> None:
    play = established()
    play(write(b"12345") >> sends(5), ack() >> nothing)
    assert play.connection.snd_una == play.connection.snd_nxt


def test_timestamps_follow_the_clock_by_default() -> None:
    play = established(ts=7000)
    segment = play._segment(ack(after=0.0))
    assert segment.flags == ACK
    assert segment.ts_val == 7000 + int(play.now * 1000) - 100_000
    assert segment.ts_ecr == play.ts_recent
