"""UDP listeners of the stand-alone resolver, with an `ask` made of string; loopback only."""

import ipaddress
import socket
import struct

import pytest

from netstack.core.drops import DropReason
from netstack.core.flow import UDP
from netstack.runtime.dns_listeners import Peers, Repeats, UdpListener, bind, endpoint_text
from tests.dns_front import QUESTION, Server, query


@pytest.fixture
def opened():
    sockets = []
    yield sockets
    for each in sockets:
        each.close()


def udp_pair(opened, peers=()):
    server = Server()
    sock = bind("127.0.0.1", 0, socket.SOCK_DGRAM)
    listener = UdpListener(sock, server.poller, server.ask, Peers(peers), server.stats, waiting=server.answering)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(2)
    client.connect(sock.getsockname())
    opened += [listener, client]
    return server, listener, client


def test_a_datagram_is_asked_and_its_answer_goes_back_to_its_sender(opened):
    server, listener, client = udp_pair(opened)
    client.send(query(1))
    client.send(query(2))
    listener.on_readable(listener, 1.0)
    assert [message for _, message, _, _ in server.asked] == [query(1), query(2)]
    flow, _, reply, over_tcp = server.asked[1]
    assert flow.protocol == UDP and not over_tcp
    assert flow.source.port == client.getsockname()[1]
    reply(b"the answer", 1.0)
    server.asked[0][2](b"another", 1.0)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)
    server.finish()
    assert (client.recv(100), client.recv(100)) == (b"the answer", b"another"), "at the end of the round, in order"
    assert not server.answering


def test_an_answer_that_cannot_go_is_counted(opened):
    server, listener, client = udp_pair(opened)
    client.send(query(1))
    listener.on_readable(listener, 1.0)
    server.asked[0][2](b"x" * 70_000, 1.0)
    server.finish()
    assert server.stats.drops == {DropReason.UDP_SEND_FAILED: 1}


def test_only_this_host_and_the_named_networks_are_admitted():
    peers = Peers([ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32")])
    assert [peers.admits(host) for host in ("127.0.0.1", "::1", "192.0.2.9", "2001:db8::1")] == [True] * 4
    assert [peers.admits(host) for host in ("192.0.3.9", "2001:db9::1", "fe80::1%eth0")] == [False] * 3
    assert not Peers([]).admits("192.0.2.9")


def test_this_host_may_ask_from_the_address_that_it_asks():
    peers = Peers([ipaddress.ip_network("198.51.100.0/24")], ["192.0.2.1", "fe80::1%eth0"])
    assert [peers.admits(host) for host in ("192.0.2.1", "fe80::1%eth0", "198.51.100.7", "127.0.0.1")] == [True] * 4
    assert [peers.admits(host) for host in ("192.0.2.2", "fe80::2%eth0")] == [False] * 2


def test_a_datagram_of_a_stranger_is_dropped_and_counted(opened, monkeypatch):
    server, listener, client = udp_pair(opened)
    monkeypatch.setattr(Peers, "admits", lambda self, host: False)
    client.send(query(1))
    listener.on_readable(listener, 1.0)
    assert server.asked == []
    assert server.stats.drops == {DropReason.DNS_PEER_NOT_ALLOWED: 1}


def answer_to(message, rcode=0):
    return message[:2] + struct.pack("!HHHHH", 0x8180 | rcode, 1, 0, 0, 0) + QUESTION


@pytest.fixture
def repeating(opened):
    """A listener that repeats answers, a client, and an `ask` that answers at once as `rcode` says, or later."""

    class Box:
        rcode = 0
        later = False

    box = Box()
    server = box.server = Server()

    def ask(flow, message, now, reply, *, over_tcp=False):
        server.asked.append((flow, message, reply, over_tcp))
        if not box.later:
            reply(answer_to(message, box.rcode), now)
        return True

    sock = bind("127.0.0.1", 0, socket.SOCK_DGRAM)
    box.repeats = Repeats()
    listener = box.listener = UdpListener(
        sock, server.poller, ask, Peers([]), server.stats, box.repeats, waiting=server.answering
    )
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(2)
    client.connect(sock.getsockname())
    opened += [listener, client]

    def exchange(ident, now):
        client.send(query(ident))
        listener.on_readable(listener, now)
        if box.later:
            server.asked[-1][2](answer_to(query(ident)), now)
        server.finish()
        return client.recv(500)

    box.exchange = exchange
    return box


def test_an_answer_that_was_there_at_once_is_repeated_for_a_second(repeating):
    assert repeating.exchange(1, 10.0) == answer_to(query(1))
    assert repeating.exchange(2, 10.9) == answer_to(query(2))
    assert len(repeating.server.asked) == 1
    assert repeating.server.stats.dns_queries == 1
    repeating.exchange(3, 11.0)
    assert len(repeating.server.asked) == 2


def test_an_answer_that_came_later_is_not_repeated(repeating):
    repeating.later = True
    repeating.exchange(1, 10.0)
    repeating.exchange(2, 10.1)
    assert len(repeating.server.asked) == 2


def test_a_failure_is_not_repeated(repeating):
    repeating.rcode = 2
    repeating.exchange(1, 10.0)
    repeating.exchange(2, 10.1)
    assert len(repeating.server.asked) == 2


def test_nothing_is_repeated_after_a_change(repeating):
    repeating.exchange(1, 10.0)
    repeating.repeats.clear()
    repeating.exchange(2, 10.1)
    assert len(repeating.server.asked) == 2


def test_a_place_is_shown_as_it_is_written():
    assert endpoint_text("::1", 53) == "[::1]:53"
    assert endpoint_text("127.0.0.1", 53) == "127.0.0.1:53"


def test_a_place_that_is_taken_is_an_error(opened):
    first = bind("127.0.0.1", 0, socket.SOCK_DGRAM)
    opened.append(first)
    with pytest.raises(OSError):
        bind("127.0.0.1", first.getsockname()[1], socket.SOCK_DGRAM)
