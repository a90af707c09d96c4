"""The verbs. What segments do is in tests/scenario."""

from __future__ import annotations

from netstack.config import TcpConfig
from netstack.core.flow import reverse_key
from netstack.core.packet import ACK, SYN
from netstack.tcp import Closed, Established, State, TcpConnection
from netstack.testing.builders import ack, data, fin, flow_key, make_segment
from netstack.testing.playbook import established


def connection(config: TcpConfig | None = None) -> TcpConnection:
    return TcpConnection(config or TcpConfig(), flow_key(), iss=5000, mtu=1500)


def test_it_begins_in_listen_and_holds_nothing() -> None:
    made = connection()
    assert made.state is State.LISTEN
    assert made.buffered_octets == 0
    assert made.next_timeout() is None
    assert made.next_event() is None
    assert made.runs_to_send(0.0) == []


def test_keys_of_both_directions() -> None:
    made = connection()
    assert made.key == flow_key()
    assert made.reply_key == reverse_key(flow_key())


def test_accept_twice_sends_one_syn_ack() -> None:
    made = connection()
    made.accept(0.0)  # too early: there is no SYN yet
    made.receive(make_segment(flow_key(), 100, 0, SYN), 0.0)
    assert made.runs_to_send(0.0) == []
    made.accept(1.0)
    made.accept(1.0)
    assert len(made.runs_to_send(1.0)) == 1


def test_rfc_names_are_32_bit_numbers() -> None:
    play = established()
    made = play.connection
    assert made.snd_una == made.snd_nxt == (made.iss + 1) & 0xFFFFFFFF
    assert made.rcv_nxt == (made.irs + 1) & 0xFFFFFFFF
    assert made.snd_wnd == 65_535
    assert made.rcv_wnd == 65_535
    assert made.snd_mss == 1460
    assert made.srtt > 0
    assert made.rttvar > 0
    assert made.rto >= 0.2
    assert made.cwnd == 14_600
    assert made.ssthresh > 1 << 20


def test_runs_are_views_of_what_was_written() -> None:
    play = established()
    chunk = bytes(100_000)
    assert play.connection.write(chunk) == 100_000
    [run] = play.connection.runs_to_send(play.now)
    assert isinstance(run.payload, memoryview)
    assert run.payload.obj is chunk


def test_a_second_look_finds_nothing_to_send() -> None:
    play = established()
    play.connection.write(b"once")
    assert len(play.connection.runs_to_send(play.now)) == 1
    assert play.connection.runs_to_send(play.now) == []


def test_write_before_the_syn_and_after_the_end_takes_nothing() -> None:
    made = connection()
    assert made.write(b"x") == 0
    assert made.send_space == 0
    made.abort(0.0)
    assert made.write(b"x") == 0


def test_write_of_nothing_is_nothing() -> None:
    play = established()
    assert play.connection.write(b"") == 0
    assert play.connection.runs_to_send(play.now) == []


def test_buffered_octets_count_both_directions() -> None:
    play = established(stalled=True)
    play.connection.write(bytes(3000))
    play.perform(data(bytes(500), seq=101, ack=1))
    assert play.connection.buffered_octets == 3500
    play.perform(ack(3001, seq=1))
    assert play.connection.buffered_octets == 500


def test_time_wait_holds_nothing_and_ends() -> None:
    play = established(TcpConfig(time_wait=3.0))
    play.connection.close(play.now)
    play.connection.runs_to_send(play.now)
    play.perform(fin(ack=2))
    assert play.connection.state is State.TIME_WAIT
    assert play.connection.next_timeout() == play.now + 3.0
    play.connection.on_timeout(play.now + 3.0)
    assert type(play.connection.next_event()) is Closed
    assert play.connection.next_timeout() is None


def test_on_timeout_too_early_changes_nothing() -> None:
    play = established()
    play.connection.write(b"x")
    play.connection.runs_to_send(play.now)
    due = play.connection.next_timeout()
    assert due is not None
    play.connection.on_timeout(due - 0.01)
    assert play.connection.runs_to_send(due - 0.01) == []
    assert play.connection.next_timeout() == due


def test_every_event_is_fetched_once() -> None:
    made = connection()
    made.receive(make_segment(flow_key(), 100, 0, SYN), 0.0)
    made.accept(0.0)
    made.runs_to_send(0.0)
    made.receive(make_segment(flow_key(), 101, 5001, ACK), 0.0)
    assert type(made.next_event()) is Established
    assert made.next_event() is None


def test_a_larger_limit_before_the_syn_is_used_by_it() -> None:
    made = connection()
    made.set_receive_limit(30_000)
    made.receive(make_segment(flow_key(), 100, 0, SYN), 0.0)
    made.accept(0.0)
    [run] = made.runs_to_send(0.0)
    assert run.window == 30_000
