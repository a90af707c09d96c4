"""TCP flows through a whole engine: verdict, dial, SYN|ACK, refusals, caps, replacement, reload."""

import errno

import pytest

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.errors import CodecError, DialError, ProtectError
from netstack.core.events import EngineError, FlowBlocked, FlowClosed, FlowOpened
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, RST, SYN, IcmpMessage, Segment
from netstack.testing.world import APP, APP6, SERVER, SERVER6, World


def world(**tables) -> World:
    tables.setdefault("policy", {"enforcement": "off"})
    return World(make_config(tables))


def opened(world: World, source: Endpoint = APP, destination: Endpoint = SERVER, seq: int = 1000) -> Segment:
    """A flow whose handshake is complete; the SYN|ACK."""
    where = {"source": source, "destination": destination}
    shed = world.send(world.tcp_packet(SYN, seq, **where))  # resets of flows that had to make room
    assert all(segment.key[36:38] != source.port.to_bytes(2, "big") for segment in shed)
    world.streams[-1].connect()
    [syn_ack] = world.run()
    assert isinstance(syn_ack, Segment) and syn_ack.flags == SYN | ACK and syn_ack.ack == seq + 1
    assert world.send(world.tcp_packet(ACK, seq + 1, syn_ack.seq + 1, **where)) == []
    return syn_ack


@pytest.mark.parametrize(("source", "destination"), [(APP, SERVER), (APP6, SERVER6)])
def test_syn_ack_waits_for_the_dial(source: Endpoint, destination: Endpoint) -> None:
    w = world()
    opened(w, source, destination)
    assert w.streams[0].destination == destination
    assert [type(event) for event in w.events] == [FlowOpened]
    assert w.stats.tcp_opened == 1


@pytest.mark.parametrize("codec", ["pure", "native"])
def test_an_ack_of_unsent_data_in_the_same_batch_does_not_undo_the_handshake(codec: str) -> None:
    try:
        w = World(make_config({"policy": {"enforcement": "off"}}), codec=codec)
    except CodecError as problem:
        pytest.skip(str(problem))
    w.send(w.tcp_packet(SYN, 1000))
    w.streams[0].connect()
    [syn_ack] = w.run()
    out = w.send(w.tcp_packet(ACK, 1001, syn_ack.seq + 1), w.tcp_packet(ACK, 1001, syn_ack.seq + 2))
    assert [segment.flags for segment in out] == [ACK], "a challenge ACK, and no reset"
    w.send(w.tcp_packet(ACK | PSH, 1001, syn_ack.seq + 1, b"data"))
    assert w.streams[0].sent == b"data"
    out = w.send(
        w.tcp_packet(ACK, 1005, syn_ack.seq + 1, b"more"), w.tcp_packet(ACK, 1009, syn_ack.seq + 9, b"liar")
    )
    assert w.streams[0].sent == b"data"
    w.send(w.tcp_packet(ACK | PSH, 1005, syn_ack.seq + 1, b"more"))
    assert w.streams[0].sent == b"datamore"


def test_octets_both_ways_then_both_ends() -> None:
    w = world()
    syn_ack = opened(w)
    stream = w.streams[0]
    replies = w.send(w.tcp_packet(ACK | PSH, 1001, syn_ack.seq + 1, b"question"))
    assert stream.sent == b"question"
    assert all(reply.ack == 1009 for reply in replies)
    stream.deliver(b"answer")
    [data] = w.run(0.1)
    assert bytes(data.payload) == b"answer"
    got = data.seq + 6
    w.send(w.tcp_packet(FIN | ACK, 1009, got))
    assert stream.half_closed and not stream.closed
    stream.deliver(b"more")
    stream.end()
    rest = w.run(0.1)
    assert b"".join(bytes(segment.payload) for segment in rest) == b"more"
    assert rest[-1].flags & FIN
    assert stream.closed and not stream.aborted
    w.send(w.tcp_packet(ACK, 1010, got + 5))
    w.run(120.0)
    closed = w.events[-1]
    assert isinstance(closed, FlowClosed)
    assert (closed.how, closed.octets_up, closed.octets_down) == ("finished", 8, 10)
    assert len(w.engine.tcp.table) == 0


