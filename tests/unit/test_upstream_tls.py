"""TLS over a stream: handshake, the check, resumption, records."""

import errno
import hashlib
import re
import ssl

import pytest

from netstack.core.errors import ConfigError
from netstack.core.events import EngineError
from netstack.core.flow import Endpoint
from netstack.testing.world import ScriptedDialer
from netstack.upstream.tls import REPORTS_MOST, Reporter, TlsClient, TlsStream, Trust, tbs_of
from tests.certificates import MemoryTlsServer, authority, server_context, server_files, settle

SERVER = Endpoint.of("192.0.2.53", 853)


class Owner:
    def __init__(self) -> None:
        self.readable = self.writable = 0

    def on_readable(self, socket: TlsStream, now: float) -> None:
        self.readable += 1

    def on_writable(self, socket: TlsStream, now: float) -> None:
        self.writable += 1


class Desk:
    """A client, its dialer and servers."""

    def __init__(self, name: str = "dns.test", **options: object) -> None:
        self.dialer = ScriptedDialer()
        self.events: list[EngineError] = []
        trust = Trust(str(authority().ca_file))
        self.client = TlsClient(self.dialer, trust, name, label="tls://x", emit=self.events.append, **options)
        self.servers: list[MemoryTlsServer] = []

    def dial(self, context: ssl.SSLContext | None = None) -> tuple[TlsStream, MemoryTlsServer, Owner]:
        owner = Owner()
        stream = self.client.dial_tcp(SERVER, owner)
        stream.watch(readable=True, writable=True)
        below = self.dialer.streams[-1]
        server = MemoryTlsServer(below, context or server_context("dns.test", "192.0.2.53"))
        self.servers.append(server)
        below.connect()
        below.owner.on_writable(below, 0.0)
        stream.watch(readable=True, writable=False)
        settle(self.servers, 0.0)
        return stream, server, owner


def test_octets_pass_both_ways() -> None:
    desk = Desk()
    stream, server, owner = desk.dial()
    assert owner.writable == 1 and stream.connect_error() == 0 and server.is_open
    with pytest.raises(BlockingIOError):
        stream.recv(10)
    assert stream.send(b"question") == 8 and stream.sendmsg([b"an", b"other"]) == 7
    server.turn()
    assert server.received == b"questionanother"
    assert b"question" not in server.stream.sent
    server.write(b"answer" * 10_000)
    stream.watch(readable=True, writable=False)
    below = server.stream
    below.owner.on_readable(below, 5.0)
    assert stream.recv(65_536) == b"answer" * 10_000 and stream.last_heard == 5.0
    stream.close()
    assert below.closed


def test_a_full_socket_holds_records_back() -> None:
    desk = Desk()
    stream, server, _owner = desk.dial()
    server.stream.capacity = 10
    assert stream.send(b"x" * 100) == 100
    assert server.stream.writable_wanted
    with pytest.raises(BlockingIOError):
        while True:
            stream.send(b"y" * 16_384)
    server.stream.capacity = None
    settle(desk.servers, 0.0)
    assert server.received[:100] == b"x" * 100 and len(server.received) > 200_000
    assert not server.stream.writable_wanted


@pytest.mark.parametrize(
    ("name", "context", "said"),
    [
        ("other.test", {}, "doesn't match|mismatch"),
        ("192.0.2.54", {}, "doesn't match|mismatch"),
        ("dns.test", {"days": -1}, "expired"),
    ],
)
def test_a_certificate_that_will_not_do(name: str, context: dict, said: str) -> None:
    desk = Desk(name)
    stream, server, owner = desk.dial(server_context("dns.test", "192.0.2.53", **context))
    assert owner.writable == 1 and stream.connect_error() == errno.EPROTO
    [event] = desk.events
    assert event.where == "resolver" and "the certificate was refused" in event.message
    assert re.search(said, event.message)
    with pytest.raises(OSError):
        stream.send(b"secret")
    assert server.alert, "the server is told by an alert"


def test_an_unknown_authority_is_refused(tmp_path) -> None:
    desk = Desk()
    desk.client._trust = Trust()
    stream, _, _ = desk.dial()
    assert stream.connect_error() == errno.EPROTO and "certificate was refused" in desk.events[0].message


def test_an_address_is_verified_too() -> None:
    desk = Desk("192.0.2.53")
    stream, _, _ = desk.dial()
    assert stream.connect_error() == 0 and not desk.events


def test_sessions_are_resumed() -> None:
    desk = Desk()
    stream, server, _ = desk.dial()
    server.write(b"answer")
    settle(desk.servers, 0.0)
    assert not stream.was_resumed()
    stream.close()
    again, _, _ = desk.dial()
    assert again.was_resumed() and again.connect_error() == 0


