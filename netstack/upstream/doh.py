"""DNS over HTTPS: HTTP/2 requests on one TLS connection.

Responsible for: one POST for each query, many at a time; status codes, flow control, GOAWAY and RST_STREAM; asking
again what a lost connection left open.
Refuses to know: TLS (`tls`), time limits (`connected`), HTTP/1.1 (a server that speaks nothing else is refused).
RFCs: 8484, 9113 (HTTP/2), 8467 (padding).

The id of a query is 0 (RFC 8484 4.1); who asked is known by the stream. Framing and header compression are `h2`'s,
which does no input or output. It is imported here and nowhere else, and only when an upstream wants it.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from netstack.core.drops import DropReason
from netstack.core.errors import DialError
from netstack.core.events import EventSink
from netstack.core.flow import Endpoint
from netstack.core.ports import Dialer, Stream
from netstack.core.stats import Stats
from netstack.dns.message import MAX_MESSAGE, is_answer_to
from netstack.upstream.bootstrap import Location
from netstack.upstream.connected import IDLE, TIMEOUT, ConnectedResolver
from netstack.upstream.dns_channels import READ_SIZE, SILENT_CONNECTION, WHY, ChannelOwner
from netstack.upstream.proxy import Lookup
from netstack.upstream.tls import TlsClient, Trust
from netstack.upstream.url import UpstreamUrl

MEDIA_TYPE = b"application/dns-message"
WAITING_MOST = 16_384  # queries of one connection, those included that wait for a stream
STREAMS_FIRST = 100  # until the server's SETTINGS say what it takes (RFC 9113 6.5.2 recommends no less)
WINDOW = 1 << 20  # octets of answers on their way

Headers = list[tuple[bytes, bytes]]


def doh_resolver(
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
    """A Resolver for an ``https://`` upstream. `emit` gets an EngineError for refused certificates and bad statuses."""
    client = TlsClient(dialer, trust, url.server_name, alpn=("h2",), pins=url.pins, label=url.label, emit=emit)
    name = f"[{url.server_name}]" if ":" in url.server_name else url.server_name
    authority = name if url.port == 443 else f"{name}:{url.port}"
    headers: Headers = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", authority.encode("ascii")),
        (b":path", url.path.encode("ascii")),
        (b"accept", MEDIA_TYPE),
        (b"content-type", MEDIA_TYPE),
        *((key.lower().encode("ascii"), value.encode("ascii")) for key, value in url.headers),
    ]

    def channel(endpoint: Endpoint, owner: ChannelOwner) -> Http2Channel:
        return Http2Channel(client, endpoint, owner, headers, idle=idle)

    return ConnectedResolver(location, channel, timeout=timeout, padding=padding, stats=stats)


class _Response:
    """What has come of one answer."""

    __slots__ = ("body", "is_dns", "status")

    def __init__(self) -> None:
        self.status = b""
        self.is_dns = False
        self.body = b""