def test_server_speaks_first_and_ends_first() -> None:
    w = world()
    w.send(w.tcp_packet(SYN, 1000))
    stream = w.streams[0]
    stream.deliver(b"220 ready")
    stream.end()
    stream.connect()
    [syn_ack] = w.run()
    replies = w.send(w.tcp_packet(ACK, 1001, syn_ack.seq + 1))
    assert b"".join(bytes(reply.payload) for reply in replies) == b"220 ready"
    assert replies[-1].flags & FIN
    w.send(w.tcp_packet(ACK | PSH, 1001, syn_ack.seq + 11, b"still here"))
    assert stream.sent == b"still here", "the app may go on after the server ended"
    assert not stream.closed


def test_refused_upstream_is_refused_to_the_app() -> None:
    w = world()
    w.send(w.tcp_packet(SYN, 1000))
    w.streams[0].connect(errno.ECONNREFUSED)
    [reset] = w.run()
    assert reset.flags == RST | ACK and reset.ack == 1001
    assert len(w.engine.tcp.table) == 0


@pytest.mark.parametrize(("error", "code"), [(errno.EHOSTUNREACH, 1), (errno.ENETUNREACH, 0), (errno.EACCES, 13)])
def test_unreachable_upstream_is_icmp(error: int, code: int) -> None:
    w = world()
    syn = w.tcp_packet(SYN, 1000)
    w.send(syn)
    w.streams[0].connect(error)
    [message] = w.run()
    assert isinstance(message, IcmpMessage)
    assert (message.type, message.code) == (3, code)
    assert bytes(message.payload) == syn


def test_black_hole_never_looks_connected() -> None:
    w = world(tcp={"dial_timeout": 5.0})
    w.send(w.tcp_packet(SYN, 1000))
    assert w.run(4.9) == []
    [message] = w.run(0.2)
    assert isinstance(message, IcmpMessage) and (message.type, message.code) == (3, 1)
    assert w.streams[0].closed
    assert len(w.engine.tcp.table) == 0


def test_dial_time_out_styles() -> None:
    w = world(tcp={"dial_timeout": 5.0, "on_dial_timeout": "reset"})
    w.send(w.tcp_packet(SYN, 1000))
    [reset] = w.run(6.0)
    assert isinstance(reset, Segment) and reset.flags & RST
    w = world(tcp={"dial_timeout": 5.0, "on_dial_timeout": "drop"})
    w.send(w.tcp_packet(SYN, 1000))
    assert w.run(6.0) == []


def test_syn_again_while_dialling_dials_once() -> None:
    w = world()
    for _ in range(3):
        assert w.send(w.tcp_packet(SYN, 1000)) == []
        w.run(1.0)
    assert len(w.streams) == 1
    w.streams[0].connect()
    assert len(w.run()) == 1


def test_hard_coded_address_is_reset_with_the_log_line() -> None:
    w = world(policy={"enforcement": "strict"})
    [reset] = w.send(w.tcp_packet(SYN, 1000))
    assert reset.flags == RST | ACK and reset.ack == 1001
    assert w.streams == []
    assert w.stats.drops[DropReason.POLICY_UNTRACKED] == 1
    [event] = w.events
    assert isinstance(event, FlowBlocked)
    assert event.line() == "[TCP] BLOCKED hardcoded IP: 10.0.0.2:40000 -> 192.0.2.80:80"


def test_refusal_styles() -> None:
    w = world(policy={"enforcement": "strict", "refusal": "unreachable"})
    [message] = w.send(w.tcp_packet(SYN, 1000))
    assert isinstance(message, IcmpMessage) and (message.type, message.code) == (3, 13)
    w = world(policy={"enforcement": "strict", "refusal": "drop"})
    assert w.send(w.tcp_packet(SYN, 1000)) == []
    assert w.stats.tcp_blocked == 1


def test_the_seeds_timeline() -> None:
    w = world(policy={"enforcement": "strict"}, tracker={"linger": 0.0})
    assert w.send(w.tcp_packet(SYN, 1))[0].flags & RST
    w.run(1.0)
    w.engine.tracker.learn("example.com", SERVER.address, 60, w.now)
    w.run(1.0)
    where = Endpoint(APP.address, 40001)
    opened(w, source=where)
    w.send(w.tcp_packet(RST, 1001, 0, source=where))
    w.run(300.0)
    assert w.send(w.tcp_packet(SYN, 1, source=Endpoint(APP.address, 40002)))[0].flags & RST


