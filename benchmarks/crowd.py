"""An engine in memory with many live flows: what one packet, one flow, one relayed block and one question cost there.

Responsible for: the app's side of the flows, packets made ahead of the clock; sockets that take and give at once.
Refuses to know: real devices and sockets (`live`). What is measured is engine, TCP, forwarder, codec and timers.

`World` moves until nothing moves, which asks every socket every time; here the engine is told of readiness
directly, as the live runtime does.
"""

from __future__ import annotations

import statistics
import struct
import time
import tracemalloc
from functools import partial
from typing import Any

from benchmarks.timing import median_ns
from netstack.codec import load
from netstack.config import Config, make_config
from netstack.core.errors import CodecError
from netstack.core.flow import Endpoint
from netstack.core.packet import ACK, FIN, PSH, SYN, Octets
from netstack.testing.world import ScriptedStream, World
from netstack.wire.tcp import emit_options

MSS = 1460
SEGMENTS = 44  # what an app sends in one go: below the initial window
SMALL = b"x" * 100
BATCH = 10  # packets that arrive together, each of another flow, so that nothing is coalesced
FLOWS = (10, 1000, 5000)
SYN_OPTIONS = emit_options(mss=MSS, window_scale=8, sack_permitted=True)
SERVER = Endpoint.of("192.0.2.80", 443)
RESOLVER = Endpoint.of("10.0.0.1", 53)
MASK = 0xFFFFFFFF


def codecs() -> list[str]:
    """Those that are usable here, the native one first."""
    try:
        load("native")
    except CodecError:
        return ["pure"]
    return ["native", "pure"]


def open_config(**tables: Any) -> Config:
    """Everything is carried, and there is room for it."""
    return make_config({"policy": {"enforcement": "off"}, "limits": {"half_open": 8192}, **tables})


class Sink(ScriptedStream):
    """A far end that takes everything and keeps nothing."""

    taken = 0

    def send(self, octets: Octets) -> int:
        """Count."""
        self.taken += len(octets)
        return len(octets)

    def sendmsg(self, buffers: list[Any]) -> int:
        """Count."""
        size = sum(map(len, buffers))
        self.taken += size
        return size


class App:
    """One flow as the app sees it."""

    __slots__ = ("ack", "seq", "source", "stream")

    def __init__(self, number: int) -> None:
        self.source = Endpoint(bytes((10, 1, number >> 12, 2)), 1024 + (number & 0xFFF))
        self.seq = 0
        self.ack = 0
        self.stream: Any = None


