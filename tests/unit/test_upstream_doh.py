"""DoH against an HTTP/2 server in memory."""

import errno

import dns.message
import dns.rrset
import pytest

pytest.importorskip("h2")
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.settings import SettingCodes, Settings

from netstack.upstream.bootstrap import Location
from netstack.upstream.doh import REFUSALS_MOST, doh_resolver
from netstack.upstream.tls import Trust
from netstack.upstream.url import parse_upstream
from tests.certificates import MemoryTlsServer, authority, server_context, settle
from tests.upstream_desk import Asker, response


class Server:
    """HTTP/2 over TLS in memory."""

    def __init__(self, stream, *, streams: int | None = None) -> None:
        self.tls = MemoryTlsServer(stream, server_context("dns.test", alpn=("h2",)))
        self.http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        if streams is not None:
            self.http.local_settings = Settings(
                client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: streams}
            )
        self.http.initiate_connection()
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.most = 0

    def work(self) -> None:
        octets = bytes(self.tls.received)
        self.tls.received.clear()
        for event in self.http.receive_data(octets) if octets else ():
            if isinstance(event, RequestReceived):
                self.headers[event.stream_id] = dict(event.headers)
                self.bodies[event.stream_id] = b""
            elif isinstance(event, DataReceived):
                self.bodies[event.stream_id] += event.data
            elif isinstance(event, StreamEnded):
                self.ended.append(event.stream_id)
        self.most = max(self.most, self.http.open_inbound_streams)
        self.push()

    def push(self) -> None:
        octets = self.http.data_to_send()
        if octets:
            self.tls.write(octets)

    def answer(self, stream_id: int, body: bytes | None = None, status: str = "200",
               kind: str = "application/dns-message") -> None:  # fmt: skip
        self.http.send_headers(stream_id, [(":status", status), ("content-type", kind)])
        self.http.send_data(
            stream_id, body if body is not None else response(self.bodies[stream_id]), end_stream=True
        )
        self.push()

    def take(self) -> list[int]:
        ended, self.ended = self.ended, []
        return ended


class Desk(Asker):
    def __init__(self, url: str = "https://192.0.2.53/q?x=1#dns.test", **options: object) -> None:
        super().__init__()
        upstream = parse_upstream(url)
        trust = Trust(str(authority().ca_file))
        self.resolver = doh_resolver(
            upstream, Location(upstream), self.dialer, trust, emit=self.events.append, **options
        )
        self.resolver.start(self)
        self.servers: list[Server] = []

    def accept(self, **options: object) -> Server:
        stream = self.dialer.streams[-1]
        self.servers.append(Server(stream, **options))
        stream.connect()
        self.settle()
        return self.servers[-1]

    def settle(self) -> None:
        for _ in range(5):
            live = [server for server in self.servers if not server.tls.stream.closed]
            settle([server.tls for server in live], self.now)
            for server in live:
                if server.tls.is_open:
                    server.work()


def test_a_request_is_as_the_rfc_wants_it() -> None:
    desk = Desk()
    asked = desk.ask(77)
    server = desk.accept()
    [stream_id] = server.take()
    headers = server.headers[stream_id]
    assert headers[":method"] == "POST" and headers[":path"] == "/q?x=1" and headers[":authority"] == "dns.test"
    assert headers["content-type"] == headers["accept"] == "application/dns-message"
    assert headers["content-length"] == str(len(asked))
    assert server.bodies[stream_id] == b"\0\0" + asked[2:], "the id is 0"
    server.answer(stream_id)
    desk.settle()
    assert desk.answers[77][:2] == asked[:2] and not desk.failures


def test_many_streams_within_what_the_server_takes() -> None:
    desk = Desk()
    desk.ask(0)
    server = desk.accept(streams=7)
    for token in range(1, 200):
        desk.ask(token)
    desk.settle()
    for _ in range(100):
        for stream_id in reversed(server.take()):
            server.answer(stream_id)
        desk.settle()
    assert len(desk.answers) == 200 and server.most <= 7 and len(desk.dialer.streams) == 1


