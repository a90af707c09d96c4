"""DNS over TCP to a stand-alone resolver: a listener and its connections.

Responsible for: pipelined queries, answers out of order and gathered, the bounds of a connection, of a client and of
all, idle connections.
Refuses to know: what is asked and answered (`dns.bridge`), datagrams (`dns_listeners`).
RFCs: 1035 4.2.2, 7766 (6.2.1.1 pipelining, 6.2.3 idle connections, 7 answers out of order).
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from netstack.config import ServerConfig
from netstack.core.drops import DropReason
from netstack.core.flow import TCP, FiveTuple
from netstack.core.stats import Stats
from netstack.dns.framing import MessageReader, frame
from netstack.dns.message import HEADER_SIZE, Rcode, error_without_question, is_dns
from netstack.runtime.dns_listeners import Peers
from netstack.upstream.datagrams import from_sockaddr
from netstack.upstream.streams import SocketStream

ACCEPTS = 16  # connections taken at a time
READ_SIZE = 65_536
OUTPUT_MOST = 131_072  # octets of answers that a client has not taken; nothing more is read from it beyond this
_BACKLOG = 256
_REST = 0.2  # seconds without accepting after the system had no descriptor to give
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Server(Protocol):
    """What connections share (`dns_server.DnsServer`)."""

    settings: ServerConfig
    stats: Stats
    poller: Any

    def ask(
        self, flow: FiveTuple, message: bytes, now: float, reply: Callable[[bytes, float], None], *, over_tcp: bool
    ) -> bool:
        """As `DnsBridge.ask`."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once."""


class TcpListener:
    """One listening TCP socket."""

    __slots__ = ("_clients", "_peers", "_server", "_socket", "owner")

    def __init__(self, sock: socket.socket, server: Server, peers: Peers, clients: TcpClients) -> None:
        """`sock` is bound and becomes this object's."""
        self.owner = self
        self._socket = sock
        self._server = server
        self._peers = peers
        self._clients = clients
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        self._watch(True)

    def _watch(self, readable: bool) -> None:
        if self._socket.fileno() >= 0:
            self._server.poller.watch(self._socket.fileno(), self, readable, False)

    def on_readable(self, listener: TcpListener, now: float) -> None:
        """Take connections."""
        for _ in range(ACCEPTS):
            try:
                sock, sender = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno in _OUT_OF_RESOURCES:  # it stays readable: look away, or it would spin
                    self._watch(False)
                    self._server.call_later(_REST, lambda: self._watch(True))
                    return
                continue
            if not self._peers.admits(sender[0]):
                self._server.stats.drops[DropReason.DNS_PEER_NOT_ALLOWED] += 1
                sock.close()
                continue
            self._clients.add(sock, sender, now)

    def on_writable(self, listener: TcpListener, now: float) -> None:
        """Never asked for."""

    def close(self) -> None:
        """Take no more connections."""
        self._socket.close()


class TcpClients:
    """All connections, oldest idle first."""

    __slots__ = ("_by_host", "_clients", "_server", "waiting")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clients: dict[TcpClient, None] = {}
        self._by_host: dict[str, int] = {}
        self.waiting: set[TcpClient] = set()  # have answers to send

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, sock: socket.socket, sender: tuple[Any, ...], now: float) -> None:
        """A new connection; one too many of a client is refused, one too many of all costs the one idle longest."""
        settings = self._server.settings
        host = sender[0]
        if self._by_host.get(host, 0) >= settings.tcp_per_client:
            self._refuse(sock)
            return
        if len(self._clients) >= settings.tcp_connections:
            idle = next((client for client in self._clients if not client.pending), None)
            if idle is None:
                self._refuse(sock)
                return
            self._server.stats.shed_flows += 1
            idle.close()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        here = from_sockaddr(sock.family, sock.getsockname())
        flow = FiveTuple(TCP, from_sockaddr(sock.family, sender), here)
        client = TcpClient(sock, flow, host, self._server, self, now)
        self._clients[client] = None
        self._by_host[host] = self._by_host.get(host, 0) + 1

    def _refuse(self, sock: socket.socket) -> None:
        self._server.stats.drops[DropReason.DNS_TABLE_FULL] += 1
        sock.close()

    def used(self, client: TcpClient, now: float) -> None:
        """It did something: the last to be idle."""
        if client in self._clients:
            client.last_used = now
            del self._clients[client]
            self._clients[client] = None

    def remove(self, client: TcpClient) -> None:
        """It is closed."""
        if self._clients.pop(client, self) is self:
            return
        self.waiting.discard(client)
        left = self._by_host[client.host] - 1
        if left:
            self._by_host[client.host] = left
        else:
            del self._by_host[client.host]

    def flush(self, now: float) -> None:
        """Send what was answered since the last call, one write for each connection."""
        while self.waiting:
            self.waiting.pop().write(now)

    def next_timeout(self) -> float | None:
        """When the one idle longest has been so for too long."""
        for client in self._clients:
            return client.last_used + self._server.settings.tcp_idle
        return None

    def on_timeout(self, now: float) -> None:
        """Close the idle ones (RFC 7766 6.2.3). A query that is pending keeps its connection."""
        limit = now - self._server.settings.tcp_idle
        for client in list(self._clients):
            if client.last_used > limit:
                return
            if client.pending:
                self.used(client, now)
            else:
                client.close()

    def close(self) -> None:
        """Close all."""
        for client in list(self._clients):
            client.close()


