"""The UDP pool and the TCP connection by themselves."""

import dns.message
import pytest

from netstack.core.drops import DropReason
from netstack.core.errors import DialError
from netstack.core.flow import Endpoint
from netstack.dns.message import parse_question
from netstack.testing.world import ScriptedDialer, SeededEntropy
from netstack.upstream.dns_channels import ACTIVE, CONNECTION_MOST, IDLE, RETIRE_AFTER, TcpChannel, UdpPool
from netstack.upstream.proxy import Lookup, Server

SERVER = Endpoint.of("192.0.2.53", 53)


class Owner:
    def __init__(self) -> None:
        self.messages: list[tuple[int, bool]] = []
        self.refusals: list[tuple[int, str]] = []
        self.junk: list[DropReason] = []

    def on_message(self, lookup: Lookup, message: bytes, over_tcp: bool, now: float) -> None:
        self.messages.append((lookup.token, over_tcp))
        give_back(lookup)

    def on_refused(self, lookup: Lookup, why: str, now: float) -> None:
        self.refusals.append((lookup.token, why))

    def on_junk(self, reason: DropReason) -> None:
        self.junk.append(reason)


def give_back(lookup: Lookup) -> None:
    lookup.done = True
    for place, ident in lookup.places:
        place.pop(ident, None)
    lookup.places.clear()


def lookup(token: int, *, on_tcp: bool = False) -> Lookup:
    message = dns.message.make_query(f"n{token}.test", "A").to_wire()
    question = parse_question(message)
    assert question is not None
    server = Server(SERVER)
    return Lookup(token, message, question, on_tcp, 5.0, [server], server=server, on_tcp=on_tcp)


def test_queries_are_spread_over_ports_that_change() -> None:
    dialer = ScriptedDialer()
    pool = UdpPool(dialer, SeededEntropy(), Owner())
    for token in range(3 * ACTIVE * RETIRE_AFTER):
        query = lookup(token)
        pool.ask(query, SERVER, 0.0)
        give_back(query)
    assert len(dialer.datagrams) >= 3 * ACTIVE - 1
    assert max(len(socket.sent) for socket in dialer.datagrams) <= RETIRE_AFTER
    assert len([socket for socket in dialer.datagrams if not socket.closed]) <= ACTIVE + 1, "retired and idle: closed"


def test_a_socket_that_is_waited_on_outlives_its_retirement() -> None:
    dialer = ScriptedDialer()
    owner = Owner()
    pool = UdpPool(dialer, SeededEntropy(), owner)
    waiting = lookup(0)
    pool.ask(waiting, SERVER, 0.0)
    first = dialer.datagrams[0]
    for token in range(1, 4 * ACTIVE * RETIRE_AFTER):
        query = lookup(token)
        pool.ask(query, SERVER, 0.0)
        give_back(query)
    assert not first.closed
    answer = dns.message.make_response(dns.message.from_wire(first.sent[0][0])).to_wire()
    first.incoming.append((answer, SERVER))
    first.owner.on_readable(first, 0.0)
    assert owner.messages == [(0, False)]
    assert pool.next_timeout() == IDLE
    pool.on_timeout(IDLE)
    assert all(socket.closed for socket in dialer.datagrams) and pool.next_timeout() is None


def test_out_of_descriptors_the_ports_that_are_open_go_on() -> None:
    dialer = ScriptedDialer()
    pool = UdpPool(dialer, SeededEntropy(), Owner())
    pool.ask(lookup(0), SERVER, 0.0)
    dialer.refusal = DialError("too many open files", 24)
    for token in range(1, 50):
        pool.ask(lookup(token), SERVER, 0.0)
    assert len(dialer.datagrams) == 1 and len(dialer.datagrams[0].sent) == 50


def test_a_connection_takes_a_bounded_number_of_queries() -> None:
    dialer = ScriptedDialer()
    channel = TcpChannel(dialer, SeededEntropy(), SERVER, Owner(), idle=10.0)
    for token in range(CONNECTION_MOST):
        channel.ask(lookup(token, on_tcp=True), 0.0)
    with pytest.raises(OSError):
        channel.ask(lookup(9999, on_tcp=True), 0.0)
    assert len(channel.waiting) == CONNECTION_MOST


def test_a_query_is_sent_once_on_a_connection() -> None:
    dialer = ScriptedDialer()
    channel = TcpChannel(dialer, SeededEntropy(), SERVER, Owner(), idle=10.0)
    query = lookup(1, on_tcp=True)
    channel.ask(query, 0.0)
    channel.ask(query, 1.0)
    assert len(channel.waiting) == 1


def test_a_dead_connection_tells_only_those_that_are_still_on_it() -> None:
    dialer, owner = ScriptedDialer(), Owner()
    channel = TcpChannel(dialer, SeededEntropy(), SERVER, owner, idle=10.0)
    here, moved, gone = lookup(1, on_tcp=True), lookup(2, on_tcp=True), lookup(3, on_tcp=True)
    for query in (here, moved, gone):
        channel.ask(query, 0.0)
    moved.server = Server(Endpoint.of("192.0.2.54", 53))
    gone.done = True
    stream = dialer.streams[0]
    stream.connect(111)
    stream.owner.on_writable(stream, 0.0)
    assert owner.refusals == [(1, "refused")] and stream.closed


def test_an_idle_connection_is_closed_but_not_a_waited_on_one() -> None:
    dialer = ScriptedDialer()
    channel = TcpChannel(dialer, SeededEntropy(), SERVER, Owner(), idle=10.0)
    query = lookup(1, on_tcp=True)
    channel.ask(query, 0.0)
    channel.on_timeout(10.0)
    assert not dialer.streams[0].closed and channel.next_timeout() == 20.0
    give_back(query)
    channel.on_timeout(20.0)
    assert dialer.streams[0].closed and channel.next_timeout() is None
