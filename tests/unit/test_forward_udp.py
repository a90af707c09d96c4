"""UDP sessions through a whole engine."""

import errno
from dataclasses import dataclass

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.errors import DialError, ProtectError
from netstack.core.events import EngineError, FlowClosed, FlowOpened
from netstack.core.flow import Endpoint
from netstack.core.packet import Datagram, IcmpMessage
from netstack.testing.world import APP, APP6, SERVER, SERVER6, World
from netstack.wire.checksum import checksum

GAME = Endpoint.of("192.0.2.80", 3074)
GAME6 = Endpoint.of("2001:db8::80", 3074)


def world(**tables) -> World:
    tables.setdefault("policy", {"enforcement": "off"})
    return World(make_config(tables))


@dataclass
class Error:
    errno: int
    destination: Endpoint
    payload: bytes = b""
    offender: bytes | None = None
    info: int = 0
    icmp_type: int = 3
    icmp_code: int = 3


def test_both_ways_with_the_asked_address_as_source() -> None:
    for source, destination in ((APP, GAME), (APP6, GAME6)):
        w = world()
        assert w.send(w.udp_packet(b"hello", source=source, destination=destination)) == []
        [socket] = w.datagrams
        assert socket.sent == [(b"hello", destination)]
        socket.incoming.append((b"there", destination))
        [reply] = w.run()
        assert isinstance(reply, Datagram) and bytes(reply.payload) == b"there"
        assert reply.key[34:38] == destination.port.to_bytes(2, "big") + source.port.to_bytes(2, "big")


def test_one_socket_for_all_destinations() -> None:
    w = world()
    for last in range(1, 20):
        w.send(w.udp_packet(b"x", destination=Endpoint.of(f"192.0.2.{last}", 9000)))
    assert len(w.datagrams) == 1
    w.send(w.udp_packet(b"x", source=Endpoint(APP.address, 40001), destination=GAME))
    assert len(w.datagrams) == 2


def test_replies_of_strangers_are_dropped_but_of_another_port_taken() -> None:
    w = world()
    w.send(w.udp_packet(b"x", destination=GAME))
    [socket] = w.datagrams
    socket.incoming.append((b"stranger", Endpoint.of("203.0.113.5", 3074)))
    assert w.run() == []
    assert w.stats.drops[DropReason.UDP_NOT_EXPECTED] == 1
    socket.incoming.append((b"other port", Endpoint.of("192.0.2.80", 9999)))
    [reply] = w.run()
    assert bytes(reply.payload) == b"other port"


def test_neighbours_may_answer_what_a_group_was_asked() -> None:
    for group in (Endpoint.of("239.255.255.250", 1900), Endpoint.of("255.255.255.255", 9)):
        w = world(policy={"enforcement": "strict"})
        w.send(w.udp_packet(b"M-SEARCH", destination=group))
        [socket] = w.datagrams
        socket.incoming.append((b"TV", Endpoint.of("192.168.1.7", 49152)))
        socket.incoming.append((b"stranger", Endpoint.of("203.0.113.5", 1900)))
        [reply] = w.run()
        assert bytes(reply.payload) == b"TV" and reply.key[2:6] == b"\xc0\xa8\x01\x07"


def test_traceroute_sees_this_hop() -> None:
    w = world()
    packet = bytearray(w.udp_packet(b"x", destination=GAME))
    packet[8] = 1
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum(packet[:20]).to_bytes(2, "big")
    [message] = w.send(bytes(packet))
    assert (message.type, message.code, message.source) == (11, 0, b"\x0a\x00\x00\x01")
    assert w.stats.drops[DropReason.TTL_EXCEEDED] == 1 and w.datagrams == []
    packet = bytearray(w.udp_packet(b"x", destination=Endpoint.of("224.0.0.251", 5353)))
    packet[8] = 1
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum(packet[:20]).to_bytes(2, "big")
    assert w.send(bytes(packet)) == [] and len(w.datagrams) == 1


