"""Real resolvers on loopback, certificates for them, and a resolver under test on the wall clock."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from netstack.core.events import Event
from netstack.core.ports import Resolver
from netstack.core.stats import Stats
from netstack.runtime.entropy import SystemEntropy
from netstack.runtime.poller import EnginePoller
from netstack.upstream.dialer import SocketDialer
from netstack.upstream.transports import Transports, UpstreamSettings

NAME = "dns.test"
ADDRESS = "192.0.2.77"  # what host.example has


def free_port() -> int:
    """A loopback port that nobody uses, for UDP and TCP; not one that the kernel gives to clients meanwhile."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            try:
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for_tcp(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until somebody listens."""
    for _ in range(200):
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else "ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("does not listen")


class Unbound:
    """Debian's unbound with local data, on plain DNS, DoT and DoH ports of its own."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        self.folder = folder
        self.plain, self.dot, self.doh = free_port(), free_port(), free_port()
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or start again on the same ports."""
        pem, key = self._certificate
        config = self.folder / "unbound.conf"
        config.write_text(
            f"""server:
  username: ""
  chroot: ""
  directory: "{self.folder}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
  root-hints: ""
  interface: 127.0.0.1@{self.plain}
  interface: 127.0.0.1@{self.dot}
  interface: 127.0.0.1@{self.doh}
  tls-port: {self.dot}
  https-port: {self.doh}
  tls-service-key: "{key}"
  tls-service-pem: "{pem}"
  incoming-num-tcp: 100
  http-max-streams: 100
  access-control: 127.0.0.0/8 allow
  local-zone: "example." redirect
  local-data: "example. 60 IN A {ADDRESS}"
  local-zone: "dns.test." redirect
  local-data: "dns.test. 60 IN A 127.0.0.1"
remote-control:
  control-enable: no
"""
        )
        self._process = subprocess.Popen(["unbound", "-d", "-c", str(config)], stderr=subprocess.PIPE)
        wait_for_tcp(self.dot, self._process)

    def stop(self) -> None:
        """End at once, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            if self._process.stderr:
                self._process.stderr.close()
            self._process = None


class Dnsdist:
    """Debian's dnsdist in front of a plain server: DoT by OpenSSL and DoH by h2o's HTTP/2."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path], behind: int, *settings: str) -> None:
        """`settings`: further lines of its configuration."""
        self.dot, self.doh = free_port(), free_port()
        pem, key = certificate
        config = folder / "dnsdist.conf"
        config.write_text(
            f"""setLocal("127.0.0.1:{free_port()}")
addTLSLocal("127.0.0.1:{self.dot}", "{pem}", "{key}")
addDOHLocal("127.0.0.1:{self.doh}", "{pem}", "{key}", {{"/dns-query"}})
newServer({{address="127.0.0.1:{behind}"}}):setUp()
"""
            + "".join(f"{line}\n" for line in settings)
        )
        self._process = subprocess.Popen(
            ["dnsdist", "--supervised", "--disable-syslog", "-C", str(config)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_for_tcp(self.doh, self._process)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(10)
        if self._process.stderr:
            self._process.stderr.close()


class QuicServer:
    """A DoQ server on aioquic's own asyncio part; `mode`: good, slow, garbage, truncated, reset, close."""

    def __init__(self, certificate: tuple[Path, Path], port: int = 0, *, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port or free_port()
        self.mode = "good"
        self.handshakes = 0
        self.queries = 0
        self.ids: set[bytes] = set()
        self._certificate = certificate
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    def _run(self) -> None:
        from aioquic.asyncio import serve
        from aioquic.quic.configuration import QuicConfiguration

        asyncio.set_event_loop(self._loop)
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["doq"])
        configuration.load_cert_chain(*self._certificate)
        tickets: dict[bytes, Any] = {}

        async def start() -> Any:
            return await serve(
                self.host, self.port, configuration=configuration, create_protocol=self._protocol(),
                session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
                session_ticket_fetcher=lambda label: tickets.pop(label, None),
            )  # fmt: skip

        server = self._loop.run_until_complete(start())
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    def _protocol(self) -> Any:
        from aioquic.asyncio import QuicConnectionProtocol
        from aioquic.quic.events import HandshakeCompleted, StreamDataReceived

        server = self

        class Protocol(QuicConnectionProtocol):
            def __init__(self, *arguments: Any, **keywords: Any) -> None:
                super().__init__(*arguments, **keywords)
                self.streams: dict[int, bytes] = {}

            def quic_event_received(self, event: Any) -> None:
                if isinstance(event, HandshakeCompleted):
                    server.handshakes += 1
                    server.resumed = event.session_resumed
                elif isinstance(event, StreamDataReceived):
                    octets = self.streams.pop(event.stream_id, b"") + event.data
                    if not event.end_stream:
                        self.streams[event.stream_id] = octets
                        return
                    server.queries += 1
                    server.ids.add(octets[2:4])
                    server.answer(self, event.stream_id, octets[2:])

        return Protocol

    resumed = False

    def answer(self, protocol: Any, stream_id: int, query: bytes) -> None:
        """As `mode` says."""
        quic = protocol._quic
        if self.mode == "close":
            quic.close(error_code=2)
        elif self.mode == "reset":
            quic.reset_stream(stream_id, 1)
        else:
            message = answer_to(query) if self.mode != "garbage" else b"\xff" * 40
            framed = len(message).to_bytes(2, "big") + message
            if self.mode == "truncated":
                framed = framed[:-5]
            if self.mode != "slow":
                quic.send_stream_data(stream_id, framed, end_stream=True)
        protocol.transmit()

    def stop(self) -> None:
        """End it without a word to its clients."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def answer_to(query: bytes) -> bytes:
    """An A record for any question."""
    import dns.message
    import dns.rrset

    asked = dns.message.from_wire(query)
    made = dns.message.make_response(asked)
    made.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", ADDRESS))
    return made.to_wire()


class Asker:
    """A resolver on the wall clock: ask, then wait for outcomes."""

    def __init__(self, *upstreams: str, protect: Callable[[int], bool] | None = None, **settings: Any) -> None:
        self.poller = EnginePoller()
        self.events: list[Event] = []
        self.stats = Stats()
        self.answers: dict[int, bytes] = {}
        self.failures: dict[int, str] = {}
        self.at: dict[int, float] = {}
        self.dialer = SocketDialer(self.poller, protect)
        self.transports = Transports(
            self.dialer, SystemEntropy(), UpstreamSettings(**settings), stats=self.stats, emit=self.events.append
        )
        self.resolver: Resolver = self.transports.group(upstreams)
        self.resolver.start(self)
        self.poller.served = self
        self._token = 0

    # --- ResolverOwner ---

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        assert token not in self.at, "one outcome only"
        self.answers[token] = message
        self.at[token] = now

    def on_failure(self, token: int, why: str, now: float) -> None:
        assert token not in self.at, "one outcome only"
        self.failures[token] = why
        self.at[token] = now

    # --- runtime.poller.Served ---

    def next_deadline(self) -> float | None:
        return self.resolver.next_timeout()

    def on_deadline(self, now: float) -> None:
        self.resolver.on_timeout(now)

    def on_tunnel_readable(self, now: float) -> None:
        raise AssertionError

    def on_readable(self, socket: Any, now: float) -> None:
        socket.owner.on_readable(socket, now)

    def on_writable(self, socket: Any, now: float) -> None:
        socket.owner.on_writable(socket, now)

    def finish(self, now: float) -> None:
        pass

    # --- the test's side ---

    def ask(self, name: str = "host.example") -> int:
        """Ask for an A record; the token."""
        import dns.message

        self._token += 1
        message = dns.message.make_query(name, "A", id=self._token & 0xFFFF, use_edns=0).to_wire()
        self.resolver.query(self._token, message, time.monotonic())
        return self._token

    def wait(self, *tokens: int, limit: float = 6.0) -> None:
        """Until these have an outcome."""
        end = time.monotonic() + limit
        while any(token not in self.at for token in tokens):
            left = end - time.monotonic()
            assert left > 0, f"no outcome after {limit} s"
            self.poller.select(left)

    def get(self, name: str = "host.example", limit: float = 6.0) -> str:
        """One query: the address, or why there is none."""
        token = self.ask(name)
        self.wait(token, limit=limit)
        return self.address(token) if token in self.answers else self.failures[token]

    def address(self, token: int) -> str:
        """The address in an answer."""
        import dns.message

        message = dns.message.from_wire(self.answers[token])
        assert message.id == token & 0xFFFF
        return str(message.answer[0][0])

    def run(self, seconds: float) -> None:
        """Serve for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.poller.select(left)

    def close(self) -> None:
        """Release everything."""
        self.resolver.close()
        assert len(self.poller) == 0, "sockets left behind"
        self.poller.close()


@contextlib.contextmanager
def asking(*upstreams: str, **settings: Any) -> Iterator[Asker]:
    """An `Asker` that is closed at the end."""
    asker = Asker(*upstreams, **settings)
    try:
        yield asker
    finally:
        asker.close()
