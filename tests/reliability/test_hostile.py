"""An app that means harm: floods and scans. The tables stay capped, and a second later an honest app is served."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable

import pytest

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, PSH, RST, SYN, Segment
from netstack.dns.framing import frame
from netstack.testing.world import World
from netstack.wire import ipv4
from netstack.wire.checksum import checksum
from tests.made_captures import answer, query
from tests.reliability.resting import assert_sound, prune
from tests.reliability.settings import FULL

TIMES = 10 if FULL else 1
GATEWAY = Endpoint.of("10.0.0.1", 53)
ECHO = Endpoint.of("192.0.2.7", 7)


def world_of(codec: str = "auto", **tables: dict[str, object]) -> World:
    return World(make_config({"policy": {"enforcement": "off"}, **tables}), codec=codec)


def assert_serves(world: World) -> None:
    """Within a second of the attack: a TCP echo, a UDP echo, a query."""
    prune(world)
    world.run(1.0)
    source = Endpoint.of("10.0.0.99", 5555)
    world.tunnel.app.take()
    world.send(world.tcp_packet(SYN, 1, source=source, destination=ECHO))
    stream = world.streams[-1]
    assert stream.flow is not None and stream.flow.source == source
    stream.connect()
    [syn_ack] = world.run()
    ack = syn_ack.seq + 1
    world.send(world.tcp_packet(ACK | PSH, 2, ack, b"ping", source=source, destination=ECHO))
    assert stream.sent == b"ping"
    stream.deliver(b"pong")
    assert b"pong" in [bytes(item.payload) for item in world.run() if type(item) is Segment]
    world.send(world.tcp_packet(RST | ACK, 6, ack + 4, source=source, destination=ECHO))
    world.send(world.udp_packet(b"ping", source=source, destination=ECHO))
    datagrams = world.datagrams[-1]
    assert datagrams.sent == [(b"ping", ECHO)]
    datagrams.incoming.append((b"pong", ECHO))
    assert [bytes(item.payload) for item in world.run()] == [b"pong"]
    world.send(world.udp_packet(query(9, "honest.example"), source=source, destination=GATEWAY))
    [token] = [token for token, asked in world.resolver.queries.items() if b"\x06honest" in asked]
    world.resolver.answer(token, answer(9, "honest.example", "192.0.2.80"), world.now)
    assert len(world.received()) == 1
    assert_sound(world)


def attack(world: World, count: int, packet: Callable[[int], bytes], *, rate: float = 30_000.0) -> None:
    """`count` packets in batches, at `rate` a second."""
    batch = []
    for number in range(count):
        batch.append(packet(number))
        if len(batch) == 200:
            world.tunnel.app.give(*batch)
            while world.engine.on_tunnel_readable(world.now):
                world.engine.flush(world.now)
            batch.clear()
            world.now += 200 / rate
            world.engine.on_timeout(world.now)
            world.engine.flush(world.now)
            world.tunnel.app.take()
            prune(world)
    assert_sound(world)


def test_half_open_syns() -> None:
    world = world_of()

    def syn(number: int) -> bytes:
        source = Endpoint.of(f"10.1.{number // 200 % 256}.{number % 200}", 1024 + number // 51_200)
        return world.tcp_packet(SYN, number, source=source)

    attack(world, 30_000 * TIMES, syn)
    stats = world.engine.gauges()
    assert stats.tcp_half_open == world.config.limits.half_open
    assert len(world.streams) == world.config.limits.half_open
    assert stats.drops[DropReason.TCP_HALF_OPEN_FULL] == 30_000 * TIMES - world.config.limits.half_open
    assert world.engine.context.buffered == 0
    assert len(world.engine.timers) < 5 * world.config.limits.half_open
    assert_serves(world)


def test_half_open_syns_after_the_dial() -> None:
    """The far end accepts, the app never completes the handshake."""
    world = world_of()
    for number in range(3000 * TIMES):
        source = Endpoint.of(f"10.1.{number // 200 % 256}.{number % 200}", 1024 + number // 51_200)
        world.send(world.tcp_packet(SYN, number, source=source))
        world.streams[-1].connect()
        world.streams[:] = world.streams[-1:]
        world.run()
        prune(world)
    assert_sound(world)
    assert world.engine.gauges().tcp_half_open == world.config.limits.half_open
    assert_serves(world)


def test_port_scan() -> None:
    world = world_of()

    def syn(number: int) -> bytes:
        target = Endpoint.of("192.0.2.80", 1 + number % 65_535)
        return world.tcp_packet(SYN, number, source=Endpoint.of("10.0.0.2", 40_000), destination=target)

    attack(world, 65_535 * TIMES, syn)
    assert_serves(world)


def test_port_scan_of_what_was_never_resolved() -> None:
    """Strict: no socket is made, resets are rate limited, events are few."""
    world = World(make_config({}), codec="auto")
    total = 0
    for number in range(0, 65_535, 50):
        batch = [
            world.tcp_packet(SYN, 1, destination=Endpoint.of("192.0.2.80", 1 + (number + at) % 65_535))
            for at in range(50)
        ]
        total += len(world.send(*batch))
        world.run(0.002)
    assert world.streams == []
    assert total <= world.config.limits.resets_per_second * (world.now + 1)
    assert_sound(world)


def fragment(number: int, size: int = 1000) -> bytes:
    """A first fragment that no other ever follows."""
    payload = bytes(size)
    packet = bytearray(ipv4.emit_ipv4(b"\x0a\0\0\x02", struct.pack("!I", 0xC0000200 + number // 65_536), 17, size))
    packet[4:6] = (number & 0xFFFF).to_bytes(2, "big")
    packet[6:8] = b"\x20\x00"
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum(bytes(packet)).to_bytes(2, "big")
    return bytes(packet) + payload


def test_unfinished_fragments() -> None:
    world = world_of()
    attack(world, 10_000 * TIMES, fragment)
    limits = world.config.limits
    assert len(world.engine.reassembler) <= limits.fragments
    assert world.engine.reassembler.octets <= limits.fragment_octets
    assert_serves(world)
    world.run(60.0)
    assert len(world.engine.reassembler) == 0
    assert world.engine.gauges().buffered_octets == 0


@pytest.mark.parametrize("answered", [True, False])
def test_distinct_names(answered: bool) -> None:
    world = world_of()
    limits = world.config.limits
    for number in range((100_000 if answered else 20_000) * TIMES):
        name = f"n{number}.example.test"
        packet = world.udp_packet(query(number & 0xFFFF, name), destination=GATEWAY)
        world.tunnel.app.give(packet)
        world.engine.on_tunnel_readable(world.now)
        if answered:
            address = f"{1 + number // 65_536}.18.{number // 256 % 256}.{number % 256}"
            for token in list(world.resolver.queries):
                world.resolver.answer(token, answer(number & 0xFFFF, name, address), world.now)
        if number % 100 == 0:
            world.now += 0.005
            world.engine.on_timeout(world.now)
            world.engine.flush(world.now)
            world.tunnel.app.take()
            world.events.clear()
        assert len(world.resolver.queries) <= limits.dns_pending
    stats = assert_sound(world)
    if answered:
        assert stats.tracked_addresses <= limits.tracked_addresses
        assert stats.drops[DropReason.DNS_TABLE_FULL] == 0
    else:
        assert stats.dns_pending == limits.dns_pending
        assert stats.drops[DropReason.DNS_TABLE_FULL] > 0
        world.run(world.config.dns.timeout)  # only a new query past the cap waits for the others' time-out
    assert_serves(world)


def test_one_address_with_many_names_and_many_ports() -> None:
    """UDP from every port to one echo, and to every port from one."""
    world = world_of(limits={"udp_sessions": 256})
    attack(world, 20_000, lambda n: world.udp_packet(b"x", source=Endpoint.of("10.0.0.2", 1 + n), destination=ECHO))
    one = Endpoint.of("10.0.0.3", 1)
    attack(world, 5_000, lambda n: world.udp_packet(b"x", source=one, destination=Endpoint.of("192.0.2.7", 1000 + n)))
    assert max(len(session.peers) for session in world.engine.udp.sessions.values()) <= 512
    assert sum(world.engine.tracker._pins.values()) == sum(
        len(session.peers) for session in world.engine.udp.sessions.values()
    )
    assert_serves(world)


@pytest.mark.parametrize("size", [1, 2, 700, 1400])
def test_a_stalled_flow_costs_a_window(size: int) -> None:
    """The far end takes nothing: whatever the app's segments look like, the memory behind them is bounded."""
    world = world_of("pure", tcp={"window": 16_384} if size < 100 else {})
    world.send(world.tcp_packet(SYN, 1, destination=ECHO))
    stream = world.streams[0]
    stream.connect()
    [syn_ack] = world.run()
    stream.capacity = 0
    seq, ack = 2, syn_ack.seq + 1
    window = world.config.tcp.window
    while seq < window + 3000:
        world.send(world.tcp_packet(ACK | PSH, seq, ack, bytes(size), destination=ECHO))
        seq += size
    flow = next(iter(world.engine.tcp.table))
    assert window - size < flow.pending_octets <= window
    assert sum(map(sys.getsizeof, flow.pending)) + sys.getsizeof(flow.pending) <= 2 * window
    assert flow.connection.buffered_octets + flow.pending_octets <= 256 * 1024
    stream.capacity = None
    world.run()
    assert len(stream.sent) >= window - 1
    assert_sound(world)


