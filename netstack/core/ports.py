"""The seams: everything the sans-IO core needs from outside, as Protocols, on one page.

Responsible for: the contract between the engine and the world (clock, packets, sockets, entropy, traces).
Refuses to know: any implementation. `link/`, `upstream/`, `runtime/` and `testing/` implement these.

Readiness: a socket-like object (`Stream`, `DatagramSocket`) has an `owner`. The runtime calls
``engine.on_readable(socket, now)`` / ``engine.on_writable(socket, now)`` for sockets whose interest
was set with `watch`, and the engine passes that to the owner. Interest is level-triggered. Nothing
here blocks: a call that would raises BlockingIOError, other failures are OSError with an errno.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from netstack.core.flow import Endpoint, FiveTuple
from netstack.core.packet import Datagram, DatagramRun, IcmpMessage, Octets, SegmentRun


class SocketOwner(Protocol):
    """Whoever a socket belongs to: a flow, a UDP mapping, a resolver."""

    def on_readable(self, socket: Any, now: float) -> None:
        """The socket has octets, datagrams, an error or end of file."""

    def on_writable(self, socket: Any, now: float) -> None:
        """The socket connected (or failed to), or takes octets again."""


class Stream(Protocol):
    """A real TCP connection, possibly still being made."""

    owner: SocketOwner

    @property
    def ended(self) -> bool:
        """True when the far end's FIN is known to be here, maybe behind unread octets. It may stay false.

        One more `recv` than usual then saves a round and lets the FIN ride on the last octets.
        """

    def watch(self, *, readable: bool, writable: bool) -> None:
        """Set the interest; idempotent and cheap when nothing changes."""

    def connect_error(self) -> int:
        """After the first writability: 0 when connected, else an errno (ECONNREFUSED, ETIMEDOUT, ...)."""

    def recv(self, limit: int) -> Octets:
        """At most `limit` octets, none at end of file; BlockingIOError; OSError (ECONNRESET...).

        They stay as they are for as long as they are referred to; their memory may be used again after that.
        """

    def send(self, octets: Octets) -> int:
        """How many octets the socket took; BlockingIOError when none; OSError."""

    def sendmsg(self, buffers: list[Any]) -> int:
        """As `send`, gathering several buffers."""

    def shutdown_write(self) -> None:
        """Half-close: FIN after what was sent. Never raises."""

    def close(self) -> None:
        """Orderly close. Idempotent."""

    def abort(self) -> None:
        """Close with a reset, so that the far end sees one. Idempotent."""

    def is_alive(self) -> bool:
        """False when the network it was made on is gone (its own address left the host)."""


class DatagramSocket(Protocol):
    """A real, unconnected UDP socket of one address family, or an ICMP echo socket."""

    owner: SocketOwner

    def watch(self, *, readable: bool, writable: bool) -> None:
        """As for `Stream`."""

    def sendto(self, octets: Octets, destination: Endpoint) -> None:
        """One datagram; BlockingIOError or OSError when it could not go."""

    def recvfrom(self) -> tuple[bytes, Endpoint]:
        """One datagram and who sent it; BlockingIOError when there is none; OSError."""

    def recv_error(self) -> SocketError | None:
        """The next ICMP error that the kernel kept for this socket (IP_RECVERR), or None."""

    def local_port(self) -> int:
        """The bound port (0 before the first send); of an ICMP echo socket, its identifier."""

    def close(self) -> None:
        """Idempotent."""


ReceivedRun = tuple[bytes, int, int, memoryview]
"""Datagrams of one sender, one behind the other: its address (16 octets, an IPv4 one in the first four) and port as in
a flow key, how many, the size of each (the last may be shorter), their octets."""


class RunSocket(DatagramSocket, Protocol):
    """A UDP socket that has many datagrams sent and received at once. Who does not find these uses the others."""

    def send_run(self, octets: Octets, size: int, place: bytes) -> int:
        """Datagrams of `size` octets (the last may be shorter) to `place`, packed as a sender in `ReceivedRun`.

        How many went, from the first; BlockingIOError or OSError when none did.
        """

    def recv_runs(self) -> tuple[list[ReceivedRun], bool]:
        """What waits, and whether there may be more; views are valid until the next call on any socket.

        BlockingIOError when there is nothing; OSError.
        """


class SocketError(Protocol):
    """An ICMP error about a datagram that was sent."""

    errno: int
    icmp_type: int
    icmp_code: int
    info: int  # the MTU of a packet too big
    destination: Endpoint  # where the failed datagram was going
    offender: bytes | None  # packed address of who sent the error
    payload: bytes  # start of the failed datagram's payload


class Dialer(Protocol):
    """Makes real sockets. Protects each one before it is used (VpnService.protect); a refusal is ProtectError."""

    def dial_tcp(self, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None = None) -> Stream:
        """Start a non-blocking connect; the outcome comes as writability. Raises DialError.

        `flow` is the app's five-tuple when the connection is made for one (replay finds its script by it).
        """

    def open_udp(self, version: int, owner: SocketOwner, flow: FiveTuple | None = None) -> DatagramSocket:
        """An unconnected socket of IPv4 or IPv6. Raises DialError."""

    def open_icmp(self, version: int, owner: SocketOwner, flow: FiveTuple | None = None) -> DatagramSocket:
        """An echo socket: `sendto` takes and `recvfrom` gives whole ICMP messages (header first), the
        identifier of what is sent may be rewritten to `local_port()`. Raises DialError."""


class ResolverOwner(Protocol):
    """Who asked a resolver."""

    def on_answer(self, token: int, message: bytes, now: float) -> None:
        """The answer, with the id and question that were asked."""

    def on_failure(self, token: int, why: str, now: float) -> None:
        """No answer will come. `why`: unreachable, refused, protect, timeout."""


class Resolver(Protocol):
    """Asks an upstream. Many queries at once; answers in any order; never blocks."""

    def start(self, owner: ResolverOwner) -> None:
        """Called once, before the first query."""

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """Ask. Exactly one of the owner's callbacks follows for `token`, unless `cancel` comes first."""

    def cancel(self, token: int) -> None:
        """The asker gave up."""

    def network_changed(self, now: float) -> None:
        """Drop every socket; ask what is pending again on the new network."""

    def close(self) -> None:
        """Release all sockets. Idempotent."""

    def next_timeout(self) -> float | None:
        """When `on_timeout` wants to be called."""

    def on_timeout(self, now: float) -> None:
        """Retransmit, give up."""


