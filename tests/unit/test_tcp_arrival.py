"""Each stimulus in each state is in tests/scenario; here is what needs a look inside."""

from __future__ import annotations

import sys

import pytest

from netstack.config import TcpConfig
from netstack.core.packet import ACK, RST, SYN
from netstack.tcp import State, TcpConnection
from netstack.tcp.arrival import Arrival, enough
from netstack.testing.builders import data, flow_key, make_segment, write
from netstack.testing.checkers import anything
from netstack.testing.playbook import established


def test_a_spoofed_segment_does_not_move_the_timestamp() -> None:
    play = established(ts=1000)
    before = play.connection._ts_recent
    for segment in (
        make_segment(play.connection.key, play.irs - 70_000, play.iss + 1, ACK, ts=(before + 10**6, 0)),
        make_segment(play.connection.key, play.irs + 1, play.iss + 999, ACK, payload=b"x", ts=(before + 10**6, 0)),
        make_segment(play.connection.key, play.irs + 1, 0, 0, payload=b"x", ts=(before + 10**6, 0)),
    ):
        play.connection.receive(segment, play.now)
        assert play.connection._ts_recent == before


def test_the_timestamp_clock_counts_milliseconds_and_is_hidden() -> None:
    config = TcpConfig()
    one = TcpConnection(config, flow_key(), iss=1, mtu=1500)
    other = TcpConnection(config, flow_key(), iss=2, mtu=1500)
    assert one._timestamp(5.0) - one._timestamp(4.0) == 1000
    assert one._timestamp(5.0) != other._timestamp(5.0)
    assert one._timestamp(5.0) == TcpConnection(config, flow_key(), iss=1, mtu=1500)._timestamp(5.0)


def test_the_short_way_and_the_long_way_agree() -> None:
    """Header prediction must not be seen from outside."""

    def play_through(*, short: bool) -> list[object]:
        play = established(TcpConfig(delayed_ack=0.0), ts=1000, sack=True, wscale=3)
        connection = play.connection
        seen: list[object] = []
        for at in range(30):
            segment = make_segment(
                connection.key,
                play.irs + 1 + 7 * at,
                connection.snd_nxt,
                ACK | (8 if at % 3 == 0 else 0),
                60_000 + at % 4,
                b"octets!",
                ts=(102_000 + at, play.ts_recent),
                nsegs=1 + at % 3,
            )
            if short:
                connection.receive(segment, play.now)
            else:
                Arrival._segment_arrives(connection, segment, play.now)
            connection.write(b"answer")
            while (event := connection.next_event()) is not None:
                seen.append((type(event).__name__, bytes(getattr(event, "payload", b""))))
            seen += [
                (run.seq, run.ack, run.flags, run.window, run.options, bytes(run.payload))
                for run in connection.runs_to_send(play.now)
            ]
            seen += [connection.snd_wnd, connection.cwnd, connection.rcv_nxt, connection.next_timeout()]
        return seen

    assert play_through(short=True) == play_through(short=False)


def test_an_idle_connection_is_small() -> None:
    play = established(ts=1000, sack=True, wscale=7)
    connection = play.connection
    parts = [connection, connection._send, connection._recv, connection._send.timer]
    held = sum(sys.getsizeof(part) for part in parts)
    for part in parts:
        for name in {slot for kind in type(part).__mro__ for slot in getattr(kind, "__slots__", ())}:
            value = getattr(part, name)
            if value is not play.connection._config and not isinstance(value, State) and value not in parts:
                held += sys.getsizeof(value)
    assert held < 4096  # shared constants and small integers are counted here; 1.7 KB are the connection's own


@pytest.mark.parametrize("flags", [SYN, RST, ACK])
def test_nothing_comes_back_to_life(flags: int) -> None:
    play = established()
    play.connection.abort(play.now)
    play.connection.runs_to_send(play.now)
    play.connection.receive(make_segment(play.connection.key, 1, 1, flags), play.now)
    assert play.connection.state is State.CLOSED
    assert play.connection.runs_to_send(play.now) == []


def test_drops_are_handed_over_once() -> None:
    play = established()
    play.connection.receive(make_segment(play.connection.key, play.irs + 5, 0, RST), play.now)
    assert len(play.connection.take_drops()) == 1
    assert play.connection.take_drops() == []


def test_sequence_numbers_wrap_in_both_directions() -> None:
    play = established(TcpConfig(window=60_000), iss=0xFFFFFFFE, irs=0xFFFFFFFE)
    for _ in range(3):
        outcome = play.perform(data(b"12345"))
        assert outcome.octets == b"12345"
        play(write(b"54321") >> anything)
    assert play.connection.rcv_nxt == 14
    assert play.connection.snd_nxt == 14


@pytest.mark.parametrize(("mtu", "octets"), [(576, 1000), (1500, 1000), (9000, 1000), (16_384, 1000), (65_535, 3000)])
def test_large_packets_have_larger_windows(mtu: int, octets: int) -> None:
    assert enough(1000, mtu) == octets