def test_a_live_flow_pins_its_address() -> None:
    w = world(policy={"enforcement": "strict"}, tracker={"linger": 10.0})
    w.engine.tracker.learn("example.com", SERVER.address, 60, w.now)
    opened(w)
    w.run(1000.0)
    opened(w, source=Endpoint(APP.address, 40001))


def test_blocked_events_are_not_a_storm() -> None:
    w = world(policy={"enforcement": "strict"})
    for _ in range(50):
        w.send(w.tcp_packet(SYN, 1000))
    assert len(w.events) == 1
    assert w.stats.tcp_blocked == 50
    w.run(2.0)
    w.send(w.tcp_packet(SYN, 1000))
    assert len(w.events) == 2


def test_reset_by_the_app_reaches_the_far_end() -> None:
    w = world()
    opened(w)
    assert w.send(w.tcp_packet(RST, 1001)) == []
    assert w.streams[0].aborted
    assert w.events[-1].how == "reset-by-app"


def test_reset_by_the_far_end_is_a_reset_to_the_app() -> None:
    w = world()
    syn_ack = opened(w)
    w.streams[0].fail(errno.ECONNRESET)
    [reset] = w.run()
    assert reset.flags & RST and not reset.flags & FIN and reset.seq == syn_ack.seq + 1
    assert w.events[-1].how == "reset-by-peer"


def test_stray_segment_gets_a_reset_and_a_stray_reset_nothing() -> None:
    w = world()
    [reset] = w.send(w.tcp_packet(ACK, 5, 77))
    assert (reset.flags & RST, reset.seq) == (RST, 77)
    assert w.send(w.tcp_packet(RST, 5)) == []
    assert w.stats.drops[DropReason.TCP_NO_FLOW] == 2


def test_resets_are_rate_limited() -> None:
    w = world(limits={"resets_per_second": 10})
    out = [w.send(w.tcp_packet(ACK, 5, 77, source=Endpoint(APP.address, port))) for port in range(1, 101)]
    assert sum(map(len, out)) == 10
    assert w.stats.drops[DropReason.RATE_LIMITED] == 90


def test_stalled_upstream_holds_one_window_at_most() -> None:
    w = world()
    syn_ack = opened(w)
    w.streams[0].capacity = 1000
    seq, window, acked = 1001, syn_ack.window, 1001
    while window >= 1000 and seq < 500_000:
        replies = w.send(w.tcp_packet(ACK, seq, syn_ack.seq + 1, b"x" * 1000))
        seq += 1000
        for reply in replies:
            window = reply.window - (seq - reply.ack)
            acked = reply.ack
    assert seq < 100_000, "the window closed"
    assert w.engine.context.buffered <= 66_000
    w.streams[0].capacity = None
    w.run(0.1)
    assert len(w.streams[0].sent) == acked - 1001, "what was acknowledged was kept"
    assert w.engine.context.buffered == 0


def test_stalled_app_stops_the_reading() -> None:
    w = world(tcp={"send_buffer": 100_000})
    opened(w)
    stream = w.streams[0]
    for _ in range(100):
        stream.deliver(b"y" * 10_000)
    w.run(0.0)
    assert not stream.readable_wanted
    assert w.engine.context.buffered <= 110_000


def test_memory_budget_stops_all_reading() -> None:
    w = world(limits={"memory": 200_000})
    for port in range(20):
        source = Endpoint(APP.address, 41000 + port)
        opened(w, source=source)
        w.streams[-1].deliver(b"z" * 1_000_000)
        w.run()
    assert w.engine.context.buffered <= 200_000
    for port in range(20):
        w.send(w.tcp_packet(RST, 1001, source=Endpoint(APP.address, 41000 + port)))
    assert w.engine.context.buffered == 0


def test_half_open_flood_sheds_itself() -> None:
    w = world(limits={"half_open": 16})
    for port in range(1, 200):
        w.send(w.tcp_packet(SYN, 1000, source=Endpoint(APP.address, port)))
    assert len(w.engine.tcp.table) <= 16
    assert w.stats.drops[DropReason.TCP_HALF_OPEN_FULL] == 199 - 16
    assert sum(not stream.closed for stream in w.streams) <= 16
    opened(w, source=Endpoint(APP.address, 5000))