def test_a_far_end_that_is_not_read_costs_a_send_buffer() -> None:
    world = world_of("pure")
    world.send(world.tcp_packet(SYN, 1, destination=ECHO, window=0))
    stream = world.streams[0]
    stream.connect()
    [syn_ack] = world.run()
    world.send(world.tcp_packet(ACK, 2, syn_ack.seq + 1, destination=ECHO, window=0))
    for _ in range(600):
        stream.deliver(b"x" * 1000)
    world.run(0.1)
    flow = next(iter(world.engine.tcp.table))
    assert 200_000 < flow.connection.buffered_octets <= 256 * 1024
    assert_sound(world)


def big_answer(asked: bytes) -> bytes:
    """An answer of 40 kB to a query: TXT records, which name no address."""
    records = 160
    record = b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 60, 251) + b"\xfa" + b"t" * 250
    return asked[:2] + struct.pack("!5H", 0x8180, 1, records, 0, 0) + asked[12:] + record * records


def test_readers_of_dns_over_tcp_that_do_not_read() -> None:
    """Each asks a thousand questions at once and takes nothing: bounded for each, and nobody else waits."""
    world = world_of()
    for number in range(20):
        source = Endpoint.of("10.0.0.2", 30_000 + number)
        [syn_ack] = world.send(world.tcp_packet(SYN, 1, source=source, destination=GATEWAY, window=0))
        ack, seq, ident = syn_ack.seq + 1, 2, 0
        edge = 2 + syn_ack.window
        world.send(world.tcp_packet(ACK, seq, ack, source=source, destination=GATEWAY, window=0))
        while ident < 1000 and seq + 1400 < edge:
            piece = b""
            while len(piece) < 1300:
                piece += frame(query(ident, f"n{number}.example", 16))
                ident += 1
            out = world.send(world.tcp_packet(ACK, seq, ack, piece, source=source, destination=GATEWAY, window=0))
            seq += len(piece)
            for item in out:
                if type(item) is Segment and item.ack == seq:
                    assert item.ack + item.window >= edge, "the window shrinks"
                    edge = item.ack + item.window
            for token, asked in list(world.resolver.queries.items()):
                world.resolver.answer(token, big_answer(asked), world.now)
            world.run()
    assert len(world.resolver.queries) == 0
    for flow in world.engine.tcp.table:
        assert flow.connection.buffered_octets + flow.pending_octets <= 512 * 1024
    assert_sound(world)
    assert_serves(world)
    world.run(world.config.tcp.dns_idle_timeout * 60)
    assert len(world.engine.tcp.table) == 0
    assert world.engine.context.buffered == 0