class Tunnel(Protocol):
    """Where the app's packets come from and go to."""

    mtu: int
    offload: bool  # True when runs and datagrams larger than the MTU go down in one piece

    def read_batch(self, batch: Any) -> int:
        """Fill the codec's batch with what is there (never blocks); the number of IP packets read, 0 for none.

        Transient failures (EIO while a TUN is swapped) are counted and read as 0. TunnelClosed when it is gone.
        """

    def write_run(self, run: SegmentRun) -> int:
        """Cut and send; how many payload octets went. What did not go is for TCP to send again."""

    def write_datagram(self, datagram: Datagram) -> bool:
        """Send, fragmenting when larger than the MTU; False when it was dropped (counted by the link)."""

    def write_datagrams(self, run: DatagramRun) -> int:
        """Send several of one flow; how many went (what did not is counted by the link)."""

    def write_icmp(self, message: IcmpMessage) -> bool:
        """Send an ICMP message."""

    def flush(self) -> None:
        """End of a write phase: send what the link gathered."""

    def close(self) -> None:
        """Idempotent."""


class Clock(Protocol):
    """Monotonic seconds."""

    def now(self) -> float:
        """Current time; its zero means nothing."""


class Entropy(Protocol):
    """Unpredictable numbers; seeded in replay and tests."""

    def octets(self, count: int) -> bytes:
        """`count` random octets."""

    def below(self, limit: int) -> int:
        """A number in 0 .. limit - 1."""

    def initial_sequence(self, key: bytes, now: float) -> int:
        """The ISS for the flow `key` (RFC 6528); replay returns the captured SYN|ACK's own."""


@runtime_checkable
class FlowOwner(Protocol):
    """Tells which app a flow belongs to (Android's getConnectionOwnerUid, a process table)."""

    def owner_of(self, flow: FiveTuple) -> str | None:
        """An app's stable name, or None when unknown. Called once for each flow."""


@runtime_checkable
class FlowLookup(Protocol):
    """As `FlowOwner`, for a look-up that takes its time: nobody waits but the query or flow concerned."""

    def ask_owner_of(self, flow: FiveTuple, told: Callable[[str | None, float], None]) -> None:
        """Have ``told(app, now)`` called once, on the engine's thread, maybe before this returns."""


class Tracer(Protocol):
    """Sees packets and events as they pass. Costs nothing when absent."""

    def packet_in(self, packet: Octets, now: float) -> None:
        """A packet from the app."""

    def packet_out(self, packet: Octets, now: float) -> None:
        """A packet to the app."""
