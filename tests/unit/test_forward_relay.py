"""The splice of one flow: partial writes, order, window growth, dying sockets."""

import errno
import random

import pytest

from netstack.config import make_config
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, RST, SYN
from netstack.testing.world import APP, World


def connected(**tables) -> tuple[World, int]:
    tables.setdefault("policy", {"enforcement": "off"})
    w = World(make_config(tables))
    w.send(w.tcp_packet(SYN, 1000))
    w.streams[0].connect()
    [syn_ack] = w.run()
    w.send(w.tcp_packet(ACK, 1001, syn_ack.seq + 1))
    return w, syn_ack.seq + 1


@pytest.mark.parametrize("seed", range(5))
def test_partial_writes_keep_the_order(seed: int) -> None:
    rng = random.Random(seed)
    w, ack = connected()
    stream = w.streams[0]
    stream.capacity = 0
    sent = rng.randbytes(40_000)
    for at in range(0, len(sent), 1000):
        w.send(w.tcp_packet(ACK, 1001 + at, ack, sent[at : at + 1000]))
        stream.capacity += rng.randrange(1500)
        w.run()
    stream.capacity = None
    w.run()
    assert stream.sent == sent


def test_end_of_the_app_waits_for_what_is_pending() -> None:
    w, ack = connected()
    stream = w.streams[0]
    stream.capacity = 3
    w.send(w.tcp_packet(ACK | PSH | FIN, 1001, ack, b"farewell"))
    assert bytes(stream.sent) == b"far" and not stream.half_closed
    stream.capacity = None
    w.run()
    assert bytes(stream.sent) == b"farewell" and stream.half_closed


@pytest.mark.parametrize("error", [errno.EPIPE, errno.ECONNRESET])
def test_a_socket_that_dies_while_sending_resets_the_app(error: int) -> None:
    w, ack = connected()
    w.streams[0].fail(error)
    w.streams[0].readable_wanted = False
    out = w.send(w.tcp_packet(ACK | PSH, 1001, ack, b"x"))
    assert any(segment.flags & RST for segment in out)
    assert w.streams[0].closed


def test_a_socket_that_dies_with_octets_pending_resets_the_app() -> None:
    w, ack = connected()
    stream = w.streams[0]
    stream.capacity = 0
    w.send(w.tcp_packet(ACK | PSH, 1001, ack, b"x"))
    stream.fail(errno.ECONNRESET)
    assert any(segment.flags & RST for segment in w.run())


def test_window_grows_while_octets_move_and_is_shared() -> None:
    w, ack = connected(tcp={"window": 16_384, "window_max": 131_072})
    [flow] = w.engine.tcp.table
    for at in range(0, 600_000, 10_000):
        w.send(*[w.tcp_packet(ACK, 1001 + at + part, ack, bytes(1000)) for part in range(0, 10_000, 1000)])
    assert flow.window == 131_072
    other = Endpoint(APP.address, 40_001)
    w.send(w.tcp_packet(SYN, 1000, source=other))
    w.streams[1].connect()
    syn_ack = w.run()[-1]
    assert syn_ack.window == 16_384, "a new flow starts small"


def test_half_closed_flow_ends_in_the_end() -> None:
    w, ack = connected(tcp={"half_closed_timeout": 50.0})
    w.send(w.tcp_packet(ACK | FIN, 1001, ack))
    w.run(40.0)
    assert not w.streams[0].closed
    w.run(20.0)
    assert w.streams[0].closed


def test_a_dribbling_app_costs_no_object_for_each_octet() -> None:
    w, ack = connected()
    stream = w.streams[0]
    stream.capacity = 0
    sent = bytes(range(256)) * 20
    for at, octet in enumerate(sent):
        w.send(w.tcp_packet(ACK | PSH, 1001 + at, ack, bytes([octet])))
    [flow] = w.engine.tcp.table
    assert flow.pending_octets == len(sent)
    assert len(flow.pending) <= 1 + len(sent) // 1024
    stream.capacity = None
    w.run()
    assert stream.sent == sent


def test_the_fin_rides_on_the_last_octets_when_it_is_known_to_be_there() -> None:
    w, _ = connected()
    stream = w.streams[0]
    stream.deliver(b"last words")
    stream.end()
    stream.ended = True
    [segment] = w.run()
    assert bytes(segment.payload) == b"last words" and segment.flags & FIN
