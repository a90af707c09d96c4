"""How DNS queries reach a server: a pool of UDP sockets, and one TCP connection for each server.

Responsible for: unpredictable ids and ports, matching what arrives to who waits for it, pipelining and
reuse of connections, giving sockets back when they are idle.
Refuses to know: retransmission and fail-over (`proxy`).
RFCs: 5452 (an answer must come from who was asked, to the socket that asked, with id and question),
7766 (6.2.1.1 pipelining, 6.2.3 idle connections, 7 out of order).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from netstack.core.drops import DropReason
from netstack.core.errors import DialError
from netstack.core.flow import Endpoint, FiveTuple
from netstack.core.packet import Octets
from netstack.core.ports import DatagramSocket, Dialer, Entropy, SocketOwner, Stream
from netstack.dns.framing import MessageReader
from netstack.dns.message import HEADER_SIZE, is_answer_to

if TYPE_CHECKING:
    from netstack.upstream.proxy import Lookup

ACTIVE = 4  # sockets of one family that queries are spread over
SOCKETS_MOST = 64  # of one family, with those that only wait for answers
RETIRE_AFTER = 256  # queries: then a socket, and with it its port, is replaced
IDLE = 10.0  # seconds until a socket that waits for nothing is closed
READS = 128  # datagrams taken from one socket before the others have their turn
CONNECTION_MOST = 512  # queries waiting on one TCP connection
READ_SIZE = 65_536
GATHER = 256  # queries sent in one call
_LENGTH_AND_ID = Struct("!HH")
SILENT_CONNECTION = 2.0  # seconds without an octet after which an unanswered query puts a connection in doubt
SILENT = 0.8  # the same where a second connection is made beside it, and its late answers are still welcome


WHY = {errno.ECONNREFUSED: "refused", errno.EPROTO: "tls"}


class StreamDialer(Protocol):
    """The part of `core.ports.Dialer` that makes connections."""

    def dial_tcp(self, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None = None) -> Stream:
        """As `Dialer.dial_tcp`."""


class ChannelOwner(Protocol):
    """The resolver, as a channel sees it."""

    def on_message(self, lookup: Lookup, message: bytes, over_tcp: bool, now: float) -> None:
        """An answer to `lookup`."""

    def on_refused(self, lookup: Lookup, why: str, now: float) -> None:
        """The server, or the connection to it, will not answer this try."""

    def on_failed(self, lookup: Lookup, why: str, now: float) -> None:
        """The server will not answer this query, whose connection is well."""

    def on_leaving(self, lookups: list[Lookup], now: float) -> None:
        """The connection answers what it has and takes no more; it did not take `lookups`."""

    def on_junk(self, reason: DropReason) -> None:
        """Something arrived that nobody waits for."""


def _fresh_id(entropy: Entropy, taken: dict[int, Lookup]) -> int:
    """An unpredictable id that is free; `taken` is far from full, so few draws do."""
    while (ident := entropy.below(65_536)) in taken:
        pass
    return ident


def received(stream: Stream) -> Octets | None:
    """What has come; nothing at the end, which a broken connection is too; None when nothing is there yet."""
    try:
        return stream.recv(READ_SIZE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def heard_at(stream: Stream, last_heard: float) -> float:
    """When anything was heard on a connection: a message, or over TLS its handshake."""
    return max(last_heard, getattr(stream, "last_heard", 0.0))


def ask_again_or_refuse(
    lookups: Iterable[Lookup],
    ask: Callable[[Lookup, float], object],
    owner: ChannelOwner,
    why: str,
    now: float,
    *,
    again: bool,
) -> None:
    """What becomes of the queries of a connection that is gone: with `again` they are asked on a new one."""
    for lookup in lookups:
        if again and not lookup.done:
            try:
                ask(lookup, now)
                continue
            except (DialError, OSError):
                pass
        owner.on_refused(lookup, why, now)


def _is_asking(lookup: Lookup, server: Endpoint, *, on_tcp: bool) -> bool:
    """True when the lookup's current try is this one."""
    current = lookup.server
    return not lookup.done and lookup.on_tcp is on_tcp and current is not None and current.endpoint == server


