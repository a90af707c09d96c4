"""The virtual world itself: scripted sockets do what they are told, time moves only when asked."""

import pytest

from netstack.config import make_config
from netstack.core.packet import SYN
from netstack.testing.world import APP, SERVER, ScriptedStream, World


def test_stream_follows_its_script() -> None:
    stream = ScriptedStream(SERVER, owner=None, flow=None)  # type: ignore[arg-type]
    assert not stream.is_writable and not stream.is_readable
    stream.connect()
    stream.capacity = 3
    assert stream.send(b"hello") == 3
    with pytest.raises(BlockingIOError):
        stream.send(b"lo")
    stream.deliver(b"abcdef")
    stream.end()
    assert (stream.recv(4), stream.recv(4), stream.recv(4)) == (b"abcd", b"ef", b"")
    stream.fail(104)
    with pytest.raises(OSError, match="scripted"):
        stream.send(b"x")


def test_time_stands_still_unless_asked() -> None:
    w = World(make_config({"policy": {"enforcement": "off"}, "tcp": {"dial_timeout": 5.0}}))
    w.send(w.tcp_packet(SYN, 1))
    assert w.now == 0.0 and w.engine.next_timeout() == 5.0
    assert w.run(4.0) == [] and w.now == 4.0


def test_packets_of_the_world_are_well_formed() -> None:
    w = World()
    [udp] = w.parse([w.udp_packet(b"x")])
    [tcp] = w.parse([w.tcp_packet(SYN, 7)])
    [echo] = w.parse([w.echo_packet(3, 4, b"p", source=APP)])
    assert (bytes(udp.payload), tcp.seq, echo.rest) == (b"x", 7, 3 << 16 | 4)
