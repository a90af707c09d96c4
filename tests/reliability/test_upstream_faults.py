"""Far ends that fail: each ends as defined in time, and the next flow works. See also tests/interop."""

from __future__ import annotations

import errno

import pytest

from netstack.config import make_config
from netstack.core.errors import DialError, ProtectError
from netstack.core.events import EngineError, FlowClosed
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, IcmpMessage, Segment
from netstack.testing.world import World
from tests.made_captures import answer, query
from tests.reliability.resting import assert_at_rest, assert_sound, prune

ECHO = Endpoint.of("192.0.2.7", 7)
GATEWAY = Endpoint.of("10.0.0.1", 53)


def world_of(**tables: dict[str, object]) -> World:
    return World(make_config({"policy": {"enforcement": "off"}, "tcp": {"dial_timeout": 5.0}, **tables}))


def opened(world: World, port: int = 40_000) -> tuple[Endpoint, int]:
    source = Endpoint.of("10.0.0.2", port)
    world.send(world.tcp_packet(SYN, 1, source=source, destination=ECHO))
    world.streams[-1].connect()
    [syn_ack] = world.run()
    world.send(world.tcp_packet(ACK, 2, syn_ack.seq + 1, source=source, destination=ECHO))
    return source, syn_ack.seq + 1


def assert_next_flow_works(world: World) -> None:
    source, ack = opened(world, 50_000)
    stream = world.streams[-1]
    world.send(world.tcp_packet(ACK | PSH, 2, ack, b"ping", source=source, destination=ECHO))
    assert stream.sent == b"ping"
    world.send(world.tcp_packet(RST | ACK, 6, ack, source=source, destination=ECHO))
    world.run(120.0)
    prune(world)
    assert_at_rest(world)


@pytest.mark.parametrize(
    "error", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EIO]
)
def test_a_dial_that_fails_is_shown_at_once(error: int) -> None:
    world = world_of()
    world.send(world.tcp_packet(SYN, 1, destination=ECHO))
    world.streams[0].connect(error)
    [shown] = world.run()
    assert isinstance(shown, IcmpMessage) or shown.flags == RST | ACK
    assert_next_flow_works(world)


@pytest.mark.parametrize("how", ["reset", "unreachable", "drop"])
def test_a_black_hole_ends_with_the_dial_time_out(how: str) -> None:
    world = world_of(tcp={"dial_timeout": 5.0, "on_dial_timeout": how})
    world.send(world.tcp_packet(SYN, 1, destination=ECHO))
    assert world.run(4.9) == []
    shown = world.run(0.2)
    assert len(shown) == (0 if how == "drop" else 1)
    assert world.streams[0].closed
    assert_next_flow_works(world)


def test_a_reset_is_a_reset() -> None:
    world = world_of()
    opened(world)
    world.streams[0].fail(errno.ECONNRESET)
    [shown] = world.run()
    assert shown.flags & RST
    assert_next_flow_works(world)


def test_a_stall_stops_the_app_and_goes_on_where_it_stopped() -> None:
    world = world_of()
    source, ack = opened(world)
    stream, sent, seq = world.streams[0], b"", 2
    stream.capacity = 0
    shut = False
    for number in range(100):
        piece = bytes([number]) * 1000
        out = world.send(world.tcp_packet(ACK | PSH, seq, ack, piece, source=source, destination=ECHO))
        last = [item for item in out if isinstance(item, Segment)]
        if last and last[-1].window == 0:
            shut = True
            sent += piece[: (last[-1].ack - seq)]
            seq = last[-1].ack
            break
        seq, sent = seq + 1000, sent + piece
    assert shut
    world.run(30.0)
    stream.capacity = None
    [update] = [item for item in world.run() if isinstance(item, Segment)]
    assert update.window > 0
    assert stream.sent == sent
    world.send(world.tcp_packet(RST | ACK, seq, ack, source=source, destination=ECHO))
    assert_next_flow_works(world)


def test_half_closes_end_when_both_sides_have_said_so_or_time_is_over() -> None:
    world = world_of(tcp={"half_closed_timeout": 5.0})
    source, ack = opened(world)
    world.send(world.tcp_packet(ACK | FIN, 2, ack, source=source, destination=ECHO))
    assert world.streams[0].half_closed and not world.streams[0].closed
    out = world.run(6.0)
    assert any(isinstance(item, Segment) and item.flags & RST for item in out)
    assert world.streams[0].closed
    assert_next_flow_works(world)


