"""One TCP flow: the app's connection on one side, a real socket on the other, octets between them.

Responsible for: splicing with back-pressure by windows alone, half-close both ways, mapping resets to
resets and connect errors to refusals, giving back everything when the flow ends.
Refuses to know: TCP on the wire (`tcp/`), sockets (`upstream/`), who may talk to whom (`policy/`).

Theory of operation. The app's octets arrive as views into the batch and are offered to the socket at
once, without a copy. What the socket does not take is copied into `pending`; the connection counts it
against its receive window until `consumed()` says it has gone, so a stalled peer costs at most one
window. In the other direction the socket is read only as far as `send_space` allows; the octets are
handed to the connection without a copy and kept there until the app acknowledges them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from netstack.core.events import FlowClosed, FlowOpened
from netstack.core.flow import FiveTuple
from netstack.core.packet import Octets
from netstack.core.ports import Stream
from netstack.core.verdict import Verdict
from netstack.tcp.connection import TcpConnection
from netstack.tcp.events import Closed, Data, EndOfStream, Established, Reset, SendSpace, TimedOut
from netstack.wire import icmp

if TYPE_CHECKING:
    from netstack.forward.tcp import TcpForwarder

READ_SIZE = 131_072  # octets asked of a socket at a time
READ_LEAST = 2_048  # below this much room a read is not worth its system call
GATHER = 64  # buffers handed to one sendmsg
SMALL_CHUNK = 1024  # pending octets below this are joined, so that a dribbling app cannot cost an object per octet

UNREACHABLE = {
    errno.EHOSTUNREACH: icmp.HOST,
    errno.EHOSTDOWN: icmp.HOST,
    errno.ENETUNREACH: icmp.NET,
    errno.ENETDOWN: icmp.NET,
    errno.EADDRNOTAVAIL: icmp.NET,
    errno.EACCES: icmp.ADMINISTRATIVELY,
    errno.EPERM: icmp.ADMINISTRATIVELY,
}


class TcpFlow:
    """A flow from its SYN to the last octet: socket owner and timer owner."""

    __slots__ = (
        "app_finished",
        "charged",
        "closed",
        "connecting",
        "connection",
        "deadline",
        "dirty",
        "flow",
        "flow_id",
        "forwarder",
        "grown_at",
        "idle_limit",
        "is_dns",
        "key",
        "last_seen",
        "octets_down",
        "octets_up",
        "opened",
        "peer_finished",
        "pending",
        "pending_octets",
        "pinned",
        "read_size",
        "reading",
        "reported",
        "stream",
        "syn",
        "timer_at",
        "verdict",
        "window",
    )

    def __init__(
        self,
        forwarder: TcpForwarder,
        flow: FiveTuple,
        connection: TcpConnection,
        verdict: Verdict,
        syn: bytes,
        *,
        is_dns: bool = False,
    ) -> None:
        self.forwarder = forwarder
        self.flow = flow
        self.key = connection.key
        self.connection = connection
        self.verdict = verdict
        self.syn = syn  # the packet, to quote if the dial fails
        self.stream: Stream | None = None
        self.flow_id = forwarder.context.next_flow_id()
        self.connecting = True
        self.opened = False
        self.reported = False
        self.closed = False
        self.read_size = READ_SIZE
        self.reading = False  # interest in the socket's octets
        self.app_finished = False  # FIN from the app, everything before it delivered to us
        self.peer_finished = False  # end of file from the socket
        self.pending: list[bytes] = []  # what the socket did not take yet; a deque would cost 600 octets
        self.pending_octets = 0
        self.octets_up = 0
        self.octets_down = 0
        self.window = forwarder.context.config.tcp.window
        self.grown_at = 0  # octets_up when the window last grew
        self.charged = 0  # octets counted in context.buffered
        tcp = forwarder.context.config.tcp
        self.is_dns = is_dns
        self.idle_limit = tcp.dns_idle_timeout if is_dns else tcp.idle_timeout  # seconds without a packet
        self.pinned = False
        self.dirty = False
        self.timer_at: float | None = None
        self.deadline: float | None = None  # dial time-out
        self.last_seen = 0.0

    # --- the app's side ---

    def pump(self, now: float) -> None:
        """Act on what the connection has to say. Must run before the batch is read over."""
        next_event = self.connection.next_event
        while (event := next_event()) is not None:
            kind = type(event)
            if isinstance(event, Data):
                self._send_up(event.payload, now)
            elif kind is SendSpace:
                self.resume_reading()
            elif kind is EndOfStream:
                self.app_finished = True
                self._half_closed()
                if not self.pending and self.stream is not None:
                    self._finish_writing(self.stream, now)
            elif kind is Reset:
                self.finish("reset-by-app", now, abort=True)
            elif kind is TimedOut:
                self.finish("timeout", now, abort=True)
            elif kind is Closed:
                self.finish("finished", now)
            elif kind is Established:
                run = self.connection.snd_run
                self.read_size = max(READ_SIZE // run, 1) * run  # whole runs: no small segment behind each read
                self.forwarder.on_established(self)
                self.resume_reading()

    def _send_up(self, payload: Octets, now: float) -> None:
        stream = self.stream
        size = len(payload)
        if stream is None or self.closed:
            self.connection.consumed(size, now)
            return
        sent = 0
        if not self.pending:
            try:
                sent = stream.send(payload)
            except BlockingIOError:
                pass
            except OSError:
                self._upstream_died(now)
                return
        if sent < size:
            rest = bytes(payload[sent:])
            pending = self.pending
            if pending and len(rest) < SMALL_CHUNK and len(pending[-1]) < SMALL_CHUNK:
                pending[-1] += rest
            else:
                pending.append(rest)
            self.pending_octets += len(rest)
            stream.watch(readable=self.reading, writable=True)
        if sent:
            self._took(sent, now)

    def _took(self, octets: int, now: float) -> None:
        self.octets_up += octets
        self.connection.consumed(octets, now)
        if self.octets_up - self.grown_at >= self.window and not self.pending:
            self.grown_at = self.octets_up
            self.forwarder.grow_window(self, now)

    # --- the socket's side ---

    def on_writable(self, socket: Stream, now: float) -> None:
        """Connected (or not), or room for pending octets."""
        if self.closed or socket is not self.stream:
            return
        self.last_seen = now
        self.forwarder.mark(self)
        if self.connecting:
            self._connected(socket, now)
            return
        pending = self.pending
        while pending:
            try:
                sent = socket.sendmsg(pending[:GATHER])
            except BlockingIOError:
                return
            except OSError:
                self._upstream_died(now)
                return
            self.pending_octets -= sent
            left, whole = sent, 0
            while left and left >= len(pending[whole]):
                left -= len(pending[whole])
                whole += 1
            del pending[:whole]
            if left:
                pending[0] = pending[0][left:]
            self._took(sent, now)
        socket.watch(readable=self.reading, writable=False)
        if self.app_finished:
            self._finish_writing(socket, now)

    def _connected(self, socket: Stream, now: float) -> None:
        error = socket.connect_error()
        if error:
            self.refuse(error, now)
            return
        self.connecting = False
        self.deadline = None
        self.opened = True
        self.syn = b""
        self.connection.accept(now)
        self.forwarder.context.stats.tcp_opened += 1
        self.forwarder.context.emit(FlowOpened(now, self.flow_id, self.flow, self.verdict))
        self.reading = True
        socket.watch(readable=True, writable=False)
        self.pump(now)

    def refuse(self, error: int, now: float) -> None:
        """The dial failed with `error`: show the app the same (RFC 9293 3.10.7.1, RFC 1122 4.2.3.9)."""
        context = self.forwarder.context
        context.stats.tcp_refused += 1
        shown = UNREACHABLE.get(error)
        how = "refused"
        if shown is None and error == errno.ETIMEDOUT:
            how = "timeout"
            style = context.config.tcp.on_dial_timeout
            shown = icmp.HOST if style == "unreachable" else None
            if style == "drop":
                self.finish(how, now, abort=True)
                return
        if shown is None:
            self.connection.refuse(now)
        else:
            how = "unreachable" if how == "refused" else how
            context.send_error(icmp.unreachable(self.syn, shown, context.gateway(self.flow.version)), now)
        self.finish(how, now, abort=True)

    def on_readable(self, socket: Stream, now: float) -> None:
        """Octets for the app, the far end's FIN, or its reset."""
        if self.closed or socket is not self.stream:
            return
        if self.connecting:
            self.on_writable(socket, now)
            return
        if not self.reading:
            return
        connection = self.connection
        room = min(connection.send_space, self.forwarder.headroom())
        if room < READ_LEAST and (room <= 0 or connection.buffered_octets):
            self._pause_reading()
            return
        try:
            octets = socket.recv(min(room, self.read_size))
        except BlockingIOError:
            return
        except OSError:
            self._upstream_died(now)
            return
        self.last_seen = now
        self.forwarder.mark(self)
        if octets:
            connection.write(octets)
            self.octets_down += len(octets)
            if socket.ended and len(octets) < room:
                self.on_readable(socket, now)  # the end of file that is there, too
            return
        self.peer_finished = True
        self._half_closed()
        self.reading = False
        socket.watch(readable=False, writable=bool(self.pending))
        connection.close(now)
        self._release_stream_if_done(now)

    def _finish_writing(self, stream: Stream, now: float) -> None:
        """Everything from the app has gone to the socket, and its FIN follows."""
        if not self.peer_finished:  # else closing, which comes next, sends it
            stream.shutdown_write()
        self._release_stream_if_done(now)

    def _half_closed(self) -> None:
        if not self.is_dns:
            self.idle_limit = self.forwarder.context.config.tcp.half_closed_timeout

    def _pause_reading(self) -> None:
        if self.reading and self.stream is not None:
            self.reading = False
            self.stream.watch(readable=False, writable=bool(self.pending))
            if self.forwarder.headroom() < READ_LEAST:
                self.forwarder.starved.add(self)

    def resume_reading(self) -> None:
        """There is room again, in the app's window or in the memory budget."""
        if not (self.reading or self.peer_finished or self.connecting or self.closed) and self.stream is not None:
            self.reading = True
            self.stream.watch(readable=True, writable=bool(self.pending))

    def _upstream_died(self, now: float) -> None:
        """A reset from the far end is a reset to the app, never a clean end."""
        self.connection.abort(now)
        self.finish("reset-by-peer", now, abort=True)

    def _release_stream_if_done(self, now: float) -> None:
        """Both ends have said FIN and everything is delivered: neither socket nor report wait for TIME-WAIT."""
        if self.app_finished and self.peer_finished and not self.pending and self.stream is not None:
            self.stream.close()
            self.stream = None
            self._report("finished", now)

    # --- the end ---

    def finish(self, how: str, now: float, *, abort: bool = False) -> None:
        """Give back the socket and report once; the forwarder forgets the flow after the next write phase."""
        if self.closed:
            return
        self.closed = True
        stream, self.stream = self.stream, None
        if stream is not None:
            if abort:
                stream.abort()
            else:
                stream.close()
        self.pending.clear()
        self.pending_octets = 0
        self._report(how, now)
        self.forwarder.mark(self)

    def _report(self, how: str, now: float) -> None:
        """Emit FlowClosed, once."""
        if not self.reported and (self.opened or how != "stopped"):
            self.reported = True
            event = FlowClosed(now, self.flow_id, self.flow, how, self.octets_up, self.octets_down)
            self.forwarder.context.emit(event)

    def cut(self, how: str, now: float) -> None:
        """End the flow at once with a reset both ways (shed, policy, stop)."""
        if not self.closed:
            if self.connecting:
                self.connection.refuse(now)
            else:
                self.connection.abort(now)
            self.finish(how, now, abort=True)

    # --- time ---

    def next_timeout(self) -> float | None:
        """The connection's deadline, the dial's, or the idle limit; the earliest."""
        if self.closed:
            return None
        best = self.last_seen + self.idle_limit
        if self.deadline is not None and self.deadline < best:
            best = self.deadline
        timer = self.connection.next_timeout()
        return timer if timer is not None and timer < best else best

    def on_timeout(self, now: float) -> None:
        """Whatever is due."""
        self.forwarder.mark(self)
        if self.deadline is not None and self.deadline <= now:
            self.refuse(errno.ETIMEDOUT, now)
            return
        if self.last_seen + self.idle_limit <= now:
            self.cut("timeout", now)
            return
        self.connection.on_timeout(now)
        self.pump(now)