def test_empty_and_many_and_large_replies() -> None:
    w = world()
    w.send(w.udp_packet(b"", destination=GAME))
    [socket] = w.datagrams
    assert socket.sent == [(b"", GAME)]
    socket.incoming.extend([(b"", GAME), (b"two", GAME), (bytes(4000), GAME)])
    w.engine.on_readable(socket, w.now)
    packets = w.tunnel.app.take()
    assert len(packets) == 2 + 3, "4,000 octets leave in three fragments"
    assert all(len(packet) <= 1500 for packet in packets)


def test_timeout_is_refreshed_by_both_directions() -> None:
    w = world(udp={"timeout": 100.0})
    w.send(w.udp_packet(b"x", destination=GAME))
    [socket] = w.datagrams
    w.run(90.0)
    socket.incoming.append((b"y", GAME))
    w.run(90.0)
    assert not socket.closed
    w.send(w.udp_packet(b"x", destination=GAME))
    w.run(90.0)
    assert not socket.closed
    w.run(20.0)
    assert socket.closed
    assert isinstance(w.events[-1], FlowClosed) and w.events[-1].how == "timeout"
    assert w.engine.next_timeout() is None, "an idle engine does not wake up"


def test_stun_lives_longer() -> None:
    w = world(udp={"timeout": 100.0, "stun_timeout": 300.0})
    w.send(w.udp_packet(b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12), destination=GAME))
    w.run(200.0)
    assert not w.datagrams[0].closed
    w.run(200.0)
    assert w.datagrams[0].closed


def test_blocked_datagram_leaves_no_state_and_the_flow_comes_alive_later() -> None:
    w = world(policy={"enforcement": "strict"})
    packet = w.udp_packet(b"x", destination=GAME)
    [message] = w.send(packet)
    assert isinstance(message, IcmpMessage) and (message.type, message.code) == (3, 3)
    assert bytes(message.payload) == packet
    assert w.datagrams == [] and len(w.engine.udp.sessions) == 0
    assert w.events[0].line() == "[UDP] BLOCKED hardcoded IP: 10.0.0.2:40000 -> 192.0.2.80:3074"
    w.engine.tracker.learn("game.example", GAME.address, 60, w.now)
    assert w.send(packet) == []
    assert w.datagrams[0].sent == [(b"x", GAME)]
    assert isinstance(w.events[-1], FlowOpened)


def test_silent_refusal() -> None:
    w = world(policy={"enforcement": "strict", "udp_refusal": "drop"})
    assert w.send(w.udp_packet(b"x", destination=GAME)) == []
    assert w.stats.drops[DropReason.POLICY_UNTRACKED] == 1


QUIC_INITIAL = b"\xc3\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8) + b"\0\x44\x9e" + bytes(1200)


def test_quic_is_refused_even_when_resolved() -> None:
    for host, port in (("192.0.2.80", 443), ("2001:db8::80", 443), ("192.0.2.80", 80)):
        destination = Endpoint.of(host, port)
        w = world(policy={"enforcement": "strict"})
        w.engine.tracker.learn("video.example", destination.address, 60, w.now)
        source = APP if destination.version == 4 else APP6
        [message] = w.send(w.udp_packet(QUIC_INITIAL, source=source, destination=destination))
        assert isinstance(message, IcmpMessage)
        assert (message.type, message.code) == ((3, 3) if destination.version == 4 else (1, 4))
        assert w.datagrams == []
        assert w.stats.drops[DropReason.POLICY_QUIC] == 1


def test_port_unreachable_is_passed_on() -> None:
    for source, destination in ((APP, GAME), (APP6, GAME6)):
        w = world()
        packet = w.udp_packet(b"anyone?", source=source, destination=destination)
        w.send(packet)
        w.datagrams[0].errors.append(Error(errno.ECONNREFUSED, destination, b"anyone?"))
        [message] = w.run()
        assert isinstance(message, IcmpMessage)
        assert (message.type, message.code) == ((3, 3) if source.version == 4 else (1, 4))
        assert message.source == destination.address
        assert b"anyone?" in bytes(message.payload)


