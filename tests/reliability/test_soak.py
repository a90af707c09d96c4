"""Many flows come and go: afterwards nothing is left, and no deadline stands still meanwhile."""

from __future__ import annotations

from random import Random

import pytest

from netstack.config import make_config
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, Segment
from netstack.forward.relay import TcpFlow
from netstack.forward.udp import UdpSession
from netstack.tcp.connection import TcpConnection
from netstack.testing.world import World
from tests.reliability.resting import assert_at_rest, assert_sound, objects_of, prune
from tests.reliability.settings import FULL

OFF = make_config({"policy": {"enforcement": "off"}})
ECHO = Endpoint.of("192.0.2.7", 7)
FLOWS = 100_000 if FULL else 10_000


def endpoint(number: int) -> Endpoint:
    return Endpoint.of(f"10.0.{number // 60000 % 256}.2", 1024 + number % 60000)


class App:
    """An app's side of one flow, as far as it is honest."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.source = endpoint(number)
        self.seq = 1000
        self.ack = 0

    def send(self, flags: int, payload: bytes = b"") -> list[Segment]:
        packet = self.world.tcp_packet(flags, self.seq, self.ack, payload, source=self.source)
        self.seq += len(payload) + bool(flags & (SYN | FIN))
        return self.take(self.world.send(packet))

    def take(self, items: list) -> list[Segment]:
        mine = [item for item in items if type(item) is Segment]
        for item in mine:
            if not item.flags & RST:
                self.ack = max(self.ack, item.seq + len(item.payload) + bool(item.flags & (SYN | FIN)))
        return mine

    def open(self):
        self.send(SYN)
        stream = self.world.streams[-1]
        stream.connect()
        self.take(self.world.run())
        self.send(ACK)
        return stream


def ends_with_app_first(app: App, stream) -> None:
    app.send(FIN | ACK)
    assert stream.half_closed
    stream.end()
    app.take(app.world.run())
    app.send(ACK)


def ends_with_peer_first(app: App, stream) -> None:
    stream.end()
    app.take(app.world.run())
    app.send(FIN | ACK)


def ends_with_reset_by_app(app: App, stream) -> None:
    app.send(RST | ACK)


def ends_with_reset_by_peer(app: App, stream) -> None:
    stream.fail(104)
    app.take(app.world.run())


def ends_half_closed_and_forgotten(app: App, stream) -> None:
    app.send(FIN | ACK)


def ends_unacknowledged(app: App, stream) -> None:
    """The app vanishes with octets in flight."""
    stream.deliver(b"z" * 5000)
    app.world.run()


ENDS = (
    ends_with_app_first,
    ends_with_peer_first,
    ends_with_reset_by_app,
    ends_with_reset_by_peer,
    ends_half_closed_and_forgotten,
    ends_unacknowledged,
)


def test_nothing_is_left_of_flows_that_ended() -> None:
    world = World(OFF)
    random = Random(1)
    before = objects_of(TcpFlow, TcpConnection)
    for number in range(FLOWS):
        app = App(world, number)
        kind = random.randrange(10)
        if kind == 0:  # the dial never ends, or fails
            app.send(SYN)
            if random.random() < 0.5:
                world.streams[-1].connect(random.choice((111, 113, 110)))
                world.run()
        elif kind == 1:  # the handshake is never completed
            app.send(SYN)
            world.streams[-1].connect()
            world.run()
        else:
            stream = app.open()
            app.send(PSH | ACK, b"ping" * random.randrange(1, 300))
            stream.deliver(b"pong" * random.randrange(1, 300))
            app.take(world.run())
            app.send(ACK)
            random.choice(ENDS)(app, stream)
        world.run(random.choice((0, 0, 0.05, 1.0, 5.0)))
        if number % 500 == 0:
            prune(world)
            assert_sound(world)
    prune(world)
    assert len(world.engine.timers) < 4 * len(world.engine.tcp.table) + 1000
    world.run(400.0)
    assert_at_rest(world)
    prune(world)
    del app, stream
    assert objects_of(TcpFlow, TcpConnection) - before == 0


def test_flows_that_live_long_leave_nothing_in_the_timer_heap() -> None:
    """Older than the dial time-out, a flow's next look is hours away: it must not be kept until then."""
    world = World(OFF)
    for number in range(600):
        app = App(world, number)
        stream = app.open()
        world.run(21.0)
        for _ in range(3):
            stream.deliver(b"tick")
            app.take(world.run())
            app.send(ACK)
            world.run(1.0)
        app.send(RST | ACK)
        prune(world)
    assert_at_rest(world)
    assert len(world.engine.timers) < 600
    del app, stream
    assert objects_of(TcpFlow) < 600


def test_an_idle_engine_wakes_rarely() -> None:
    """Eight hours with open but quiet flows: a phone's battery pays for every wake-up."""
    world = World(OFF)
    for number in range(20):
        App(world, number).open()
    world.send(world.udp_packet(b"x", destination=ECHO))
    world.run(600.0)
    engine, wakes, last = world.engine, 0, world.now
    end = world.now + 3600.0
    while (deadline := engine.next_timeout()) is not None and deadline <= end:
        assert deadline >= last, "a deadline in the past"
        last = world.now = deadline
        engine.on_timeout(world.now)
        engine.flush(world.now)
        wakes += 1
    assert wakes <= 20


@pytest.mark.parametrize("mtu", [576, 1280, 9000, 65520])
@pytest.mark.parametrize("codec", ["pure", "native"])
def test_any_mtu_carries_both_ways(mtu: int, codec: str) -> None:
    if codec == "native":
        pytest.importorskip("netstack.codec._native")
    config = make_config({"policy": {"enforcement": "off"}, "tunnel": {"mtu": mtu}})
    world = World(config, codec=codec)
    app = App(world, 1)
    stream = app.open()
    sent, wanted = b"", bytes(range(256)) * 400
    while len(sent) < len(wanted):
        piece = wanted[len(sent) : len(sent) + min(mtu - 40, 30_000)]
        app.send(PSH | ACK, piece)
        sent += piece
    assert stream.sent == wanted
    stream.deliver(wanted)
    got = bytearray()
    items = app.take(world.run())
    while items:
        assert max(len(item.packet) for item in items) <= mtu
        got += b"".join(item.payload for item in items)
        items = app.send(ACK)
    assert got == wanted
    world.send(world.udp_packet(b"d" * 400, destination=ECHO))
    world.datagrams[0].incoming.append((b"e" * 20_000, ECHO))
    world._settle()
    packets = world.tunnel.app.take()
    assert packets and max(map(len, packets)) <= mtu
    assert_sound(world)


def test_udp_sessions_are_accounted_for() -> None:
    config = make_config({"policy": {"enforcement": "off"}, "limits": {"udp_sessions": 300}})
    world = World(config)
    before = objects_of(UdpSession)
    for number in range(FLOWS):
        world.send(world.udp_packet(b"q", source=endpoint(number), destination=ECHO))
        if number % 3 == 0:
            world.datagrams[-1].incoming.append((b"a", ECHO))
            world.run()
        if number % 50 == 0:
            world.run(0.1)
            prune(world)
    assert_sound(world)
    assert len(world.engine.udp.sessions) == 300
    world.run(400.0)
    prune(world)
    assert_at_rest(world)
    assert objects_of(UdpSession) - before == 0