class Crowd:
    """`count` established flows behind one engine."""

    def __init__(self, count: int, codec: str) -> None:
        self.world = World(open_config(), codec=codec)
        self.engine = self.world.engine
        self.now = 1.0
        self.world.dialer.dial_tcp = self._dial  # type: ignore[method-assign]
        self._dialled: list[Sink] = []
        self._next = 0
        self.apps: list[App] = []
        while len(self.apps) < count:
            self.apps += self.open(min(32, count - len(self.apps)))

    def _dial(self, destination: Endpoint, owner: Any, flow: Any = None) -> Sink:
        self._dialled.append(Sink(destination, owner, flow))
        return self._dialled[-1]

    def packet(self, app: App, flags: int, payload: bytes = b"", options: bytes = b"") -> bytes:
        """From the app to its server."""
        return self.world.tcp_packet(
            flags, app.seq, app.ack, payload, source=app.source, destination=SERVER, options=options
        )

    def move(self, packets: list[bytes]) -> None:
        """One round of the live runtime: packets arrive, one flush."""
        self.world.tunnel.app.give(*packets)
        self.engine.on_tunnel_readable(self.now)
        self.engine.flush(self.now)
        self.now += 1e-4
        deadline = self.engine.next_timeout()
        if deadline is not None and deadline <= self.now:
            self.engine.on_timeout(self.now)

    def taken(self) -> list[bytes]:
        """What the engine sent."""
        return self.world.tunnel.app.take()

    def open(self, count: int) -> list[App]:
        """Handshakes that run side by side."""
        apps = [App(self._next + n) for n in range(count)]
        self._next += count
        self._dialled.clear()
        self.move([self.packet(app, SYN, options=SYN_OPTIONS) for app in apps])
        for app, stream in zip(apps, self._dialled, strict=True):
            app.stream = stream
            stream.connect()
            self.engine.on_writable(stream, self.now)
        self.engine.flush(self.now)
        for app, packet in zip(apps, self.taken(), strict=True):
            assert packet[33] == SYN | ACK
            app.seq, app.ack = 1, (int.from_bytes(packet[24:28], "big") + 1) & MASK
        self.move([self.packet(app, ACK) for app in apps])
        self.taken()
        return apps

    def close(self, apps: list[App]) -> None:
        """The app ends first, then the far end."""
        self.move([self.packet(app, FIN | ACK) for app in apps])
        for app in apps:
            app.seq += 1
            app.stream.end()
            self.engine.on_readable(app.stream, self.now)
        self.engine.flush(self.now)
        self.taken()
        for app in apps:
            app.ack += 1
        self.move([self.packet(app, ACK) for app in apps])
        self.taken()

    def prepare(self, packets: int) -> list[tuple[list[bytes], list[App]]]:
        """Batches of small data segments, going round all flows; each acknowledges what came down before."""
        batches = []
        at = 0
        for _ in range(packets // BATCH):
            turn = [self.apps[(at + n) % len(self.apps)] for n in range(BATCH)]
            at += BATCH
            made = []
            for app in turn:
                made.append(self.packet(app, ACK | PSH, SMALL))
                app.seq = (app.seq + len(SMALL)) & MASK
                app.ack = (app.ack + len(SMALL)) & MASK
            batches.append((made, turn))
        return batches

    def answer(self, batches: list[tuple[list[bytes], list[App]]]) -> int:
        """Run what was prepared: each segment goes up, and as much comes down."""
        engine, done = self.engine, 0
        for made, turn in batches:
            self.move(made)
            for app in turn:
                app.stream.deliver(SMALL)
                engine.on_readable(app.stream, self.now)
            engine.flush(self.now)
            done += len(made)
        self.world.tunnel.app.down.clear()
        return done


def cost_of_flows(*, packets: int, runs: int) -> dict[str, dict[str, float]]:
    """``{flows: {"packet_us": ..., "flow_us": ...}}`` with the best codec there is."""
    return {str(count): _cost_among(Crowd(count, codecs()[0]), packets, runs) for count in FLOWS}


def _cost_among(crowd: Crowd, packets: int, runs: int) -> dict[str, float]:
    crowd.answer(crowd.prepare(packets))  # warm
    figures = []
    for _ in range(runs):
        batches = crowd.prepare(packets)
        figures.append(median_ns(partial(crowd.answer, batches), 1))

    def lives() -> int:
        for _ in range(4):
            crowd.close(crowd.open(32))
        return 128

    return {"packet_us": statistics.median(figures) / 1e3, "flow_us": median_ns(lives, runs) / 1e3}


def octets_per_flow(count: int = 500) -> float:
    """Python memory of an idle established flow with everything that the engine keeps for it (no socket)."""
    codec = codecs()[-1]
    Crowd(8, codec)
    crowd = Crowd(8, codec)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        more: list[App] = []
        while len(more) < count:
            more += crowd.open(20)
        return (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()


# --- the relay ---


def relay(codec: str, runs: int) -> dict[str, float]:
    """Microseconds for 64 KiB through codec, TCP and relay, up and down, as 1500-octet packets."""
    blocks = 40
    crowd = Crowd(1, codec)
    [app] = crowd.apps

    def make_up() -> list[list[bytes]]:
        made = []
        for _ in range(blocks):
            batch = []
            for _ in range(SEGMENTS):
                batch.append(crowd.packet(app, ACK, b"u" * MSS))
                app.seq = (app.seq + MSS) & MASK
            made.append(batch)
        return made

    def up(batches: list[list[bytes]]) -> int:
        for batch in batches:
            crowd.move(batch)
        crowd.world.tunnel.app.down.clear()
        return blocks

    ups = []
    for _ in range(runs):
        batches = make_up()
        before = app.stream.taken
        ups.append(median_ns(partial(up, batches), 1))
        assert app.stream.taken - before == blocks * SEGMENTS * MSS, "the engine did not take what came"

    block = bytes(SEGMENTS * MSS)

    def down() -> int:
        """The app's ACKs are made in between and their making is not counted."""
        spent = 0
        for _ in range(blocks):
            app.stream.deliver(block)
            while app.stream.is_readable:
                begin = time.thread_time_ns()
                crowd.engine.on_readable(app.stream, crowd.now)
                crowd.engine.flush(crowd.now)
                spent += time.thread_time_ns() - begin
                sent = sum(len(packet) - 40 for packet in crowd.taken())
                app.ack = (app.ack + sent) & MASK
                acknowledgement = crowd.packet(app, ACK)
                begin = time.thread_time_ns()
                crowd.move([acknowledgement])
                spent += time.thread_time_ns() - begin
                app.ack = (app.ack + sum(len(packet) - 40 for packet in crowd.taken())) & MASK
        return spent

    downs = [down() / blocks for _ in range(runs)]
    return {"up_us": statistics.median(ups) / 1e3, "down_us": statistics.median(downs) / 1e3}


# --- DNS ---


def question(number: int) -> bytes:
    """A query for an A record of a name of its own."""
    label = b"n%07x" % number
    name = bytes((len(label),)) + label + b"\5bench\4test\0"
    return struct.pack("!HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1"


def answer_to(message: bytes) -> bytes:
    """One A record."""
    record = b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4" + b"\xcb\0\x71" + message[-6:-5]
    return message[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + message[12:] + record


def dns(codec: str, runs: int) -> float:
    """Questions a second through parser, bridge, tracker and back, under strict enforcement, answered at once."""
    world = World(make_config({}), codec=codec)
    engine, resolver = world.engine, world.resolver
    count = 0
    figures = []
    for _ in range(runs):
        batches = []
        for _ in range(50):
            batch = []
            for _ in range(20):
                count += 1
                source = Endpoint(bytes((10, 0, 0, 2)), 1024 + count % 50_000)
                batch.append(world.udp_packet(question(count), source=source, destination=RESOLVER))
            batches.append(batch)

        def work(batches: list[list[bytes]] = batches) -> int:
            for batch in batches:
                world.now += 1e-3
                world.tunnel.app.give(*batch)
                engine.on_tunnel_readable(world.now)
                for token, message in list(resolver.queries.items()):
                    resolver.answer(token, answer_to(message), world.now)
                engine.flush(world.now)
            return 1000

        figures.append(median_ns(work, 1))
        answers = len(world.tunnel.app.take())
        assert answers == 1000, f"{answers} answers"
    return 1e9 / statistics.median(figures)
