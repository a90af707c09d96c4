"""The blocking state through the whole engine: flows are cut, the network check passes, the end takes it back."""

import dns.message
import dns.rrset

from netstack.config import LockdownConfig, make_config
from netstack.core.events import FlowClosed, LockdownChanged
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, RST, SYN, IcmpMessage
from netstack.policy.lockdown import Lockdown, LockdownStage
from netstack.testing.world import APP, SERVER, World

DNS = Endpoint.of("10.0.0.1", 53)
CHECK = Endpoint.of("198.51.100.80", 80)


def world(**settings) -> tuple[World, Lockdown]:  # type: ignore[no-untyped-def]
    w = World(make_config({"policy": {"enforcement": "off"}}))
    lockdown = Lockdown(LockdownConfig(network_check=True, **settings), w.events.append)
    stage = LockdownStage(w.resolver, lockdown)
    stage.start(w.engine.bridge)
    w.engine.bridge._resolver = stage
    w.engine.use_lockdown(lockdown)
    return w, lockdown


def connect(w: World, destination: Endpoint, port: int) -> bool:
    """True when the engine dialled for it; a refusal is a reset."""
    dialled = len(w.streams)
    back = w.send(w.tcp_packet(SYN, 1000, source=Endpoint(APP.address, port), destination=destination))
    assert not back or back[0].flags & RST
    return len(w.streams) > dialled


def resolve(w: World, name: str) -> dns.message.Message:
    w.send(w.udp_packet(dns.message.make_query(name, "A", id=7).to_wire(), destination=DNS))
    for token, wire in list(w.resolver.queries.items()):
        response = dns.message.make_response(dns.message.from_wire(wire))
        response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", str(CHECK).split(":")[0]))
        w.resolver.answer(token, response.to_wire(), w.now)
    return dns.message.from_wire(bytes(w.received()[0].payload))


def test_open_blocking_open() -> None:
    w, lockdown = world()
    w.send(w.tcp_packet(SYN, 1000))
    w.streams[0].connect()
    [syn_ack] = w.run()
    w.send(w.tcp_packet(ACK, 1001, syn_ack.seq + 1))
    w.send(w.udp_packet(b"x", destination=Endpoint.of("203.0.113.5", 4000)))

    lockdown.enter(w.now)
    assert [packet.flags & RST for packet in w.run()] == [RST], "live flows are cut at once"
    [unreachable] = w.send(w.udp_packet(b"x", destination=Endpoint.of("203.0.113.5", 4000)))
    assert isinstance(unreachable, IcmpMessage)
    assert not connect(w, SERVER, 2) and not connect(w, CHECK, 3)
    w.run(5.0)

    assert resolve(w, "captive.apple.com").answer
    assert connect(w, CHECK, 4) and not connect(w, Endpoint(CHECK.address, 8080), 5) and not connect(w, SERVER, 6)

    lockdown.leave(w.now)
    w.run()
    assert connect(w, SERVER, 7)
    assert [(e.state, e.network_check) for e in w.events if isinstance(e, LockdownChanged)] == [
        ("blocking", True), ("open", False),
    ]  # fmt: skip


def test_udp_and_ping_end_with_the_blocking_and_nothing_comes_in_for_them() -> None:
    w, lockdown = world()
    place = Endpoint.of("203.0.113.5", 4000)
    w.send(w.udp_packet(b"x", destination=place))
    w.send(w.echo_packet())
    udp, ping = w.datagrams
    udp.incoming.append((b"y", place))
    assert [bytes(packet.payload) for packet in w.run()] == [b"y"]
    lockdown.enter(w.now)
    assert udp.closed and ping.closed
    closed = [event.how for event in w.events if isinstance(event, FlowClosed)]
    assert closed == ["cut", "cut"]
    assert w.engine.gauges().udp_sessions == w.engine.gauges().icmp_sessions == 0
    lockdown.leave(w.now)
    w.send(w.udp_packet(b"x", destination=place))
    assert not w.datagrams[-1].closed and len(w.datagrams) == 3


def test_the_checks_flow_is_cut_when_blocking_ends_under_strict_enforcement() -> None:
    w, lockdown = world()
    lockdown.enter(w.now)
    resolve(w, "captive.apple.com")
    assert connect(w, CHECK, 4)
    w.streams[-1].connect()
    w.run()
    w.engine.reconfigure(make_config({}), w.now)
    assert not w.streams[-1].closed, "still blocking: the check goes on"
    lockdown.leave(w.now)
    w.run()
    assert w.streams[-1].closed or w.streams[-1].aborted
