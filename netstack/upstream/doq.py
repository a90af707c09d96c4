"""DNS over QUIC: one stream for each query on one connection.

Responsible for: the connection's datagrams and timers, a stream for each query, resumption.
Refuses to know: time limits and addresses (`connected`).
RFCs: 9250, 9000, 9001.

QUIC itself is `aioquic`'s `QuicConnection`, which does no input or output and takes the time as an argument. It is
imported here and nowhere else, and only when an upstream wants it. Queries wait for the end of the handshake: early
data could be replayed by whoever sees it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import ssl
from collections import deque
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset
from aioquic.tls import SessionTicket

from netstack.core.drops import DropReason
from netstack.core.events import EventSink
from netstack.core.flow import Endpoint
from netstack.core.ports import DatagramSocket, Dialer
from netstack.core.stats import Stats
from netstack.dns.framing import MAX_FRAME, MessageReader, frame
from netstack.dns.message import is_answer_to
from netstack.dns.stage import earlier
from netstack.upstream.bootstrap import Location
from netstack.upstream.connected import IDLE, TIMEOUT, ConnectedResolver
from netstack.upstream.dns_channels import READS, SILENT, ChannelOwner, ask_again_or_refuse
from netstack.upstream.proxy import Lookup
from netstack.upstream.tls import Reporter, Trust
from netstack.upstream.url import UpstreamUrl

ALPN = "doq"
WAITING_MOST = 4096  # queries on one connection
NO_ERROR, REQUEST_CANCELLED = 0x0, 0x3  # DOQ_* (RFC 9250 8.4)
ABANDONED_MOST = 64  # streams whose query was given up, before the server is told
_CRYPTO_ERROR = 0x100  # plus the TLS alert (RFC 9000 20.1)
_CERTIFICATE_ALERTS = range(42, 50)  # bad_certificate .. access_denied (RFC 8446 6)

# What goes wrong is an event; aioquic's own warnings would reach standard error where nobody set logging up.
logging.getLogger("quic").addHandler(logging.NullHandler())


def doq_resolver(
    url: UpstreamUrl,
    location: Location,
    dialer: Dialer,
    trust: Trust,
    *,
    timeout: float = TIMEOUT,
    idle: float = IDLE,
    padding: bool = False,
    stats: Stats | None = None,
    emit: EventSink | None = None,
) -> ConnectedResolver:
    """A Resolver for a ``quic://`` upstream. `emit` gets an EngineError when the certificate is refused."""
    client = QuicClient(dialer, trust, url.server_name, pins=url.pins, label=url.label, emit=emit, idle=idle)

    def channel(endpoint: Endpoint, owner: ChannelOwner) -> QuicChannel:
        return QuicChannel(client, endpoint, owner)

    return ConnectedResolver(location, channel, timeout=timeout, padding=padding, stats=stats)


class QuicClient:
    """What connections to one upstream have in common."""

    def __init__(
        self,
        dialer: Dialer,
        trust: Trust,
        server_name: str,
        *,
        pins: tuple[bytes, ...] = (),
        label: str = "",
        emit: EventSink | None = None,
        idle: float = IDLE,
    ) -> None:
        """As `tls.TlsClient`; `idle` is in seconds."""
        self.dialer = dialer
        self.pins = pins
        self.idle = idle
        self.reporter = Reporter(label or server_name, emit)
        self._server_name = server_name
        self._trust = trust
        self._ticket: SessionTicket | None = None

    def connection(self) -> QuicConnection:
        """A connection that verifies, with the last one's session when there is one."""
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=[ALPN], server_name=self._server_name, idle_timeout=self.idle,
            verify_mode=ssl.CERT_REQUIRED, session_ticket=self._ticket,
        )  # fmt: skip
        if self._trust.ca_file:
            configuration.load_verify_locations(cafile=self._trust.ca_file)
        else:
            paths = ssl.get_default_verify_paths()
            if paths.cafile or (paths.capath and os.path.isdir(paths.capath)):  # else aioquic's own (certifi's)
                configuration.load_verify_locations(cafile=paths.cafile, capath=paths.capath)
        self._ticket = None  # used once (RFC 8446 C.4)
        return QuicConnection(configuration=configuration, session_ticket_handler=self._keep)

    def _keep(self, ticket: SessionTicket) -> None:
        self._ticket = ticket


