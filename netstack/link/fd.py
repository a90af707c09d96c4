"""A TUN descriptor as a `Tunnel`: the link of Android and of Linux desktops.

Responsible for: reading and writing through the codec, telling passing trouble from the end, counting what went and
what did not.
Refuses to know: how the descriptor came to be (`linux`, VpnService), what is in the packets.

What a Linux TUN says, seen on a 6.x kernel: while the device is down or on its way to another network namespace,
reads find nothing and writes give EIO; once the device is deleted, both give EBADFD and the descriptor polls as an
error for ever. Android gives EIO while a VpnService swaps its interface. So EIO passes, and EBADFD, EBADF, ENODEV and
ENXIO are the end.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from netstack.codec.base import PacketCodec
from netstack.core.drops import DropReason
from netstack.core.errors import TunnelClosed
from netstack.core.events import EngineError, Event, EventSink
from netstack.core.packet import Datagram, DatagramRun, IcmpMessage, Octets, SegmentRun
from netstack.core.stats import Stats

_GONE = frozenset({errno.EBADF, errno.ENODEV, errno.ENXIO, getattr(errno, "EBADFD", errno.EBADF)})
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})
_QUIET = frozenset({errno.EAGAIN, errno.EINTR})

VNET_HEADER = bytes(10)
_LARGEST = 65_535 + len(VNET_HEADER)


def ignore_event(event: Event) -> None:
    """An event sink that throws events away."""


class FdTunnel:
    """A TUN descriptor. Non-blocking from here on; closed with the tunnel unless `owned` is false.

    `stalled` is true after a read that failed for a passing reason: whoever polls the descriptor should wait a little
    before polling again, since such a descriptor may stay "readable". `gone` is true once the device is lost;
    writes then only count, the next `read_batch` raises.
    """

    __slots__ = ("_clock", "_failing", "_fd", "_owned", "_uso", "codec", "emit", "gone", "mtu", "offload", "stalled",
                 "stats")  # fmt: skip

    def __init__(
        self,
        fd: int,
        codec: PacketCodec,
        mtu: int,
        *,
        offload: bool = False,
        stats: Stats | None = None,
        emit: EventSink = ignore_event,
        clock: Callable[[], float] = time.monotonic,
        owned: bool = True,
    ) -> None:
        """`offload`: every packet has a 10-octet virtio-net header (IFF_VNET_HDR). `clock` stamps error events."""
        self._fd = fd
        self.codec = codec
        self.mtu = mtu
        self.offload = offload
        self._uso = offload  # until the kernel refuses a GSO packet of datagrams (Linux before 6.2)
        self.stats = stats if stats is not None else Stats()
        self.emit = emit
        self._clock = clock
        self._owned = owned
        self._failing = False
        self.stalled = False
        self.gone = False
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        """The descriptor, for polling; -1 once closed."""
        return self._fd

    def read_batch(self, batch: Any) -> int:
        """As `Tunnel.read_batch`. Raises TunnelClosed once the device or the descriptor is gone."""
        try:
            count = self.codec.read_batch(self._fd, batch, vnet=self.offload)
        except OSError as problem:
            batch.count = batch.packets = batch.octets = 0
            if not self._is_passing(problem, "read"):
                raise TunnelClosed(f"the packet device is gone ({problem.strerror})") from problem
            self.stalled = problem.errno not in _QUIET
            return 0
        self.stalled = False
        if count:
            self._failing = False
        return count

    def write_run(self, run: SegmentRun) -> int:
        """As `Tunnel.write_run`. Never raises: what did not go is counted and left to TCP."""
        size = len(run.payload)
        try:
            written = self.codec.write_run(self._fd, run, vnet=self.offload)
        except OSError as problem:
            self._lost(problem)
            return 0
        stats = self.stats
        self._failing = False
        if written == size <= run.mss:
            stats.packets_out += 1
            stats.octets_out += size + (40 if run.key[0] == 4 else 60) + (len(run.options) + 3 & ~3)
            return written
        if written == size:
            segments = -(-size // run.mss)
        else:
            stats.drops[DropReason.TUNNEL_QUEUE_FULL] += 1
            segments = -(-written // run.mss)
        stats.packets_out += segments
        headers = (40 if run.key[0] == 4 else 60) + (len(run.options) + 3 & ~3)
        stats.octets_out += written + segments * headers
        return written

    def write_datagram(self, datagram: Datagram) -> bool:
        """As `Tunnel.write_datagram`."""
        try:
            self.codec.write_datagram(self._fd, datagram, self.mtu, vnet=self.offload)
        except OSError as problem:
            return self._lost(problem)
        size = len(datagram.payload) + (28 if datagram.key[0] == 4 else 48)
        return self._went(-(-size // self.mtu) if size > self.mtu else 1, size)

    def write_datagrams(self, run: DatagramRun) -> int:
        """As `Tunnel.write_datagrams`."""
        headers = 28 if run.key[0] == 4 else 48
        if run.size + headers > self.mtu:
            return sum(self.write_datagram(datagram) for datagram in run.datagrams())
        try:
            written = self.codec.write_datagrams(self._fd, run, vnet=self.offload, uso=self._uso)
        except OSError as problem:
            if self._uso and problem.errno == errno.EINVAL:
                self._uso = False
                return self.write_datagrams(run)
            self._lost(problem, run.count)
            return 0
        if written < run.count:
            self.stats.drops[DropReason.TUNNEL_QUEUE_FULL] += run.count - written
        self._went(written, min(written * run.size, len(run.payload)) + written * headers)
        return written

    def write_icmp(self, message: IcmpMessage) -> bool:
        """As `Tunnel.write_icmp`."""
        packets = self.codec.emit_icmp(message, self.mtu)
        try:
            for packet in packets:
                self.codec.write_packet(self._fd, packet, vnet=self.offload)
        except OSError as problem:
            return self._lost(problem)
        return self._went(len(packets), sum(map(len, packets)))

    def flush(self) -> None:
        """Nothing is gathered: each write is one system call already."""

    def close(self) -> None:
        """As `Tunnel.close`. A descriptor that is not owned is only let go."""
        fd, self._fd = self._fd, -1
        self.gone = True
        if fd >= 0 and self._owned:
            os.close(fd)

    # --- packet at a time, for the decorators (only without offloads) ---

    def read_packets(self, limit: int) -> list[Octets]:
        """At most `limit` whole packets. Raises TunnelClosed."""
        packets: list[Octets] = []
        while len(packets) < limit:
            try:
                packet = os.read(self._fd, _LARGEST)
            except OSError as problem:
                if not packets and not self._is_passing(problem, "read"):
                    raise TunnelClosed(f"the packet device is gone ({problem.strerror})") from problem
                self.stalled = not packets and problem.errno not in _QUIET
                return packets
            if not packet:
                if packets:
                    break
                self.gone = True
                raise TunnelClosed("the packet device is gone (end of file)")
            packets.append(packet)
        self.stalled = False
        return packets

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """Write whole packets; how many went before the first that did not."""
        for done, packet in enumerate(packets):
            try:
                os.write(self._fd, packet)
            except OSError as problem:
                self._lost(problem)
                return done
            self._went(1, len(packet))
        return len(packets)

    # --- trouble ---

    def _went(self, packets: int, octets: int) -> bool:
        self.stats.packets_out += packets
        self.stats.octets_out += octets
        self._failing = False
        return True

    def _lost(self, problem: OSError, packets: int = 1) -> bool:
        full = problem.errno in _FULL
        self.stats.drops[DropReason.TUNNEL_QUEUE_FULL if full else DropReason.TUNNEL_WRITE_FAILED] += packets
        if not full and not self._is_passing(problem, "write"):
            self.gone = True
        return False

    def _is_passing(self, problem: OSError, what: str) -> bool:
        """Whether to go on; says once for each burst of failures that there is trouble."""
        if problem.errno in _QUIET:
            return True
        if problem.errno in _GONE or self._fd < 0:
            self.gone = True
            return False
        if not self._failing:
            self._failing = True
            self.emit(EngineError(self._clock(), "tunnel", f"{what}: {problem.strerror}; going on"))
        return True
