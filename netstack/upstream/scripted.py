"""Sockets and a resolver that do what a script says, at the moment it says so: the upstream of a replay.

Responsible for: `core.ports` Stream, DatagramSocket, Dialer and Resolver without a network; telling the engine of
readiness, level-triggered as a poller would.
Refuses to know: where the script comes from, and the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from netstack.core.flow import Endpoint, FiveTuple
from netstack.core.packet import Octets
from netstack.core.ports import ResolverOwner, SocketOwner
from netstack.core.record import recordclass
from netstack.dns.message import parse_question

_MOST_ROUNDS = 100_000  # of `ScriptedDialer.serve`: more is a loop, not traffic


class Driven(Protocol):
    """What `serve` drives: an engine."""

    def on_readable(self, socket: Any, now: float) -> None:
        """A watched socket is readable."""

    def on_writable(self, socket: Any, now: float) -> None:
        """A watched socket is writable."""

    def flush(self, now: float) -> None:
        """The write phase."""


class _Socket:
    """What streams and datagram sockets have in common."""

    __slots__ = ("_dialer", "closed", "flow", "owner", "wants_readable", "wants_writable")

    def __init__(self, dialer: ScriptedDialer, owner: SocketOwner, flow: FiveTuple | None) -> None:
        self.owner = owner
        self.flow = flow
        self.closed = False
        self.wants_readable = False
        self.wants_writable = False
        self._dialer = dialer

    @property
    def is_readable(self) -> bool:
        """Whether a read would not block."""
        raise NotImplementedError

    @property
    def is_writable(self) -> bool:
        """Whether a write would not block, or the dial is over."""
        return False

    def watch(self, *, readable: bool, writable: bool) -> None:
        """As in `core.ports`."""
        self.wants_readable, self.wants_writable = readable, writable
        self.wake()

    def wake(self) -> None:
        """Readiness or interest may have changed."""
        if not self.closed and self.is_due:
            self._dialer.due[self] = None

    @property
    def is_due(self) -> bool:
        """Ready for something that is wanted."""
        return (self.wants_readable and self.is_readable) or (self.wants_writable and self.is_writable)

    def close(self) -> None:
        """As in `core.ports`."""
        self.closed = True
        self._dialer.due.pop(self, None)


class ScriptedStream(_Socket):
    """A TCP socket. The script calls `connect`, `deliver`, `end` and `fail`; what it is sent goes to `on_sent`."""

    ended = False  # the script says when

    __slots__ = ("_connected", "_end", "_error", "_incoming", "aborted", "destination", "half_closed", "on_sent")

    def __init__(
        self, dialer: ScriptedDialer, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None
    ) -> None:
        super().__init__(dialer, owner, flow)
        self.destination = destination
        self.on_sent: Callable[[bytes], None] | None = None
        self.half_closed = False
        self.aborted = False
        self._connected: int | None = None
        self._incoming: deque[bytes] = deque()
        self._end = False
        self._error = 0

    # --- the script ---

    def connect(self, error: int = 0) -> None:
        """The dial succeeds, or fails with an errno. Only the first call counts."""
        if self._connected is None:
            self._connected = error
            self.wake()

    def deliver(self, octets: bytes) -> None:
        """The far end sent this."""
        if not self.closed:
            self._incoming.append(octets)
            self.wake()

    def end(self) -> None:
        """The far end said FIN."""
        self._end = True
        self.wake()

    def fail(self, error: int) -> None:
        """What was not read yet can still be; then every call raises OSError(error)."""
        self._error = error
        self.wake()

    # --- core.ports.Stream ---

    @property
    def is_readable(self) -> bool:
        """Whether a read would not block."""
        return self._connected == 0 and bool(self._incoming or self._end or self._error)

    @property
    def is_writable(self) -> bool:
        """The dial is over; a scripted peer takes everything."""
        return self._connected is not None

    def connect_error(self) -> int:
        """As `Stream.connect_error`."""
        return self._connected or 0

    def recv(self, limit: int) -> bytes:
        """As `Stream.recv`."""
        if self._incoming:
            first = self._incoming.popleft()
            if len(first) > limit:
                self._incoming.appendleft(first[limit:])
                return first[:limit]
            return first
        if self._error:
            raise OSError(self._error, "as captured")
        if self._end:
            return b""
        raise BlockingIOError

    def send(self, octets: Octets) -> int:
        """As `Stream.send`."""
        if self._error:
            raise OSError(self._error, "as captured")
        if self.on_sent is not None:
            self.on_sent(bytes(octets))
        return len(octets)

    def sendmsg(self, buffers: list[Any]) -> int:
        """As `Stream.sendmsg`."""
        return self.send(b"".join(buffers))

    def shutdown_write(self) -> None:
        """As `Stream.shutdown_write`."""
        self.half_closed = True

    def abort(self) -> None:
        """As `Stream.abort`."""
        self.aborted = True
        self.close()

    def is_alive(self) -> bool:
        """A script's network never changes."""
        return True


@recordclass()
class ScriptedError:
    """A `core.ports.SocketError`."""

    errno: int
    icmp_type: int
    icmp_code: int
    destination: Endpoint
    offender: bytes | None = None
    info: int = 0
    payload: bytes = b""


