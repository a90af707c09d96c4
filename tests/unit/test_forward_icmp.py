"""Echo through a whole engine."""

import struct

from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.errors import DialError
from netstack.core.flow import Endpoint
from netstack.core.packet import IcmpMessage
from netstack.testing.world import APP, APP6, World

HOST = Endpoint.of("192.0.2.80", 0)
HOST6 = Endpoint.of("2001:db8::80", 0)
GATEWAY = Endpoint.of("10.0.0.1", 0)


def world(**tables) -> World:
    tables.setdefault("policy", {"enforcement": "off"})
    return World(make_config(tables))


def test_echo_reply_has_the_apps_identifier() -> None:
    for source, host, kinds in ((APP, HOST, (8, 0)), (APP6, HOST6, (128, 129))):
        w = world()
        assert w.send(w.echo_packet(77, 5, b"payload", source=source, destination=host)) == []
        [socket] = w.datagrams
        [(octets, destination)] = socket.sent
        assert octets[0] == kinds[0] and octets[8:] == b"payload" and destination == host
        reply = struct.pack("!BBHHH", kinds[1], 0, 0, socket.local_port(), 5) + b"payload"
        socket.incoming.append((reply, host))
        [message] = w.run()
        assert isinstance(message, IcmpMessage)
        assert (message.type, message.rest, bytes(message.payload)) == (kinds[1], 77 << 16 | 5, b"payload")
        assert message.source == host.address


def test_no_reply_without_a_reply() -> None:
    w = world()
    assert w.send(w.echo_packet(destination=HOST)) == []
    assert w.run(60.0) == []
    assert w.datagrams[0].closed
    assert w.engine.next_timeout() is None


def test_replies_of_others_are_not_taken() -> None:
    w = world()
    w.send(w.echo_packet(destination=HOST))
    w.datagrams[0].incoming.append((bytes(8), Endpoint.of("203.0.113.1", 0)))
    w.datagrams[0].incoming.append((b"\0", HOST))
    assert w.run() == []
    assert w.stats.drops[DropReason.UDP_NOT_EXPECTED] == 2


def test_gateway_answers_itself() -> None:
    w = world(policy={"enforcement": "strict"})
    [reply] = w.send(w.echo_packet(9, 1, b"abc", destination=GATEWAY))
    assert (reply.type, reply.rest, bytes(reply.payload)) == (0, 9 << 16 | 1, b"abc")
    assert w.datagrams == []


def test_last_hop_is_time_exceeded_from_the_gateway() -> None:
    w = world()
    [message] = w.send(w.echo_packet(destination=HOST, hop_limit=1))
    assert (message.type, message.code, message.source) == (11, 0, GATEWAY.address)
    assert w.stats.drops[DropReason.TTL_EXCEEDED] == 1


def test_unresolved_host_is_refused() -> None:
    w = world(policy={"enforcement": "strict"})
    [message] = w.send(w.echo_packet(destination=HOST))
    assert message.type == 3
    assert "BLOCKED" in w.events[0].line()


def test_without_an_icmp_socket_the_ping_fails() -> None:
    w = world()
    w.dialer.refusal = DialError("no ICMP socket", 13)
    [message] = w.send(w.echo_packet(destination=HOST))
    assert (message.type, message.code) == (3, 13)
    assert w.stats.drops[DropReason.ICMP_REFUSED] == 1


def test_sessions_are_capped() -> None:
    w = world(limits={"icmp_sessions": 4})
    for identifier in range(10):
        w.send(w.echo_packet(identifier, destination=HOST))
    assert len(w.engine.icmp.sessions) == 4
    assert sum(not socket.closed for socket in w.datagrams) == 4


def test_other_messages_end_here_counted() -> None:
    w = world()
    packet = bytearray(w.echo_packet(destination=HOST))
    packet[20] = 13  # timestamp request; the checksum moves with it
    total = int.from_bytes(packet[22:24], "big") - (5 << 8)
    packet[22:24] = (total % 65535).to_bytes(2, "big")
    assert w.send(bytes(packet)) == []
    assert w.stats.drops[DropReason.ICMP_UNSUPPORTED] == 1
