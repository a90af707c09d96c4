"""A whole engine in a virtual world: an app's packets on one side, scripted sockets on the other.

Responsible for: an engine over a memory link, a dialer whose sockets do what a test says, a resolver that
answers when told, and a clock that moves only when asked. No descriptor, thread or second of real time.
Refuses to know: what a test expects.

    world = World(make_config({"policy": {"enforcement": "off"}}))
    out = world.send(world.tcp_packet(SYN, seq=100))      # nothing yet: SYN|ACK waits for the dial
    world.streams[0].connect()
    [syn_ack] = world.run()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from netstack.codec import PacketBatch, PacketCodec, load
from netstack.config import Config
from netstack.core.errors import DialError
from netstack.core.events import Event
from netstack.core.flow import ICMP, ICMPV6, TCP, UDP, Endpoint, FiveTuple
from netstack.core.packet import IcmpMessage, Octets, Parsed
from netstack.core.ports import ResolverOwner, SocketOwner
from netstack.core.stats import Stats
from netstack.engine import Engine
from netstack.link.memory import MemoryTunnel
from netstack.runtime.seeded import SeededEntropy
from netstack.wire import ipv4, ipv6
from netstack.wire.icmp import emit_icmp
from netstack.wire.tcp import emit_tcp
from netstack.wire.udp import emit_udp

__all__ = ["ScriptedDatagrams", "ScriptedDialer", "ScriptedResolver", "ScriptedStream", "SeededEntropy", "World"]

APP = Endpoint.of("10.0.0.2", 40000)
APP6 = Endpoint.of("fd00:6e65:7473::2", 40000)
SERVER = Endpoint.of("192.0.2.80", 80)
SERVER6 = Endpoint.of("2001:db8::80", 80)


class ScriptedSocket:
    """What streams and datagram sockets have in common."""

    def __init__(self, owner: SocketOwner, flow: FiveTuple | None) -> None:
        self.owner = owner
        self.flow = flow
        self.readable_wanted = False
        self.writable_wanted = False
        self.closed = False
        self.aborted = False

    @property
    def is_readable(self) -> bool:
        """Whether a read would not block."""
        return False

    @property
    def is_writable(self) -> bool:
        """Whether octets would be taken."""
        return False

    def watch(self, *, readable: bool, writable: bool) -> None:
        """As in `core.ports`."""
        self.readable_wanted, self.writable_wanted = readable, writable

    def close(self) -> None:
        """As in `core.ports`."""
        self.closed = True


class ScriptedStream(ScriptedSocket):
    """A TCP socket under a test's control."""

    def __init__(self, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None) -> None:
        super().__init__(owner, flow)
        self.destination = destination
        self.sent = bytearray()
        self.capacity: int | None = None  # octets that send() will still take; None for no limit
        self.half_closed = False
        self.alive = True
        self.ended = False
        self._connected: int | None = None
        self._incoming: deque[bytes] = deque()
        self._end = False
        self._error = 0

    # --- what a test says ---

    def connect(self, error: int = 0) -> None:
        """The dial succeeds, or fails with an errno."""
        self._connected = error

    def deliver(self, octets: bytes) -> None:
        """The far end sent this."""
        self._incoming.append(octets)

    def end(self) -> None:
        """The far end said FIN."""
        self._end = True

    def fail(self, error: int) -> None:
        """Every further call raises OSError(error)."""
        self._error = error

    # --- what the engine calls ---

    @property
    def is_readable(self) -> bool:
        """Whether a read would not block."""
        return self._connected == 0 and bool(self._incoming or self._end or self._error)

    @property
    def is_writable(self) -> bool:
        """Whether the dial is over and octets would be taken."""
        return self._connected is not None and (self.capacity is None or self.capacity > 0 or self._error > 0)

    def connect_error(self) -> int:
        """As in `core.ports`."""
        assert self._connected is not None
        return self._connected

    def recv(self, limit: int) -> bytes:
        """As in `core.ports`."""
        if self._incoming:
            first = self._incoming.popleft()
            if len(first) > limit:
                self._incoming.appendleft(first[limit:])
            return first[:limit]
        if self._error:
            raise OSError(self._error, "scripted")
        if self._end:
            return b""
        raise BlockingIOError

    def send(self, octets: Octets) -> int:
        """As in `core.ports`."""
        if self._error:
            raise OSError(self._error, "scripted")
        taken = len(octets) if self.capacity is None else min(self.capacity, len(octets))
        if not taken:
            raise BlockingIOError
        self.sent += octets[:taken]
        if self.capacity is not None:
            self.capacity -= taken
        return taken

    def sendmsg(self, buffers: list[Any]) -> int:
        """As in `core.ports`."""
        return self.send(b"".join(buffers))

    def shutdown_write(self) -> None:
        """As in `core.ports`."""
        self.half_closed = True

    def abort(self) -> None:
        """As in `core.ports`."""
        self.closed = self.aborted = True

    def is_alive(self) -> bool:
        """As in `core.ports`."""
        return self.alive


