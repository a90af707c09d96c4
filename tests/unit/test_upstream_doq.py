"""DoQ against a QUIC server in memory, in virtual time."""

import errno
import logging

import pytest

pytest.importorskip("aioquic")
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import pull_quic_header

from netstack.core.errors import DialError
from netstack.core.flow import Endpoint
from netstack.upstream.bootstrap import Location
from netstack.upstream.doq import doq_resolver
from netstack.upstream.tls import Trust
from netstack.upstream.url import parse_upstream
from tests.certificates import authority, server_files
from tests.upstream_desk import Asker, framed, response

SERVER = Endpoint.of("192.0.2.53", 853)
CLIENT = ("192.0.2.1", 7777)


class Error:
    errno = errno.ECONNREFUSED


class Server:
    """QUIC on the far end of a scripted socket."""

    def __init__(self, socket, tickets: dict, alpn: str = "doq") -> None:
        self.socket = socket
        self.tickets = tickets
        self.quic: QuicConnection | None = None
        self.alpn = alpn
        self.seen = 0
        self.streams: dict[int, bytes] = {}
        self.ended: list[int] = []

    def turn(self, now: float) -> bool:
        fresh = self.socket.sent[self.seen :]
        self.seen += len(fresh)
        for octets, to in fresh:
            assert to == SERVER
            if self.quic is None:
                configuration = QuicConfiguration(is_client=False, alpn_protocols=[self.alpn])
                configuration.load_cert_chain(*server_files("dns.test", days=30))
                header = pull_quic_header(Buffer(data=octets), host_cid_length=8)
                self.quic = QuicConnection(
                    configuration=configuration,
                    original_destination_connection_id=header.destination_cid,
                    session_ticket_handler=lambda ticket: self.tickets.__setitem__(ticket.ticket, ticket),
                    session_ticket_fetcher=lambda label: self.tickets.pop(label, None),
                )
            self.quic.receive_datagram(octets, CLIENT, now)
        while self.quic is not None and (event := self.quic.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self.streams[event.stream_id] = self.streams.get(event.stream_id, b"") + event.data
                if event.end_stream:
                    self.ended.append(event.stream_id)
        return self.push(now) or bool(fresh)

    def push(self, now: float) -> bool:
        out = self.quic.datagrams_to_send(now) if self.quic is not None else []
        self.socket.incoming.extend((octets, SERVER) for octets, _ in out)
        return bool(out)

    def answer(self, stream_id: int, octets: bytes | None = None) -> None:
        assert self.quic is not None
        made = framed(response(self.streams[stream_id][2:])) if octets is None else octets
        self.quic.send_stream_data(stream_id, made, end_stream=True)

    def take(self) -> list[int]:
        ended, self.ended = self.ended, []
        return ended


class Desk(Asker):
    def __init__(self, name: str = "dns.test", **options: object) -> None:
        super().__init__(now=1000.0)  # aioquic takes a time of 0 for none
        upstream = parse_upstream(f"quic://192.0.2.53#{name}")
        self.resolver = doq_resolver(
            upstream, Location(upstream), self.dialer, Trust(str(authority().ca_file)), emit=self.events.append,
            **options,
        )  # fmt: skip
        self.resolver.start(self)
        self.servers: list[Server] = []
        self.tickets: dict = {}

    def accept(self, alpn: str = "doq") -> Server:
        self.servers.append(Server(self.dialer.datagrams[-1], self.tickets, alpn))
        self.run()
        return self.servers[-1]

    def settle(self) -> None:
        for _ in range(200):
            moved = False
            for server in self.servers:
                socket = server.socket
                if socket.closed:
                    continue
                moved = server.turn(self.now) or moved
                if socket.writable_wanted:
                    socket.owner.on_writable(socket, self.now)
                    moved = True
                if socket.is_readable:
                    socket.owner.on_readable(socket, self.now)
                    moved = True
            if not moved:
                return
        raise AssertionError("does not come to rest")

    def run(self, seconds: float = 0.05) -> None:
        """Time passes: timers of both ends, QUIC's pacing among them."""
        until = self.now + seconds
        for _ in range(2000):
            self.settle()
            live = [server.quic for server in self.servers if server.quic is not None and not server.socket.closed]
            timers = [(at, each) for each in live if (at := each.get_timer()) is not None]
            own = self.resolver.next_timeout()
            if own is not None:
                timers.append((own, self.resolver))
            at, whose = min(timers, key=lambda timer: timer[0], default=(until + 1, None))
            if at > until:
                self.now = until
                return
            self.now = max(self.now, at)
            if isinstance(whose, QuicConnection):
                whose.handle_timer(self.now)
            else:
                self.resolver.on_timeout(self.now)
        raise AssertionError("does not come to rest")


def test_a_stream_for_each_query() -> None:
    desk = Desk()
    asked = desk.ask(1)
    for token in range(2, 20):
        desk.ask(token)
    server = desk.accept()
    ended = server.take()
    assert ended[:2] == [0, 4] and len(ended) == 19
    assert server.streams[0] == framed(b"\0\0" + asked[2:]), "the id is 0"
    for stream_id in reversed(ended):
        server.answer(stream_id)
    desk.run()
    assert sorted(desk.answers) == list(range(1, 20)) and desk.answers[1][:2] == asked[:2]
    desk.ask(99)
    desk.run()
    assert len(desk.dialer.datagrams) == 1 and len(server.take()) == 1


def test_idle_and_resumption() -> None:
    desk = Desk(idle=10.0)
    desk.ask(1)
    server = desk.accept()
    server.answer(server.take()[0])
    desk.run()
    desk.run(10.5)
    assert server.socket.closed and desk.resolver.next_timeout() is None
    desk.ask(2)
    again = desk.accept()
    assert again.quic is not None and again.quic.tls.session_resumed
    again.answer(again.take()[0])
    desk.run()
    assert sorted(desk.answers) == [1, 2]


def test_a_wrong_certificate_is_an_event_and_no_question_leaves() -> None:
    desk = Desk("other.test")
    desk.ask(1)
    server = desk.accept()
    assert desk.failures == {1: "tls"} and not server.streams, "at once: nobody waits until the connection is forgotten"
    server.turn(desk.now)
    assert server.quic is not None and server.quic._close_event is not None, "the server is told"
    assert "certificate was refused" in desk.events[0].message


def test_what_goes_wrong_is_not_written_to_standard_error_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program that sets no logging up
    desk = Desk("other.test")
    desk.ask(1)
    desk.accept()
    assert desk.failures == {1: "tls"} and capsys.readouterr().err == ""


def test_another_protocol_is_refused() -> None:
    desk = Desk()
    desk.ask(1)
    desk.accept("h3")
    assert desk.failures == {1: "tls"} and desk.events


@pytest.mark.parametrize("octets", [b"", b"\0", framed(b"\xff" * 40), framed(b""), b"\xff" * 70_000])
def test_what_is_no_answer(octets: bytes) -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    server.answer(server.take()[0], octets)
    desk.run()
    desk.ask(2)
    desk.run()
    server.answer(server.take()[0])
    desk.run()
    assert desk.failures == {1: "garbage"} and list(desk.answers) == [2] and len(desk.dialer.datagrams) == 1


def test_an_answer_is_taken_when_it_is_whole_whatever_the_stream_does() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    [stream_id] = server.take()
    assert server.quic is not None
    octets = framed(response(server.streams[stream_id][2:]))
    server.quic.send_stream_data(stream_id, octets[:20])
    desk.run()
    assert not desk.answers
    server.quic.send_stream_data(stream_id, octets[20:] + b"more")
    desk.run()
    assert list(desk.answers) == [1] and not desk.failures


def test_streams_of_queries_that_were_given_up_are_given_back() -> None:
    desk = Desk()
    desk.ask(0)
    server = desk.accept()
    server.answer(server.take()[0])
    desk.run()
    answered = 0
    for token in range(1, 400):  # the server allows 128 at a time
        desk.ask(token)
        desk.run()
        for stream_id in server.take():
            if token % 10 == 0:
                server.answer(stream_id)
                answered += 1
                desk.run()
        desk.resolver.cancel(token)
    assert answered == 39 and len(desk.answers) == 40 and len(desk.dialer.datagrams) == 1


def test_acknowledgements_are_no_answers() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    server.answer(server.take()[0])
    desk.run(5.0)
    desk.ask(2)
    desk.run(1.0)
    assert len(desk.dialer.datagrams) == 2 and not desk.dialer.datagrams[0].closed, "a second connection beside it"
    server.answer(server.take()[0])
    desk.run()
    assert sorted(desk.answers) == [1, 2] and not desk.failures


def test_a_reset_stream_fails_alone() -> None:
    desk = Desk()
    desk.ask(1)
    desk.ask(2)
    server = desk.accept()
    assert server.quic is not None
    server.quic.reset_stream(0, 1)
    server.answer(4)
    desk.run()
    assert desk.failures == {1: "reset"} and list(desk.answers) == [2]


def test_a_server_that_closes_gets_what_is_open_again() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    server.answer(0)
    desk.run()
    desk.ask(2)
    desk.run()
    assert server.quic is not None
    server.quic.close(error_code=0)
    desk.settle()
    assert server.socket.closed and len(desk.dialer.datagrams) == 2
    again = desk.accept()
    again.answer(again.take()[0])
    desk.run()
    assert sorted(desk.answers) == [1, 2]


def test_a_black_hole_and_a_refusal() -> None:
    desk = Desk()
    desk.ask(1)
    desk.run(4.9)
    desk.ask(2)
    socket = desk.dialer.datagrams[-1]
    socket.errors.append(Error())
    socket.owner.on_readable(socket, desk.now)
    assert desk.failures[2] == "refused"
    desk.run(0.2)
    assert set(desk.failures) == {1, 2}
    desk.dialer.refusal = DialError("no", errno.EMFILE)
    desk.ask(3)
    assert desk.failures[3] == "unreachable"


def test_strangers_are_not_heard() -> None:
    desk = Desk()
    desk.ask(1)
    socket = desk.dialer.datagrams[0]
    socket.incoming.append((b"\xc0" + bytes(100), Endpoint.of("192.0.2.66", 853)))
    socket.incoming.append((bytes(50), SERVER))
    socket.owner.on_readable(socket, desk.now)
    server = desk.accept()
    server.answer(server.take()[0])
    desk.run()
    assert list(desk.answers) == [1]


def test_a_new_network() -> None:
    desk = Desk()
    desk.ask(1)
    first = desk.accept()
    desk.resolver.network_changed(desk.now)
    assert first.socket.closed
    second = desk.accept()
    second.answer(second.take()[0])
    desk.run()
    assert list(desk.answers) == [1]
