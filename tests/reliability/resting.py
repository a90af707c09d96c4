"""What is true of an engine in a `World`: always, and once everything that it carried has ended."""

from __future__ import annotations

import gc

from netstack.core.stats import Stats
from netstack.testing.world import World


def assert_sound(world: World) -> Stats:
    """Holds at any time between two batches: the accounts agree with what is there, caps are kept."""
    engine, limits = world.engine, world.config.limits
    flows = list(engine.tcp.table)
    held = sum(flow.connection.buffered_octets + flow.pending_octets for flow in flows)
    assert engine.context.buffered == held
    for flow in flows:
        assert flow.pending_octets == sum(map(len, flow.pending))
        assert flow.connection.buffered_octets >= 0
    stats = engine.gauges()
    assert len(flows) <= limits.tcp_flows
    assert stats.tcp_half_open <= limits.half_open
    assert stats.udp_sessions <= limits.udp_sessions
    assert stats.icmp_sessions <= limits.icmp_sessions
    assert stats.dns_pending <= limits.dns_pending
    assert stats.tracked_addresses <= limits.tracked_addresses
    assert len(engine.reassembler) <= limits.fragments
    assert engine.reassembler.octets <= limits.fragment_octets
    deadline = engine.next_timeout()
    assert deadline is None or deadline > world.now or not settled(world)
    return stats


def settled(world: World) -> bool:
    """Let what is due now happen. False when a deadline does not move: such an engine would spin."""
    engine = world.engine
    for _ in range(100):
        deadline = engine.next_timeout()
        if deadline is None or deadline > world.now:
            return True
        engine.on_timeout(world.now)
        engine.flush(world.now)
    raise AssertionError(f"deadline {deadline} does not move at {world.now}")


def assert_at_rest(world: World) -> None:
    """Nothing is left of what was carried: no flow, octet, pin, socket or timer."""
    engine = world.engine
    stats = assert_sound(world)
    assert (stats.tcp_open, stats.tcp_half_open, stats.udp_sessions, stats.icmp_sessions) == (0, 0, 0, 0)
    assert stats.dns_pending == 0
    assert len(engine.tcp.table) == 0
    assert not engine.tcp.table.half_open and not engine.tcp.table.finished
    assert engine.context.buffered == 0
    assert not engine.tcp.starved
    assert not engine.tcp._bulk
    assert not engine.tcp._dirty
    assert engine.tracker._pins == {}
    assert len(engine.timers) < 1000
    left = [socket for socket in (*world.streams, *world.datagrams) if not socket.closed]
    assert left == []


def prune(world: World) -> None:
    """Forget the sockets that are closed, so that a long soak looks only at the others."""
    world.streams[:] = [stream for stream in world.streams if not stream.closed]
    world.datagrams[:] = [datagrams for datagrams in world.datagrams if not datagrams.closed]
    world.events.clear()


def objects_of(*kinds: type) -> int:
    """How many objects of these types are alive."""
    gc.collect()
    return sum(1 for thing in gc.get_objects() if type(thing) in kinds)