class ScriptedDatagrams(_Socket):
    """A UDP or ICMP echo socket. The script calls `deliver` and `fail`."""

    __slots__ = ("_errors", "_incoming", "version")

    def __init__(self, dialer: ScriptedDialer, owner: SocketOwner, flow: FiveTuple | None, version: int) -> None:
        super().__init__(dialer, owner, flow)
        self.version = version
        self._incoming: deque[tuple[bytes, Endpoint]] = deque()
        self._errors: deque[ScriptedError] = deque()

    def deliver(self, octets: bytes, sender: Endpoint) -> None:
        """A datagram arrives."""
        if not self.closed:
            self._incoming.append((octets, sender))
            self.wake()

    def fail(self, error: ScriptedError) -> None:
        """An ICMP error arrives."""
        if not self.closed:
            self._errors.append(error)
            self.wake()

    @property
    def is_readable(self) -> bool:
        """Whether something waits."""
        return bool(self._incoming or self._errors)

    def sendto(self, octets: Octets, destination: Endpoint) -> None:
        """As `DatagramSocket.sendto`: the far side is the capture, which needs nothing."""

    def recvfrom(self) -> tuple[bytes, Endpoint]:
        """As `DatagramSocket.recvfrom`."""
        if self._errors:
            raise OSError(self._errors[0].errno, "as captured")
        if not self._incoming:
            raise BlockingIOError
        return self._incoming.popleft()

    def recv_error(self) -> ScriptedError | None:
        """As `DatagramSocket.recv_error`."""
        return self._errors.popleft() if self._errors else None

    def local_port(self) -> int:
        """The app's own: nothing is translated in a replay."""
        return self.flow.source.port if self.flow is not None else 0


class ScriptedDialer:
    """A `core.ports.Dialer`. `on_stream` and `on_datagrams` learn of each socket before the engine has it."""

    def __init__(
        self,
        on_stream: Callable[[ScriptedStream], None],
        on_datagrams: Callable[[ScriptedDatagrams], None],
    ) -> None:
        self._on_stream = on_stream
        self._on_datagrams = on_datagrams
        self.due: dict[_Socket, None] = {}  # in order of becoming ready

    def dial_tcp(self, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None = None) -> ScriptedStream:
        """As `Dialer.dial_tcp`."""
        stream = ScriptedStream(self, destination, owner, flow)
        self._on_stream(stream)
        return stream

    def open_udp(self, version: int, owner: SocketOwner, flow: FiveTuple | None = None) -> ScriptedDatagrams:
        """As `Dialer.open_udp`."""
        socket = ScriptedDatagrams(self, owner, flow, version)
        self._on_datagrams(socket)
        return socket

    open_icmp = open_udp

    def serve(self, engine: Driven, now: float) -> None:
        """Tell the engine of everything that is ready, with a write phase after each round, until nothing is."""
        for _ in range(_MOST_ROUNDS):
            engine.flush(now)
            if not self.due:
                return
            due, self.due = self.due, {}
            for socket in due:
                if socket.wants_writable and socket.is_writable and not socket.closed:
                    engine.on_writable(socket, now)
                if socket.wants_readable and socket.is_readable and not socket.closed:
                    engine.on_readable(socket, now)
                socket.wake()
        raise RuntimeError("the engine does not come to rest")


QueryKey = tuple[FiveTuple, int, bytes]


class ScriptedResolver:
    """A `core.ports.Resolver` whose answers come from the script, matched by flow, id and question.

    Whoever drives it sets `flow` to that of the packet at hand: the seam itself does not carry flows. `on_query` is
    told the flow of each query.
    """

    def __init__(self) -> None:
        self.flow: FiveTuple | None = None
        self.on_query: Callable[[FiveTuple], None] | None = None
        self._owner: ResolverOwner | None = None
        self._tokens: dict[QueryKey, int] = {}
        self._keys: dict[int, QueryKey] = {}

    # --- the script ---

    def answer(self, flow: FiveTuple, message: bytes, now: float) -> bool:
        """A message of the far end on `flow`; False when nobody asked for it, as a real resolver would find."""
        key = _query_key(flow, message)
        token = self._tokens.pop(key, None) if key is not None else None
        if token is None or self._owner is None:
            return False
        del self._keys[token]
        self._owner.on_answer(token, message, now)
        return True

    # --- core.ports.Resolver ---

    def start(self, owner: ResolverOwner) -> None:
        """As `Resolver.start`."""
        self._owner = owner

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As `Resolver.query`; without an answer in the script the asker's own time limit ends it."""
        key = _query_key(self.flow, message) if self.flow is not None else None
        if key is not None:
            self._tokens[key] = token
            self._keys[token] = key
            if self.on_query is not None:
                self.on_query(key[0])

    def cancel(self, token: int) -> None:
        """As `Resolver.cancel`."""
        key = self._keys.pop(token, None)
        if key is not None and self._tokens.get(key) == token:
            del self._tokens[key]

    def network_changed(self, now: float) -> None:
        """A script's network never changes."""

    def close(self) -> None:
        """As `Resolver.close`."""
        self._tokens.clear()
        self._keys.clear()

    def next_timeout(self) -> float | None:
        """Never: the script decides."""
        return None

    def on_timeout(self, now: float) -> None:
        """Never called."""


def _query_key(flow: FiveTuple, message: bytes) -> QueryKey | None:
    if len(message) < 12:
        return None
    question = parse_question(message)
    return None if question is None else (flow, message[0] << 8 | message[1], question.folded)