def test_many_stalled_flows_stay_within_the_memory_budget() -> None:
    """Each fills the window that it was given while its far end takes nothing."""
    budget = 1_000_000
    world = world_of(limits={"memory": budget})
    for number in range(60):
        source = Endpoint.of("10.0.0.2", 20_000 + number)
        world.send(world.tcp_packet(SYN, 1, source=source, destination=ECHO))
        stream = world.streams[-1]
        stream.connect()
        [syn_ack] = world.run()
        stream.capacity = 0
        for at in range(0, 60_000, 1400):
            packet = world.tcp_packet(ACK, 2 + at, syn_ack.seq + 1, bytes(1400), source=source, destination=ECHO)
            world.send(packet)
        world.run(0.01)
        assert world.engine.gauges().buffered_octets <= budget
    assert_sound(world)
    assert world.stats.shed_flows > 0
    assert 5 <= len(world.engine.tcp.table) < 60, "no more go than must"
    assert_serves(world)


def test_unfinished_queries_over_tcp_stay_within_their_share_of_memory() -> None:
    """Each announces a message of 65,535 octets and sends all but the end of it."""
    world = world_of(limits={"memory": 2_000_000})
    for number in range(60):
        source = Endpoint.of("10.0.0.2", 30_000 + number)
        [syn_ack] = world.send(world.tcp_packet(SYN, 1, source=source, destination=GATEWAY))
        for at in range(0, 60_000, 1200):
            piece = (b"\xff\xff" if at == 0 else b"") + bytes(1200)
            world.send(world.tcp_packet(ACK, 2 + at + 2 * bool(at), syn_ack.seq + 1, piece, source=source,
                                        destination=GATEWAY))  # fmt: skip
    assert world.engine.dns.held <= 250_000 + 60 * 6000
    assert world.stats.drops[DropReason.DNS_TABLE_FULL] > 0
    assert_sound(world)
    assert_serves(world)
    world.run(60.0)
    assert world.engine.dns.held == 0
