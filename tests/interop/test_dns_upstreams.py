"""Every transport against real servers: unbound, dnsdist, and a DoQ server on aioquic; then every kind of failure."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("h2")
pytest.importorskip("aioquic")

from tests.certificates import Authority
from tests.interop.dns_servers import ADDRESS, NAME, Dnsdist, QuicServer, Unbound, asking, free_port

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not (shutil.which("unbound") and shutil.which("dnsdist")), reason="needs unbound and dnsdist"),
]


class Servers:
    """What the tests of this file share."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.certificate = self.authority.issue(NAME, "127.0.0.1")
        self.expired = self.authority.issue("old.test", days=-1)
        self.ca_file = str(self.authority.ca_file)
        self.unbound = Unbound(folder, self.certificate)
        self.unbound.start()
        self.quic = QuicServer(self.certificate)
        self.dnsdist = Dnsdist(folder, self.certificate, self.unbound.plain)

    def stop(self) -> None:
        self.dnsdist.stop()
        self.quic.stop()
        self.unbound.stop()

    def url(self, which: str, host: str = "127.0.0.1", name: str = "") -> str:
        scheme, port = {
            "udp": ("udp", self.unbound.plain),
            "tcp": ("tcp", self.unbound.plain),
            "dot": ("tls", self.unbound.dot),
            "doh": ("https", self.unbound.doh),
            "doq": ("quic", self.quic.port),
            "dot-dnsdist": ("tls", self.dnsdist.dot),
            "doh-dnsdist": ("https", self.dnsdist.doh),
        }[which]
        return f"{scheme}://{host}:{port}" + (f"#{name}" if name else "")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("dns"))
    try:
        yield made
    finally:
        made.stop()


ALL = ("udp", "tcp", "dot", "doh", "doq", "dot-dnsdist", "doh-dnsdist")
ENCRYPTED = ("dot", "doh", "doq", "dot-dnsdist", "doh-dnsdist")


@pytest.mark.parametrize("which", ALL)
def test_answers_and_a_thousand_at_once(servers: Servers, which: str) -> None:
    with asking(servers.url(which), ca_file=servers.ca_file) as asker:
        assert asker.get() == ADDRESS
        tokens = [asker.ask(f"n{number}.example") for number in range(1000)]
        asker.wait(*tokens, limit=5.0)
        assert not asker.failures and not asker.events
        assert {asker.address(token) for token in tokens} == {ADDRESS}


@pytest.mark.parametrize("which", ENCRYPTED)
def test_names_come_from_the_bootstrap(servers: Servers, which: str) -> None:
    bootstrap = (f"127.0.0.1:{servers.unbound.plain}",)
    with asking(servers.url(which, NAME), ca_file=servers.ca_file, bootstrap=bootstrap) as asker:
        assert asker.get() == ADDRESS


@pytest.mark.parametrize("which", ENCRYPTED)
def test_a_wrong_certificate_is_never_used(servers: Servers, which: str) -> None:
    with asking(servers.url(which, name="wrong.test"), ca_file=servers.ca_file) as asker:
        assert asker.get() == "tls"
        assert "certificate was refused" in asker.events[0].message
    with asking(servers.url(which)) as asker:  # the system's anchors do not know this authority
        assert asker.get() == "tls"


def test_an_expired_certificate_is_refused_by_quic(servers: Servers) -> None:
    server = QuicServer(servers.expired)
    try:
        with asking(f"quic://127.0.0.1:{server.port}#old.test", ca_file=servers.ca_file) as asker:
            assert asker.get() == "tls" and "certificate was refused" in asker.events[0].message
            assert server.queries == 0
    finally:
        server.stop()


@pytest.mark.parametrize("which", ENCRYPTED)
def test_connections_are_closed_when_idle_and_resumed(servers: Servers, which: str) -> None:
    with asking(servers.url(which), ca_file=servers.ca_file, idle=0.3) as asker:
        assert asker.get() == ADDRESS
        assert len(asker.poller) == 1
        asker.run(0.5)
        assert len(asker.poller) == 0
        assert asker.get() == ADDRESS
        if which == "doq":
            assert servers.quic.resumed


@pytest.mark.parametrize("which", ALL)
def test_a_new_network_asks_again_within_100_ms(servers: Servers, which: str) -> None:
    with asking(servers.url(which), ca_file=servers.ca_file) as asker:
        assert asker.get() == ADDRESS
        tokens = [asker.ask(f"m{number}.example") for number in range(50)]
        started = time.monotonic()
        asker.resolver.network_changed(started)
        assert time.monotonic() - started < 0.1
        asker.wait(*tokens, limit=1.0)
        assert not asker.failures


