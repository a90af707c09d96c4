"""Tunnels around a packet device: one that shows every packet to a tracer, one that makes the link bad.

Responsible for: seeing packets as they cross, and losing, doubling, delaying, reordering and damaging them as told.
Refuses to know: what is in a packet; where a trace is written.

Both work a packet at a time, so the device under them must be without offloads.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence

from netstack.codec.base import PacketCodec
from netstack.core.drops import DropReason
from netstack.core.events import EventSink
from netstack.core.packet import Octets
from netstack.core.ports import Entropy, Tracer
from netstack.core.record import recordclass
from netstack.core.stats import Stats
from netstack.link.fd import ignore_event
from netstack.link.packets import PacketDevice, PacketTunnel


class _Around(PacketTunnel):
    """A tunnel that has its packets from another device."""

    def __init__(
        self,
        device: PacketDevice,
        codec: PacketCodec,
        *,
        stats: Stats | None = None,
        emit: EventSink = ignore_event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(codec, device.mtu, stats=stats, emit=emit)
        self.device = device
        self._clock = clock

    @property
    def stalled(self) -> bool:  # type: ignore[override]
        """As `FdTunnel.stalled`, of the device."""
        return bool(getattr(self.device, "stalled", False))

    def fileno(self) -> int:
        """The device's descriptor."""
        return self.device.fileno()

    def read_packets(self, limit: int) -> list[Octets]:
        """Packets of the device."""
        return self.device.read_packets(limit)

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """Packets to the device."""
        return self.device.write_packets(packets)

    def flush(self) -> None:
        """As `Tunnel.flush`."""
        self.device.flush()

    def next_timeout(self) -> float | None:
        """The device's own deadline, when it has one."""
        ask = getattr(self.device, "next_timeout", None)
        deadline: float | None = ask() if ask is not None else None
        return deadline

    def on_timeout(self, now: float) -> bool:
        """Pass the deadline on; True when packets became readable by it."""
        tell = getattr(self.device, "on_timeout", None)
        return bool(tell(now)) if tell is not None else False

    def close(self) -> None:
        """As `Tunnel.close`."""
        self.gone = True
        self.device.close()


class TracingTunnel(_Around):
    """Shows every packet, both ways, to a `Tracer`, as it is on the wire."""

    def __init__(
        self,
        device: PacketDevice,
        codec: PacketCodec,
        tracer: Tracer,
        *,
        stats: Stats | None = None,
        emit: EventSink = ignore_event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(device, codec, stats=stats, emit=emit, clock=clock)
        self.tracer = tracer

    def read_packets(self, limit: int) -> list[Octets]:
        """As `PacketTunnel.read_packets`."""
        packets = self.device.read_packets(limit)
        if packets:
            now = self._clock()
            for packet in packets:
                self.tracer.packet_in(packet, now)
        return packets

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """As `PacketTunnel.write_packets`; only what the device took is shown."""
        taken = self.device.write_packets(packets)
        now = self._clock()
        for packet in packets[:taken]:
            self.tracer.packet_out(packet, now)
        return taken


@recordclass(frozen=True, kw_only=True)
class Impairment:
    """How bad one direction of a link is. Shares are 0..1, of packets; times in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    flip: float = 0.0
    """Share of packets with one random bit inverted."""
    reorder: float = 0.0
    """Share of packets that are held back by `reorder_delay` and so overtaken."""
    reorder_delay: float = 0.005
    delay: float = 0.0
    jitter: float = 0.0
    """Up to this much is added to `delay`; enough of it reorders too."""
    limit: int = 1000
    """Packets that wait at most; more are dropped."""


_UNIT = 1 << 24


class _Direction:
    """One direction's queue of packets that are not due yet."""

    __slots__ = ("_entropy", "_how", "_serial", "_stats_of", "queue")

    def __init__(self, how: Impairment, entropy: Entropy, stats_of: Callable[[], Stats]) -> None:
        self._how = how
        self._entropy = entropy
        self._stats_of = stats_of
        self._serial = 0
        self.queue: list[tuple[float, int, Octets]] = []

    def _happens(self, share: float) -> bool:
        return share > 0 and self._entropy.below(_UNIT) < share * _UNIT

    def put(self, packet: Octets, now: float) -> None:
        how = self._how
        if self._happens(how.loss):
            self._stats_of().drops[DropReason.IMPAIRED] += 1
            return
        for _ in range(2 if self._happens(how.duplicate) else 1):
            due = now + how.delay
            if how.jitter > 0:
                due += how.jitter * self._entropy.below(_UNIT) / _UNIT
            if self._happens(how.reorder):
                due += how.reorder_delay
            self._push(self._flipped(packet) if self._happens(how.flip) else bytes(packet), due)

    def _push(self, packet: Octets, due: float) -> None:
        if len(self.queue) >= self._how.limit:
            self._stats_of().drops[DropReason.IMPAIRED] += 1
            return
        self._serial += 1
        heapq.heappush(self.queue, (due, self._serial, packet))

    def _flipped(self, packet: Octets) -> bytes:
        damaged = bytearray(packet)
        bit = self._entropy.below(len(damaged) * 8)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        return bytes(damaged)

    def due(self, now: float, limit: int) -> list[Octets]:
        """Packets whose time has come, in order of their times."""
        queue = self.queue
        packets: list[Octets] = []
        while queue and queue[0][0] <= now and len(packets) < limit:
            packets.append(heapq.heappop(queue)[2])
        return packets

    def next_timeout(self) -> float | None:
        return self.queue[0][0] if self.queue else None


class ImpairedTunnel(_Around):
    """A bad link, the same for the same entropy: `up` is from the app, `down` is towards it."""

    def __init__(
        self,
        device: PacketDevice,
        codec: PacketCodec,
        entropy: Entropy,
        *,
        up: Impairment | None = None,
        down: Impairment | None = None,
        stats: Stats | None = None,
        emit: EventSink = ignore_event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(device, codec, stats=stats, emit=emit, clock=clock)
        self._up = _Direction(up or Impairment(), entropy, lambda: self.stats)
        self._down = _Direction(down or Impairment(), entropy, lambda: self.stats)

    def read_packets(self, limit: int) -> list[Octets]:
        """As `PacketTunnel.read_packets`: what is due by now."""
        now = self._clock()
        for packet in self.device.read_packets(limit):
            self._up.put(packet, now)
        return self._up.due(now, limit)

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """As `PacketTunnel.write_packets`: the link takes them all, whatever becomes of them."""
        now = self._clock()
        for packet in packets:
            self._down.put(packet, now)
        self._send_due(now)
        return len(packets)

    def next_timeout(self) -> float | None:
        """When the next held packet is due, either way."""
        deadlines = [self._up.next_timeout(), self._down.next_timeout(), super().next_timeout()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def on_timeout(self, now: float) -> bool:
        """Send what is due; True when packets from the app are due."""
        readable = super().on_timeout(now)
        self._send_due(now)
        first = self._up.next_timeout()
        return readable or (first is not None and first <= now)

    def _send_due(self, now: float) -> None:
        packets = self._down.due(now, len(self._down.queue))
        if packets:
            lost = len(packets) - self.device.write_packets(packets)
            if lost:
                self.stats.drops[DropReason.TUNNEL_QUEUE_FULL] += lost
