"""DNS over HTTPS: HTTP/2 requests on one TLS connection.

Responsible for: one POST for each query, many at a time; status codes, flow control, GOAWAY and RST_STREAM; asking
again what a lost connection left open or a server did not take; the time that an answer spent in HTTP caches.
Refuses to know: TLS (`tls`), time limits (`connected`), HTTP/1.1 (a server that speaks nothing else is refused).
RFCs: 8484, 9113 (HTTP/2), 9111 5.1 (Age), 8467 (padding).

The id of a query is 0 (RFC 8484 4.1); who asked is known by the stream.
"""

from __future__ import annotations

import errno
from collections import deque

from netstack.core.drops import DropReason
from netstack.core.events import EventSink
from netstack.core.flow import Endpoint
from netstack.core.ports import Dialer, Stream
from netstack.core.stats import Stats
from netstack.dns.aging import aged
from netstack.dns.message import is_answer_to
from netstack.upstream.bootstrap import Location
from netstack.upstream.connected import IDLE, TIMEOUT, ConnectedResolver
from netstack.upstream.dns_channels import SILENT, WHY, ChannelOwner, ask_again_or_refuse, heard_at, received
from netstack.upstream.http2 import Headers, Http2Client, Http2Error, Response
from netstack.upstream.proxy import Lookup
from netstack.upstream.tls import TlsClient, Trust
from netstack.upstream.url import UpstreamUrl

MEDIA_TYPE = b"application/dns-message"
WAITING_MOST = 16_384  # queries of one connection, those included that wait for a stream
REFUSALS_MOST = 3  # of one query by REFUSED_STREAM
OUTPUT_MOST = 1 << 22  # octets not taken by the socket above which nothing more is read


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


class Http2Channel:
    """One HTTP/2 connection: made when needed, closed when idle. A SocketOwner and a `connected.Channel`."""

    __slots__ = ("_answered", "_client", "_connected", "_endpoint", "_headers", "_http", "_idle",
                 "_last_heard", "_last_used", "_output", "_owner", "_queued", "_stream", "_written_at", "retired",
                 "waiting")  # fmt: skip

    def __init__(
        self, client: TlsClient, endpoint: Endpoint, owner: ChannelOwner, headers: Headers, *, idle: float
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._owner = owner
        self._headers = headers
        self._idle = idle
        self._stream: Stream | None = None
        self._http: Http2Client | None = None
        self._connected = False
        self._answered = False
        self._last_heard = self._last_used = 0.0
        self._written_at = float("-inf")
        self._output = b""
        self._queued: deque[Lookup] = deque()
        self.retired = False
        self.waiting: dict[int, Lookup] = {}

    # --- Channel ---

    def ask(self, lookup: Lookup, now: float) -> None:
        """As `Channel.ask`."""
        if len(self.waiting) + len(self._queued) >= WAITING_MOST:
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

    def is_silent(self, now: float) -> bool:
        """As `Channel.is_silent`."""
        return self._stream is not None and now - heard_at(self._stream, self._last_heard) >= SILENT

    def reset(self) -> None:
        """As `Channel.reset`."""
        stream, self._stream = self._stream, None
        self._connected = self._answered = False
        self._http = None
        self._output = b""
        self._queued.clear()
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
            self._http = Http2Client(self._headers)
        self._write(now)

    def on_readable(self, socket: Stream, now: float) -> None:
        """Frames, or the end."""
        if socket is not self._stream:
            return
        if self._http is None:
            self.on_writable(socket, now)
            return
        octets = received(socket)
        if octets is None:
            return
        if not octets:
            self._fail("closed", now)
            return
        self._last_used = self._last_heard = now
        http = self._http
        try:
            ended = http.receive(bytes(octets))
        except Http2Error as problem:
            self._client.reporter.report(f"not HTTP/2: {problem}", now)
            self._fail("garbage", now)
            return
        for stream_id, response in ended:
            self._finish(stream_id, response, now)
            if self._http is not http:
                return
        if http.is_ending:
            self._leave(http, now)
        self._write(now)

    def _leave(self, http: Http2Client, now: float) -> None:
        """The server takes no more requests: wait for what it took, the rest goes elsewhere."""
        untaken = [each for stream_id, each in self.waiting.items() if stream_id > http.last_stream and not each.done]
        taken = any(stream_id <= http.last_stream and not each.done for stream_id, each in self.waiting.items())
        if not taken:  # what is open is asked again: a query may be
            self._fail("closed", now)
            return
        untaken += (lookup for lookup in self._queued if not lookup.done)
        self._queued.clear()
        if untaken or not self.retired:
            self._owner.on_leaving(untaken, now)

    def _finish(self, stream_id: int, response: Response | None, now: float) -> None:
        lookup = self.waiting.pop(stream_id, None)
        if lookup is None or lookup.done:
            self._owner.on_junk(DropReason.DNS_LATE_ANSWER)
        elif response is None:
            http = self._http
            lookup.serial += 1
            if http is not None and stream_id in http.refused and lookup.serial <= REFUSALS_MOST:
                self._queued.append(lookup)
            else:
                self._owner.on_failed(lookup, "reset", now)
        elif not response.status:
            self._client.reporter.report("a response without a status", now)
            self._owner.on_failed(lookup, "garbage", now)
        elif response.status != b"200":
            status = response.status.decode("ascii", "replace")
            self._client.reporter.report(f"HTTP status {status}", now)
            self._owner.on_failed(lookup, f"http-{status}", now)
        elif response.kind != MEDIA_TYPE or not is_answer_to(response.body, 0, lookup.question):
            self._owner.on_junk(DropReason.DNS_UNEXPECTED_ANSWER)
            self._owner.on_failed(lookup, "garbage", now)
        else:
            self._answered = True
            body = aged(response.body, response.age) if response.age else response.body
            self._owner.on_message(lookup, body, True, now)

    # --- frames out ---

    def _write(self, now: float) -> None:
        stream, http = self._stream, self._http
        if stream is None or http is None:
            return
        try:
            self._make_requests(http)
            if http.out:
                self._output += b"".join(http.out)
                http.out.clear()
            while self._output:
                sent = stream.send(self._output)
                self._output = self._output[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._fail("closed", now)
            return
        stream.watch(readable=len(self._output) < OUTPUT_MOST, writable=bool(self._output))

    def _make_requests(self, http: Http2Client) -> None:
        queued = self._queued
        while queued:
            lookup = queued[0]
            if not lookup.done:
                if not http.can_request(len(lookup.message)) and not self._gives_room(http, len(lookup.message)):
                    return
                stream_id = http.request(b"\0\0" + lookup.message[2:])
                self.waiting[stream_id] = lookup
                lookup.places.append((self.waiting, stream_id))
            queued.popleft()

    def _gives_room(self, http: Http2Client, size: int) -> bool:
        """Streams whose query was given up are the server's to answer no longer."""
        if len(http.streams) > len(self.waiting):
            for stream_id in [each for each in http.streams if each not in self.waiting]:
                http.cancel(stream_id)
        return http.can_request(size)

    def _fail(self, why: str, now: float) -> None:
        """The connection is gone. One that gave answers may end at any time: ask on a new one."""
        again = self._answered and not self.retired
        lookups = [lookup for lookup in (*self.waiting.values(), *self._queued) if not lookup.done]
        self.reset()
        ask_again_or_refuse(lookups, self.ask, self._owner, why, now, again=again)