def test_host_unreachable_comes_from_the_router_that_said_so() -> None:
    w = world()
    w.send(w.udp_packet(b"x", destination=GAME))
    w.datagrams[0].errors.append(Error(errno.EHOSTUNREACH, GAME, b"x", offender=b"\xcb\x00\x71\x01"))
    [message] = w.run()
    assert (message.source, message.code) == (b"\xcb\x00\x71\x01", 1)


def test_icmp_errors_are_rate_limited() -> None:
    w = world(policy={"enforcement": "strict"}, limits={"icmp_errors_per_second": 5})
    out = [w.send(w.udp_packet(b"x", destination=GAME)) for _ in range(20)]
    assert sum(map(len, out)) == 5
    assert w.stats.drops[DropReason.RATE_LIMITED] == 15


def test_full_table_sheds_answered_sessions_first() -> None:
    w = world(limits={"udp_sessions": 8})
    for port in range(8):
        w.send(w.udp_packet(b"x", source=Endpoint(APP.address, 50_000 + port), destination=GAME))
    w.datagrams[4].incoming.append((b"answer", GAME))
    w.run()
    w.send(w.udp_packet(b"x", source=Endpoint(APP.address, 60_000), destination=GAME))
    assert [socket.closed for socket in w.datagrams] == [at == 4 for at in range(9)]
    w.send(w.udp_packet(b"x", source=Endpoint(APP.address, 60_001), destination=GAME))
    assert w.datagrams[0].closed
    assert len(w.engine.udp.sessions) == 8


def test_send_failures_are_counted_and_shown() -> None:
    w = world()
    w.send(w.udp_packet(b"x", destination=GAME))
    w.datagrams[0].send_error = BlockingIOError()
    assert w.send(w.udp_packet(b"x", destination=GAME)) == []
    assert w.stats.drops[DropReason.UDP_BACKPRESSURE] == 1
    w.datagrams[0].send_error = OSError(errno.ENETUNREACH, "no route")
    [message] = w.send(w.udp_packet(b"x", destination=GAME))
    assert (message.type, message.code) == (3, 0)
    assert w.stats.drops[DropReason.UDP_SEND_FAILED] == 1


def test_protect_refusal_fails_closed() -> None:
    w = world()
    w.dialer.refusal = ProtectError("no")
    [message] = w.send(w.udp_packet(b"x", destination=GAME))
    assert isinstance(message, IcmpMessage)
    assert any(isinstance(event, EngineError) and event.where == "protect" for event in w.events)
    w.dialer.refusal = DialError("too many", errno.EMFILE)
    w.send(w.udp_packet(b"x", destination=GAME))
    assert len(w.engine.udp.sessions) == 0


def test_reload_ends_what_is_blocked_now() -> None:
    w = world()
    w.send(w.udp_packet(b"x", destination=GAME))
    w.engine.reconfigure(make_config({"policy": {"enforcement": "strict"}}), w.now)
    [message] = w.send(w.udp_packet(b"x", destination=GAME))
    assert isinstance(message, IcmpMessage)
    assert len(w.datagrams[0].sent) == 1


def test_mode_switch_keeps_live_sessions() -> None:
    w = world()
    w.send(w.udp_packet(b"x", destination=GAME))
    w.engine.reconfigure(make_config({"mode": "dns-only", "policy": {"enforcement": "off"}}), w.now)
    w.send(w.udp_packet(b"y", destination=GAME))
    assert len(w.datagrams[0].sent) == 2


def test_peers_of_one_session_are_bounded() -> None:
    w = world()
    for port in range(1, 1200):
        w.send(w.udp_packet(b"x", destination=Endpoint.of("192.0.2.80", 1000 + port)))
    [session] = w.engine.udp.sessions.values()
    assert len(session.peers) == len(session.by_place) == 512
    assert session.addresses == {SERVER.address: 512}
    assert SERVER6.address not in session.addresses