@pytest.mark.parametrize("kind", ["tcp", "udp", "icmp"])
@pytest.mark.parametrize(
    "refusal",
    [DialError("no descriptor is left", errno.EMFILE), ProtectError("protect() refused")],
    ids=["emfile", "protect"],
)
def test_no_socket_to_be_had(kind: str, refusal: DialError) -> None:
    world = world_of()
    world.dialer.refusal = refusal
    packet = {
        "tcp": world.tcp_packet(SYN, 1, destination=ECHO),
        "udp": world.udp_packet(b"x", destination=ECHO),
        "icmp": world.echo_packet(),
    }[kind]
    shown = world.send(packet)
    assert len(shown) == 1, "the app is told"
    assert [event for event in world.events if isinstance(event, EngineError)]
    assert not world.engine.tcp.table.half_open
    world.dialer.refusal = None
    assert_next_flow_works(world)


def test_a_dead_resolver_delays_only_its_askers() -> None:
    world = world_of()
    world.send(world.udp_packet(query(1, "dead.example"), destination=GATEWAY))
    world.send(world.udp_packet(query(2, "lost.example"), destination=GATEWAY))
    source, ack = opened(world)
    world.resolver.fail(max(world.resolver.queries), "refused", world.now)
    [refused] = world.run()
    assert refused.payload[3] & 0xF == 2
    assert world.run(world.config.dns.timeout - 0.5) == []
    [servfail] = world.run(0.6)
    assert servfail.payload[3] & 0xF == 2
    world.send(world.tcp_packet(RST | ACK, 2, ack, source=source, destination=ECHO))
    assert_next_flow_works(world)


def test_a_lying_resolver_opens_nothing() -> None:
    world = World(make_config({"tcp": {"dial_timeout": 5.0}}))
    world.send(world.udp_packet(query(1, "www.example"), destination=GATEWAY))
    [token] = world.resolver.queries
    world.resolver.answer(token, answer(1, "other.example", "192.0.2.7"), world.now)
    [shown] = world.run()
    assert shown.payload[3] & 0xF == 2
    [reset] = world.send(world.tcp_packet(SYN, 1, destination=ECHO))
    assert reset.flags & RST
    assert_sound(world)


@pytest.mark.parametrize(
    "moment", ["idle", "dialling", "syn-ack", "open", "stalled", "half-closed", "time-wait", "query"]
)
def test_stop_in_any_state_closes_everything(moment: str) -> None:
    world = world_of()
    world.send(world.udp_packet(b"x", destination=ECHO))
    world.send(world.echo_packet())
    if moment in ("dialling", "syn-ack"):
        world.send(world.tcp_packet(SYN, 1, destination=ECHO))
        if moment == "syn-ack":
            world.streams[0].connect()
            world.run()
    elif moment != "idle":
        source, ack = opened(world)
        stream = world.streams[0]
        if moment == "stalled":
            stream.capacity = 0
            world.send(world.tcp_packet(ACK | PSH, 2, ack, b"x" * 1000, source=source, destination=ECHO))
        elif moment == "half-closed":
            stream.end()
            world.run()
        elif moment == "time-wait":
            stream.end()
            world.run()
            world.send(world.tcp_packet(ACK | FIN, 2, ack + 1, source=source, destination=ECHO))
        elif moment == "query":
            world.send(world.udp_packet(query(1, "www.example"), destination=GATEWAY))
    world.engine.stop(world.now)
    world.engine.stop(world.now)
    assert world.resolver.closed
    for socket in (*world.streams, *world.datagrams):
        assert socket.closed
    assert len(world.engine.tcp.table) == len(world.engine.udp.sessions) == len(world.engine.icmp.sessions) == 0
    assert world.engine.context.buffered == 0
    assert world.engine.tracker._pins == {}
    closed = [event.flow_id for event in world.events if isinstance(event, FlowClosed)]
    assert len(closed) == len(set(closed)), "each flow ends once"
    world.run(10_000.0)