class QuicChannel:
    """One QUIC connection: made when needed, closed when idle. A SocketOwner and a `connected.Channel`."""

    __slots__ = ("_address", "_answered", "_client", "_connected", "_endpoint", "_last_heard", "_last_said",
                 "_last_used", "_owner", "_queued", "_quic", "_readers", "_socket", "_timer", "_written_at", "retired",
                 "waiting")  # fmt: skip

    def __init__(self, client: QuicClient, endpoint: Endpoint, owner: ChannelOwner) -> None:
        self._client = client
        self._endpoint = endpoint
        self._address = (endpoint.host, endpoint.port)
        self._owner = owner
        self._socket: DatagramSocket | None = None
        self._quic: QuicConnection | None = None
        self._connected = False
        self._answered = False
        self._last_heard = self._last_used = 0.0
        self._last_said = 0.0  # when a stream or the handshake went on: acknowledgements are no answers
        self._written_at = float("-inf")
        self._timer: float | None = None
        self._queued: deque[Lookup] = deque()
        self._readers: dict[int, MessageReader] = {}
        self.retired = False
        self.waiting: dict[int, Lookup] = {}

    # --- Channel ---

    def ask(self, lookup: Lookup, now: float) -> None:
        """As `Channel.ask`."""
        if len(self._readers) + len(self._queued) >= WAITING_MOST:
            raise OSError(errno.EBUSY, "too many queries on one connection")
        if len(self._readers) - len(self.waiting) > ABANDONED_MOST:
            self._abandon()
        if self._socket is None:
            self._open(now)
        self._last_used = now
        self._queued.append(lookup)
        if not self._connected:
            return
        if now != self._written_at:  # those that come in the same round go together at the next
            self._written_at = now
            self._write(now)
        elif self._socket is not None:
            self._socket.watch(readable=True, writable=True)

    def _abandon(self) -> None:
        """Streams that nobody waits for would use up those that the server allows."""
        for stream_id in [each for each in self._readers if each not in self.waiting]:
            del self._readers[stream_id]
            if self._quic is not None:
                self._quic.stop_stream(stream_id, REQUEST_CANCELLED)

    def _open(self, now: float) -> None:
        self._socket = self._client.dialer.open_udp(self._endpoint.version, self)
        self._socket.watch(readable=True, writable=False)
        self._quic = self._client.connection()
        self._last_heard = self._last_said = now
        self._quic.connect(self._address, now)
        self._write(now)

    def is_silent(self, now: float) -> bool:
        """As `Channel.is_silent`."""
        return self._socket is not None and now - self._last_said >= SILENT

    def reset(self) -> None:
        """As `Channel.reset`."""
        socket, self._socket = self._socket, None
        quic, self._quic = self._quic, None
        if socket is not None and quic is not None and self._connected:
            quic.close(error_code=NO_ERROR)
            self._send(socket, quic, self._last_heard)
        self._connected = self._answered = False
        self._timer = None
        self._queued.clear()
        self._readers.clear()
        self.waiting.clear()
        if socket is not None:
            socket.close()

    def next_timeout(self) -> float | None:
        """QUIC's timer, or when the connection is idle for too long."""
        return None if self._socket is None else earlier(self._timer, self._last_used + self._client.idle)

    def on_timeout(self, now: float) -> None:
        """Let QUIC retransmit; close the connection when nobody waits."""
        quic = self._quic
        if quic is None:
            return
        if self._timer is not None and self._timer <= now:
            quic.handle_timer(now)
            self._work(now)
        if self._quic is quic and self._last_used + self._client.idle <= now:
            if self.waiting or self._queued:
                self._last_used = now
            else:
                self.reset()

    # --- SocketOwner ---

    def on_writable(self, socket: DatagramSocket, now: float) -> None:
        """Queries of one round have gathered."""
        if socket is self._socket:
            socket.watch(readable=True, writable=False)
            self._write(now)

    def on_readable(self, socket: DatagramSocket, now: float) -> None:
        """Datagrams, or an ICMP error."""
        quic = self._quic
        if socket is not self._socket or quic is None:
            return
        for _ in range(READS):
            try:
                octets, sender = socket.recvfrom()
            except BlockingIOError:
                if (error := socket.recv_error()) is not None:
                    self._on_error(error.errno, now)
                break
            except OSError as problem:
                socket.recv_error()
                self._on_error(problem.errno or 0, now)
                break
            if sender == self._endpoint:
                self._last_heard = now
                if not self._connected:
                    self._last_said = now
                quic.receive_datagram(octets, self._address, now)
            else:
                self._owner.on_junk(DropReason.DNS_UNEXPECTED_ANSWER)
        if self._quic is quic:
            self._work(now)

    def _on_error(self, number: int, now: float) -> None:
        """Whoever can forge ICMP must not be able to end a connection: only one being made believes it."""
        if number != errno.EMSGSIZE and (not self._connected or now - self._last_heard > 0.5):
            self._fail("refused" if number == errno.ECONNREFUSED else "unreachable", now)

    # --- streams ---

    def _work(self, now: float) -> None:
        """What QUIC has to say, then what it has to send."""
        quic = self._quic
        while quic is not None and quic is self._quic and (event := quic.next_event()) is not None:
            self._on_event(event, now)
        if quic is not self._quic or quic is None:
            return
        self._write(now)
        # The event comes only when three time-outs of the closing connection are over (RFC 9000 10.2): nobody who
        # waits for an answer has anything from that.
        closed = getattr(quic, "_close_event", None)
        if closed is not None:
            self._on_end(closed, now)

    def _on_event(self, event: Any, now: float) -> None:
        kind = type(event)
        if kind is StreamDataReceived:
            self._last_used = self._last_said = now
            self._on_data(event, now)
        elif kind is HandshakeCompleted:
            if self._client.pins and not self._is_pinned():
                self._client.reporter.report(
                    "the certificate was refused: none of the chain is one that the stamp names", now
                )
                self._fail("tls", now)
                return
            self._connected = True
        elif kind is StreamReset:
            self._last_said = now
            self._readers.pop(event.stream_id, None)
            lookup = self.waiting.pop(event.stream_id, None)
            if lookup is not None and not lookup.done:
                self._owner.on_failed(lookup, "reset", now)
        elif kind is ConnectionTerminated:
            self._on_end(event, now)

    def _on_end(self, event: ConnectionTerminated, now: float) -> None:
        alert = event.error_code - _CRYPTO_ERROR
        if alert in _CERTIFICATE_ALERTS:
            self._client.reporter.report(f"the certificate was refused: {event.reason_phrase or alert}", now)
            self._fail("tls", now)
        elif 0 <= alert < 256:
            self._client.reporter.report(f"the TLS handshake failed: {event.reason_phrase or alert}", now)
            self._fail("tls", now)
        else:
            self._fail("closed" if self._connected else "refused", now)

    def _on_data(self, event: StreamDataReceived, now: float) -> None:
        reader = self._readers.get(event.stream_id)
        if reader is None:
            return
        reader.feed(event.data)
        message = reader.next_message()
        if message is None and len(reader) <= MAX_FRAME and not event.end_stream:
            return
        del self._readers[event.stream_id]
        lookup = self.waiting.pop(event.stream_id, None)
        if not event.end_stream and self._quic is not None:  # the answer is whole; nothing else is wanted
            self._quic.stop_stream(event.stream_id, NO_ERROR)
        if lookup is None or lookup.done:
            self._owner.on_junk(DropReason.DNS_LATE_ANSWER)
        elif message is None or not is_answer_to(message, 0, lookup.question):
            self._owner.on_junk(DropReason.DNS_UNEXPECTED_ANSWER)
            self._owner.on_failed(lookup, "garbage", now)
        else:
            self._answered = True
            self._owner.on_message(lookup, message, True, now)

    def _write(self, now: float) -> None:
        socket, quic = self._socket, self._quic
        if socket is None or quic is None:
            return
        while self._connected and self._queued:
            lookup = self._queued.popleft()
            if lookup.done:
                continue
            stream_id = quic.get_next_available_stream_id()
            quic.send_stream_data(stream_id, frame(b"\0\0" + lookup.message[2:]), end_stream=True)
            self._readers[stream_id] = MessageReader()
            self.waiting[stream_id] = lookup
            lookup.places.append((self.waiting, stream_id))
        self._send(socket, quic, now)
        self._timer = quic.get_timer()

    def _send(self, socket: DatagramSocket, quic: QuicConnection, now: float) -> None:
        for octets, _ in quic.datagrams_to_send(now):
            try:
                socket.sendto(octets, self._endpoint)
            except OSError:  # as good as lost: QUIC sends it again, or the silence is noticed
                return

    def _is_pinned(self) -> bool:
        tls = getattr(self._quic, "tls", None)
        leaf = getattr(tls, "_peer_certificate", None)
        chain = [leaf, *(getattr(tls, "_peer_certificate_chain", None) or ())] if leaf is not None else []
        return any(hashlib.sha256(each.tbs_certificate_bytes).digest() in self._client.pins for each in chain)

    def _fail(self, why: str, now: float) -> None:
        """The connection is gone. One that gave answers may end at any time: ask on a new one."""
        again = self._answered and not self.retired
        lookups = [lookup for lookup in (*self.waiting.values(), *self._queued) if not lookup.done]
        self.reset()
        ask_again_or_refuse(lookups, self.ask, self._owner, why, now, again=again)