class Runs:
    """Makes a scripted socket one for runs; `room` datagrams go with each call."""

    def __init__(self, socket, room=1000) -> None:
        self.sent = []
        self.incoming = []
        self.room = room
        socket.send_run, socket.recv_runs = self.send_run, self.recv_runs

    def send_run(self, octets, size, place):
        pieces = [bytes(octets[at : at + size]) for at in range(0, len(octets), size)][: self.room]
        if not pieces:
            raise BlockingIOError
        self.sent.append(pieces)
        return len(pieces)

    def recv_runs(self):
        if not self.incoming:
            raise BlockingIOError
        return self.incoming.pop(0), bool(self.incoming)


def run_world(**tables):
    """A world whose first session has a socket for runs."""
    w = world(**tables)
    w.send(w.udp_packet(b"first", destination=GAME))
    runs = Runs(w.datagrams[0])
    [session] = w.engine.udp.sessions.values()
    session.runs = w.datagrams[0]
    return w, session, runs


def test_a_run_goes_in_one_piece_both_ways() -> None:
    w, session, runs = run_world()
    w.send(*[w.udp_packet(octets, destination=GAME) for octets in (b"aa", b"bb", b"c")])
    assert runs.sent == [[b"aa", b"bb", b"c"]]
    assert (session.sent, next(iter(session.peers.values())).octets_up) == (4, 10)
    place = GAME.address.ljust(16, b"\0") + GAME.port.to_bytes(2, "big")
    other = GAME.address.ljust(16, b"\0") + (9999).to_bytes(2, "big")
    stranger = b"\xcb\0\x71\x05".ljust(16, b"\0") + bytes(2)
    runs.incoming = [
        [(place, 3, 2, memoryview(b"xxyyz")), (other, 1, 1, memoryview(b"o"))],
        [(stranger, 7, 1, memoryview(b"s" * 7))],
    ]
    w.engine.on_readable(w.datagrams[0], w.now)
    replies = w.received()
    assert [bytes(reply.payload) for reply in replies] == [b"xx", b"yy", b"z", b"o"]
    assert [reply.key[34:36] for reply in replies] == [GAME.port.to_bytes(2, "big")] * 3 + [(9999).to_bytes(2, "big")]
    assert {reply.key[36:38] for reply in replies} == {APP.port.to_bytes(2, "big")}
    assert w.stats.drops[DropReason.UDP_NOT_EXPECTED] == 7
    assert session.received == 4


def test_what_of_a_run_does_not_go_is_tried_one_by_one_and_counted() -> None:
    w, session, runs = run_world()
    runs.room = 2
    w.send(*[w.udp_packet(octets, destination=GAME) for octets in (b"aa", b"bb", b"cc", b"dd")])
    assert runs.sent == [[b"aa", b"bb"], [b"cc"], [b"dd"]]
    runs.room = 0
    w.send(*[w.udp_packet(octets, destination=GAME) for octets in (b"aa", b"bb")])
    assert w.stats.drops[DropReason.UDP_BACKPRESSURE] == 2
    assert session.sent == 5


def test_each_datagram_of_a_run_that_might_be_quic_is_judged() -> None:
    w, _, runs = run_world(policy={"enforcement": "off", "quic": "block"})
    long_header = b"\xc0\0\0\0\x01" + bytes(1195)
    w.send(*[w.udp_packet(octets, destination=GAME) for octets in (bytes(1200), long_header, bytes(1200))])
    assert len(runs.sent[0]) == 1
    assert sum(map(len, runs.sent)) + w.stats.drops[DropReason.POLICY_QUIC] == 3


def test_a_run_without_a_session_is_judged_and_goes() -> None:
    w = world()
    w.send(*[w.udp_packet(octets, destination=GAME) for octets in (b"aa", b"bb")])
    assert w.datagrams[0].sent == [(b"aa", GAME), (b"bb", GAME)]


def test_two_queries_of_one_size_are_two_queries() -> None:
    w = world()
    query = bytes.fromhex("000101000001000000000000076578616d706c650474657374000001 0001".replace(" ", ""))
    resolver = Endpoint.of("10.0.0.1", 53)
    w.send(*[w.udp_packet(ident + query[2:], destination=resolver) for ident in (b"\1\1", b"\2\2")])
    assert w.stats.dns_queries == 2