def test_streams_of_queries_that_were_given_up_make_room() -> None:
    desk = Desk()
    desk.ask(0)
    server = desk.accept(streams=5)
    for token in range(1, 5):
        desk.ask(token)
    desk.settle()
    assert len(server.take()) == 5
    for token in range(5):
        desk.resolver.cancel(token)
    desk.ask(10)
    desk.settle()
    [stream_id] = server.take()
    assert server.http.open_inbound_streams == 1, "the server was told"
    server.answer(stream_id)
    desk.settle()
    assert list(desk.answers) == [10] and len(desk.dialer.streams) == 1


def test_large_answers_and_flow_control() -> None:
    desk = Desk()
    for token in range(60):
        desk.ask(token)
    server = desk.accept()
    for stream_id in server.take():
        server.answer(stream_id, response(server.bodies[stream_id], 250) + b"")
        desk.settle()
    for token in range(60, 320):
        desk.ask(token)
        desk.settle()
        for stream_id in server.take():
            server.answer(stream_id, response(server.bodies[stream_id], 250))
        desk.settle()
    assert len(desk.answers) == 320, "over 1 MB through one connection"


@pytest.mark.parametrize("status", ["404", "429", "500", "302"])
def test_a_status_that_is_no_answer(status: str) -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    server.answer(server.take()[0], b"sorry", status, "text/plain")
    desk.settle()
    assert desk.failures == {1: f"http-{status}"} and status in desk.events[0].message
    desk.ask(2)
    desk.settle()
    server.answer(server.take()[0])
    desk.settle()
    assert list(desk.answers) == [2] and len(desk.dialer.streams) == 1, "the connection is well"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"<html>", "text/html"), (b"\xff" * 30, "application/dns-message"), (b"", "application/dns-message")],
)
def test_a_body_that_is_no_answer(body: bytes, kind: str) -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    server.answer(server.take()[0], body, kind=kind)
    desk.settle()
    assert desk.failures == {1: "garbage"}


def test_a_reset_stream_fails_alone() -> None:
    desk = Desk()
    desk.ask(1)
    desk.ask(2)
    server = desk.accept()
    first, second = server.take()
    server.http.reset_stream(first, 8)
    server.push()
    server.answer(second)
    desk.settle()
    assert desk.failures == {1: "reset"} and list(desk.answers) == [2]


def test_a_stream_that_was_not_taken_is_asked_again_a_few_times() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    asked = 0
    while not desk.failures:
        [stream_id] = server.take()
        asked += 1
        server.http.reset_stream(stream_id, 7)
        server.push()
        desk.settle()
    assert desk.failures == {1: "reset"} and asked == REFUSALS_MOST + 1
    desk.ask(2)
    desk.settle()
    server.http.reset_stream(server.take()[0], 7)
    server.push()
    desk.settle()
    server.answer(server.take()[0])
    desk.settle()
    assert list(desk.answers) == [2] and len(desk.dialer.streams) == 1


def test_the_time_in_http_caches_is_taken_off_the_ttl() -> None:
    desk = Desk()
    for token, age in enumerate((b"2", b"5", b"900", b"nonsense", b"-1")):
        desk.ask(token)
        server = desk.servers[0] if desk.servers else desk.accept()
        desk.settle()
        [stream_id] = server.take()
        kind = (b"content-type", b"application/dns-message")
        server.http.send_headers(stream_id, [(b":status", b"200"), kind, (b"age", age)])
        server.http.send_data(stream_id, response(server.bodies[stream_id]), end_stream=True)
        server.push()
        desk.settle()
    ttls = [dns.message.from_wire(desk.answers[token]).answer[0].ttl for token in range(5)]
    assert ttls == [3, 0, 0, 5, 5]


def test_a_response_without_a_status_is_garbage() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    [stream_id] = server.take()
    server.http.config.validate_outbound_headers = False
    server.http.send_headers(stream_id, [("content-type", "application/dns-message")])
    server.http.send_data(stream_id, response(server.bodies[stream_id]), end_stream=True)
    server.push()
    desk.settle()
    assert desk.failures == {1: "garbage"}


def test_pings_that_nobody_takes_the_answers_of_stop_the_reading() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    server.tls.stream.capacity = 0
    below = server.tls.stream
    for _ in range(1000):
        if not below.readable_wanted:
            break
        for _ in range(800):
            server.http.ping(b"12345678")
        server.push()
        below.owner.on_readable(below, 0.0)
    assert not below.readable_wanted, "bounded"


