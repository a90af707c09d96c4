"""DoT: the TCP channel over TLS, against scripted servers."""

import errno

import pytest

from netstack.core.flow import Endpoint
from netstack.testing.world import SeededEntropy
from netstack.upstream.bootstrap import Location
from netstack.upstream.dot import dot_resolver, tcp_resolver
from netstack.upstream.tls import Trust
from netstack.upstream.url import parse_upstream
from tests.certificates import MemoryTlsServer, authority, server_context, settle
from tests.upstream_desk import Asker, framed, response


class Desk(Asker):
    def __init__(self, url: str = "tls://192.0.2.53#dns.test", **options: object) -> None:
        super().__init__()
        upstream = parse_upstream(url)
        if upstream.scheme == "tcp":
            self.resolver = tcp_resolver(upstream, Location(upstream), self.dialer, SeededEntropy(), **options)
        else:
            trust = Trust(str(authority().ca_file))
            self.resolver = dot_resolver(
                upstream, Location(upstream), self.dialer, SeededEntropy(), trust, emit=self.events.append, **options
            )
        self.resolver.start(self)
        self.servers: list[MemoryTlsServer] = []

    def accept(self) -> MemoryTlsServer:
        """The newest connection is taken by a TLS server."""
        stream = self.dialer.streams[-1]
        self.servers.append(MemoryTlsServer(stream, server_context("dns.test")))
        stream.connect()
        self.settle()
        return self.servers[-1]

    def settle(self) -> None:
        settle([server for server in self.servers if not server.stream.closed], self.now)

    def questions(self, server: MemoryTlsServer) -> list[bytes]:
        octets, found = bytes(server.received), []
        server.received.clear()
        while octets:
            end = 2 + int.from_bytes(octets[:2], "big")
            found.append(octets[2:end])
            octets = octets[end:]
        return found

    def run(self, until: float) -> None:
        while (at := self.resolver.next_timeout()) is not None and at <= until:
            self.now = at
            self.resolver.on_timeout(at)
            self.settle()
        self.now = until


def test_one_connection_many_questions_any_order() -> None:
    desk = Desk()
    for token in range(1, 51):
        desk.ask(token)
    server = desk.accept()
    assert desk.dialer.streams[0].destination == Endpoint.of("192.0.2.53", 853)
    asked = desk.questions(server)
    assert len(asked) == 50 and len({message[:2] for message in asked}) == 50
    server.write(b"".join(framed(response(message)) for message in reversed(asked)))
    desk.settle()
    assert sorted(desk.answers) == list(range(1, 51))
    assert all(int.from_bytes(message[:2], "big") == token for token, message in desk.answers.items())
    desk.ask(99)
    desk.settle()
    assert len(desk.dialer.streams) == 1 and len(desk.questions(server)) == 1


def test_an_idle_connection_is_closed_and_the_next_resumes() -> None:
    desk = Desk(idle=20.0)
    desk.ask(1)
    server = desk.accept()
    [message] = desk.questions(server)
    server.write(framed(response(message)))
    desk.settle()
    desk.run(19.0)
    assert not server.stream.closed
    desk.run(21.0)
    assert server.stream.closed and desk.resolver.next_timeout() is None
    desk.ask(2)
    assert desk.accept().tls.session_reused


def test_a_connection_cut_in_the_middle_of_an_answer_is_made_again() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    [message] = desk.questions(server)
    server.write(framed(response(message)))
    desk.settle()
    desk.ask(2)
    desk.settle()
    [message] = desk.questions(server)
    server.write(framed(response(message))[:-3])
    server.stream.fail(errno.ECONNRESET)
    settle([server], desk.now)
    assert len(desk.dialer.streams) == 2
    again = desk.accept()
    [message] = desk.questions(again)
    again.write(framed(response(message)))
    desk.settle()
    assert sorted(desk.answers) == [1, 2] and not desk.failures


def test_refused() -> None:
    desk = Desk()
    desk.ask(1)
    stream = desk.dialer.streams[0]
    stream.connect(errno.ECONNREFUSED)
    stream.owner.on_writable(stream, 0.0)
    assert desk.failures == {1: "refused"}


def test_a_black_hole_is_given_up_and_dialled_again() -> None:
    desk = Desk()
    desk.ask(1)
    desk.run(4.9)
    assert len(desk.dialer.streams) >= 1
    desk.run(5.1)
    assert desk.failures == {1: "timeout"}


def test_a_wrong_certificate_is_an_event_and_no_question_leaves() -> None:
    desk = Desk("tls://192.0.2.53#other.test")
    desk.ask(1)
    server = desk.accept()
    assert desk.failures == {1: "tls"} and not server.received
    assert "certificate was refused" in desk.events[0].message
    assert len(desk.dialer.streams) == 1, "no second try in the clear"


def test_forgeries_are_no_answers() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    [message] = desk.questions(server)
    good = response(message)
    server.write(framed(bytes([good[0] ^ 1]) + good[1:]) + framed(b"") + framed(bytes(40)) + framed(good))
    desk.settle()
    assert list(desk.answers) == [1]


def test_a_new_network() -> None:
    desk = Desk()
    desk.ask(1)
    first = desk.accept()
    desk.resolver.network_changed(0.05)
    assert first.stream.closed
    second = desk.accept()
    [message] = desk.questions(second)
    second.write(framed(response(message)))
    desk.settle()
    assert list(desk.answers) == [1]


@pytest.mark.parametrize("count", [1, 3])
def test_plain_tcp(count: int) -> None:
    desk = Desk("tcp://192.0.2.53")
    for token in range(count):
        desk.ask(token)
    [stream] = desk.dialer.streams
    assert stream.destination.port == 53
    stream.connect()
    stream.owner.on_writable(stream, 0.0)
    octets = bytes(stream.sent)
    while octets:
        end = 2 + int.from_bytes(octets[:2], "big")
        stream.deliver(framed(response(octets[2:end])))
        octets = octets[end:]
    while stream.is_readable:
        stream.owner.on_readable(stream, 0.0)
    assert len(desk.answers) == count