class ScriptedDatagrams(ScriptedSocket):
    """A UDP or ICMP socket under a test's control."""

    def __init__(self, owner: SocketOwner, flow: FiveTuple | None, version: int) -> None:
        super().__init__(owner, flow)
        self.version = version
        self.sent: list[tuple[bytes, Endpoint]] = []
        self.incoming: deque[tuple[bytes, Endpoint]] = deque()
        self.errors: deque[Any] = deque()
        self.send_error: OSError | None = None

    @property
    def is_readable(self) -> bool:
        """Whether something waits."""
        return bool(self.incoming or self.errors)

    def sendto(self, octets: Octets, destination: Endpoint) -> None:
        """As in `core.ports`."""
        if self.send_error is not None:
            raise self.send_error
        self.sent.append((bytes(octets), destination))

    def recvfrom(self) -> tuple[bytes, Endpoint]:
        """As in `core.ports`."""
        if self.errors:
            raise OSError(self.errors[0].errno, "scripted")
        if not self.incoming:
            raise BlockingIOError
        return self.incoming.popleft()

    def recv_error(self) -> Any:
        """As in `core.ports`."""
        return self.errors.popleft() if self.errors else None

    def local_port(self) -> int:
        """As in `core.ports`."""
        return 7777


class ScriptedDialer:
    """Records every socket that the engine makes; `refusal` makes the next ones fail."""

    def __init__(self) -> None:
        self.streams: list[ScriptedStream] = []
        self.datagrams: list[ScriptedDatagrams] = []
        self.refusal: DialError | None = None

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def dial_tcp(self, destination: Endpoint, owner: SocketOwner, flow: FiveTuple | None = None) -> ScriptedStream:
        """As in `core.ports`."""
        self._check()
        self.streams.append(ScriptedStream(destination, owner, flow))
        return self.streams[-1]

    def open_udp(self, version: int, owner: SocketOwner, flow: FiveTuple | None = None) -> ScriptedDatagrams:
        """As in `core.ports`."""
        self._check()
        self.datagrams.append(ScriptedDatagrams(owner, flow, version))
        return self.datagrams[-1]

    open_icmp = open_udp


class ScriptedResolver:
    """Keeps the queries; a test answers them with `answer` or `fail`."""

    def __init__(self) -> None:
        self.queries: dict[int, bytes] = {}
        self.closed = False
        self.resets = 0
        self._owner: ResolverOwner | None = None

    def start(self, owner: ResolverOwner) -> None:
        """As in `core.ports`."""
        self._owner = owner

    def query(self, token: int, message: bytes, now: float, over_tcp: bool = False) -> None:
        """As in `core.ports`."""
        self.queries[token] = bytes(message)

    def cancel(self, token: int) -> None:
        """As in `core.ports`."""
        self.queries.pop(token, None)

    def answer(self, token: int, message: bytes, now: float) -> None:
        """Give an answer to the engine."""
        assert self._owner is not None
        self.queries.pop(token, None)
        self._owner.on_answer(token, message, now)

    def fail(self, token: int, why: str, now: float) -> None:
        """Report a failure to the engine."""
        assert self._owner is not None
        self.queries.pop(token, None)
        self._owner.on_failure(token, why, now)

    def network_changed(self, now: float) -> None:
        """As in `core.ports`."""
        self.resets += 1

    def close(self) -> None:
        """As in `core.ports`."""
        self.closed = True

    def next_timeout(self) -> float | None:
        """Never: a test decides."""
        return None

    def on_timeout(self, now: float) -> None:
        """Never called."""