class TcpClient:
    """One client's connection."""

    __slots__ = ("_clients", "_ended", "_flow", "_output", "_output_octets", "_reader", "_server", "_stream", "closed",
                 "host", "last_used", "pending")  # fmt: skip

    def __init__(
        self, sock: socket.socket, flow: FiveTuple, host: str, server: Server, clients: TcpClients, now: float
    ) -> None:
        self.host = host
        self.last_used = now
        self.pending = 0  # unanswered queries
        self.closed = False
        self._flow = flow
        self._server = server
        self._clients = clients
        self._reader = MessageReader()
        self._output: deque[bytes] = deque()
        self._output_octets = 0
        self._ended = False  # nothing more is read: end of stream
        self._stream = SocketStream(sock, server.poller, self)
        self._stream.watch(readable=True, writable=False)

    def on_readable(self, stream: SocketStream, now: float) -> None:
        """Queries, end of stream, or an error."""
        try:
            octets = stream.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if octets:
            self._reader.feed(octets)
        else:
            self._ended = True
        self._clients.used(self, now)
        self._ask(now)

    def on_writable(self, stream: SocketStream, now: float) -> None:
        """It takes answers again."""
        self.write(now)

    def _may_ask(self) -> bool:
        return self.pending < self._server.settings.tcp_pending and self._output_octets < OUTPUT_MOST

    def _ask(self, now: float) -> None:
        """Every whole message that the bounds allow."""
        while not self.closed and self._may_ask():
            message = self._reader.next_message()
            if message is None:
                break
            if len(message) < HEADER_SIZE or not is_dns(message) or message[2] & 0x80:  # whoever this is, it is not DNS
                self._server.stats.drops[DropReason.DNS_MALFORMED] += 1
                self.close()
                return
            self.pending += 1
            if not self._server.ask(self._flow, message, now, partial(self._on_answer, message[:2]), over_tcp=True):
                self.pending -= 1
        self._settle()

    def _settle(self) -> None:
        """Close what is over, else say what is waited for."""
        if self.closed:
            return
        if self._ended and not self.pending and not self._output:
            self.close()
            return
        self._stream.watch(readable=not self._ended and self._may_ask(), writable=bool(self._output))

    def _on_answer(self, ident: bytes, message: bytes, now: float) -> None:
        self.pending -= 1
        if self.closed:
            return
        if not message:  # dropped after a while: nothing is said, and the next one may be asked
            self._clients.waiting.add(self)
            return
        if self._output_octets + len(message) > 2 * OUTPUT_MOST:
            message = error_without_question(ident + b"\x01\0", Rcode.SERVFAIL)
        framed = frame(message)
        self._output.append(framed)
        self._output_octets += len(framed)
        self._clients.waiting.add(self)

    def write(self, now: float) -> None:
        """Send answers; when there is room again, ask what was read before."""
        output = self._output
        if self.closed:
            return
        if len(output) > 1:
            joined = b"".join(output)
            output.clear()
            output.append(joined)
        try:
            while output:
                sent = self._stream.send(output[0])
                self._output_octets -= sent
                if sent < len(output[0]):
                    output[0] = output[0][sent:]
                    break
                output.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._clients.used(self, now)
        self._ask(now)

    def close(self) -> None:
        """Answers that are still to come find nobody."""
        if self.closed:
            return
        self.closed = True
        self._output.clear()
        self._reader = MessageReader()
        self._clients.remove(self)
        self._stream.close()