@pytest.mark.parametrize("scheme", ["udp", "tcp", "tls", "https", "quic"])
def test_refused(servers: Servers, scheme: str) -> None:
    with asking(f"{scheme}://127.0.0.1:{free_port()}", ca_file=servers.ca_file) as asker:
        started = time.monotonic()
        assert asker.get() == "refused"
        assert time.monotonic() - started < 3.0


@contextlib.contextmanager
def tcp_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Connections are taken one at a time and given to `behave`; then closed."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(2)
                with connection:
                    behave(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopping.set()
        thread.join(5)
        listener.close()


@pytest.mark.parametrize("scheme", ["tls", "https"])
def test_garbage_instead_of_tls(servers: Servers, scheme: str) -> None:
    with (
        tcp_server(lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n" * 10)) as port,
        asking(f"{scheme}://127.0.0.1:{port}", ca_file=servers.ca_file) as asker,
    ):
        assert asker.get() == "tls" and "handshake failed" in asker.events[0].message


@pytest.mark.parametrize("scheme", ["udp", "tcp", "tls", "https", "quic"])
def test_a_black_hole_delays_nobody_for_long(servers: Servers, scheme: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        if scheme in ("udp", "quic"):
            udp.bind(("127.0.0.1", 0))
            port = udp.getsockname()[1]
        else:  # accepted by the kernel, answered by nobody
            tcp.bind(("127.0.0.1", 0))
            tcp.listen(100)
            port = tcp.getsockname()[1]
        hole = f"{scheme}://127.0.0.1:{port}"
        with asking(hole, ca_file=servers.ca_file) as asker:
            started = time.monotonic()
            assert asker.get() == "timeout" and time.monotonic() - started < 5.0
        for strategy in ("failover", "parallel", "fastest"):
            with asking(hole, servers.url("dot"), ca_file=servers.ca_file, strategy=strategy) as asker:
                tokens = [asker.ask(f"b{number}.example") for number in range(1000)]
                asker.wait(*tokens, limit=2.0)
                assert not asker.failures
                started = time.monotonic()
                assert asker.get() == ADDRESS
                assert time.monotonic() - started < 0.5, "it is known to be down"


@pytest.mark.parametrize(
    ("mode", "why"), [("garbage", "garbage"), ("truncated", "garbage"), ("reset", "reset"), ("close", "closed"),
                      ("slow", "timeout")],
)  # fmt: skip
def test_quic_servers_that_misbehave(servers: Servers, mode: str, why: str) -> None:
    servers.quic.mode = mode
    try:
        with asking(servers.url("doq"), ca_file=servers.ca_file) as asker:
            assert asker.get() == why
        with asking(servers.url("doq"), servers.url("doh"), ca_file=servers.ca_file) as asker:
            assert asker.get() == ADDRESS, "the next one answers"
    finally:
        servers.quic.mode = "good"


@pytest.mark.parametrize("which", ["udp", "tcp", "dot", "doh"])
def test_a_restarted_server_serves_within_a_second(servers: Servers, which: str) -> None:
    with asking(servers.url(which), ca_file=servers.ca_file) as asker:
        assert asker.get() == ADDRESS
        servers.unbound.stop()
        pending = [asker.ask(f"r{number}.example") for number in range(100)]
        asker.run(0.3)
        servers.unbound.start()
        ready = time.monotonic()
        late = [asker.ask(f"l{number}.example") for number in range(100)]
        asker.wait(*pending, *late, limit=4.0)
        assert not asker.failures
        if which != "udp":
            assert max(asker.at.values()) - ready < 1.0


def test_a_restarted_quic_server(servers: Servers) -> None:
    server = QuicServer(servers.certificate)
    with asking(f"quic://127.0.0.1:{server.port}", ca_file=servers.ca_file) as asker:
        assert asker.get() == ADDRESS
        server.stop()
        server = QuicServer(servers.certificate, server.port)
        try:
            assert asker.get() == ADDRESS
            assert server.ids == {b"\0\0"}
        finally:
            server.stop()


def test_every_socket_is_protected(servers: Servers) -> None:
    for which in ALL:
        with asking(servers.url(which), ca_file=servers.ca_file, protect=lambda fd: False) as asker:
            assert asker.get() == "protect"
