"""A captured conversation as a script for the far end."""

import errno

import pytest

from netstack.capture.dissect import read_ip, read_tcp
from netstack.core.packet import ACK, FIN, RST, SYN, SegmentRun
from netstack.runtime.script import TcpScript
from netstack.runtime.verdicts import FlowRow, five_tuple
from netstack.upstream.scripted import ScriptedDialer
from tests.made_captures import APP, SERVER, answer, exchange, facts_of, frames, tcp

FLOW = five_tuple(6, (b"\x0a\0\0\2", 5), (b"\xcb\0\x71\x50", 80))


class World:
    def __init__(self, *, dns=False):
        conversation = facts_of(frames(exchange(0.0, 5, b"up", b"down"))).tcp[0]
        self.row = FlowRow(FLOW, 1, "0")
        self.script = TcpScript(conversation, self.row, is_dns=dns)
        self.stream = ScriptedDialer([].append, [].append).dial_tcp(FLOW.destination, None, FLOW)

    def far(self, flags, seq, ack=1001, payload=b""):
        packet = tcp(SERVER, 80, APP, 5, seq, ack, flags, payload)
        self.script.from_peer(read_tcp(packet, read_ip(packet, 4, 0, len(packet))), payload)

    def app(self, flags, seq, ack, payload=b""):
        packet = tcp(APP, 5, SERVER, 80, seq, ack, flags, payload)
        self.script.from_app(read_tcp(packet, read_ip(packet, 4, 0, len(packet))), payload)

    def read(self):
        got = b""
        while True:
            try:
                octets = self.stream.recv(100)
            except BlockingIOError:
                return got
            if not octets:
                return got + b"<end>"
            got += octets


def test_everything_before_the_dial_happens_at_once():
    world = World()
    world.far(SYN | ACK, 5000)
    world.far(ACK, 5001, payload=b"hello")
    world.far(FIN | ACK, 5006)
    world.script.attach(world.stream)
    assert world.stream.is_writable and world.stream.connect_error() == 0
    assert world.read() == b"hello<end>"


def test_octets_come_in_order_and_the_end_behind_them():
    world = World()
    world.script.attach(world.stream)
    assert not world.stream.is_writable
    world.far(SYN | ACK, 5000)
    world.far(FIN | ACK, 5004, payload=b"lo")
    assert world.read() == b""
    world.far(ACK, 5001, payload=b"hel")
    assert world.read() == b"hello<end>"


def test_a_hole_that_the_app_had_filled_becomes_zeros():
    world = World()
    world.script.attach(world.stream)
    world.far(SYN | ACK, 5000)
    world.far(ACK, 5004, payload=b"x")
    world.app(ACK, 1001, 5005)
    assert world.read() == b"\0\0\0x"
    assert world.script.down.result == "partial"


@pytest.mark.parametrize("attached", [True, False])
def test_a_reset_instead_of_an_answer_refuses(attached):
    world = World()
    if attached:
        world.script.attach(world.stream)
    world.far(RST | ACK, 0)
    if not attached:
        world.script.attach(world.stream)
    assert world.stream.connect_error() == errno.ECONNREFUSED


def test_a_reset_later_is_a_reset_and_an_old_one_is_not():
    world = World()
    world.script.attach(world.stream)
    world.far(SYN | ACK, 5000)
    world.far(ACK, 5001, payload=b"hello")
    assert world.read() == b"hello"
    world.far(RST, 5000)
    assert not world.stream.is_readable
    world.far(RST, 5006)
    with pytest.raises(ConnectionResetError):
        world.stream.recv(1)


def test_an_icmp_error_fails_the_dial_only():
    world = World()
    world.script.attach(world.stream)
    world.script.unreachable(errno.EHOSTUNREACH)
    assert world.stream.connect_error() == errno.EHOSTUNREACH
    world = World()
    world.script.attach(world.stream)
    world.far(SYN | ACK, 5000)
    world.script.unreachable(errno.EHOSTUNREACH)
    assert world.stream.connect_error() == 0


def test_both_directions_are_compared():
    world = World()
    world.script.attach(world.stream)
    world.far(SYN | ACK, 5000)
    world.app(SYN, 1000, 0)
    world.app(ACK, 1001, 5001, b"up")
    world.stream.send(b"up")
    world.far(ACK, 5001, payload=b"down")
    world.script.sent_to_app(SegmentRun(b"", 5000, 0, SYN | ACK, 0))
    world.script.sent_to_app(SegmentRun(b"", 5001, 0, ACK, 0, payload=b"do"))
    world.script.sent_to_app(SegmentRun(b"", 5003, 0, ACK, 0, payload=b"wn"))
    assert (world.row.up.result, world.row.down.result) == ("match", "match")


def test_after_the_engine_reset_the_app_it_is_silent():
    world = World()
    world.script.sent_to_app(SegmentRun(b"", 0, 0, RST | ACK, 0))
    assert world.script.silent
    world.far(ACK, 5001, payload=b"into the void")
    world.script.attach(world.stream)
    assert world.read() == b""


def test_dns_answers_are_cut_out_of_the_stream():
    world = World(dns=True)
    message = answer(1, "a.test", SERVER)
    framed = len(message).to_bytes(2, "big") + message
    world.far(SYN | ACK, 5000)
    world.far(ACK, 5001, payload=framed[:9])
    assert world.script.answers == []
    world.far(ACK, 5010, payload=framed[9:])
    assert world.script.answers == [message]
    assert world.row.up is None
