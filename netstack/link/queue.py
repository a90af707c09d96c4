"""A tunnel fed by callbacks: iOS's packet flow, or any host that has packets in its own hands.

Responsible for: taking packets from any thread up to a bound, waking the runtime once for a burst, giving packets back
in batches.
Refuses to know: which host it is, what is in a packet.

iOS hands packets over in arrays and takes them so; a call across that bridge costs far more than a packet. Outgoing
packets therefore go in batches of 16, or when the oldest has waited 5 ms, whichever is first.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from netstack.codec.base import PacketCodec
from netstack.core.drops import DropReason
from netstack.core.errors import TunnelClosed
from netstack.core.events import EngineError, EventSink
from netstack.core.packet import Octets
from netstack.core.stats import Stats
from netstack.link.fd import ignore_event
from netstack.link.packets import PacketTunnel

PacketsOut = Callable[[list[bytes]], None]


class PacketQueueTunnel(PacketTunnel):
    """`push` packets from the app; `deliver` is called with lists of packets for it, on the runtime's thread."""

    def __init__(
        self,
        codec: PacketCodec,
        mtu: int,
        deliver: PacketsOut,
        *,
        limit: int = 1000,
        batch: int = 16,
        delay: float = 0.005,
        stats: Stats | None = None,
        emit: EventSink = ignore_event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit`: packets waiting for the engine; `batch`, `delay`: when outgoing packets go (0 s: at each flush)."""
        super().__init__(codec, mtu, stats=stats, emit=emit)
        self._deliver = deliver
        self._limit = limit
        self._batch = batch
        self._delay = delay
        self._clock = clock
        self._incoming: deque[Octets] = deque()
        self._lock = threading.Lock()
        self._awake = False
        self._outgoing: list[bytes] = []
        self._due: float | None = None
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)

    def fileno(self) -> int:
        """Polls readable while packets wait; -1 once closed."""
        return self._wake_in

    def push(self, packets: Iterable[Octets]) -> int:
        """Queue packets from the app, from any thread. Returns how many found room; the rest is dropped and counted.

        The packets are kept as they are: hand over `bytes`, or buffers that nobody changes any more.
        """
        packets = list(packets)
        with self._lock:
            if self.gone:
                return 0
            room = max(0, self._limit - len(self._incoming))
            taken = packets[:room]
            self._incoming.extend(taken)
            if len(taken) < len(packets):
                self.stats.drops[DropReason.TUNNEL_QUEUE_FULL] += len(packets) - len(taken)
            if taken and not self._awake:
                self._awake = True
                os.write(self._wake_out, b"\0")
        return len(taken)

    def read_packets(self, limit: int) -> list[Octets]:
        """As `PacketTunnel.read_packets`."""
        with self._lock:
            if self.gone:
                raise TunnelClosed("the packet queue was closed")
            incoming = self._incoming
            packets = [incoming.popleft() for _ in range(min(limit, len(incoming)))]
            if not incoming and self._awake:
                self._awake = False
                os.read(self._wake_in, 1)
        return packets

    def write_packets(self, packets: Sequence[Octets]) -> int:
        """As `PacketTunnel.write_packets`; all are taken."""
        if self.gone:
            return 0
        outgoing = self._outgoing
        for packet in packets:
            outgoing.append(packet if type(packet) is bytes else bytes(packet))
            if len(outgoing) >= self._batch:
                self._hand_over()
                outgoing = self._outgoing
        return len(packets)

    def flush(self) -> None:
        """End of a write phase: what is gathered goes now when there is no delay, else within the delay."""
        if not self._outgoing:
            return
        if self._delay <= 0:
            self._hand_over()
        elif self._due is None:
            self._due = self._clock() + self._delay

    def next_timeout(self) -> float | None:
        """When gathered packets are due."""
        return self._due

    def on_timeout(self, now: float) -> bool:
        """Hand over what is due; never makes packets readable."""
        if self._due is not None and self._due <= now:
            self._hand_over()
        return False

    def close(self) -> None:
        """As `Tunnel.close`; what was gathered is handed over first."""
        with self._lock:
            if self.gone:
                return
            self.gone = True
            self._incoming.clear()
        self._hand_over()
        os.close(self._wake_in)
        os.close(self._wake_out)
        self._wake_in = -1

    def _hand_over(self) -> None:
        packets, self._outgoing, self._due = self._outgoing, [], None
        if not packets:
            return
        try:
            self._deliver(packets)
        except Exception as problem:  # the host's code: its failure must not end the engine
            self.stats.drops[DropReason.TUNNEL_WRITE_FAILED] += len(packets)
            self.emit(EngineError(self._clock(), "host", f"delivering packets failed: {problem!r}"))
