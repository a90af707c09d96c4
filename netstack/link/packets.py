"""A `Tunnel` over whole packets in memory: what the queue, memory and decorator links share.

Responsible for: feeding packets to the codec's parser a batch at a time, cutting runs and datagrams into packets,
counting.
Refuses to know: where the packets come from and go to; a subclass says so in `read_packets` and `write_packets`.

It costs a Python object for each packet, so it serves links that have such objects anyway and links for tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from netstack.codec.base import PacketCodec
from netstack.core.drops import DropReason
from netstack.core.events import EventSink
from netstack.core.packet import Datagram, DatagramRun, IcmpMessage, Octets, SegmentRun
from netstack.core.stats import Stats
from netstack.link.fd import ignore_event


class PacketDevice(Protocol):
    """Whole packets in and out: what a decorator wraps."""

    mtu: int

    def fileno(self) -> int:
        """A descriptor that polls readable when packets wait; -1 for none."""

    def read_packets(self, limit: int) -> list[Octets]:
        """At most `limit` packets, without blocking. Raises TunnelClosed."""

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """How many of the packets were taken, from the first."""

    def flush(self) -> None:
        """End of a write phase."""

    def close(self) -> None:
        """Idempotent."""


class PacketTunnel:
    """Base of packet-at-a-time links. `codec` parses and cuts; `offload` is never on."""

    offload = False
    stalled = False

    def __init__(
        self, codec: PacketCodec, mtu: int, *, stats: Stats | None = None, emit: EventSink = ignore_event
    ) -> None:
        self.codec = codec
        self.mtu = mtu
        self.stats = stats if stats is not None else Stats()
        self.emit = emit
        self.gone = False
        self._backlog: deque[Octets] = deque()

    def fileno(self) -> int:
        """A descriptor that polls readable when packets wait; -1 for none."""
        return -1

    def read_packets(self, limit: int) -> list[Octets]:
        """At most `limit` packets from the app. Raises TunnelClosed."""
        raise NotImplementedError

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """Packets for the app; how many were taken, from the first. What is not taken is counted by the caller."""
        raise NotImplementedError

    @property
    def pending(self) -> bool:
        """Whether packets wait that the last batch had no room for."""
        return bool(self._backlog)

    def read_batch(self, batch: Any) -> int:
        """As `Tunnel.read_batch`."""
        backlog = self._backlog
        if len(backlog) < batch.capacity:
            backlog.extend(self.read_packets(batch.capacity - len(backlog)))
        if not backlog:
            batch.count = batch.packets = batch.octets = 0
            return 0
        taken = self.codec.parse_batch(backlog, batch)
        if taken == 0:  # a first packet that no batch can hold would be offered for ever
            backlog.popleft()
            self.stats.drops[DropReason.TRUNCATED_IP] += 1
        for _ in range(taken):
            backlog.popleft()
        return taken

    def write_run(self, run: SegmentRun) -> int:
        """As `Tunnel.write_run`."""
        packets = self.codec.cut_run(run)
        taken = self._write(packets)
        return len(run.payload) if taken == len(packets) else min(taken * run.mss, len(run.payload))

    def write_datagram(self, datagram: Datagram) -> bool:
        """As `Tunnel.write_datagram`."""
        packets = self.codec.emit_datagram(datagram, self.mtu)
        return self._write(packets) == len(packets)

    def write_datagrams(self, run: DatagramRun) -> int:
        """As `Tunnel.write_datagrams`."""
        return sum(self.write_datagram(datagram) for datagram in run.datagrams())

    def write_icmp(self, message: IcmpMessage) -> bool:
        """As `Tunnel.write_icmp`."""
        packets = self.codec.emit_icmp(message, self.mtu)
        return self._write(packets) == len(packets)

    def flush(self) -> None:
        """As `Tunnel.flush`."""

    def close(self) -> None:
        """As `Tunnel.close`."""
        self.gone = True

    def _write(self, packets: Sequence[Octets]) -> int:
        taken = self.write_packets(packets)
        stats = self.stats
        stats.packets_out += taken
        if taken == len(packets):
            stats.octets_out += sum(map(len, packets))
        else:
            stats.octets_out += sum(map(len, packets[:taken]))
            stats.drops[DropReason.TUNNEL_QUEUE_FULL] += len(packets) - taken
        return taken