class _Port:
    """One UDP socket: a SocketOwner."""

    __slots__ = ("asked", "last_used", "pool", "socket", "used", "version", "waiting")

    def __init__(self, pool: UdpPool, version: int) -> None:
        self.pool = pool
        self.version = version
        self.socket: DatagramSocket | None = None
        self.waiting: dict[int, Lookup] = {}  # by upstream id
        self.asked: dict[int, Endpoint] = {}  # id -> who was asked
        self.used = 0
        self.last_used = 0.0

    def on_readable(self, socket: DatagramSocket, now: float) -> None:
        """Answers, junk, or ICMP errors."""
        self.pool.on_readable(self, now)

    def on_writable(self, socket: DatagramSocket, now: float) -> None:
        """Never asked for."""


class UdpPool:
    """UDP sockets, spread over a few ports that change all the time."""

    __slots__ = ("_active", "_dialer", "_entropy", "_owner", "_ports")

    def __init__(self, dialer: Dialer, entropy: Entropy, owner: ChannelOwner) -> None:
        self._dialer = dialer
        self._entropy = entropy
        self._owner = owner
        self._active: dict[int, list[_Port]] = {4: [], 6: []}
        self._ports: list[_Port] = []  # active and retired

    def ask(self, lookup: Lookup, server: Endpoint, now: float) -> None:
        """Send `lookup` to `server`; a repetition goes out from the same port with the same id.

        Raises DialError or OSError when it cannot be sent; a full socket is as good as loss on the way.
        """
        if lookup.places:
            for port in self._ports:
                for place, ident in lookup.places:
                    if place is port.waiting and place.get(ident) is lookup and port.asked.get(ident) == server:
                        self._send(port, ident, lookup, server, now)
                        return
        number = self._entropy.below(ACTIVE << 16)  # one draw for both
        port = self._pick(server.version, number >> 16, now)
        ident = number & 0xFFFF
        if ident in port.waiting:
            ident = _fresh_id(self._entropy, port.waiting)
        port.waiting[ident] = lookup
        port.asked[ident] = server
        lookup.places.append((port.waiting, ident))
        self._send(port, ident, lookup, server, now)

    def _send(self, port: _Port, ident: int, lookup: Lookup, server: Endpoint, now: float) -> None:
        assert port.socket is not None
        port.used += 1
        port.last_used = now
        message = ident.to_bytes(2, "big") + lookup.message[2:]
        for attempt in (0, 1):
            try:
                port.socket.sendto(message, server)
            except BlockingIOError:
                return
            except OSError as problem:
                # the error of an earlier datagram is reported by the next call: read it, then try once more
                if attempt or problem.errno != errno.ECONNREFUSED:
                    raise
                serial = lookup.serial
                self._read_errors(port, now)
                if lookup.serial != serial or port.socket is None:
                    return
                continue
            return

    def _pick(self, version: int, at: int, now: float) -> _Port:
        active = self._active[version]
        if at < len(active):
            port = active[at]
            if port.used < RETIRE_AFTER:
                return port
            self._sweep(version)
            if len(self._ports) >= SOCKETS_MOST:
                return port
            active.remove(port)
        try:
            port = _Port(self, version)
            port.socket = self._dialer.open_udp(version, port)
        except DialError:
            if active:  # out of descriptors: a port used longer is better than no answer
                return active[0]
            raise
        port.socket.watch(readable=True, writable=False)
        active.append(port)
        self._ports.append(port)
        return port

    def on_readable(self, port: _Port, now: float) -> None:
        """Take what arrived, at most `READS` datagrams."""
        for count in range(READS):
            socket = port.socket
            if socket is None:
                return
            try:
                message, sender = socket.recvfrom()
            except BlockingIOError:
                if not count:  # woken by an error alone
                    self._read_errors(port, now)
                return
            except OSError:
                if not self._read_errors(port, now):
                    return
                continue
            self._take(port, message, sender, now)

    def _take(self, port: _Port, message: bytes, sender: Endpoint, now: float) -> None:
        if len(message) < 12:
            self._owner.on_junk(DropReason.DNS_MALFORMED)
            return
        ident = message[0] << 8 | message[1]
        lookup = port.waiting.get(ident)
        if lookup is None or port.asked[ident] != sender or not is_answer_to(message, ident, lookup.question):
            late = lookup is None and ident in port.asked
            self._owner.on_junk(DropReason.DNS_LATE_ANSWER if late else DropReason.DNS_UNEXPECTED_ANSWER)
            return
        self._owner.on_message(lookup, message, False, now)

    def _read_errors(self, port: _Port, now: float) -> bool:
        """Pass on the ICMP errors that the kernel kept; True when there was one."""
        seen = False
        while port.socket is not None and (error := port.socket.recv_error()) is not None:
            seen = True
            why = "refused" if error.errno == errno.ECONNREFUSED else "unreachable"
            if error.errno == errno.EMSGSIZE:
                continue
            if len(error.payload) >= 2:
                lookups = [port.waiting.get(error.payload[0] << 8 | error.payload[1])]
            else:  # the kernel kept nothing of the datagram: all that went there failed alike
                lookups = list(port.waiting.values())
            for lookup in lookups:
                if lookup is not None and _is_asking(lookup, error.destination, on_tcp=False):
                    self._owner.on_refused(lookup, why, now)
        return seen

    def _sweep(self, version: int) -> None:
        """Close retired sockets that nobody waits on."""
        active = self._active[version]
        for port in [port for port in self._ports if port.version == version and not port.waiting]:
            if port not in active:
                self._close(port)

    def _close(self, port: _Port) -> None:
        self._ports.remove(port)
        if port in self._active[port.version]:
            self._active[port.version].remove(port)
        socket, port.socket = port.socket, None
        if socket is not None:
            socket.close()

    def close(self) -> None:
        """Close every socket."""
        for port in list(self._ports):
            self._close(port)

    def next_timeout(self) -> float | None:
        """When the socket idle longest may be closed."""
        return min([port.last_used + IDLE for port in self._ports], default=None)

    def on_timeout(self, now: float) -> None:
        """Close the idle ones."""
        for port in [port for port in self._ports if port.last_used + IDLE <= now]:
            if port.waiting:
                port.last_used = now
            else:
                self._close(port)


