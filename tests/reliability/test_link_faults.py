"""Both directions of a flow arrive whole over a link that loses, doubles, reorders and damages packets.

An ordinary run moves 1 MB each way on three seeds; NETSTACK_RELIABILITY_FULL=1 moves 10 MB each way on 20.
"""

from __future__ import annotations

import hashlib

import pytest

from netstack.codec import PacketBatch, load
from netstack.config import make_config
from netstack.core.drops import DropReason
from netstack.core.flow import TCP, Endpoint, pack_key
from netstack.core.packet import Segment, SegmentRun
from netstack.core.stats import Stats
from netstack.engine import Engine
from netstack.link.decorators import ImpairedTunnel, Impairment
from netstack.link.memory import MemoryTunnel
from netstack.testing.app_endpoint import AppEndpoint
from netstack.testing.world import ScriptedDialer, ScriptedResolver, SeededEntropy, _wrap
from netstack.wire.tcp import emit_tcp
from tests.reliability.settings import FULL

BAD = Impairment(loss=0.05, duplicate=0.05, reorder=0.05, flip=0.01, delay=0.002)
SIZE = 10_000_000 if FULL else 1_000_000
SEEDS = range(20 if FULL else 3)
PIECE = 16_384


def content(seed: int, size: int) -> bytes:
    return hashlib.shake_256(str(seed).encode()).digest(size)


class BadLink:
    """An engine behind an `ImpairedTunnel`, an honest app before it, one far end behind a scripted socket."""

    def __init__(self, seed: int, version: int, codec: str) -> None:
        self.now = 0.0
        self.codec = load(codec)
        self.stats = Stats()
        config = make_config({"policy": {"enforcement": "off"}})
        device = MemoryTunnel(self.codec, config.tunnel.mtu, stats=self.stats)
        self.app_end = device.app
        self.tunnel = ImpairedTunnel(
            device, self.codec, SeededEntropy(seed), up=BAD, down=BAD, stats=self.stats, clock=lambda: self.now
        )
        self.dialer = ScriptedDialer()
        self.engine = Engine(
            config, tunnel=self.tunnel, codec=self.codec, dialer=self.dialer, resolver=ScriptedResolver(),
            entropy=SeededEntropy(seed), emit=lambda event: None, stats=self.stats,
        )  # fmt: skip
        hosts = ("10.0.0.2", "192.0.2.80") if version == 4 else ("fd00::2", "2001:db8::80")
        self.source, self.destination = Endpoint.of(hosts[0], 40_000), Endpoint.of(hosts[1], 80)
        key = pack_key(TCP, self.source, self.destination)
        self.app = AppEndpoint(key, iss=0xFFFF_0000 + seed, mss=1400, window=60_000)
        self._batch = PacketBatch(capacity=1, slot=2048)
        self.settings = config

    def run(self, up: bytes, down: bytes, limit: float) -> None:
        app, engine = self.app, self.engine
        app.start(self.now)
        left, stream = down, None
        app.write(up, self.now)
        app.close(self.now)
        while not app.is_finished or len(engine.tcp.table):
            self._move()
            if stream is None and self.dialer.streams:
                stream = self.dialer.streams[0]
                stream.connect()
            if stream is not None and not stream._incoming:
                if left:
                    stream.deliver(left[:PIECE])
                    left = left[PIECE:]
                else:
                    stream.end()
            deadlines = [app.next_timeout(), engine.next_timeout(), self.tunnel.next_timeout()]
            nearest = min(at for at in deadlines if at is not None)
            assert nearest < limit, f"not done after {limit} s"
            if nearest > self.now:
                self.now = nearest
            if (at := app.next_timeout()) is not None and at <= self.now:
                app.on_timeout(self.now)
            self.tunnel.on_timeout(self.now)
            engine.on_timeout(self.now)
            engine.flush(self.now)
        assert stream is not None
        assert stream.sent == up
        assert app.received == down
        assert stream.closed and not stream.aborted  # the far end had finished: closing is the FIN

    def _move(self) -> None:
        """Everything that needs no time."""
        for segment in self.app.outbox:
            octets = emit_tcp(
                self.source.address, self.destination.address, self.source.port, self.destination.port,
                segment.seq, segment.ack, segment.flags, segment.window, segment.options, bytes(segment.payload),
            )  # fmt: skip
            self.app_end.give(_wrap(self.source.address, self.destination.address, TCP, octets))
        self.app.outbox.clear()
        self.engine.on_tunnel_readable(self.now)
        for stream in self.dialer.streams:
            if not stream.closed and stream.writable_wanted and stream.is_writable:
                self.engine.on_writable(stream, self.now)
            if not stream.closed and stream.readable_wanted and stream.is_readable:
                self.engine.on_readable(stream, self.now)
        self.engine.flush(self.now)
        for packet in self.app_end.take():
            self.codec.parse_batch([packet], self._batch, coalesce=False)
            for item in self._batch.items():
                if type(item) is Segment:
                    fields = (item.key, item.seq, item.ack, item.flags, item.window, 1400, item.options)
                    self.app.receive(SegmentRun(*fields, bytes(item.payload)), self.now)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("version", "codec"), [(4, "pure"), (6, "auto")])
def test_octets_arrive_whole_both_ways(seed: int, version: int, codec: str) -> None:
    link = BadLink(seed, version, codec)
    link.run(content(seed, SIZE), content(seed + 1000, SIZE), limit=600.0 + SIZE / 1000)
    assert link.stats.drops[DropReason.BAD_TCP_CHECKSUM] > 0
    assert link.engine.context.buffered == 0