def test_full_table_sheds_the_longest_idle() -> None:
    w = world(limits={"tcp_flows": 32})
    for port in range(1, 33):
        opened(w, source=Endpoint(APP.address, port))
        w.run(1.0)
    opened(w, source=Endpoint(APP.address, 999))
    assert w.streams[0].aborted and not w.streams[5].aborted
    assert w.stats.shed_flows == 1


def test_pair_is_usable_again_at_once_after_reset_and_after_close() -> None:
    w = world()
    opened(w, seq=1000)
    w.send(w.tcp_packet(RST, 1001))
    syn_ack = opened(w, seq=500)
    stream = w.streams[-1]
    stream.end()
    w.run()
    w.send(w.tcp_packet(FIN | ACK, 501, syn_ack.seq + 2))
    opened(w, seq=900)
    assert len(w.streams) == 3


def test_flows_in_time_wait_are_few() -> None:
    w = world(tcp={"time_wait": 1000.0})
    for port in range(1, 1501):
        source = Endpoint(APP.address, port)
        syn_ack = opened(w, source=source)
        w.streams[-1].end()
        w.run()
        w.send(w.tcp_packet(FIN | ACK, 1001, syn_ack.seq + 2, source=source))
        w.streams.clear()
    assert len(w.engine.tcp.table) == 1024
    assert sum(isinstance(event, FlowClosed) for event in w.events) == 1500, "reported without waiting"


def test_protect_refusal_fails_closed() -> None:
    w = world()
    w.dialer.refusal = ProtectError("the host refused to protect a socket")
    [reset] = w.send(w.tcp_packet(SYN, 1000))
    assert reset.flags & RST
    assert any(isinstance(event, EngineError) and event.where == "protect" for event in w.events)


def test_no_descriptors_left_ends_this_flow_only() -> None:
    w = world()
    opened(w, source=Endpoint(APP.address, 1))
    w.dialer.refusal = DialError("too many open files", errno.EMFILE)
    [reset] = w.send(w.tcp_packet(SYN, 1000))
    assert reset.flags & RST
    w.dialer.refusal = None
    opened(w, seq=3000)


def test_reload_cuts_what_is_blocked_now_and_nothing_else() -> None:
    w = world(policy={"enforcement": "off"})
    w.engine.tracker.learn("example.com", SERVER.address, 60, w.now)
    opened(w)
    other = Endpoint.of("192.0.2.81", 80)
    opened(w, destination=other)
    w.engine.reconfigure(make_config({"policy": {"enforcement": "strict"}}), w.now)
    [reset] = w.run()
    assert reset.flags & RST
    assert [stream.aborted for stream in w.streams] == [False, True]


def test_mode_switch_cuts_no_live_flow() -> None:
    w = world()
    opened(w)
    w.engine.reconfigure(make_config({"mode": "dns-only", "policy": {"enforcement": "off"}}), w.now)
    assert w.run() == [] and not w.streams[0].closed
    assert w.send(w.tcp_packet(SYN, 1, source=Endpoint(APP.address, 2)))[0].flags & RST


def test_network_change_cuts_only_dead_sockets() -> None:
    w = world()
    opened(w, source=Endpoint(APP.address, 1))
    opened(w, source=Endpoint(APP.address, 2))
    w.streams[0].alive = False
    w.engine.network_changed(w.now)
    [reset] = w.run()
    assert reset.flags & RST
    assert [stream.closed for stream in w.streams] == [True, False]
    assert w.resolver.resets == 1


def test_idle_flow_ends() -> None:
    w = world(tcp={"idle_timeout": 100.0, "keepalive": 0})
    opened(w)
    assert w.run(99.0) == []
    [reset] = w.run(2.0)
    assert reset.flags & RST
    assert w.events[-1].how == "timeout"


def test_idle_engine_has_no_deadline_but_the_idle_limit() -> None:
    w = world(tcp={"idle_timeout": 5000.0, "keepalive": 0})
    opened(w)
    w.run(1.0)
    deadline = w.engine.next_timeout()
    assert deadline is not None and deadline > 4000.0


def test_stop_resets_both_ways_and_leaves_nothing() -> None:
    w = world()
    opened(w)
    w.send(w.tcp_packet(SYN, 1, source=Endpoint(APP.address, 2)))
    w.engine.stop(w.now)
    assert {segment.flags & RST for segment in w.received()} == {RST}
    assert all(stream.closed for stream in w.streams)
    assert w.resolver.closed
    assert len(w.engine.tcp.table) == 0