def test_goaway_moves_what_is_open_to_a_new_connection() -> None:
    desk = Desk()
    desk.ask(1)
    server = desk.accept()
    server.answer(server.take()[0])
    desk.settle()
    desk.ask(2)
    desk.settle()
    server.http.close_connection(last_stream_id=1)
    server.push()
    settle([server.tls], 0.0)
    assert server.tls.stream.closed and len(desk.dialer.streams) == 2
    again = desk.accept()
    again.answer(again.take()[0])
    desk.settle()
    assert sorted(desk.answers) == [1, 2] and not desk.failures


def test_goaway_at_once_is_a_failure_after_a_second_try() -> None:
    desk = Desk()
    desk.ask(1)
    for _ in range(2):
        server = desk.accept()
        server.http.close_connection(8, last_stream_id=0)
        server.push()
        settle([server.tls], 0.0)
    assert desk.failures == {1: "closed"} and len(desk.dialer.streams) == 2


def goaway(server: Server, last: int) -> None:
    """As a server that goes on answering; h2 would not."""
    server.tls.write(b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4, "big") + bytes(4))


@pytest.mark.parametrize("last", [1, 0x7FFFFFFF])
def test_what_the_server_took_before_goaway_is_waited_for(last: int) -> None:
    desk = Desk()
    desk.ask(1)
    desk.ask(2)
    server = desk.accept()
    first, second = server.take()
    goaway(server, last)
    settle([server.tls], 0.0)
    desk.ask(3)
    assert len(desk.dialer.streams) == 2 and not server.tls.stream.closed
    again = desk.accept()
    for stream_id in again.take():
        again.answer(stream_id)
    desk.settle()
    if last == first:
        assert sorted(desk.answers) == [2, 3], "what it did not take is asked again"
    else:
        server.answer(second)
        assert sorted(desk.answers) == [3]
    server.answer(first)
    settle([server.tls, again.tls], 0.0)
    assert sorted(desk.answers) == [1, 2, 3] and not desk.failures
    assert server.tls.stream.closed and not again.tls.stream.closed


@pytest.mark.parametrize("octets", [b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(64), b"\xff" * 64])
def test_what_is_not_http2(octets: bytes) -> None:
    desk = Desk()
    desk.ask(1)
    stream = desk.dialer.streams[-1]
    server = MemoryTlsServer(stream, server_context("dns.test", alpn=("h2",)))
    stream.connect()
    settle([server], 0.0)
    server.write(octets)
    settle([server], 0.0)
    if not desk.failures:  # read as the head of a frame whose rest is to come
        server.stream.end()
        stream.owner.on_readable(stream, 0.0)
    assert list(desk.failures) == [1]


def test_a_server_without_http2_is_refused() -> None:
    desk = Desk()
    desk.ask(1)
    stream = desk.dialer.streams[-1]
    server = MemoryTlsServer(stream, server_context("dns.test"))
    stream.connect()
    settle([server], 0.0)
    assert desk.failures == {1: "tls"} and "h2" in desk.events[0].message and not server.received


def test_a_new_network_and_idle() -> None:
    desk = Desk(idle=10.0)
    desk.ask(1)
    first = desk.accept()
    desk.resolver.network_changed(0.05)
    assert first.tls.stream.closed
    second = desk.accept()
    second.answer(second.take()[0])
    desk.settle()
    assert list(desk.answers) == [1]
    desk.now = 10.0
    at = desk.resolver.next_timeout()
    assert at is not None and at <= 10.0
    desk.resolver.on_timeout(10.0)
    assert second.tls.stream.closed and desk.resolver.next_timeout() is None


def test_reset_while_an_answer_comes() -> None:
    desk = Desk()
    desk.ask(1)
    for _ in range(2):
        server = desk.accept()
        [stream_id] = server.take()
        server.http.send_headers(stream_id, [(":status", "200"), ("content-type", "application/dns-message")])
        server.http.send_data(stream_id, response(server.bodies[stream_id])[:10])
        server.push()
        server.tls.stream.fail(errno.ECONNRESET)
        settle([server.tls], 0.0)
    assert desk.failures == {1: "closed"}