class Http2Channel:
    """One HTTP/2 connection: made when needed, closed when idle. A SocketOwner and a `connected.Channel`."""

    __slots__ = ("_answered", "_client", "_connected", "_consumed", "_endpoint", "_headers", "_http", "_idle",
                 "_last_heard", "_last_used", "_output", "_owner", "_queued", "_responses", "_stream", "_streams_most",
                 "_written_at", "waiting")  # fmt: skip

    def __init__(
        self, client: TlsClient, endpoint: Endpoint, owner: ChannelOwner, headers: Headers, *, idle: float
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._owner = owner
        self._headers = headers
        self._idle = idle
        self._stream: Stream | None = None
        self._http: H2Connection | None = None
        self._connected = False
        self._answered = False
        self._last_heard = self._last_used = 0.0
        self._written_at = float("-inf")
        self._output = b""
        self._consumed = 0
        self._streams_most = STREAMS_FIRST
        self._queued: deque[Lookup] = deque()
        self._responses: dict[int, _Response] = {}  # by stream, also of those that nobody waits for any more
        self.waiting: dict[int, Lookup] = {}

    # --- Channel ---

    def ask(self, lookup: Lookup, now: float) -> None:
        """As `Channel.ask`."""
        if len(self._responses) + len(self._queued) >= WAITING_MOST:
            raise OSError(errno.EBUSY, "too many queries on one connection")
        if self._stream is None:
            self._stream = self._client.dial_tcp(self._endpoint, self)
            self._stream.watch(readable=False, writable=True)
            self._last_heard = now
        self._last_used = now
        self._queued.append(lookup)
        if not self._connected:
            return
        if now != self._written_at:  # those that come in the same round go together at the next
            self._written_at = now
            self._write(now)
        else:
            self._stream.watch(readable=True, writable=True)

    def doubt(self, now: float) -> bool:
        """As `Channel.doubt`."""
        stream = self._stream
        if stream is None or now - max(self._last_heard, getattr(stream, "last_heard", 0.0)) < SILENT_CONNECTION:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """As `Channel.reset`."""
        stream, self._stream = self._stream, None
        self._connected = self._answered = False
        self._http = None
        self._output = b""
        self._consumed = 0
        self._streams_most = STREAMS_FIRST
        self._queued.clear()
        self._responses.clear()
        self.waiting.clear()
        if stream is not None:
            stream.close()

    def next_timeout(self) -> float | None:
        """When the connection is idle for too long."""
        return None if self._stream is None else self._last_used + self._idle

    def on_timeout(self, now: float) -> None:
        """Close it when nobody waits."""
        if self._stream is not None and self._last_used + self._idle <= now:
            if self.waiting or self._queued:
                self._last_used = now
            else:
                self.reset()

    # --- SocketOwner ---

    def on_writable(self, socket: Stream, now: float) -> None:
        """Connected, or not, or room again."""
        if socket is not self._stream:
            return
        if not self._connected:
            error = socket.connect_error()
            if error:
                self._fail(WHY.get(error, "unreachable"), now)
                return
            self._connected = True
            self._last_heard = now
            self._http = _open_connection()
        self._write(now)

    def on_readable(self, socket: Stream, now: float) -> None:
        """Frames, or the end."""
        if socket is not self._stream:
            return
        if self._http is None:
            self.on_writable(socket, now)
            return
        try:
            octets = socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if not octets:
            self._fail("refused", now)
            return
        self._last_used = self._last_heard = now
        http = self._http
        try:
            events = http.receive_data(octets)
        except (H2Error, ValueError, IndexError, KeyError) as problem:  # its parts let some of the latter through
            self._client.reporter.report(f"not HTTP/2: {type(problem).__name__}", now)
            self._fail("garbage", now)
            return
        for event in events:
            self._on_event(event, now)
            if self._http is not http:
                return
        if self._consumed >= WINDOW // 2:
            http.increment_flow_control_window(self._consumed)
            self._consumed = 0
        self._write(now)

    # --- frames in ---

    def _on_event(self, event: Any, now: float) -> None:
        kind = type(event)
        if kind is ResponseReceived:
            response = self._responses.get(event.stream_id)
            if response is not None:
                for name, value in event.headers:
                    if name == b":status":
                        response.status = value
                    elif name == b"content-type":
                        response.is_dns = value.partition(b";")[0].strip().lower() == MEDIA_TYPE
        elif kind is DataReceived:
            self._consumed += event.flow_controlled_length
            response = self._responses.get(event.stream_id)
            if response is not None and len(response.body) <= MAX_MESSAGE:
                response.body = response.body + event.data if response.body else event.data
        elif kind is StreamEnded:
            self._finish(event.stream_id, now)
        elif kind is StreamReset:
            self._responses.pop(event.stream_id, None)
            lookup = self.waiting.pop(event.stream_id, None)
            if lookup is not None and not lookup.done:
                self._owner.on_failed(lookup, "reset", now)
        elif kind is RemoteSettingsChanged:
            limit = event.changed_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS)
            if limit is not None:
                self._streams_most = max(1, limit.new_value)
        elif kind is ConnectionTerminated:
            # h2 takes nothing more after GOAWAY: what is open is asked again (a query may be)
            self._fail("refused", now)

    def _finish(self, stream_id: int, now: float) -> None:
        response = self._responses.pop(stream_id, None)
        lookup = self.waiting.pop(stream_id, None)
        if response is None or lookup is None or lookup.done:
            self._owner.on_junk(DropReason.DNS_LATE_ANSWER)
            return
        if response.status != b"200":
            status = response.status.decode("ascii", "replace")
            self._client.reporter.report(f"HTTP status {status}", now)
            self._owner.on_failed(lookup, f"http-{status}", now)
        elif not response.is_dns or not is_answer_to(response.body, 0, lookup.question):
            self._owner.on_junk(DropReason.DNS_UNEXPECTED_ANSWER)
            self._owner.on_failed(lookup, "garbage", now)
        else:
            self._answered = True
            self._owner.on_message(lookup, response.body, True, now)

    # --- frames out ---

    def _write(self, now: float) -> None:
        stream, http = self._stream, self._http
        if stream is None or http is None:
            return
        try:
            self._make_requests(http)
            self._output += http.data_to_send()
            while self._output:
                sent = stream.send(self._output)
                self._output = self._output[sent:]
        except BlockingIOError:
            pass
        except (OSError, H2Error):
            self._fail("refused", now)
            return
        stream.watch(readable=True, writable=bool(self._output))

    def _make_requests(self, http: H2Connection) -> None:
        queued = self._queued
        while queued and len(self._responses) < self._streams_most:
            lookup = queued[0]
            if lookup.done:
                queued.popleft()
                continue
            message = b"\0\0" + lookup.message[2:]
            if len(message) > http.outbound_flow_control_window:
                return
            queued.popleft()
            stream_id = http.get_next_available_stream_id()
            http.send_headers(stream_id, [*self._headers, (b"content-length", b"%d" % len(message))])
            http.send_data(stream_id, message, end_stream=True)
            self._responses[stream_id] = _Response()
            self.waiting[stream_id] = lookup
            lookup.places.append((self.waiting, stream_id))

    def _fail(self, why: str, now: float) -> None:
        """The connection is gone. One that gave answers may end at any time: ask on a new one."""
        again = self._answered
        lookups = [lookup for lookup in (*self.waiting.values(), *self._queued) if not lookup.done]
        self.reset()
        for lookup in lookups:
            if again and not lookup.done:
                try:
                    self.ask(lookup, now)
                    continue
                except (DialError, OSError):
                    pass
            self._owner.on_refused(lookup, why, now)


def _open_connection() -> H2Connection:
    http = H2Connection(
        H2Configuration(
            client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False,
            validate_inbound_headers=False, normalize_inbound_headers=False,
        )
    )  # fmt: skip
    # An answer, whatever its size, fits its stream's window: only the connection's needs updates.
    http.local_settings = Settings(
        client=True,
        initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: 2 * MAX_MESSAGE},
    )
    http.initiate_connection()
    http.increment_flow_control_window(WINDOW)
    return http