class World:
    """An engine and everything around it."""

    def __init__(self, config: Config | None = None, *, codec: str | PacketCodec = "pure", seed: int = 0) -> None:
        self.config = config if config is not None else Config()
        self.codec = load(codec) if isinstance(codec, str) else codec
        self.stats = Stats()
        self.events: list[Event] = []
        self.tunnel = MemoryTunnel(self.codec, self.config.tunnel.mtu, stats=self.stats)
        self.dialer = ScriptedDialer()
        self.resolver = ScriptedResolver()
        self.now = 0.0
        self.engine = Engine(
            self.config,
            tunnel=self.tunnel,
            codec=self.codec,
            dialer=self.dialer,
            resolver=self.resolver,
            entropy=SeededEntropy(seed),
            emit=self.events.append,
            stats=self.stats,
        )
        self._batch = PacketBatch(capacity=64, slot=65_536)

    @property
    def streams(self) -> list[ScriptedStream]:
        """Every TCP socket that was dialled."""
        return self.dialer.streams

    @property
    def datagrams(self) -> list[ScriptedDatagrams]:
        """Every UDP and ICMP socket that was opened."""
        return self.dialer.datagrams

    # --- moving ---

    def send(self, *packets: Octets) -> list[Parsed]:
        """The app sends packets; what comes back without time passing."""
        self.tunnel.app.give(*packets)
        return self.run()

    def run(self, seconds: float = 0.0) -> list[Parsed]:
        """Let everything happen that is due until `seconds` from now; what the engine sent meanwhile."""
        end = self.now + seconds
        self._settle()
        while (deadline := self.engine.next_timeout()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.engine.on_timeout(self.now)
            self._settle()
        self.now = end
        return self.received()

    def _settle(self) -> None:
        """Until nothing moves; bounded, so that an endless loop is a failure and not a hang."""
        engine = self.engine
        for _ in range(10_000):
            moved = engine.on_tunnel_readable(self.now)
            for socket in [*self.streams, *self.datagrams]:
                if not socket.closed and socket.writable_wanted and socket.is_writable:
                    engine.on_writable(socket, self.now)
                    moved += 1
                if not socket.closed and socket.readable_wanted and socket.is_readable:
                    engine.on_readable(socket, self.now)
                    moved += 1
            engine.flush(self.now)
            if not moved:
                return
        raise AssertionError("the engine does not come to rest")

    def received(self) -> list[Parsed]:
        """What the engine sent to the app since last asked, parsed and verified, nothing coalesced."""
        return self.parse(self.tunnel.app.take())

    def parse(self, packets: Iterable[bytes]) -> list[Parsed]:
        """Parsed copies that stay valid."""
        parsed: list[Parsed] = []
        for packet in packets:
            batch = PacketBatch(capacity=1, slot=max(2048, len(packet)))
            self.codec.parse_batch([packet], batch, coalesce=False)
            parsed.extend(batch.items())
        return parsed

    # --- packets of the app ---

    def tcp_packet(
        self,
        flags: int,
        seq: int = 0,
        ack: int = 0,
        payload: bytes = b"",
        *,
        source: Endpoint = APP,
        destination: Endpoint = SERVER,
        window: int = 65_535,
        options: bytes = b"",
    ) -> bytes:
        """A TCP packet from the app."""
        segment = emit_tcp(
            source.address, destination.address, source.port, destination.port,
            seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, window, options, payload,
        )  # fmt: skip
        return _wrap(source.address, destination.address, TCP, segment)

    def udp_packet(self, payload: bytes, *, source: Endpoint = APP, destination: Endpoint = SERVER) -> bytes:
        """A UDP packet from the app."""
        octets = emit_udp(source.address, destination.address, source.port, destination.port, payload)
        return _wrap(source.address, destination.address, UDP, octets)

    def echo_packet(
        self, identifier: int = 1, number: int = 1, payload: bytes = b"ping",
        *, source: Endpoint = APP, destination: Endpoint = SERVER, hop_limit: int = 64,
    ) -> bytes:  # fmt: skip
        """An ICMP or ICMPv6 echo request from the app."""
        version = source.version
        message = IcmpMessage(
            version, source.address, destination.address, 8 if version == 4 else 128, 0,
            identifier << 16 | number, payload,
        )  # fmt: skip
        protocol = ICMP if version == 4 else ICMPV6
        return _wrap(source.address, destination.address, protocol, emit_icmp(message), hop_limit)


def _wrap(source: bytes, destination: bytes, protocol: int, octets: bytes, hop_limit: int = 64) -> bytes:
    if len(source) == 4:
        return ipv4.emit_ipv4(source, destination, protocol, len(octets), hop_limit=hop_limit) + octets
    return ipv6.emit_ipv6(source, destination, protocol, len(octets), hop_limit=hop_limit) + octets