def test_pins() -> None:
    der = ssl.PEM_cert_to_DER_cert(server_files("dns.test", "192.0.2.53", days=30)[0].read_text())
    pin = hashlib.sha256(tbs_of(der)).digest()
    stream, _, _ = Desk(pins=(bytes(32), pin)).dial()
    assert stream.connect_error() == 0
    desk = Desk(pins=(bytes(32),))
    stream, _, _ = desk.dial()
    assert stream.connect_error() == errno.EPROTO and "stamp" in desk.events[0].message


def test_a_protocol_that_the_server_lacks() -> None:
    desk = Desk(alpn=("h2",))
    stream, _, _ = desk.dial()
    assert stream.connect_error() == errno.EPROTO and "does not speak h2" in desk.events[0].message
    stream, _, _ = Desk(alpn=("h2",)).dial(server_context("dns.test", alpn=("h2",)))
    assert stream.connect_error() == 0 and stream.alpn_protocol() == "h2"


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.ETIMEDOUT])
def test_a_failed_dial(error: int) -> None:
    desk = Desk()
    owner = Owner()
    stream = desk.client.dial_tcp(SERVER, owner)
    [below] = desk.dialer.streams
    below.connect(error)
    below.owner.on_writable(below, 0.0)
    assert owner.writable == 1 and stream.connect_error() == error and not desk.events


@pytest.mark.parametrize("how", ["end", "garbage", "reset"])
def test_a_handshake_that_breaks(how: str) -> None:
    desk = Desk()
    owner = Owner()
    stream = desk.client.dial_tcp(SERVER, owner)
    stream.watch(readable=False, writable=True)
    [below] = desk.dialer.streams
    below.connect()
    below.owner.on_writable(below, 0.0)
    if how == "end":
        below.end()
    elif how == "reset":
        below.fail(errno.ECONNRESET)
    else:
        below.deliver(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert below.readable_wanted
    below.owner.on_readable(below, 0.0)
    assert owner.writable == 1
    assert stream.connect_error() == (errno.EPROTO if how == "garbage" else errno.ECONNRESET)
    assert len(desk.events) == (how == "garbage")


@pytest.mark.parametrize("how", ["end", "garbage", "reset"])
def test_a_connection_that_breaks(how: str) -> None:
    desk = Desk()
    stream, server, owner = desk.dial()
    server.write(b"last words")
    below = server.stream
    below.owner.on_readable(below, 0.0)
    assert stream.recv(100) == b"last words"
    if how == "end":
        below.end()
    elif how == "reset":
        below.fail(errno.ECONNRESET)
    else:
        below.deliver(b"\x17\x03\x03\x00\x20" + bytes(32))
    before = owner.readable
    below.owner.on_readable(below, 0.0)
    assert owner.readable > before
    if how == "end":
        assert stream.recv(10) == b""
    else:
        with pytest.raises(OSError):
            stream.recv(10)


def test_trust_says_what_is_wrong(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        Trust(str(tmp_path / "missing.pem"))
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"junk\.pem"):
        Trust(str(tmp_path / "junk.pem"))
    context = Trust(str(authority().ca_file)).context(())
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname


def test_the_same_failure_is_reported_once_in_a_while() -> None:
    events: list[EngineError] = []
    reporter = Reporter("tls://x", events.append)
    for now in (0.0, 1.0, 9.0, 11.0):
        reporter.report("bad", now)
    reporter.report("worse", 11.5)
    assert [event.at for event in events] == [0.0, 11.0, 11.5]


def test_what_a_server_says_cannot_flood_nor_write_on_a_terminal() -> None:
    events: list[EngineError] = []
    reporter = Reporter("tls://x", events.append)
    for number in range(1000):
        reporter.report(f"\x1b[2J\n{number}" + "x" * 10_000, 1.0 + number / 1000)
    assert len(events) == REPORTS_MOST
    assert all(event.message.isprintable() and len(event.message) < 350 for event in events)
    reporter.report("later", 11.5)
    assert len(events) == REPORTS_MOST + 1


def test_an_end_that_comes_with_the_last_octets_is_told() -> None:
    desk = Desk()
    _, server, owner = desk.dial()
    seen: list[bytes] = []
    owner.on_readable = lambda socket, now: seen.append(socket.recv(65_536))
    server.tls.write(b"half an ans")
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()  # close_notify; the connection below stays as it is, as RFC 8446 6.1 lets it
    server._push()
    below = server.stream
    below.owner.on_readable(below, 1.0)
    assert seen == [b"half an ans", b""]
