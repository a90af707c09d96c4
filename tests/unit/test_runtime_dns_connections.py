"""TCP connections of the stand-alone resolver, with an `ask` made of string; loopback only."""

import socket
import struct

import pytest

from netstack.core.drops import DropReason
from netstack.core.flow import TCP
from netstack.dns.framing import frame
from netstack.runtime.dns_connections import TcpClients, TcpListener
from netstack.runtime.dns_listeners import Peers, bind
from tests.dns_front import Server, query


@pytest.fixture
def opened():
    sockets = []
    yield sockets
    for each in sockets:
        each.close()


class World:
    """A TCP listener and what it needs."""

    def __init__(self, opened, **settings):
        self.opened = opened
        self.server = Server(**settings)
        self.clients = TcpClients(self.server)
        sock = bind("127.0.0.1", 0, socket.SOCK_STREAM)
        self.place = sock.getsockname()
        self.listener = TcpListener(sock, self.server, Peers([]), self.clients)
        opened += [self.listener, self.clients]

    def connect(self, now=0.0):
        client = socket.create_connection(self.place)
        client.settimeout(2)
        self.opened.append(client)
        self.listener.on_readable(self.listener, now)
        return client

    def inside(self):
        """The newest connection."""
        return list(self.clients._clients)[-1]

    def feed(self, client, octets, now=0.0):
        client.sendall(octets)
        inside = self.inside()
        inside.on_readable(inside._stream, now)
        return inside


def test_pipelined_queries_are_answered_in_any_order_in_one_write(opened):
    world = World(opened)
    client = world.connect()
    world.feed(client, frame(query(1)) + frame(query(2)) + frame(query(3))[:5])
    assert [message[:2] for _, message, _, _ in world.server.asked] == [b"\0\x01", b"\0\x02"]
    flow, _, _, over_tcp = world.server.asked[0]
    assert flow.protocol == TCP and over_tcp
    world.server.asked[1][2](b"two", 0.0)
    world.server.asked[0][2](b"one", 0.0)
    world.clients.flush(0.0)
    assert client.recv(100) == frame(b"two") + frame(b"one")
    world.feed(client, frame(query(3))[5:])
    assert world.server.asked[2][1] == query(3)


def test_beyond_its_bound_a_connection_is_not_read(opened):
    world = World(opened, tcp_pending=2)
    client = world.connect()
    inside = world.feed(client, b"".join(frame(query(each)) for each in range(4)))
    fd = inside._stream.fileno()
    assert len(world.server.asked) == 2
    assert world.server.poller.interest[fd] == (False, False)
    world.server.asked[0][2](b"answer", 0.0)
    world.clients.flush(0.0)
    assert len(world.server.asked) == 3
    world.server.asked[1][2](b"answer", 0.0)
    world.server.asked[2][2](b"answer", 0.0)
    world.clients.flush(0.0)
    assert world.server.poller.interest[fd] == (True, False)


def test_the_end_of_the_stream_waits_for_the_answers(opened):
    world = World(opened)
    client = world.connect()
    client.sendall(frame(query(1)))
    client.shutdown(socket.SHUT_WR)
    inside = world.inside()
    inside.on_readable(inside._stream, 0.0)
    inside.on_readable(inside._stream, 0.0)
    assert not inside.closed
    world.server.asked[0][2](b"answer", 0.0)
    world.clients.flush(0.0)
    assert client.recv(100) == frame(b"answer")
    assert client.recv(100) == b""
    assert inside.closed and len(world.clients) == 0


@pytest.mark.parametrize("message", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 11, b"\0\0\x80\0\0\x01" + bytes(6)])
def test_what_is_not_a_query_ends_the_connection(opened, message):
    world = World(opened)
    client = world.connect()
    inside = world.feed(client, frame(message))
    assert inside.closed
    assert world.server.asked == []
    assert world.server.stats.drops == {DropReason.DNS_MALFORMED: 1}


def test_an_idle_connection_is_closed_one_that_waits_is_not(opened):
    world = World(opened, tcp_idle=10.0)
    idle = world.connect(now=0.0)
    busy = world.connect(now=1.0)
    world.feed(busy, frame(query(1)), now=2.0)
    assert world.clients.next_timeout() == 10.0
    world.clients.on_timeout(12.5)
    assert idle.recv(1) == b""
    assert len(world.clients) == 1
    assert world.clients.next_timeout() == 22.5


def test_one_too_many_of_a_client_is_refused(opened):
    world = World(opened, tcp_per_client=1)
    first = world.connect()
    second = world.connect()
    assert second.recv(1) == b""
    assert len(world.clients) == 1
    assert world.server.stats.drops == {DropReason.DNS_TABLE_FULL: 1}
    first.close()
    inside = world.inside()
    inside.on_readable(inside._stream, 1.0)
    world.connect()
    assert len(world.clients) == 1


def test_one_too_many_of_all_costs_the_one_idle_longest(opened):
    world = World(opened, tcp_connections=2)
    first = world.connect(now=0.0)
    world.connect(now=1.0)
    world.connect(now=2.0)
    assert first.recv(1) == b""
    assert len(world.clients) == 2
    assert world.server.stats.shed_flows == 1


def test_a_reset_connection_is_forgotten_and_its_answers_find_nobody(opened):
    world = World(opened)
    client = world.connect()
    inside = world.feed(client, frame(query(1)))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    inside.on_readable(inside._stream, 0.0)
    assert inside.closed
    world.server.asked[0][2](b"answer", 0.0)
    world.clients.flush(0.0)
    assert len(world.clients) == 0


def test_without_descriptors_the_listener_rests(opened, monkeypatch):
    world = World(opened)

    def none_left(self):
        raise OSError(24, "too many open files")

    monkeypatch.setattr(world.listener, "_socket", FakeSocket(world.listener._socket, none_left), raising=True)
    world.listener.on_readable(world.listener, 0.0)
    fd = world.listener._socket.fileno()
    assert world.server.poller.interest[fd] == (False, False)
    ((_, callback),) = world.server.later
    callback()
    assert world.server.poller.interest[fd] == (True, False)


class FakeSocket:
    """A socket with another accept."""

    def __init__(self, real, accept):
        self.real = real
        self.fileno = real.fileno
        self.close = real.close
        self.accept = lambda: accept(self)


def test_a_query_that_is_dropped_after_a_while_gets_nothing_and_makes_room_for_the_next(opened):
    world = World(opened, tcp_pending=1)
    client = world.connect()
    world.feed(client, frame(query(1)) + frame(query(2)))
    assert len(world.server.asked) == 1
    world.server.asked[0][2](b"", 0.0)
    world.clients.flush(0.0)
    assert len(world.server.asked) == 2
    world.server.asked[1][2](b"answer", 0.0)
    world.clients.flush(0.0)
    assert client.recv(100) == frame(b"answer")