class TcpChannel:
    """One server's TCP connection: made when needed, pipelined, closed when idle. A SocketOwner."""

    __slots__ = ("_answered", "_connected", "_dialer", "_endpoint", "_entropy", "_idle", "_last_heard", "_last_used",
                 "_most", "_output", "_owner", "_reader", "_stream", "_written_at", "retired", "waiting")  # fmt: skip

    def __init__(
        self,
        dialer: StreamDialer,
        entropy: Entropy,
        endpoint: Endpoint,
        owner: ChannelOwner,
        *,
        idle: float,
        most: int = CONNECTION_MOST,
    ) -> None:
        """`dialer` may give streams that are more than TCP (`tls.TlsClient`); `most` queries wait at a time."""
        self._dialer = dialer
        self._entropy = entropy
        self._endpoint = endpoint
        self._owner = owner
        self._idle = idle
        self._stream: Stream | None = None
        self._connected = False
        self._answered = False
        self._last_heard = 0.0
        self._reader = MessageReader()
        self._output: deque[bytes] = deque()
        self._last_used = 0.0
        self._written_at = float("-inf")
        self._most = most
        self.retired = False  # another connection has taken its place: nothing is asked again here
        self.waiting: dict[int, Lookup] = {}

    def ask(self, lookup: Lookup, now: float) -> None:
        """Queue `lookup`; on a connection a repetition makes no sense, so it waits on. Raises DialError."""
        waiting = self.waiting
        if lookup.places and any(place is waiting and place.get(ident) is lookup for place, ident in lookup.places):
            return
        if self._stream is None:
            self._stream = self._dialer.dial_tcp(self._endpoint, self)
            self._stream.watch(readable=False, writable=True)
            self._last_heard = now
        elif len(self.waiting) >= self._most:
            raise OSError(errno.EBUSY, "too many queries on one connection")
        ident = _fresh_id(self._entropy, self.waiting)
        self.waiting[ident] = lookup
        lookup.places.append((self.waiting, ident))
        self._last_used = now
        message = lookup.message
        self._output.append(_LENGTH_AND_ID.pack(len(message), ident) + message[2:])
        if self._connected:
            # The first query of a round goes at once; those that come with it go together at the next.
            if now != self._written_at:
                self._written_at = now
                self._write(now)
            else:
                self._stream.watch(readable=True, writable=True)

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
        self._write(now)

    def _write(self, now: float) -> None:
        stream = self._stream
        output = self._output
        if stream is None:
            return
        try:
            while output:
                # Over TLS each query is a record of its own: there are servers that forget what a record holds
                # beyond the queries that they can take at a time.
                sent = stream.send(output[0]) if len(output) == 1 else stream.sendmsg(list(islice(output, GATHER)))
                while output and sent >= len(output[0]):
                    sent -= len(output.popleft())
                if sent:
                    output[0] = output[0][sent:]
                    break
        except BlockingIOError:
            pass
        except OSError:
            self._fail("closed", now)
            return
        stream.watch(readable=True, writable=bool(output))

    def on_readable(self, socket: Stream, now: float) -> None:
        """Answers, or the server closed the connection."""
        if socket is not self._stream:
            return
        if not self._connected:
            self.on_writable(socket, now)
            return
        octets = received(socket)
        if octets is None:
            return
        if not octets:
            self._fail("closed", now)
            return
        self._last_used = self._last_heard = now
        waiting, on_message = self.waiting, self._owner.on_message
        for message in self._reader.messages(octets):
            ident = message[0] << 8 | message[1] if len(message) >= HEADER_SIZE else -1
            lookup = waiting.get(ident)
            if lookup is None or not is_answer_to(message, ident, lookup.question):
                self._owner.on_junk(DropReason.DNS_UNEXPECTED_ANSWER)
                continue
            self._answered = True
            on_message(lookup, message, True, now)
            if self._stream is not socket:  # what came of the answer has closed the connection
                return

    def _fail(self, why: str, now: float) -> None:
        """The connection is gone. A server may close one that gave answers (RFC 7766 6.2.3): ask on a new one."""
        again = self._answered and not self.retired
        lookups = list(self.waiting.values())
        self.reset()
        asking = (lookup for lookup in lookups if _is_asking(lookup, self._endpoint, on_tcp=True))
        ask_again_or_refuse(asking, self.ask, self._owner, why, now, again=again)

    def doubt(self, now: float) -> None:
        """A query went unanswered: give up a connection that has been silent, the next try makes a new one."""
        if self.is_silent(now, SILENT_CONNECTION):
            self.reset()

    def is_silent(self, now: float, limit: float = SILENT) -> bool:
        """True when nothing was heard on the connection for that long. A TLS handshake that moves is no silence."""
        return self._stream is not None and now - heard_at(self._stream, self._last_heard) >= limit

    def reset(self) -> None:
        """Close the connection; who waits on it is not told."""
        stream, self._stream = self._stream, None
        self._connected = self._answered = False
        self._reader = MessageReader()
        self._output.clear()
        self.waiting.clear()
        if stream is not None:
            stream.close()

    def next_timeout(self) -> float | None:
        """When the connection is idle for too long."""
        return None if self._stream is None else self._last_used + self._idle

    def on_timeout(self, now: float) -> None:
        """Close it when nobody waits."""
        if self._stream is not None and self._last_used + self._idle <= now:
            if self.waiting:
                self._last_used = now
            else:
                self.reset()
